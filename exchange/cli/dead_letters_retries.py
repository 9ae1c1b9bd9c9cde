"""``exchange dead-letters retries``: what is tried in the background, how far it is, and stopping it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import fail
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.dead_letters.background import BackgroundRetry

app = typer.Typer(help="Retries in the background.", invoke_without_command=True)

LARGEST = 2**63 - 1
Number = Annotated[int, typer.Argument(metavar="RETRY", min=1, max=LARGEST, help="Its number, as the list shows it.")]
Why = Annotated[str, typer.Option("--reason", help="Why, for whoever finds it so, and for the audit.")]


@app.callback()
def retries(ctx: typer.Context, as_json: Json = False) -> None:
    """List the retries in the background, newest first."""
    if ctx.invoked_subcommand is not None:
        return
    with open_exchange() as exchange:
        found = exchange.dead_letters.retries()
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    if not found:
        output.say("there is none; `exchange dead-letters retry --selection NAME --background` begins one")
        return
    output.table(
        ["id", "selection", "state", "letters", "tried", "parked", "who", "updated"],
        [
            (one.id, one.selection, one.state, one.letters, one.tried, one.parked, one.who, in_table(one.updated_at))
            for one in found
        ],
    )


@app.command()
def show(number: Number, as_json: Json = False) -> None:
    """Show one: who asked for it and why, how far it is, who stopped it, what it waits for."""
    with open_exchange() as exchange:
        one = exchange.dead_letters.find_retry(number)
    if as_json:
        output.emit(one.as_dict())
        return
    fields = [(name, value) for name, value in one.as_dict().items() if value is not None]
    output.table(["field", "value"], fields)


@app.command()
def pause(number: Number, reason: Why, who: As = None, as_json: Json = False) -> None:
    """Have one stand still: the letters at hand stay as they were, no other ones are begun."""
    with open_exchange() as exchange:
        _tell(exchange.dead_letters.pause_retry(number, reason, who=who), as_json)


@app.command()
def resume(number: Number, reason: Why, who: As = None, as_json: Json = False) -> None:
    """Let one go on that was paused, where it is."""
    with open_exchange() as exchange:
        _tell(exchange.dead_letters.resume_retry(number, reason, who=who), as_json)


@app.command()
def cancel(number: Number, reason: Why, who: As = None, as_json: Json = False) -> None:
    """End one where it is; its selection stays, with what was not tried."""
    with open_exchange() as exchange:
        _tell(exchange.dead_letters.cancel_retry(number, reason, who=who), as_json)


@app.command()
def work(reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Work on what is to be tried in the background, here and now, as the worker does: to its end, or to Ctrl-C."""
    from exchange.database.tables import RetryState

    with open_exchange() as exchange:
        letters = exchange.dead_letters
        open_before = [one for one in letters.retries() if one.state is RetryState.RUNNING]
        total = sum(one.letters - one.tried for one in open_before)
        left = {one.id: one.tried for one in open_before}
        with output.between_groups("retrying", total) as (stopping, show_done):
            done: dict[int, int] = {}

            def moved(one: BackgroundRetry) -> None:
                """Move the bar."""
                done[one.id] = one.tried - left.get(one.id, 0)
                show_done(sum(done.values()))

            while letters.work_off(stopping=stopping, report=moved, who=who, reason=reason) and not stopping():
                pass
        found = [letters.find_retry(one.id) for one in open_before]
    if not found:
        output.say("nothing is to be tried in the background")
    for one in found:
        if as_json:
            output.emit(one.as_dict())
        else:
            output.tell(str(one))
    if any(one.state is not RetryState.DONE for one in found):
        fail()


def _tell(one: BackgroundRetry, as_json: bool) -> None:
    if as_json:
        output.emit(one.as_dict())
    else:
        output.tell(str(one))
