"""What people made of dead letters: each time a new revision, and never the record as it came."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.stream import HIDDEN
from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.tables import DeadLetterState, Direction, dead_letter, revision
from exchange.database.whoami import whoami
from exchange.dead_letters.joining import at_version, identity_of, open_letters
from exchange.dead_letters.store import Parked
from exchange.dead_letters.transitions import standing, take
from exchange.format import json_pointer, strict_json
from exchange.format.errors import TransientError, printable
from exchange.format.record import Record

_ABSENT = object()
_LONGEST_VALUE = 100
_MOST_LINES = 100


def newest(connection: Connection, letter: Parked) -> bytes:
    """Give a letter's record as it was last mended, or as it came."""
    number = revision.c.number == letter.revision
    mended = connection.scalar(sa.select(revision.c.record).where(revision.c.letter == letter.id, number))
    return letter.record if mended is None else at_version(bytes(mended), letter.version)


def add(connection: Connection, letter: Parked, content: bytes, difference: str, why: str) -> int:
    """Add a revision to a letter as it was found; give its number. Locks the letter in the caller's transaction.

    Raises TransientError, with nothing changed, if somebody mended or settled it meanwhile.
    """
    found = take(connection, [letter.id])
    if not found or found[0].letter.revision != letter.revision:
        msg = f"{standing(connection, letter.id)}; nothing was changed: what you began with is past"
        raise TransientError(msg)
    number = letter.revision + 1
    row = {"record": content, "difference": difference, "at": now(), "who": whoami()[:255], "why": why}
    connection.execute(sa.insert(revision).values(letter=letter.id, number=number, **row))
    changing = sa.update(dead_letter).where(dead_letter.c.id == letter.id)
    connection.execute(changing.values(revision=number, updated_at=now()))
    parked = DeadLetterState.PARKED
    ledger.note_dead_letters(connection, [letter.id], parked, parked, f"revision {number}: {printable(why, 1000)}")
    return number


def identify(connection: Connection, letter_id: int, record: Record, key: str, schema_version: int) -> None:
    """Note what record it is, of a letter that could not be read as it came, in the transaction of ``add``.

    Raises TransientError if another letter of its row is parked: then nothing of the edit may be committed.
    """
    identity = identity_of({"direction": Direction.IN, "stream": record.stream}, key)
    for other in open_letters(connection, [*filter(None, [identity])]).values():
        if other == letter_id:
            continue
        msg = f"dead letter {other} of the same row is parked: mend that one, and discard this one; nothing was changed"
        raise TransientError(msg)
    known = {"stream": record.stream, "op": record.op, "key": key, "version": record.version, "identity": identity}
    changing = sa.update(dead_letter).where(dead_letter.c.id == letter_id)
    connection.execute(changing.values(**known, schema_version=schema_version))


def difference(before: Any, after: Any, sensitive: Collection[str]) -> str:
    """Write what changed from one JSON value to another, a line for each place; hidden columns stay hidden."""
    lines = []
    for pointer, old, new in _changes("", before, after):
        column = pointer.split("/")[2:3]
        # A whole object may hold a hidden column.
        hide = bool(sensitive) and (not column or column[0] in sensitive)
        lines.append(f"{printable(pointer) or '(all)'}: {_shown(old, hide=hide)} -> {_shown(new, hide=hide)}")
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"and {len(lines) - _MOST_LINES} more"]
    return "\n".join(lines)


def changed_places(before: Any, after: Any) -> list[str]:
    """Name the places at which one JSON value is another than before."""
    return [pointer for pointer, _, _ in _changes("", before, after)]


def _changes(pointer: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys((*before, *after)):
            yield from _changes(pointer + json_pointer.join(name), before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif type(before) is not type(after) or before != after:
        yield pointer, before, after


def _shown(value: Any, *, hide: bool) -> str:
    if value is _ABSENT:
        return "nothing"
    return HIDDEN if hide else printable(strict_json.dumps(value).decode(), _LONGEST_VALUE)
