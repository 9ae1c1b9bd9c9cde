"""Of one row one letter at most waits for somebody, in each direction: a newer record of it joins the older letter.

If it says the same but for its version, the letter stays the one that people know, with their edits and selections, and
counts how often it was seen. If it says something else, the older letter is superseded, with its edits, by a new one
that goes on counting. A unique index keeps two importers from parking the same row twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from exchange.database import ledger
from exchange.database.dialects import dialect_of
from exchange.database.engine import among, in_parts, now
from exchange.database.tables import DeadLetterState, Direction, dead_letter, is_open
from exchange.format import record as records
from exchange.format import strict_json
from exchange.format.errors import RecordError

_BEGINNING = re.compile(rb'(\{"stream": ?"[a-z0-9_]*", ?"op": ?"[a-z]*", ?"version": ?)\d+')
"""How a record begins, up to its version, as nearly all do."""

LONGEST_VERSION = len(str(strict_json.MAX_INTEGER))

_RENEWED = (
    "channel",
    "batch",
    "line",
    "op",
    "version",
    "schema_version",
    "record",
    "record_bytes",
    "pointer",
    "error",
    "message",
    "fingerprint",
    "producer",
    "cause",
    "next_try_at",
    "tries",
)
"""What a letter has of the newest record of its row."""

LetterColumns = dict[str, Any]
"""A letter's columns, before it has an id."""


def identity_of(letter: Mapping[str, Any], key: str | None) -> str | None:
    """Give 32 hex digits that are equal for letters of one row: of one direction, stream and ``key``.

    A record too long to be read is known by its length and its beginning, both but for the version; None for what
    nobody can tell from others, which has a letter of its own each time.
    """
    content = b""
    if key is not None:
        whose = (letter["stream"] or letter["channel"], "key", key)
    elif letter["record_bytes"] > len(letter["record"]):
        kept, content = letter["record"], _without_version(letter["record"])
        length = letter["record_bytes"] - len(kept) + len(content)
        content = content[: len(kept) - LONGEST_VERSION]  # where it was cut depends on how long its version is
        whose = (letter["channel"], "beginning", str(length))
    else:
        return None
    text = "\n".join((letter["direction"], *whose, "")).encode(errors="surrogateescape")
    return hashlib.sha256(text + content).hexdigest()[:32]


def at_version(mended: bytes, version: int | None) -> bytes:
    """Give a record that a person mended as of the version that its letter has by now; as it is if it is no record."""
    try:
        record = records.decode(mended)
    except RecordError:
        return mended
    if version is None or record.version == version:
        return mended
    return records.encode(record._replace(version=version)).removesuffix(b"\n")


def newest_of_each(rows: Iterable[LetterColumns]) -> list[LetterColumns]:
    """Give of the letters of each row the newest one, which counts all of them; the later one of two equal ones."""
    newest: dict[str | int, LetterColumns] = {}
    for number, row in enumerate(rows):
        if row["identity"] is None:
            newest[number] = row
            continue
        before = newest.get(row["identity"])
        if before is None:
            newest[row["identity"]] = row
            continue
        newer, older = (before, row) if (row["version"] or 0) < (before["version"] or 0) else (row, before)
        newest[row["identity"]] = newer | {"seen": newer["seen"] + older["seen"]}
    return list(newest.values())


def join(connection: Connection, rows: Sequence[LetterColumns]) -> list[LetterColumns]:
    """Let records join the open letters of their rows; give those that get letters of their own.

    ``rows`` are of one row each. Locks the letters that they join, until the caller's transaction ends.
    """
    fresh: list[LetterColumns] = []
    for some in in_parts(rows):
        known = _open(connection, [row["identity"] for row in some if row["identity"]])
        if not known:
            fresh += some
            continue
        fresh += _join(connection, some, known)
    return fresh


def _join(connection: Connection, rows: Sequence[LetterColumns], known: Mapping[str, Any]) -> list[LetterColumns]:
    records = _records(connection, rows, known)
    fresh, renewed, seen_again, past, mended = [], [], [], [], []
    for row in rows:
        letter = known.get(row["identity"])
        if letter is None:
            fresh.append(row)
        elif (row["version"] or 0) < (letter.version or 0):
            seen_again.append({"id": letter.id, "seen": row["seen"]})
        elif _is_same(row, letter, records.get(letter.id)):
            renewed.append({"id": letter.id, **{name: row[name] for name in (*_RENEWED, "seen")}})
        else:
            past.append(letter.id)
            if letter.revision:
                mended.append(letter.id)
            row |= {"seen": row["seen"] + letter.seen, "first_seen": letter.first_seen or letter.created_at}
            fresh.append(row)
    _count_again(connection, seen_again, ())
    _count_again(connection, renewed, _RENEWED)
    supersede(connection, past, "superseded: a newer record of its row was parked, which says something else")
    state = DeadLetterState.SUPERSEDED
    kept = "what a person made of it is kept here; it is of the earlier record"
    ledger.note_dead_letters(connection, mended, state, state, kept)
    return fresh


