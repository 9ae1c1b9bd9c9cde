"""What all of our tables are made with: their types, conditions of their indexes, and which way things go."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, TextClause, text
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.selectable import NamedFromClause
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

VERSION_COLUMN = "exchange_version"
"""The column that a received table has beside its own: the version of the record that last wrote the row."""

MAX_STORED_RECORD_BYTES = 16 * 1024 * 1024
"""How much of a refused record a dead letter keeps, in bytes: all that a record may have by default.

Of a line that is longer than its reader takes only the head is kept."""


class Direction(enum.StrEnum):
    """Which way a batch or a dead letter went, seen from this network."""

    OUT = "out"
    IN = "in"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware date-time, always UTC, on databases with and without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive value rather than guess its zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            msg = "a date-time without a zone reached the exchange's own tables"
            raise ValueError(msg)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back UTC, whatever the database kept."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@dataclass(frozen=True)
class Predicate:
    """The condition of a partial index, with its columns in braces.

    A query uses the index only if it says the condition in the same words: SQLite compares them, and a bound value is
    none. So it is written here alone.
    """

    words: str

    def __call__(self, rows: NamedFromClause) -> TextClause:
        """Say it of the rows of its table or of an alias of that."""
        return text(self.words.replace("{", f"{rows.name}.").replace("}", ""))

    def of_index(self) -> dict[str, Any]:
        """Give the options of the index, for both databases."""
        said = text(self.words.replace("{", "").replace("}", ""))
        return {"sqlite_where": said, "postgresql_where": said}


def row_id() -> Column[Any]:
    """A 64-bit key that grows by itself; SQLite needs INTEGER for that."""
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
