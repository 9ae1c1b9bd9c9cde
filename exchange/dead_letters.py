"""Dead letters: records that did not take effect, kept with why, until a person or a later batch settles them.

This module keeps and finds them; retrying one is the ``retry`` workflow's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange import ledger
from exchange.database import now
from exchange.format.errors import printable
from exchange.models import MAX_STORED_RECORD_BYTES, DeadLetterState, Direction, dead_letter, event

_INDEX = re.compile(r"/\d+")


@dataclass(frozen=True)
class Letter:
    """A record to be parked: what it is as far as it could be read, and what is wrong with it."""

    direction: Direction
    channel: str
    record: bytes
    error: str
    message: str
    pointer: str = ""
    cause: str = ""
    batch: str | None = None
    line: int | None = None
    stream: str | None = None
    op: str | None = None
    key: str | None = None
    version: int | None = None
    schema_version: int | None = None

    @property
    def fingerprint(self) -> str:
        """Equal for equal causes: direction, channel, stream, error, place and constraint, never a value."""
        parts = (
            self.direction,
            self.channel,
            self.stream or "",
            self.error,
            _INDEX.sub("/#", self.pointer),
            self.cause,
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


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


_AS_THEY_ARE = [name for name in Letter.__dataclass_fields__ if name in dead_letter.c and name != "record"]
_COLUMNS = [dead_letter.c[name] for name in Parked.__dataclass_fields__]


def park(connection: Connection, letters: Sequence[Letter], cause: str) -> None:
    """Keep letters, each with its first event, in the caller's transaction."""
    if not letters:
        return
    moment = now()
    keeping = sa.insert(dead_letter).returning(dead_letter.c.id, sort_by_parameter_order=True)
    rows = [
        {
            **{name: getattr(letter, name) for name in _AS_THEY_ARE},
            "record": letter.record[:MAX_STORED_RECORD_BYTES],
            "record_bytes": len(letter.record),
            "fingerprint": letter.fingerprint,
            "state": DeadLetterState.PARKED,
            "created_at": moment,
            "updated_at": moment,
        }
        for letter in letters
    ]
    ids = list(connection.scalars(keeping, rows))
    ledger.note_dead_letters(connection, ids, None, DeadLetterState.PARKED, cause)


def find(connection: Connection, letter_id: int) -> Parked | None:
    """Give one letter by its id."""
    row = connection.execute(sa.select(*_COLUMNS).where(dead_letter.c.id == letter_id)).one_or_none()
    return _parked(row) if row else None


def listed(
    connection: Connection, *, state: DeadLetterState | None, channels: Collection[str] | None, limit: int
) -> list[Parked]:
    """Give letters, newest first; of some channels, by their names in the files, or of all."""
    query = sa.select(*_COLUMNS).order_by(dead_letter.c.id.desc()).limit(limit)
    if state is not None:
        query = query.where(dead_letter.c.state == state)
    if channels is not None:
        query = query.where(dead_letter.c.channel.in_(channels))
    return [_parked(row) for row in connection.execute(query)]


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


def settle(
    connection: Connection, letter: Parked, state: DeadLetterState, cause: str, *, message: str | None = None
) -> bool:
    """Bring a parked letter to ``state``; staying parked is a retry that failed. False if somebody was faster."""
    if state not in ledger.DEAD_LETTER_TRANSITIONS.get(letter.state, frozenset()):
        msg = f"dead letter {letter.id} is {letter.state} and can't become {state}"
        raise ValueError(msg)
    retried = state is not DeadLetterState.DISCARDED
    changed = connection.execute(
        sa.update(dead_letter)
        .where(
            dead_letter.c.id == letter.id,
            dead_letter.c.state == letter.state,
            dead_letter.c.attempts == letter.attempts,
        )
        .values(
            state=state,
            updated_at=now(),
            attempts=letter.attempts + retried,
            **({"message": message} if message else {}),
        )
    )
    if changed.rowcount != 1:
        return False
    ledger.note_dead_letters(connection, [letter.id], letter.state, state, cause)
    return True


def discard(connection: Connection, letter_id: int, reason: str) -> str | None:
    """Give a parked letter up for good, with a reason; give a sentence if that can't be."""
    letter = find(connection, letter_id)
    if letter is None:
        return f"there is no dead letter {letter_id}; `exchange dead-letters list` shows those there are"
    if letter.state is not DeadLetterState.PARKED:
        return f"dead letter {letter_id} is {letter.state} already; nothing was changed"
    if not settle(connection, letter, DeadLetterState.DISCARDED, f"discarded: {printable(reason, 1000)}"):
        return f"somebody else settled dead letter {letter_id} at this moment; nothing was changed"
    return None


def _parked(row: Any) -> Parked:
    return Parked(
        **{
            **row._mapping,
            "direction": Direction(row.direction),
            "state": DeadLetterState(row.state),
        }
    )
