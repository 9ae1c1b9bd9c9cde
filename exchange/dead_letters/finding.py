"""Dead letters found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.models import DeadLetterState, Direction, dead_letter, event


@dataclass(frozen=True)
class Parked:
    """A dead letter as it is kept."""

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
    record: bytes
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
            "created_at": self.created_at.isoformat(),
        }


_COLUMNS = [dead_letter.c[name] for name in Parked.__dataclass_fields__]


def find(connection: Connection, letter_id: int) -> Parked | None:
    """Give one letter by its id."""
    row = connection.execute(sa.select(*_COLUMNS).where(dead_letter.c.id == letter_id)).one_or_none()
    return parked_of(row) if row else None


def listed(connection: Connection, *, state: DeadLetterState | None, channel: str | None, limit: int) -> list[Parked]:
    """Give letters, newest first."""
    query = sa.select(*_COLUMNS).order_by(dead_letter.c.id.desc()).limit(limit)
    if state is not None:
        query = query.where(dead_letter.c.state == state)
    if channel is not None:
        query = query.where(dead_letter.c.channel == channel)
    return [parked_of(row) for row in connection.execute(query)]


def count_parked(connection: Connection) -> int:
    """Count the letters that wait for somebody."""
    return (
        connection.scalar(
            sa.select(sa.func.count()).select_from(dead_letter).where(dead_letter.c.state == DeadLetterState.PARKED)
        )
        or 0
    )


def history(connection: Connection, letter_id: int) -> list[Mapping[str, Any]]:
    """Give a letter's events, oldest first."""
    rows = connection.execute(
        sa.select(event.c.at, event.c.from_state, event.c.to_state, event.c.cause, event.c.who)
        .where(event.c.subject == "dead_letter", event.c.subject_id == letter_id)
        .order_by(event.c.id)
    )
    return [dict(row._mapping) for row in rows]


def parked_of(row: Any) -> Parked:
    """Give the letter of a row that has its columns, and maybe others."""
    values = {name: row._mapping[name] for name in Parked.__dataclass_fields__}
    return Parked(**{**values, "direction": Direction(row.direction), "state": DeadLetterState(row.state)})
