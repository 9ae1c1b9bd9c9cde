"""How far each file that people dropped has come: what the ledger has of it, with its pace. It only reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import by_bytes
from exchange.database.tables import DeadLetterState, IntakeState, dead_letter, event, intake, intake_part
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError, printable
from exchange.intake.ledger import SUBJECT
from exchange.progress import Pace

OPEN = (IntakeState.WAITING, IntakeState.LOADING)
"""Where a file is still to be loaded."""
OVER = (IntakeState.LOADED, IntakeState.DUPLICATE, IntakeState.REFUSED, IntakeState.CANCELLED)
"""Where nothing is to be done any more."""
MOST_LETTERS, MOST_CAUSES = 10_000, 20
"""So many letters of a file are looked at, the first ones, and so many of their causes told."""
MOST_COUNTED = 100_000
"""So many letters of a file are counted by what became of them."""
MOST_REFUSED = 100
MOST_STEPS = 50
MOST_OPEN = 1_000
"""So many files that are not dealt with are listed at once."""


@dataclass(frozen=True)
class Part(AsDict):
    """A part of a file: it began at the byte ``begin`` and has come to ``position``; None: its end is not known."""

    number: int
    begin: int
    position: int
    stop: int | None
    done: bool

    @property
    def share(self) -> float | None:
        """How much of it is loaded, 0 to 1."""
        if self.done:
            return 1.0
        whole = None if self.stop is None else self.stop - self.begin
        return min((self.position - self.begin) / whole, 1.0) if whole else None


@dataclass(frozen=True)
class Cause(AsDict):
    """So many letters of a file are parked for one cause."""

    fingerprint: str
    error: str
    letters: int
    pointer: str
    """Of which member of a record's data; nothing if it is of all of them."""


@dataclass(frozen=True)
class Step(AsDict):
    """A file came to a state."""

    at: datetime
    state: str
    cause: str
    who: str


@dataclass(frozen=True)
class DroppedFile(AsDict):
    """One file: ``who`` dropped it, ``place`` is where it lies now, ``rows_parked`` became dead letters.

    ``message`` says why it was refused, what it waits for, or whose duplicate it is.
    """

    id: int
    intake: str
    stream: str
    file: str
    place: str
    state: IntakeState
    bytes: int
    priority: int
    rows_read: int
    rows_loaded: int
    rows_parked: int
    attempts: int
    message: str
    who: str
    sha256: str
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    next_try_at: datetime | None
    pace: Pace
    parts: int
    parts_done: int

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be done any more, nor to be taken back."""
        return self.state in OVER

    @property
    def is_open(self) -> bool:
        """Whether it is still to be loaded."""
        return self.state in OPEN

    def __str__(self) -> str:
        """Say it for people."""
        said = f"{printable(self.file, 120)} ({self.intake}) is {self.state}"
        if self.rows_read:
            said += f": {self.pace}"
        if self.rows_parked:
            said += f", {self.rows_parked:,} bad rows"
        return f"{said}: {printable(self.message, 300)}" if self.message else said


@dataclass(frozen=True)
class FileDetail(AsDict):
    """One file with how it is read and how far each of its parts is."""

    file: DroppedFile
    format: dict[str, Any]
    parts: tuple[Part, ...]
    causes: tuple[Cause, ...]
    """Why its bad rows are parked, the most first."""
    history: tuple[Step, ...]
    """What became of it, the first step first."""
    letters: int
    """So many are parked now, as far as ``MOST_LETTERS`` tell."""
    letters_by_state: dict[str, int] = field(default_factory=dict)
    """What became of the letters that are kept, as far as ``MOST_COUNTED`` tell: the file's counts stay as they were.

    So many of the rows that were bad are ``applied`` since, ``parked`` still, or given up.
    """

    @property
    def since(self) -> str:
        """Say what became of its bad rows, for people; nothing if there are none."""
        return ", ".join(f"{count:,} {state}" for state, count in self.letters_by_state.items())


def list_files(
    connection: Connection,
    *,
    states: Sequence[IntakeState] = (),
    name: str | None = None,
    after: int | None = None,
    limit: int = 50,
) -> list[DroppedFile]:
    """Give the files that are kept, newest first: those in some states, of one intake; behind the one ``after``.

    In the caller's transaction.
    """
    asking = sa.select(intake).order_by(intake.c.id.desc()).limit(limit)
    if states:
        asking = asking.where(intake.c.state.in_(states))
    if name is not None:
        asking = asking.where(intake.c.intake == name)
    if after is not None:
        asking = asking.where(intake.c.id < after)
    return _files(connection, asking)


def some_files(connection: Connection, numbers: Sequence[int]) -> list[DroppedFile]:
    """Give these files, by their ids. In the caller's transaction."""
    return _files(connection, sa.select(intake).where(intake.c.id.in_(numbers)).order_by(intake.c.id))


