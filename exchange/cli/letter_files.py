"""``exchange dead-letters export`` and ``import``: letters to a file and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.dead_letters import app
from exchange.cli.output import Json
from exchange.cli.running import fail, open_site

File = Annotated[Path, typer.Argument(metavar="FILE", help="A new file; .csv makes a table, which nothing reads back.")]
Brought = Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote, here or on the other network.")]


@app.command()
def export(file: File, as_json: Json = False) -> None:
    """Write dead letters to a file.

    JSON lines, signed, with every byte of the records, for `import`; or CSV for a spreadsheet.
    """
    from exchange import letter_files

    with open_site() as site:
        try:
            saved = letter_files.save(site, file)
        except letter_files.FileFault as fault:
            output.complain(f"{fault}; nothing was written")
            fail()
    if saved.signed is False:
        output.warn("there is no key to sign it: import takes it only where EXCHANGE_REQUIRE_SIGNATURE is false")
    if as_json:
        output.emit(saved.as_dict())
    else:
        output.tell(f"{saved.letters} dead letters are in {saved.file}")


@app.command("import")
def import_(file: Brought, as_json: Json = False) -> None:
    """Bring dead letters back from a file.

    Letters that the other network refused become letters of this one: mend their rows here, then retry.
    """
    from exchange import letter_files

    with open_site() as site:
        try:
            brought = letter_files.bring(site, file)
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
