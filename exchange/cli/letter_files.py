"""``exchange dead-letters export`` and ``import``: letters to a file and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.by_hand import As, Reason, by_hand
from exchange.cli.output import Json
from exchange.cli.running import fail, open_site

File = Annotated[Path, typer.Argument(metavar="FILE", help="A new file; .csv makes a table, which nothing reads back.")]
Brought = Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote, here or on the other network.")]


def export(file: File, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Write dead letters to a file.

    JSON lines, signed, with every byte of the records, for `import`; or CSV for a spreadsheet.
    """
    from exchange import letter_files

    arguments = {"file": str(file.absolute())}
    try:
        with open_site() as site, by_hand(site, "export_dead_letters", arguments, who=who, why=reason) as act:
            saved = letter_files.save(site, file)
            act.came_to(saved.as_dict())
    except letter_files.FileFault as fault:
        output.complain(f"{fault}; nothing was written")
        fail()
    if saved.signed is False:
        output.warn("there is no key to sign it: import takes it only where EXCHANGE_REQUIRE_SIGNATURE is false")
    if as_json:
        output.emit(saved.as_dict())
    else:
        output.tell(f"{saved.letters} dead letters are in {saved.file}")


def import_(file: Brought, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Bring dead letters back from a file.

    Letters that the other network refused become letters of this one: mend their rows here, then retry.
    """
    from exchange import letter_files

    arguments = {"file": str(file.absolute())}
    try:
        with open_site() as site, by_hand(site, "import_dead_letters", arguments, who=who, why=reason) as act:
            brought = letter_files.bring(site, file)
            act.came_to(brought.as_dict())
    except letter_files.FileFault as fault:
        output.complain(str(fault))
        fail()
    if as_json:
        output.emit(brought.as_dict())
    else:
        output.table(["imported", "duplicate", "refused"], [(brought.imported, brought.duplicate, brought.refused)])
    for sentence in brought.sentences:
        output.warn(sentence)
    if brought.refused:
        fail()
