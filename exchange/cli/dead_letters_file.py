"""``exchange dead-letters export`` and ``import``: letters to a file and back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, by_hand
from exchange.cli.dead_letters_filters import FilterOptions, takes_filters
from exchange.cli.output import Json
from exchange.cli.runtime import fail, open_site

if TYPE_CHECKING:
    from exchange.database.audit_log import Act
    from exchange.dead_letters.file import ExportedLetters
    from exchange.dead_letters.filters import Filters
    from exchange.site import Site

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
    with open_site() as site:
        chosen = filters.read(site)
        arguments = {"file": str(file.absolute()), "filters": chosen.as_dict()}
        saved = _saved(site, file, chosen, by_hand(site, "export_dead_letters", arguments, who=who, why=reason))
        if not saved.letters:
            filters.refuse_unknown_names(site)
    if saved.signed is False:
        output.warn("there is no key to sign it: import takes it only where EXCHANGE_REQUIRE_SIGNATURE is false")
    if as_json:
        output.emit(saved.as_dict())
    else:
        output.tell(f"{saved.file}: {saved.letters} dead letters")


def _saved(site: Site, file: Path, filters: Filters, act: AbstractContextManager[Act]) -> ExportedLetters:
    from exchange.dead_letters.file import FileFault, export_letters

    try:
        with act as doing:
            saved = export_letters(site, file, filters)
            doing.came_to(saved.as_dict())
    except FileFault as fault:
        output.print_error(f"{fault}; nothing was written")
        fail()
    return saved


def import_(file: Import, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Bring dead letters back from a file.

    Letters that the other network refused become letters of this one: mend their rows here, then retry.
    """
    from exchange.dead_letters.file import FileFault, import_letters

    arguments = {"file": str(file.absolute())}
    try:
        with open_site() as site, by_hand(site, "import_dead_letters", arguments, who=who, why=reason) as act:
            imported = import_letters(site, file)
            # What was wrong with each is for the person here: it may quote a value.
            act.came_to({name: value for name, value in imported.as_dict().items() if name != "sentences"})
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
