"""A stream with a column of most kinds, and files of its rows in memory."""

from __future__ import annotations

import enum
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from exchange.channels import Stream
from exchange.channels.intake import Intake, Written
from exchange.format.batch import ReadLimits
from exchange.reading import BadRow, Body, FileFormat
from exchange.reading.detect import detect
from exchange.reading.read import read


class Colour(enum.Enum):
    """What an enum column may have."""

    RED = "red"
    GREEN = "green"


ITEM = sa.Table(
    "item",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("price", sa.Numeric(10, 2)),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("unit_count", sa.BigInteger),
    sa.Column("note", sa.Text),
)
STREAM = Stream(ITEM)

ALL = sa.Table(
    "every_kind",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("small", sa.SmallInteger),
    sa.Column("exact", sa.Numeric(8, 2)),
    sa.Column("any_exact", sa.Numeric),
    sa.Column("real", sa.Float),
    sa.Column("yes", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("clock", sa.Time),
    sa.Column("moment", sa.DateTime(timezone=True)),
    sa.Column("local", sa.DateTime),
    sa.Column("colour", sa.Enum(Colour, values_callable=lambda kind: [one.value for one in kind])),
    sa.Column("uuid", sa.Uuid),
    sa.Column("raw", sa.LargeBinary),
    sa.Column("doc", sa.JSON),
    sa.Column("needed_doc", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("many", postgresql.ARRAY(sa.Integer).with_variant(sa.JSON(), "sqlite")),
    sa.Column("lasting", sa.Interval),
    sa.Column("host", postgresql.INET().with_variant(sa.String(), "sqlite")),
)
EVERY_KIND = Stream(ALL)


@dataclass(frozen=True)
class Read:
    """What a file was read as."""

    format: FileFormat
    notes: list[str]
    numbers: list[int]
    records: list[bytes]
    bodies: list[Body]
    bad: list[BadRow]

    @property
    def faults(self) -> list[tuple[int, str, str]]:
        """The bad rows: line, class, and where."""
        return [(one.number, one.error.error, one.error.pointer) for one in self.bad]


def intake(stream: Stream = STREAM, *, written: Written | None = None, **more: Any) -> Intake:
    """Declare an intake of the stream."""
    return Intake("rows", stream=stream, written=written or Written(), **more)


def read_all(
    content: bytes, declared: Intake | None = None, name: str = "rows.csv", limits: ReadLimits | None = None
) -> Read:
    """Find out how a file is written, and read all of it."""
    declared = declared or intake()
    file = io.BytesIO(content)
    found = detect(file, name, declared, declared.stream)
    pieces = [*read(file, found.format, declared.stream, limits=limits)]
    return Read(
        found.format,
        found.notes,
        _all(one.numbers for one in pieces),
        _all(one.records for one in pieces),
        _all(one.bodies for one in pieces),
        _all(one.bad for one in pieces),
    )


def _all(lists: Iterable[Sequence[Any]]) -> list[Any]:
    return [one for some in lists for one in some]
