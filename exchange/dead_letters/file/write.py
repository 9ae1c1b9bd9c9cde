"""Dead letters into a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange import __version__
from exchange.database import network
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import dead_letter, revision
from exchange.dead_letters.file.csv import write_table
from exchange.dead_letters.file_rows import PeoplesFile, files_of
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.store import Parked, brief_columns, parked
from exchange.files.durable import new_file
from exchange.format.as_dict import AsDict
from exchange.format.dead_letter_file import Entry, LetterWriter, SavedLetter, SavedRevision
from exchange.format.errors import TransientError
from exchange.format.signed_file import FileFault
from exchange.site import Site

FETCH_LETTERS = 8
"""How many letters cross from the database at once: each may hold 16 MiB."""


@dataclass(frozen=True)
class ExportedLetters(AsDict):
    """What was written. ``signed`` is None for a table, which nobody takes back.

    ``left_out`` are rows of people's files, which only a table has: a letter file says nothing of how they are read.
    """

    file: Path
    letters: int
    signed: bool | None
    left_out: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return super().as_dict() | {"file": str(self.file)}


def export_letters(
    site: Site, file: Path, filters: Filters | None = None, *, sensitive: bool = True
) -> ExportedLetters:
    """Write the letters that ``filters`` mean (None: all): a table if the name ends in .csv, else JSON lines.

    The file appears whole or not at all, for our eyes only. Without ``sensitive`` a letter of which anything may have
    to be hidden refuses all of it. Raises FileFault for that and if there is one already, TransientError.
    """
    where = (filters or Filters()).where()
    with transient_errors(), reading(site.engine) as connection, new_file(file) as out:
        if file.suffix == ".csv":
            return ExportedLetters(file, write_table(site, out, _with_files(connection, where)), None)
        epoch = network.known_epoch(connection, site.network)
        if epoch is None:
            raise TransientError("the database has no epoch yet; `exchange migrate` gives it one")
        writer = LetterWriter(out)
        of_files = [*where, dead_letter.c.intake.is_not(None)]
        left_out = connection.scalar(sa.select(sa.func.count()).select_from(dead_letter).where(*of_files)) or 0
        records = [*where, dead_letter.c.intake.is_(None)]
        for entry in _entries(connection, records, None if sensitive else Mask(site.channels)):
            writer.write(entry)
        ending = writer.close(site.network, epoch, f"exchange {__version__}", now(), site.signing_key)
    return ExportedLetters(file, ending.letters, site.signing_key is not None, left_out)


Where = Sequence[sa.ColumnElement[bool]]


def _entries(connection: Connection, where: Where, mask: Mask | None) -> Iterator[Entry]:
    for letter in _letters(connection, where):
        if mask is not None and mask.hides(letter):
            raise FileFault(f"dead letter {letter.id} may hold what is sensitive, and its file would have all of it")
        yield SavedLetter(**{one.name: getattr(letter, one.name) for one in fields(SavedLetter)})
        if not letter.revision:
            continue
        mended = sa.select(*(revision.c[one.name] for one in fields(SavedRevision)))
        rows = connection.execute(mended.where(revision.c.letter == letter.id).order_by(revision.c.number))
        yield from (SavedRevision(**row) for row in rows.mappings())


def _with_files(connection: Connection, where: Where) -> Iterator[tuple[Parked, PeoplesFile | None]]:
    """Give letters with the files that they are rows of."""
    numbers = connection.scalars(
        sa.select(dead_letter.c.intake).where(*where, dead_letter.c.intake.is_not(None)).distinct()
    )
    files = files_of(connection, [*numbers])
    for letter in _letters(connection, where):
        yield letter, files.get(letter.intake or 0)


def _letters(connection: Connection, where: Where) -> Iterator[Parked]:
    chosen = sa.select(*brief_columns(dead_letter), dead_letter.c.record).where(*where).order_by(dead_letter.c.id)
    streamed = {"stream_results": True, "yield_per": FETCH_LETTERS}
    with connection.execute(chosen, execution_options=streamed) as rows:
        yield from map(parked, rows)
