"""The ledger of people's files: whose bytes each is, on which terms it is loaded, and how far its parts are.

A file is ``waiting``, then ``loading``, then ``loaded``; or it is ``refused`` or ``cancelled``, by way of a state that
says that rows of it are still to be taken back; or it is a ``duplicate`` from the beginning. Each change is one UPDATE
that names the state before, with an event beside it, in the caller's transaction. Nothing here commits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.intake import Mode, OnInvalid
from exchange.database.dialects import dialect_of
from exchange.database.engine import now
from exchange.database.locks import wait_for
from exchange.database.tables import IntakeState, event, intake, intake_part
from exchange.database.whoami import whoami
from exchange.format.errors import TransientError
from exchange.reading import FileFormat, Place

SUBJECT = "intake"
"""Of the events."""

TO_LOAD = (IntakeState.WAITING, IntakeState.LOADING)
"""Whose parts are loaded."""
TO_UNDO = {IntakeState.REFUSING: IntakeState.REFUSED, IntakeState.CANCELLING: IntakeState.CANCELLED}
"""Whose rows are taken back, and what they become by it."""
COUNTS_AS_LOADED = (*TO_LOAD, IntakeState.LOADED)
"""Another file of the same bytes is a duplicate of one of these."""

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 10.0, 3600.0
"""So long a file waits for its next try after the world failed once, and at most."""


@dataclass(frozen=True)
class Terms:
    """On which terms a file is loaded. ``bad_rows`` None: any number of them is parked."""

    mode: Mode = "insert"
    key: Sequence[str] = ()
    on_invalid: OnInvalid = "park"
    bad_rows: int | None = None
    bad_share: float = 1.0
    whole: bool = False
    """In one transaction."""
    changed_ns: int = 0
    """When the file was last written to, by its disk: it is read anew with each part, and must still be the same."""

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Terms:
        """Take them from JSON."""
        return cls(**{name: value for name, value in given.items() if name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Entry:
    """A file as the ledger has it."""

    id: int
    intake: str
    stream: str
    file: str
    place: str
    sha256: str
    bytes: int
    format: FileFormat
    terms: Terms
    state: IntakeState
    priority: int
    rows_read: int
    rows_loaded: int
    rows_parked: int
    rows_waiting: int
    attempts: int
    next_try_at: datetime | None
    message: str
    who: str
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime

    def with_counts(self, **counts: int) -> Entry:
        """Give it as it is when so much came of its rows."""
        return replace(self, **counts)  # type: ignore[arg-type]


class Part(NamedTuple):
    """A part of a file: where it began, where it has come to, and the byte where it ends if that is not the file's."""

    number: int
    start: Place
    place: Place
    stop: int | None
    attempts: int
    is_done: bool


@dataclass(frozen=True)
class NewFile:
    """What is to be written down of a file at first."""

    intake: str
    stream: str
    file: str
    place: str
    sha256: str
    bytes: int
    format: FileFormat
    terms: Terms
    who: str
    priority: int = 0
    message: str = ""


class Came(NamedTuple):
    """What came of a segment's rows."""

    read: int = 0
    loaded: int = 0
    parked: int = 0
    waiting: int = 0
    """Of those that are parked."""


class Ended(Exception):  # noqa: N818 - an answer: somebody else has decided
    """A file is not to be loaded any more."""

    def __init__(self, state: IntakeState) -> None:
        super().__init__(f"it is {state}")
        self.state = state


def record(
    connection: Connection,
    new: NewFile,
    state: IntakeState,
    parts: Sequence[tuple[Place, int | None]] = (),
) -> int:
    """Write a file's row, those of its parts (where each begins and ends) and its first event; give its id."""
    moment = now()
    row = {
        **{name: getattr(new, name) for name in ("intake", "stream", "file", "place", "sha256", "bytes", "priority")},
        "format": json.dumps(new.format.as_dict()),
        "terms": json.dumps(asdict(new.terms)),
        "state": state,
        "message": new.message,
        "who": new.who[:255],
        "created_at": moment,
        "updated_at": moment,
    }
    number: int = connection.execute(sa.insert(intake).returning(intake.c.id), row).scalar_one()
    if parts:
        begun = [({"start": at, "start_line": line}, {"position": at, "line": line}) for (at, line), _ in parts]
        places = [
            {"intake": number, "number": at, **start, **place, "stop": stop}
            for at, ((start, place), (_, stop)) in enumerate(zip(begun, parts, strict=True))
        ]
        connection.execute(sa.insert(intake_part), places)
    _note(connection, number, None, state, new.message or f"taken in from {new.who}")
    return number


