"""``exchange pending``: changes that wait under the name of a stream that is not sent from here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, open_exchange
from exchange.cli.output import Json

if TYPE_CHECKING:
    from exchange.outgoing.leftover import Settled

app = typer.Typer(help="Changes that no export takes: their stream was renamed.", invoke_without_command=True)

Why = Annotated[str, typer.Option("--reason", help="Why, for the audit.")]
Left = Annotated[str, typer.Argument(metavar="STREAM", help="The name, as `exchange pending` shows it.")]


@app.callback()
@output.listing
def pending(ctx: typer.Context, as_json: Json = False) -> None:
    """List the names under which changes wait that no channel sends from here, and the tables that add to them."""
    if ctx.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    with open_exchange() as exchange:
        found = exchange.pending.leftovers()
    if as_json:
        for one in found:
            output.emit(one.as_dict())
    elif found:
        rows = [(one.stream, one.changes, ", ".join(one.tables)) for one in found]
        output.table(["stream", "changes", "captured tables"], rows)
    else:
        output.say("every change that waits is of a stream that is sent from here")


@app.command()
def discard(stream: Left, reason: Why, who: As = None, as_json: Json = False) -> None:
    """Remove them: what they said is not sent. `exchange resync` sends whole tables."""
    with open_exchange() as exchange:
        done = exchange.pending.discard(stream, reason, who=who)
    _show(done, f"{done.changes} changes of {stream} are discarded", as_json)


@app.command()
def move(
    stream: Left,
    to: Annotated[str, typer.Argument(metavar="TO", help="A stream that is sent from here and has the same key.")],
    reason: Why,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Give them to the name that the stream has now: the next export sends what they say."""
    with open_exchange() as exchange:
        done = exchange.pending.move(stream, to, reason, who=who)
    _show(done, f"{done.changes} changes of {stream} are of {to} now; the next export takes them", as_json)


def _show(done: Settled, sentence: str, as_json: bool) -> None:
    if as_json:
        output.emit(done.as_dict())
    else:
        output.tell(sentence)
