"""Files of JSON lines, read in a few lines of their own: these tests are about what is loaded, not how it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa

from exchange.channels.intake import Intake
from exchange.channels.stream import Stream
from exchange.database.locks import reading
from exchange.database.tables import change, dead_letter
from exchange.format.batch import ReadLimits
from exchange.format.errors import RecordError
from exchange.intake import ledger, load, take_in
from exchange.intake.ledger import Entry, NewFile
from exchange.reading import BadRow, FileFormat, Piece, Place
from tests.crossing.sides import Side

AT_ONCE = 3
"""So many rows a piece has."""


def read(
    file: BinaryIO,
    written: FileFormat,
    stream: Stream,
    start: Place | None = None,
    stop: int | None = None,
    limits: ReadLimits | None = None,
) -> Iterator[Piece]:
    """Read JSON lines; what is none is a bad row."""
    position, line = start or (0, 1)
    file.seek(position)
    numbers: list[int] = []
    records: list[bytes] = []
    bodies: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    while True:
        raw = file.readline() if stop is None or position < stop else b""
        if raw:
            try:
                bodies.append(json.loads(raw))
                numbers.append(line)
                records.append(raw.rstrip(b"\n"))
            except ValueError:
                bad.append(BadRow(line, raw.rstrip(b"\n"), RecordError("cell", "/data/age", "age: expected a number")))
            position, line = position + len(raw), line + 1
        if len(records) + len(bad) == AT_ONCE or (not raw and (records or bad)):
            yield Piece(numbers, records, bodies, bad, Place(position, line))
            numbers, records, bodies, bad = [], [], [], []
        if not raw:
            return


class Loads:
    """A side, and files that it loads."""

    def __init__(self, side: Side, folder: Path) -> None:
        self.side, self.folder = side, folder

    def write(self, *rows: dict[str, Any] | str, name: str = "rows.jsonl") -> Path:
        """Write a file of rows."""
        path = self.folder / name
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    def drop(
        self,
        *rows: dict[str, Any] | str,
        cuts: Sequence[int] = (),
        stream: str = "account",
        again: bool = False,
        name: str = "rows.jsonl",
        **how: Any,
    ) -> int:
        """Write a file and take it in, with a part from each of the rows ``cuts`` on; give its id."""
        path = self.write(*rows, name=name)
        columns = [*next(row for row in rows if isinstance(row, dict))]
        written = FileFormat("jsonl", columns=columns)
        intake = Intake("some", stream=stream, **how)
        with path.open("rb") as file:
            found = take_in.hashed(file)
        terms = take_in.terms_of(self.side.site, intake, stream, written, found)
        size = [0, *(len(one) for one in path.read_bytes().splitlines(keepends=True))]
        places = [Place(sum(size[: at + 1]), at + 1) for at in (0, *cuts)]
        stops = [*(one.position for one in places[1:]), None]
        new = NewFile("some", stream, name, str(path), found.sha256, found.length, written, terms, "ann")
        return take_in.write_down(self.side.site, new, list(zip(places, stops, strict=True)), again=again)[0]

    def load(self, number: int) -> Entry:
        """Load all parts of a file, or go on with it."""
        with reading(self.side.engine) as connection:
            parts = ledger.parts(connection, number)
        for part in parts:
            load.load_part(self.side.site, number, part.number, read)
        return self.entry(number)

    def entry(self, number: int) -> Entry:
        """Give the ledger's row."""
        with reading(self.side.engine) as connection:
            found = ledger.find(connection, number)
        assert found is not None
        return found

    def letters(self) -> list[tuple[int, str, bytes]]:
        """Give line, error and record of each letter."""
        columns = dead_letter.c
        asking = sa.select(columns.line, columns.error, columns.record).order_by(columns.line)
        return [(row.line, row.error, bytes(row.record)) for row in self.side.all(asking)]

    def captured(self) -> int:
        """Count the rows that are noted to cross."""
        return len({(row.stream, row.key) for row in self.side.all(sa.select(change.c.stream, change.c.key))})

    def limit(self, **limits: Any) -> None:
        """Change some limits."""
        self.side.site = replace(self.side.site, limits=replace(self.side.site.limits, **limits))


def row(number: int, age: int | None = 7) -> dict[str, Any]:
    """Give a row of an account."""
    return {"id": number, "name": f"n{number}", "age": age}