def at_places(connection: Connection, places: Sequence[str]) -> list[DroppedFile]:
    """Give the files that the ledger knows to lie at some places, by their own names. In the caller's transaction."""
    named = by_bytes(connection, intake.c.file).in_({Path(one).name for one in places})
    return _files(connection, sa.select(intake).where(named, intake.c.place.in_(places)).order_by(intake.c.id))


def moved(connection: Connection, number: int, place: str) -> None:
    """Write down where a file lies now, in the caller's transaction."""
    connection.execute(sa.update(intake).where(intake.c.id == number).values(place=place))


def open_files(connection: Connection, limit: int = MOST_OPEN) -> list[DroppedFile]:
    """Give the files that are still to be loaded, in the order of their turn. In the caller's transaction."""
    columns = intake.c
    asking = sa.select(intake).where(columns.state.in_(OPEN)).order_by(columns.priority.desc(), columns.id).limit(limit)
    return _files(connection, asking)


def find_file(connection: Connection, number: int) -> FileDetail:
    """Give one file. Raises TransientError if there is none. In the caller's transaction."""
    row = connection.execute(sa.select(intake).where(intake.c.id == number)).one_or_none()
    if row is None:
        raise TransientError(f"there is no file {number}; it was never taken in here, or is pruned")
    parts = _parts(connection, [row])[number]
    columns = dead_letter.c
    first = (
        sa.select(columns.fingerprint, columns.error, sa.func.coalesce(columns.pointer, "").label("pointer"))
        .where(columns.intake == number, columns.state == DeadLetterState.PARKED)
        .order_by(columns.intake, columns.line)
        .limit(MOST_LETTERS)
        .subquery()
    )
    counting = sa.select(*first.c, sa.func.count()).group_by(*first.c).order_by(sa.func.count().desc(), first.c.error)
    causes = tuple(Cause(one[0], one[1], one[3], one[2]) for one in connection.execute(counting))
    letters = sum(one.letters for one in causes)
    history = _history(connection, number)
    became = _letters_by_state(connection, number)
    return FileDetail(_file(row, parts), _format(row), parts, causes[:MOST_CAUSES], history, letters, became)


def _letters_by_state(connection: Connection, number: int) -> dict[str, int]:
    columns = dead_letter.c
    some = sa.select(columns.state).where(columns.intake == number).order_by(columns.intake, columns.line)
    first = some.limit(MOST_COUNTED).subquery()
    counting = sa.select(first.c.state, sa.func.count()).group_by(first.c.state)
    found = {DeadLetterState(state): int(count) for state, count in connection.execute(counting)}
    return {state.value: found[state] for state in DeadLetterState if state in found}


def _history(connection: Connection, number: int) -> tuple[Step, ...]:
    of_it = (event.c.subject == SUBJECT, event.c.subject_id == number)
    rows = connection.execute(sa.select(event).where(*of_it).order_by(event.c.id).limit(MOST_STEPS))
    return tuple(Step(one.at, one.to_state, one.cause, one.who) for one in rows)


def refused_files(connection: Connection) -> list[DroppedFile]:
    """Give the newest files that were refused, but those of whose name a later one was loaded: it was mended.

    In the caller's transaction.
    """
    refused = list_files(connection, states=[IntakeState.REFUSED], limit=MOST_REFUSED)
    if not refused:
        return []
    columns, names = intake.c, {one.file for one in refused}
    place = (columns.intake, columns.file, columns.state)
    later = sa.select(*place, sa.func.max(columns.id)).where(
        by_bytes(connection, columns.file).in_(names), columns.id > min(one.id for one in refused)
    )
    rows = connection.execute(later.group_by(*place))
    newest = {(name, file): number for name, file, state, number in rows if state == IntakeState.LOADED}
    return [one for one in refused if newest.get((one.intake, one.file), 0) < one.id]


