"""People's files of rows: found out how they are written, and read as a stream's values, piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from exchange.format.errors import RecordError

Body = dict[str, Any]
"""A row's values as a record's data has them, by the names that columns have in files; columns may be missing."""


class FileRefused(Exception):  # noqa: N818 - a sentence about a file, nothing is broken
    """A file as a whole is no file of its stream's rows; the sentence says why and what comes next."""


@dataclass(frozen=True)
class FileFormat:
    """How the bytes of one file are rows: all that it takes to read any line of it again, as JSON in the ledger."""

    kind: str
    """``csv`` or ``jsonl``."""
    compression: str = ""
    """Nothing, ``gzip``, ``zstd`` or ``zip``."""
    encoding: str = "utf-8"
    delimiter: str = ","
    quote: str = '"'
    decimal: str = "."
    grouping: bool = False
    """Whether the other sign, blanks and apostrophes may group the digits of numbers: somebody said so, or it shows."""
    dates: Sequence[str] = ()
    nulls: Sequence[str] = ("",)
    time_zone: str = ""
    header: Sequence[str] = ()
    """The header's cells, as the file has them."""
    columns: Sequence[str | None] = ()
    """For each cell the column it is for, as files call it; None: it is left out."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    given: Sequence[str] = ()
    """Columns that rows lack, and the model's own defaults give."""
    start: int = 0
    """The byte of the decompressed file at which the rows begin, behind a mark of its encoding and the header."""
    line: int = 1
    """The number of the line that begins there, from 1."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that rows have, as files call them."""
        return tuple(dict.fromkeys(one for one in (*self.columns, *self.defaults, *self.given) if one is not None))

    def as_dict(self) -> dict[str, Any]:
        """Give it for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> FileFormat:
        """Take it from JSON; what an older version did not know has its default."""
        return cls(**{name: value for name, value in given.items() if name in cls.__dataclass_fields__})


class Place(NamedTuple):
    """A byte of the decompressed file, and the number of the line that begins there, from 1."""

    position: int
    line: int


class BadRow(NamedTuple):
    """A row that can't be read: its line's number, its bytes as the file has them, and why. The pointer names the cell.

    Of a row longer than is kept in memory ``record`` is a ``LongLine``.
    """

    number: int
    record: bytes
    error: RecordError


class Piece(NamedTuple):
    """Rows that follow each other in a file, and where the next ones begin."""

    numbers: Sequence[int]
    """The line in which each row begins."""
    records: Sequence[bytes]
    """The bytes of each row as the file has them, without the line's end."""
    bodies: Sequence[Body]
    bad: Sequence[BadRow]
    end: Place