def open_letters(connection: Connection, identities: Sequence[str]) -> dict[str, int]:
    """Give the ids of the letters that are open, by their identities."""
    return {
        identity: letter.id for some in in_parts(identities) for identity, letter in _open(connection, some).items()
    }


def _open(connection: Connection, identities: Sequence[str]) -> dict[str, Any]:
    """Give the open letters of some identities, and lock them until the caller's transaction ends."""
    letter = dead_letter.c
    columns = (letter.identity, letter.id, letter.direction, letter.version, letter.record_bytes)
    asking = sa.select(*columns, letter.seen, letter.first_seen, letter.created_at, letter.revision)
    if dialect_of(connection).is_sqlite:
        # From what is asked for, or it would rather read all that is parked.
        listed = sa.func.json_each(json.dumps(identities)).table_valued("value")
        here = sa.and_(letter.identity == listed.c.value, is_open(dead_letter))
        asking = asking.select_from(listed.outerjoin(dead_letter, here))
        return {row.identity: row for row in connection.execute(asking) if row.id is not None}
    asking = asking.where(is_open(dead_letter), among(connection, letter.identity, identities))
    return {row.identity: row for row in connection.execute(asking.order_by(letter.id).with_for_update())}


def _records(connection: Connection, rows: Sequence[LetterColumns], known: Mapping[str, Any]) -> dict[int, bytes]:
    """Give the records of letters, of those that are as long as the one that came: memory holds twice as much then."""
    ids = [
        letter.id
        for row in rows
        if (letter := known.get(row["identity"])) and abs(letter.record_bytes - row["record_bytes"]) < LONGEST_VERSION
    ]
    asking = sa.select(dead_letter.c.id, dead_letter.c.record).where(among(connection, dead_letter.c.id, ids))
    return {row.id: bytes(row.record) for row in connection.execute(asking)}


def _is_same(row: LetterColumns, letter: Any, record: bytes | None) -> bool:
    """Say whether a record says what a letter's says, but for the version. Of what was not sent the row is asked."""
    if letter.direction == Direction.OUT:
        return True
    if record is None or row["record_bytes"] != len(row["record"]) or letter.record_bytes != len(record):
        return row["key"] is None  # then its beginning and its length are its identity
    return _without_version(row["record"]) == _without_version(record)


def _without_version(record: bytes) -> bytes:
    """Give a record's bytes without its version; as they are where that is not written as we write it."""
    return _BEGINNING.sub(rb"\1", record, count=1) if _BEGINNING.match(record) else record


def _count_again(connection: Connection, rows: Sequence[LetterColumns], names: Sequence[str]) -> None:
    """Note that letters were seen again, and ``names`` of what came; on PostgreSQL by one statement."""
    if not rows:
        return
    columns = ("id", "seen", *names)
    renewed: dict[str, Any] = {"last_seen": now()}
    if dialect_of(connection).is_postgresql:
        values = (sa.cast([row[name] for row in rows], postgresql.ARRAY(dead_letter.c[name].type)) for name in columns)
        new = sa.func.unnest(*values).table_valued(*columns, name="new").render_derived()
        renewed |= {name: new.c[name] for name in names} | {"seen": dead_letter.c.seen + new.c.seen}
        connection.execute(sa.update(dead_letter).where(dead_letter.c.id == new.c.id).values(renewed))
        return
    renewed |= {name: sa.bindparam(f"new_{name}", type_=dead_letter.c[name].type) for name in names}
    renewed |= {"seen": dead_letter.c.seen + sa.bindparam("new_seen")}
    changing = sa.update(dead_letter).where(dead_letter.c.id == sa.bindparam("new_id")).values(renewed)
    connection.execute(changing, [{f"new_{name}": row[name] for name in columns} for row in rows])


def supersede(connection: Connection, ids: Sequence[int], cause: str) -> int:
    """Settle parked letters whose row has a later version by now, in the caller's transaction; give how many.

    Those that somebody settled meanwhile are left as they are.
    """
    settled: list[int] = []
    for part in in_parts(ids):
        some = among(connection, dead_letter.c.id, part)
        settling = (
            sa.update(dead_letter)
            .where(some, dead_letter.c.state == DeadLetterState.PARKED)
            .values(state=DeadLetterState.SUPERSEDED, updated_at=now())
            .returning(dead_letter.c.id)
        )
        settled.extend(connection.scalars(settling))
    ledger.note_dead_letters(connection, settled, DeadLetterState.PARKED, DeadLetterState.SUPERSEDED, cause)
    return len(settled)
