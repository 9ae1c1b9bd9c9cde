"""``exchange files``: what people dropped to be loaded, how far each is, why one was refused, and giving one up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, open_exchange
from exchange.cli.batches import Limit
from exchange.cli.output import Json
from exchange.cli.runtime import one_of
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.api.files import FilePage, SeenFolder

app = typer.Typer(help="Files of rows that people dropped.", invoke_without_command=True)

LARGEST = 2**63 - 1
Number = Annotated[int, typer.Argument(metavar="FILE", min=1, max=LARGEST, help="Its number, as the list shows it.")]


@app.callback()
@output.listing
def files(
    ctx: typer.Context,
    state: Annotated[
        str | None,
        typer.Option(help="Only those: waiting, loading, loaded, duplicate, refused, cancelled.", show_default=False),
    ] = None,
    intake: Annotated[str | None, typer.Option(help="Only those of this intake.", show_default=False)] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List the files that people dropped, newest first, and what lies in their folders."""
    if ctx.invoked_subcommand is not None:
        return
    from exchange.database.tables import IntakeState

    wanted = one_of("state", state, IntakeState)
    with open_exchange() as exchange:
        page = exchange.files.list(state=wanted, intake=intake, limit=limit)
        folders = exchange.files.folders()
    _show(page, as_json)
    for one in folders:
        _say(one)


def _show(page: FilePage, as_json: bool) -> None:
    if as_json:
        for one in page.files:
            output.emit(one.as_dict())
        return
    if not page.files:
        output.say("no file was taken in")
        return
    output.table(
        ["id", "file", "intake", "state", "rows", "loaded", "parked", "dropped by", "updated"],
        [
            (
                one.id,
                one.file,
                one.intake,
                one.state,
                one.rows_read,
                one.rows_loaded,
                one.rows_parked,
                one.who,
                in_table(one.updated_at),
            )
            for one in page.files
        ],
    )
    for one in page.files:
        if one.message:
            output.say(f"{one.id}: {one.message}")
    if page.after is not None:
        output.say("there are more; --limit shows more of them")


def _say(one: SeenFolder) -> None:
    """Say what waits in a folder, and what does not belong there."""
    if one.trouble is not None:
        output.warn(one.trouble)
    elif one.ready or one.arriving:
        output.say(f"{one.folder}: {one.ready} files are ready, {one.arriving} still arrive")
    for problem in one.problems:
        output.warn(str(problem))


@app.command()
def show(number: Number, as_json: Json = False) -> None:
    """Show one: how it is read, how far each part is, and why rows of it are parked."""
    with open_exchange() as exchange:
        found = exchange.files.show(number)
    if as_json:
        output.emit(found.as_dict())
        return
    shown = [(name, value) for name, value in found.file.as_dict().items() if value is not None and name != "pace"]
    output.table(["field", "value"], [*shown, ("pace", str(found.file.pace))])
    written = [(name, str(value)) for name, value in found.format.items() if value and value != [""]]
    if found.format.get("header"):
        output.tell("")
        output.table(["read as", "value"], written)
    if found.since:
        output.tell("")
        output.tell(f"bad rows by now: {found.since}")
    if found.history:
        output.tell("")
        steps = [(in_table(one.at), one.state, one.cause) for one in found.history]
        output.table(["when", "state", "why"], steps)
    if len(found.parts) > 1:
        output.tell("")
        rows = [(one.number, one.begin, one.position, "done" if one.done else "") for one in found.parts]
        output.table(["part", "begins at byte", "has come to", ""], rows)
    if found.causes:
        output.tell("")
        output.table(
            ["bad rows", "error", "cause"], [(one.letters, one.error, one.fingerprint) for one in found.causes]
        )
        output.say(f"`exchange dead-letters list --intake {found.file.id}` shows them, each with its line")


@app.command()
def cancel(
    number: Number,
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever dropped it, and for the audit.")],
    undo: Annotated[bool, typer.Option("--undo", help="Delete again what was loaded of it.")] = False,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Give one up that is not loaded yet: nothing else of it comes.

    What was loaded of it stays, unless --undo takes it back.
    """
    with open_exchange() as exchange:
        one = exchange.files.cancel(number, reason, undo=undo, who=who)
    if as_json:
        output.emit(one.as_dict())
    else:
        output.tell(str(one))
