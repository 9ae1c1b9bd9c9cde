"""Dead letters kept, with why their records did not take effect, and found again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from exchange.channels.channel import Channel
from exchange.database import ledger
from exchange.database.dialects import dialect_of
from exchange.database.encodings import NarrowEncoding, narrow_encoding
from exchange.database.engine import now
from exchange.database.tables import MAX_STORED_RECORD_BYTES, DeadLetterState, Direction, dead_letter, event
from exchange.dead_letters import joining, schedule
from exchange.format import record as records
from exchange.format.batch import LongLine
from exchange.format.errors import RecordError, TransientError
from exchange.tables.loader.copy import put
from exchange.tables.loader.staging import canonical_key


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
    seen: int
    first_seen: datetime
    last_seen: datetime
    next_try_at: datetime | None
    tries: int
    intake: int | None
    """The file of people that it is a row of; ``line`` is its line there."""

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
            "seen": self.seen,
            "first_seen": self.first_seen.isoformat(),
            "last_seen": self.last_seen.isoformat(),
            "next_try_at": self.next_try_at.isoformat() if self.next_try_at else None,
            "tries": self.tries,
            "intake": self.intake,
        }


@dataclass(frozen=True)
class Parked(Brief):
    """A dead letter with the exact bytes that came, as far as they are kept."""

    record: bytes


def find(connection: Connection, letter_id: int) -> Parked | None:
    """Give one letter by its id; None if there is none. Locks nothing."""
    row = connection.execute(
        sa.select(*brief_columns(dead_letter), dead_letter.c.record).where(dead_letter.c.id == letter_id)
    ).one_or_none()
    return parked(row) if row else None


def brief_columns(letters: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """Give the columns that ``brief`` reads, of the table of letters or of something made from it."""
    return [letters.c[one.name] for one in fields(Brief)]


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
    values = {one.name: getattr(row, one.name) for one in fields(Brief)}
    for name in ("first_seen", "last_seen"):  # there where they differ
        values[name] = values[name] or row.created_at
    return {**values, "direction": Direction(row.direction), "state": DeadLetterState(row.state)}


MOST_KEY_BYTES = 2_000
"""No index takes much more: of a record that came with a longer key it is kept in the record alone."""


TRIES = 5
"""So often letters are parked anew where other importers park letters of the same rows at the same moment."""

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
    intake: int | None = None
    """The file of people that it is a row of: its record is as that is written."""

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


_AS_THEY_ARE = [one.name for one in fields(Letter) if one.name in dead_letter.c and one.name != "record"]


def park(connection: Connection, letters: Sequence[Letter], cause: str) -> int:
    """Park letters in the caller's transaction, each new one with its first event; give how many are new.

    A record of a row that has an open letter joins that (``joining``). Raises TransientError if another process parks
    letters of the same rows all the time.
    """
    if not letters:
        return 0
    moment = now()
    narrow = narrow_encoding(connection)
    rows = joining.newest_of_each(_row(letter, narrow, moment) for letter in letters)
    if not dialect_of(connection).many_writers:
        return _park(connection, rows, cause)
    for _ in range(TRIES):
        with suppress(IntegrityError), connection.begin_nested():  # another importer parked one of these rows meanwhile
            return _park(connection, rows, cause)
    raise TransientError("another process parks dead letters of the same rows; the next run tries again")


def _park(connection: Connection, rows: Sequence[joining.LetterColumns], cause: str) -> int:
    fresh = joining.join(connection, rows)
    ids = _copy(connection, fresh) if dialect_of(connection).is_postgresql else _insert(connection, fresh)
    ledger.note_dead_letters(connection, ids, None, DeadLetterState.PARKED, cause)
    return len(ids)


def _row(letter: Letter, narrow: NarrowEncoding | None, moment: datetime) -> joining.LetterColumns:
    row = {
        **{name: getattr(letter, name) for name in _AS_THEY_ARE},
        **_texts(letter, narrow),
        "record": letter.record[:MAX_STORED_RECORD_BYTES],
        "record_bytes": letter.record.length if isinstance(letter.record, LongLine) else len(letter.record),
        "fingerprint": letter.fingerprint,
        "state": DeadLetterState.PARKED,
        "created_at": moment,
        "updated_at": moment,
        "seen": 1,
        "first_seen": None,
        "next_try_at": schedule.next_try(letter.direction, letter.error, 0, moment),
        "tries": 0,
    }
    # No row of a file is a newer one of another file's: each has a letter of its own.
    return row | {"identity": None if letter.intake else joining.identity_of(row, letter.key)}


def _texts(letter: Letter, narrow: NarrowEncoding | None) -> dict[str, str | None]:
    """Give what must be stored as text; the record itself is kept as bytes, whatever the database is encoded in."""
    key = _key(letter)
    if narrow is None:
        return {"key": key}
    return {
        "key": None if key is not None and narrow.lacks(key) else key,
        "message": narrow.storable(letter.message),
        "producer": letter.producer and narrow.storable(letter.producer),
    }


def _key(letter: Letter) -> str | None:
    """Give the key, unless it is too long for an index, or holds bytes that are not UTF-8."""
    try:
        length = len((letter.key or "").encode())
    except UnicodeEncodeError:
        return None
    return None if letter.direction is Direction.IN and length > MOST_KEY_BYTES else letter.key


def _copy(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Insert letters by COPY: a statement with all their values takes longer to write and to read than to do."""
    if not rows:
        return []
    taking = sa.text("SELECT nextval(pg_get_serial_sequence(:table, 'id')) FROM generate_series(1, :number)")
    ids = list(connection.scalars(taking, {"table": dead_letter.name, "number": len(rows)}))
    values = (
        (one, *(row | {"record": f"\\x{row['record'].hex()}"}).values()) for one, row in zip(ids, rows, strict=True)
    )
    put(connection, dead_letter, ["id", *rows[0]], values)
    return ids


def _insert(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Insert letters where there is but one writer, who may give the ids: to be told each of them takes much longer."""
    if not rows:
        return []
    first = connection.execute(sa.insert(dead_letter).returning(dead_letter.c.id), rows[0]).scalar_one()
    others = [{**row, "id": first + number} for number, row in enumerate(rows)][1:]
    if others:
        connection.execute(sa.insert(dead_letter), others)
    return list(range(first, first + len(rows)))


def letter_of(channel: Channel, schemas: Mapping[str, int], line: bytes, error: RecordError, cause: str = "") -> Letter:
    """Describe a bad line of a batch as far as it can be read. Touches no database."""
    letter = Letter(Direction.IN, channel.name, line, error.error, error.sentence, pointer=error.pointer, cause=cause)
    try:
        record = records.decode(bytes(line))  # of a long line all may be there
    except RecordError:
        return letter
    try:
        stream = channel.stream(record.stream)
    except KeyError:
        if record.stream not in schemas:
            return letter
        # What this side once read has its name still.
        named = replace(letter, stream=record.stream, op=record.op.value, version=record.version)
        return replace(named, schema_version=schemas[record.stream])
    try:
        key = canonical_key(stream, record.body)
    except (KeyError, TypeError):
        key = None
    return replace(
        letter,
        stream=stream.name,
        op=record.op.value,
        key=key,
        version=record.version,
        schema_version=schemas.get(stream.name),
    )