FILES_LOCK = "people's files"
"""Under which it is decided whether a file's bytes were taken in before."""


def decide_alone(connection: Connection) -> None:
    """Wait for whoever writes down another file, until this transaction ends. Call it first in the transaction."""
    wait_for(connection, FILES_LOCK)


def original_of(connection: Connection, sha256: str, stream: str) -> Entry | None:
    """Find the newest file of these bytes that is or is being loaded into a stream."""
    same = (intake.c.sha256 == sha256, intake.c.stream == stream, intake.c.state.in_(COUNTS_AS_LOADED))
    row = connection.execute(sa.select(intake).where(*same).order_by(intake.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else _entry(row)


def rows_are(number: int) -> str:
    """Begin a sentence about so many rows."""
    return "1 row is" if number == 1 else f"{number:,} rows are"


def find(connection: Connection, number: int) -> Entry | None:
    """Give a file by its id; None if there is none. Locks nothing."""
    row = connection.execute(sa.select(intake).where(intake.c.id == number)).one_or_none()
    return None if row is None else _entry(row)


def to_do(connection: Connection, moment: datetime, limit: int = 1_000) -> list[Entry]:
    """Give the files that are to be loaded or undone and whose time has come, in the order of their turn."""
    states = (*TO_LOAD, *TO_UNDO)
    due = sa.or_(intake.c.next_try_at.is_(None), intake.c.next_try_at <= moment)
    asking = sa.select(intake).where(intake.c.state.in_(states), due)
    return [
        _entry(row) for row in connection.execute(asking.order_by(intake.c.priority.desc(), intake.c.id).limit(limit))
    ]


def parts(connection: Connection, number: int) -> list[Part]:
    """Give a file's parts, in their order."""
    asking = sa.select(intake_part).where(intake_part.c.intake == number).order_by(intake_part.c.number)
    return [_part(row) for row in connection.execute(asking)]


def part(connection: Connection, number: int, at: int) -> Part:
    """Give a part of a file. Raises TransientError if there is none."""
    here = (intake_part.c.intake == number, intake_part.c.number == at)
    row = connection.execute(sa.select(intake_part).where(*here)).one_or_none()
    if row is None:
        raise TransientError(f"file {number} has no part {at} any more")
    return _part(row)


def begin(connection: Connection, number: int, at: int) -> tuple[Entry, Part]:
    """Count an attempt at a part, and have its file be loading. Raises Ended."""
    entry = find(connection, number)
    if entry is None or entry.state not in TO_LOAD:
        raise Ended(IntakeState.CANCELLED if entry is None else entry.state)
    here = (intake_part.c.intake == number, intake_part.c.number == at)
    connection.execute(sa.update(intake_part).where(*here).values(attempts=intake_part.c.attempts + 1))
    waiting = (intake.c.id == number, intake.c.state == IntakeState.WAITING)
    values = {"state": IntakeState.LOADING, "started_at": now(), "updated_at": now()}
    if connection.execute(sa.update(intake).where(*waiting).values(values)).rowcount:
        _note(connection, number, IntakeState.WAITING, IntakeState.LOADING, "its rows are being loaded")
    return entry, part(connection, number, at)


def advance(connection: Connection, number: int, at: int, came: Came, place: Place, *, done: bool) -> Entry:
    """Move a part on behind a segment, in the transaction that has its rows; with its last one the file is loaded.

    Gives the file with what came of all of its rows by now, locked until the transaction ends: parts that end at the
    same moment do so one after the other. Raises Ended.
    """
    moment = now()
    here = (intake_part.c.intake == number, intake_part.c.number == at)
    moving = {"position": place.position, "line": place.line, "attempts": 0, "done_at": moment if done else None}
    connection.execute(sa.update(intake_part).where(*here).values(moving))
    counted = {f"rows_{name}": intake.c[f"rows_{name}"] + count for name, count in came._asdict().items()}
    loading = (intake.c.id == number, intake.c.state == IntakeState.LOADING)
    counting = sa.update(intake).where(*loading).values({**counted, **_NO_TROUBLE, "updated_at": moment})
    row = connection.execute(counting.returning(*intake.c)).one_or_none()
    if row is None:
        entry = find(connection, number)
        raise Ended(IntakeState.CANCELLED if entry is None else entry.state)
    return _entry(row)


_NO_TROUBLE: Mapping[str, Any] = {"attempts": 0, "next_try_at": None, "message": ""}


def are_all_done(connection: Connection, number: int) -> bool:
    """Say whether no part of a file is left; after ``advance`` in its transaction."""
    left = sa.exists().where(intake_part.c.intake == number, intake_part.c.done_at.is_(None))
    return not connection.scalar(sa.select(left))


def move(connection: Connection, entry: Entry, state: IntakeState, message: str, **values: Any) -> None:
    """Bring a file from the state in ``entry`` to another one. Raises TransientError if somebody else moved it."""
    here = (intake.c.id == entry.id, intake.c.state == entry.state)
    told = "" if state in COUNTS_AS_LOADED else message
    values |= {"state": state, "message": told, "updated_at": now()}
    if connection.execute(sa.update(intake).where(*here).values(values)).rowcount != 1:
        raise TransientError(f"file {entry.id} is no longer {entry.state}: somebody else moved it; run again")
    _note(connection, entry.id, entry.state, state, message)


def put_off(connection: Connection, number: int, why: str) -> datetime | None:
    """Have a file wait after the world failed, each time twice as long; give until when. None: it is over."""
    row = connection.execute(sa.select(intake.c.state, intake.c.attempts).where(intake.c.id == number)).one_or_none()
    if row is None or row.state not in (*TO_LOAD, *TO_UNDO):
        return None
    seconds = min(FIRST_WAIT_SECONDS * 2.0 ** min(row.attempts, 20), LONGEST_WAIT_SECONDS)
    until = now() + timedelta(seconds=seconds)
    values = {"attempts": row.attempts + 1, "next_try_at": until, "message": why, "updated_at": now()}
    connection.execute(sa.update(intake).where(intake.c.id == number).values(values))
    return until


def attempt_ended(connection: Connection, number: int, at: int) -> None:
    """Take back an attempt that ended in order: it was no fault of the file's."""
    here = (intake_part.c.intake == number, intake_part.c.number == at, intake_part.c.attempts > 0)
    connection.execute(sa.update(intake_part).where(*here).values(attempts=intake_part.c.attempts - 1))


def part_lock(connection_or_engine: Any, number: int, at: int) -> str:
    """Name the lock under which a part is loaded; where one writes at a time all parts have the same."""
    return f"intake {number} part {at}" if dialect_of(connection_or_engine).many_writers else "intake"


def _entry(row: Any) -> Entry:
    values = {name: getattr(row, name) for name in Entry.__dataclass_fields__}
    values["format"] = FileFormat.from_dict(json.loads(row.format))
    values["terms"] = Terms.from_dict(json.loads(row.terms))
    return Entry(**{**values, "state": IntakeState(row.state)})


def _part(row: Any) -> Part:
    start, place = Place(row.start, row.start_line), Place(row.position, row.line)
    return Part(row.number, start, place, row.stop, row.attempts, row.done_at is not None)


def _note(connection: Connection, number: int, before: str | None, after: str, cause: str) -> None:
    said = {"subject": SUBJECT, "subject_id": number, "at": now(), "from_state": before, "to_state": after}
    connection.execute(sa.insert(event), {**said, "cause": cause, "who": whoami()[:255]})
