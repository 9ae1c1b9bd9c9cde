"""``exchange proposals``: what one person proposed and another one is to confirm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.format.errors import printable

if TYPE_CHECKING:
    from exchange.people.proposals import Proposal

app = typer.Typer(help="What waits for a second person (EXCHANGE_FOUR_EYES).", invoke_without_command=True)

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Its number.", show_default=False)]


@app.callback()
@output.listing
def proposals(
    ctx: typer.Context,
    ended: Annotated[bool, typer.Option("--all", help="Those that ended, too.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many.")] = 50,
    as_json: Json = False,
) -> None:
    """List what waits for a second person, newest first."""
    if ctx.invoked_subcommand is None:
        _list(ended, limit, as_json)


@app.command("list")
@output.listing
def list_(
    ended: Annotated[bool, typer.Option("--all", help="Those that ended, too.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many.")] = 50,
    as_json: Json = False,
) -> None:
    """List what waits for a second person, newest first."""
    _list(ended, limit, as_json)


def _list(ended: bool, limit: int, as_json: bool) -> None:
    with open_exchange() as exchange:
        found = exchange.proposals.list(ended=ended, limit=limit)
    for one in found:
        if as_json:
            output.emit(one.as_dict())
        else:
            output.paragraph(one.state, *_words(one))
            if one.is_open:
                output.command(f"exchange proposals confirm {one.id}")
    if not found and not as_json:
        output.say("nothing waits for a second person")


def _words(one: Proposal) -> list[str]:
    from exchange.format.moments import in_table

    words = [f"number {one.id}: {one}", f"proposed at {in_table(one.at)} from {printable(one.origin, 255)}"]
    if one.is_open:
        words.append(f"another person may confirm it until {in_table(one.expires_at)}")
    if one.closed_by and one.closed_at:
        words.append(f"{one.state} at {in_table(one.closed_at)} by {printable(one.closed_by, 100)}")
    return words


@app.command()
def show(number: Number, as_json: Json = False) -> None:
    """Show one: what is done if it is confirmed, how what it is about was then, and what became of it."""
    with open_exchange() as exchange:
        found = exchange.proposals.find(number)
    if as_json:
        output.emit(found.as_dict())
        return
    output.paragraph(found.state, *_words(found))
    for title, fields in (("done is", found.frozen), ("it was", found.facts), ("result", found.result or {})):
        for name, value in fields.items():
            output.paragraph(title, f"{name}: {_shown(value)}")


def _shown(value: Any) -> str:
    return printable(str(value), 500)


@app.command()
def confirm(number: Number, reason: Reason = None, as_json: Json = False) -> None:
    """Have what somebody else proposed be done, as it was proposed.

    Who confirms is who is logged in (the name that Linux keeps through sudo), else the operating system's user.
    Exit code 2 if that one proposed it, or if what it is about has changed since.
    """
    with open_exchange() as exchange:
        done = exchange.proposals.confirm(number, reason=reason)
    if as_json:
        output.emit(done.as_dict())
        return
    output.paragraph(done.state, *_words(done))
    for name, value in (done.result or {}).items():
        if value not in (None, [], {}, ""):
            output.paragraph("", f"{name}: {_shown(value)}")


@app.command()
def withdraw(number: Number, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Take back what waits: it is not done."""
    with open_exchange() as exchange:
        done = exchange.proposals.withdraw(number, who=who, reason=reason)
    if as_json:
        output.emit(done.as_dict())
    else:
        output.tell(f"proposal {number} is withdrawn")