class Count(NamedTuple):
    """So many files of an intake are in one state, of so many rows."""

    intake: str
    state: str
    files: int
    rows_read: int
    rows_loaded: int
    rows_parked: int
    bytes: int


MOST_COUNTED = 10_000


def count_files(connection: Connection) -> list[Count]:
    """Count the newest ``MOST_COUNTED`` files, by intake and state. In the caller's transaction."""
    columns = intake.c
    newest = sa.select(sa.func.coalesce(sa.func.max(columns.id), 0) - MOST_COUNTED).scalar_subquery()
    sums = (sa.func.sum(one) for one in (columns.rows_read, columns.rows_loaded, columns.rows_parked, columns.bytes))
    counting = sa.select(columns.intake, columns.state, sa.func.count(), *sums).where(columns.id > newest)
    counting = counting.group_by(columns.intake, columns.state)
    return [Count(name, state, files, *map(int, more)) for name, state, files, *more in connection.execute(counting)]


def forget(connection: Connection, before: datetime, most: int = 10_000) -> int:
    """Remove files that were dealt with before a moment and have no parked letters, in the caller's transaction."""
    parked = sa.exists().where(dead_letter.c.intake == intake.c.id, dead_letter.c.state == DeadLetterState.PARKED)
    over = sa.select(intake.c.id).where(intake.c.state.in_(OVER), intake.c.updated_at < before, ~parked).limit(most)
    numbers = list(connection.scalars(over))
    for first in range(0, len(numbers), _AT_ONCE):
        some = numbers[first : first + _AT_ONCE]
        connection.execute(sa.delete(intake_part).where(intake_part.c.intake.in_(some)))
        connection.execute(sa.delete(event).where(event.c.subject == SUBJECT, event.c.subject_id.in_(some)))
        connection.execute(sa.delete(intake).where(intake.c.id.in_(some)))
    return len(numbers)


_AT_ONCE = 500


def _files(connection: Connection, asking: sa.Select[Any]) -> list[DroppedFile]:
    rows = connection.execute(asking).all()
    parts = _parts(connection, rows)
    return [_file(row, parts[row.id]) for row in rows]


def _parts(connection: Connection, rows: Sequence[Any]) -> dict[int, tuple[Part, ...]]:
    """Give the parts of each file, in their order."""
    asking = sa.select(intake_part).order_by(intake_part.c.intake, intake_part.c.number)
    found: dict[int, list[Any]] = {row.id: [] for row in rows}
    wanted = list(found)
    for first in range(0, len(wanted), _AT_ONCE):
        some = wanted[first : first + _AT_ONCE]
        for part in connection.execute(asking.where(intake_part.c.intake.in_(some))):
            found[part.intake].append(part)
    return {row.id: _in_order(row, found[row.id]) for row in rows}


def _in_order(row: Any, parts: Sequence[Any]) -> tuple[Part, ...]:
    written = _format(row)
    whole = row.bytes if not written.get("compression") else None
    return tuple(
        Part(one.number, one.start, one.position, whole if one.stop is None else one.stop, one.done_at is not None)
        for one in parts
    )


def _format(row: Any) -> dict[str, Any]:
    try:
        found = json.loads(row.format)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _file(row: Any, parts: Sequence[Part]) -> DroppedFile:
    fields = {one: getattr(row, one) for one in DroppedFile.__dataclass_fields__ if hasattr(row, one)}
    done = sum(one.done for one in parts)
    seconds = (row.updated_at - row.started_at).total_seconds() if row.started_at else 0.0
    state = IntakeState(row.state)
    expected = _expected(row, parts) if state in OPEN else None
    more = {"state": state, "parts": len(parts), "parts_done": done, "pace": Pace(row.rows_read, expected, seconds)}
    return DroppedFile(**{**fields, **more})


def _expected(row: Any, parts: Sequence[Part]) -> int | None:
    """Reckon how many rows a file has, by how many its first bytes had."""
    if any(one.stop is None for one in parts) or not row.rows_read:
        return None
    read = sum((one.stop or 0) - one.begin if one.done else one.position - one.begin for one in parts)
    whole = sum((one.stop or 0) - one.begin for one in parts)
    return round(row.rows_read * whole / read) if read > 0 else None
