"""``exchange dead-letters export`` and ``import``: letters to a file and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.dead_letters_filters import FilterOptions, takes_filters
from exchange.cli.output import Json
from exchange.cli.runtime import fail

File = Annotated[Path, typer.Argument(metavar="FILE", help="A new file; .csv makes a table, which nothing reads back.")]
Import = Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote, here or on the other network.")]


@takes_filters()
def export(
    file: File,
    *,
    filters: FilterOptions,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Write dead letters to a file.

    JSON lines, signed, with every byte of the records, for `import`; or CSV for a spreadsheet.
    """
    from exchange.dead_letters.file import FileFault

    with open_exchange() as exchange:
        chosen = filters.read(exchange.site)
        try:
            saved = exchange.dead_letters.export(file, chosen, who=who, reason=reason)
        except FileFault as fault:
            output.print_error(f"{fault}; nothing was written")
            fail()
        if not saved.letters:
            filters.refuse_unknown_names(exchange.site)
    if saved.signed is False:
        output.warn("there is no key to sign it: import takes it only where EXCHANGE_REQUIRE_SIGNATURE is false")
    if as_json:
        output.emit(saved.as_dict())
    else:
        output.tell(f"{saved.file}: {saved.letters} dead letters")
        if saved.left_out:
            output.tell(
                f"left out: {saved.left_out} rows of people's files, which say nothing without their file; a name that"
                " ends in .csv has them too"
            )


def import_(file: Import, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Bring dead letters back from a file.

    Letters that the other network refused become letters of this one: mend their rows here, then retry.
    """
    from exchange.dead_letters.file import FileFault

    try:
        with open_exchange() as exchange:
            imported = exchange.dead_letters.import_file(file, who=who, reason=reason)
    except FileFault as fault:
        output.print_error(str(fault))
        fail()
    if as_json:
        output.emit(imported.as_dict())
    else:
        output.table(["imported", "duplicate", "refused"], [(imported.imported, imported.duplicate, imported.refused)])
    for sentence in imported.sentences:
        output.warn(sentence)
    if imported.refused:
        fail()
