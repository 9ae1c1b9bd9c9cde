"""Records that did not take effect, kept with why."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.tables import MAX_STORED_RECORD_BYTES, DeadLetterState, Direction, dead_letter
from exchange.tables.loader.copy import put

MOST_KEY_BYTES = 2_000
"""No index takes much more: of a record that came with a longer key it is kept in the record alone."""

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
    producer: str | None = None
    """What the manifest says of its writer, safe to show; None for what this side itself would not send."""

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


_AS_THEY_ARE = [name for name in Letter.__dataclass_fields__ if name in dead_letter.c and name != "record"]


def park(connection: Connection, letters: Sequence[Letter], cause: str) -> None:
    """Keep letters, each with its first event, in the caller's transaction."""
    if not letters:
        return
    moment = now()
    rows = [
        {
            **{name: getattr(letter, name) for name in _AS_THEY_ARE},
            "key": _key(letter),
            "record": letter.record[:MAX_STORED_RECORD_BYTES],
            "record_bytes": len(letter.record),
            "fingerprint": letter.fingerprint,
            "state": DeadLetterState.PARKED,
            "created_at": moment,
            "updated_at": moment,
        }
        for letter in letters
    ]
    ids = (_copy if connection.dialect.name == "postgresql" else _insert)(connection, rows)
    ledger.note_dead_letters(connection, ids, None, DeadLetterState.PARKED, cause)


def _key(letter: Letter) -> str | None:
    if letter.direction is Direction.IN and letter.key is not None and len(letter.key.encode()) > MOST_KEY_BYTES:
        return None
    return letter.key


def _copy(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Insert letters by COPY: a statement with all their values takes longer to write and to read than to do."""
    taking = sa.text("SELECT nextval(pg_get_serial_sequence(:table, 'id')) FROM generate_series(1, :number)")
    ids = list(connection.scalars(taking, {"table": dead_letter.name, "number": len(rows)}))
    values = (
        (one, *(row | {"record": f"\\x{row['record'].hex()}"}).values()) for one, row in zip(ids, rows, strict=True)
    )
    put(connection, dead_letter, ["id", *rows[0]], values)
    return ids


def _insert(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
    keeping = sa.insert(dead_letter).returning(dead_letter.c.id, sort_by_parameter_order=True)
    return list(connection.scalars(keeping, rows))
