"""Dead letters found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.tables import DeadLetterState, Direction, dead_letter, event


@dataclass(frozen=True)
class Brief:
    """A dead letter as it is kept, without its record."""

    id: int
    direction: Direction
    channel: str
    batch: str | None
    line: int | None
    stream: str | None
    op: str | None
    key: str | None
    version: int | None
    schema_version: int | None
    record_bytes: int
    pointer: str | None
    error: str
    message: str
    fingerprint: str
    state: DeadLetterState
    attempts: int
    created_at: datetime
    updated_at: datetime
    producer: str | None
    cause: str
    revision: int

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "id": self.id,
            "direction": self.direction.value,
            "channel": self.channel,
            "batch": self.batch,
            "line": self.line,
            "stream": self.stream,
            "key": self.key,
            "version": self.version,
            "error": self.error,
            "message": self.message,
            "fingerprint": self.fingerprint,
            "state": self.state.value,
            "attempts": self.attempts,
            "revision": self.revision,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


@dataclass(frozen=True)
class Parked(Brief):
    """A dead letter with the exact bytes that came, as far as they are kept."""

    record: bytes


def find(connection: Connection, letter_id: int) -> Parked | None:
    """Give one letter by its id."""
    row = connection.execute(
        sa.select(*brief_columns(dead_letter), dead_letter.c.record).where(dead_letter.c.id == letter_id)
    ).one_or_none()
    return parked(row) if row else None


def brief_columns(letters: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """Give the columns that ``brief`` reads, of the table of letters or of something made from it."""
    return [letters.c[name] for name in Brief.__dataclass_fields__]


def brief(row: Any) -> Brief:
    """Make a letter of a row that has ``brief_columns`` and maybe more."""
    return Brief(**_fields(row))


def parked(row: Any) -> Parked:
    """Make a letter with its record of a row that has ``brief_columns``, ``record`` and maybe more."""
    return Parked(**_fields(row), record=row.record)


def history(connection: Connection, letter_id: int) -> list[Mapping[str, Any]]:
    """Give a letter's events, oldest first."""
    rows = connection.execute(
        sa.select(event.c.at, event.c.from_state, event.c.to_state, event.c.cause, event.c.who)
        .where(event.c.subject == "dead_letter", event.c.subject_id == letter_id)
        .order_by(event.c.id)
    )
    return [dict(row._mapping) for row in rows]


def _fields(row: Any) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in Brief.__dataclass_fields__}
    return {**fields, "direction": Direction(row.direction), "state": DeadLetterState(row.state)}
