"""``exchange pending``: changes that wait under the name of a stream that is not sent from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, by_hand
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, open_site

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
    from exchange.outgoing.leftover import read_leftovers

    with open_site() as site:
        found = read_leftovers(site)
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
    from exchange.outgoing.leftover import discard_leftovers

    done = _settle("discard_pending", {"stream": stream}, discard_leftovers, who, reason)
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
    from exchange.outgoing.leftover import move_leftovers

    done = _settle("move_pending", {"stream": stream, "to": to}, move_leftovers, who, reason)
    _show(done, f"{done.changes} changes of {stream} are of {to} now; the next export takes them", as_json)


def _settle(
    action: str, arguments: dict[str, str], work: Callable[..., Settled], who: str | None, reason: str
) -> Settled:
    """Do it with a row in the audit; ``work`` takes the site and the arguments. Raises Refused if it can't be."""
    from exchange.format.errors import RecordError

    with open_site() as site, by_hand(site, action, arguments, who=who, why=reason) as act:
        try:
            done = work(site, *arguments.values())
        except RecordError as error:
            raise Refused(f"{error.sentence}; nothing was done") from error
        act.came_to(done.as_dict())
        return done


def _show(done: Settled, sentence: str, as_json: bool) -> None:
    if as_json:
        output.emit(done.as_dict())
    else:
        output.tell(sentence)
