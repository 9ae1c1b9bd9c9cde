"""The ledger: the state of every batch, and an event for each change of it; the events of dead letters, too.

Every change of state is one ``UPDATE ... WHERE state = :from`` with an event beside it, inside the caller's
transaction; which may follow which stands in ``states`` alone. Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.engine import among, in_parts, now
from exchange.database.states import TRANSITIONS
from exchange.database.tables import (
    BatchState,
    DeadLetterState,
    Direction,
    batch,
    dead_letter,
    event,
    holds_place,
    position,
)
from exchange.database.whoami import whoami
from exchange.format.as_dict import AsDict
from exchange.format.errors import Reason, TransientError, printable
from exchange.format.manifest import Manifest, Signature
from exchange.format.signing import ALGORITHM

_later = batch.alias("later")

was_applied_since = sa.exists().where(
    _later.c.direction == batch.c.direction,
    _later.c.channel == batch.c.channel,
    _later.c.epoch == batch.c.epoch,
    _later.c.sequence == batch.c.sequence,
    holds_place(_later),
    _later.c.state == BatchState.APPLIED,
    _later.c.updated_at >= batch.c.updated_at,
)
"""Whether the place of a row of ``batch`` was applied after the row came to its state."""


@dataclass(frozen=True)
class Settled(AsDict):
    """A batch of ours of which the other side said what became of it there."""

    batch: str
    channel: str
    epoch: str
    sequence: int
    state: BatchState
    trace: str
    reason: Reason | None = None


@dataclass(frozen=True)
class Counts(AsDict):
    """What became of a batch's records. ``told`` says of those that were applied what the database made of them.

    ``settled`` are batches of ours of which its records tell, ``newest`` is the greatest version of a row among them.
    """

    applied: int = 0
    duplicate: int = 0
    stale: int = 0
    parked: int = 0
    told: str = field(default="", compare=False)
    settled: tuple[Settled, ...] = field(default=(), compare=False)
    newest: int | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Give the numbers."""
        numbers = super().as_dict()
        del numbers["told"], numbers["settled"], numbers["newest"]
        return numbers


@dataclass(frozen=True)
class Entry:
    """One batch as the ledger has it."""

    id: int
    direction: Direction
    channel: str
    epoch: str
    sequence: int
    stem: str
    state: BatchState
    reason: str | None
    message: str | None
    digest: str | None
    manifest: str | None
    attempt: int
    created_at: Any = field(compare=False)
    updated_at: Any = field(compare=False)
    erased_at: Any = field(compare=False)


class OpenBatch(NamedTuple):
    """An incoming batch that waits or is held, in the few words that every run needs of each.

    ``believed`` says that it has a manifest that we believe, and so holds its place.
    """

    id: int
    channel: str
    epoch: str
    sequence: int
    stem: str
    state: BatchState
    reason: str | None
    digest: str | None
    believed: bool

    @property
    def place(self) -> tuple[str, str, int]:
        """Channel, epoch and sequence."""
        return (self.channel, self.epoch, self.sequence)


class Event(NamedTuple):
    """One change of state, as it was written down."""

    at: datetime
    from_state: str | None
    to_state: str
    cause: str
    who: str

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {**self._asdict(), "at": self.at.isoformat()}


MAX_ROWS = 20
"""How many rows of one batch's name are shown: a bad file may have been carried a thousand times."""

_ENTRY = [batch.c[one.name] for one in fields(Entry)]


def _entry(row: Any) -> Entry:
    return Entry(**{**row._mapping, "direction": Direction(row.direction), "state": BatchState(row.state)})


class NewBatch(NamedTuple):
    """What is to be written down of a batch at first. ``place`` is channel, epoch and sequence."""

    stem: str
    place: tuple[str, str, int]
    cause: str
    manifest: Manifest | None = None
    line: bytes | None = None
    digest: str | None = None
    signature: str | None = None


def record(
    connection: Connection,
    direction: Direction,
    state: BatchState,
    *,
    reason: Reason | None = None,
    **fresh: Any,
) -> int:
    """Write a batch's first row in ``state`` and its event; give its id. ``fresh`` are the members of ``NewBatch``.

    Runs in the caller's transaction, under the lock of its channel, or of strangers. Raises IntegrityError if another
    batch holds the place.
    """
    return record_all(connection, direction, state, [NewBatch(**fresh)], reason=reason)[0]


def record_all(
    connection: Connection,
    direction: Direction,
    state: BatchState,
    batches: Sequence[NewBatch],
    *,
    reason: Reason | None = None,
) -> list[int]:
    """Write the first rows of many batches, all in one state, and their events; give their ids in the same order.

    Runs in the caller's transaction, under the channel's lock. Raises IntegrityError if another batch holds one of the
    places, and ValueError if no batch begins in that state.
    """
    if state not in TRANSITIONS[direction][None]:
        msg = f"no {direction} batch begins as {state}"
        raise ValueError(msg)
    moment, who = now(), whoami()
    rows = [
        {
            "direction": direction,
            "channel": fresh.place[0],
            "epoch": fresh.place[1],
            "sequence": fresh.place[2],
            "stem": fresh.stem,
            "state": state,
            "reason": reason,
            "message": fresh.cause if reason else None,
            "manifest": fresh.line.decode() if fresh.line and fresh.manifest else None,
            "digest": fresh.digest,
            "signature": fresh.signature,
            "records": fresh.manifest.total if fresh.manifest else 0,
            "bytes": fresh.manifest.bytes if fresh.manifest else 0,
            "trace": fresh.manifest.trace[:64] if fresh.manifest and fresh.manifest.trace else None,
            "created_at": moment,
            "updated_at": moment,
        }
        for fresh in batches
    ]
    if not rows:
        return []
    ids = [int(number) for number in connection.scalars(_CREATE, rows if len(rows) > 1 else rows[0])]
    said = {"subject": "batch", "at": moment, "from_state": None, "to_state": state, "who": who}
    events = [{**said, "subject_id": number, "cause": fresh.cause} for number, fresh in zip(ids, batches, strict=True)]
    connection.execute(_SAY, events)
    return ids


_CREATE = sa.insert(batch).returning(batch.c.id, sort_by_parameter_order=True)
_SAY = sa.insert(event)


def move(
    connection: Connection,
    entry: Entry,
    state: BatchState,
    cause: str,
    *,
    reason: Reason | None = None,
    **values: Any,
) -> None:
    """Bring a batch from the state in ``entry`` to ``state``.

    Raises ValueError if the table does not allow it, TransientError if somebody else moved it meanwhile. Runs in the
    caller's transaction.
    """
    if state not in TRANSITIONS[entry.direction].get(entry.state, frozenset()):
        msg = f"batch {entry.stem} is {entry.state} and can't become {state}"
        raise ValueError(msg)
    values |= {"state": state, "reason": reason, "message": cause if reason else None, "updated_at": now()}
    changed = connection.execute(_MOVE, {"of_batch": entry.id, "before": entry.state, **values})
    if changed.rowcount != 1:
        msg = f"batch {entry.stem} is no longer {entry.state}: somebody else moved it; run again"
        raise TransientError(msg)
    _note(connection, entry.id, entry.state, state, cause)


_MOVE = sa.update(batch).where(batch.c.id == sa.bindparam("of_batch"), batch.c.state == sa.bindparam("before"))


def move_all(
    connection: Connection,
    direction: Direction,
    ids: Sequence[int],
    change: tuple[BatchState, BatchState],
    cause: str,
    *,
    reason: Reason | None = None,
) -> int:
    """Bring many batches from one state to another (``change``), each with its event; give how many.

    One that somebody else moved meanwhile is left as it is. Raises ValueError if the table does not allow it. Runs in
    the caller's transaction; needs no lock.
    """
    before, after = change
    if after not in TRANSITIONS[direction].get(before, frozenset()):
        msg = f"no {direction} batch comes from {before} to {after}"
        raise ValueError(msg)
    if not ids:
        return 0
    moment, moved = now(), 0
    said = {"subject": "batch", "at": moment, "from_state": before, "to_state": after, "cause": cause, "who": whoami()}
    told = [sa.literal(value, event.c[name].type) for name, value in said.items()]
    values = {"state": after, "reason": reason, "message": cause if reason else None, "updated_at": moment}
    for part in in_parts(ids):
        some = among(connection, batch.c.id, part)
        moving = sa.update(batch).where(some, batch.c.direction == direction, batch.c.state == before).values(values)
        going = list(connection.scalars(moving.returning(batch.c.id)))
        events = sa.select(batch.c.id, *told).where(among(connection, batch.c.id, going)).order_by(batch.c.id)
        connection.execute(sa.insert(event).from_select(["subject_id", *said], events))
        moved += len(going)
    return moved


def mark_erased(connection: Connection, entry: Entry, cause: str) -> None:
    """Write down that a batch's bytes were removed by hand: it stays in its state, and is never sent again as it was.

    What was said of it when it was refused may quote a record, and goes, too. Runs in the caller's transaction, under
    the channel's lock.
    """
    quoting = entry.state in {BatchState.QUARANTINED, BatchState.REJECTED}
    values = {"erased_at": now(), "pruned_at": sa.func.coalesce(batch.c.pruned_at, now()), "again_at": None}
    message = {"message": cause} if quoting else {}
    connection.execute(sa.update(batch).where(batch.c.id == entry.id).values(**values, **message))
    if quoting:
        refused = (event.c.subject == "batch", event.c.subject_id == entry.id, event.c.to_state == entry.state)
        connection.execute(sa.update(event).where(*refused).values(cause=cause))
    _note(connection, entry.id, entry.state, entry.state, cause)


def count(connection: Connection, batch_id: int, counts: Counts) -> None:
    """Write what became of a batch's records beside its state, and add it to its channel's position.

    Runs in the transaction that applies the batch, after its position moved there.
    """
    numbers = {f"more_{name}": number for name, number in counts.as_dict().items()}
    place = connection.execute(_COUNT, {**numbers, "told": counts.told, "of_batch": batch_id}).one()
    connection.execute(_COUNT_AT_POSITION, {**numbers, **place._mapping})


_COUNT = (
    sa.update(batch)
    .where(batch.c.id == sa.bindparam("of_batch"))
    .values({name: sa.bindparam(f"more_{name}") for name in Counts().as_dict()})
    .values(message=sa.func.coalesce(sa.func.nullif(sa.bindparam("told", type_=sa.Text), ""), batch.c.message))
    .returning(
        batch.c.direction.label("of_direction"), batch.c.channel.label("of_channel"), batch.c.epoch.label("of_epoch")
    )
)
_COUNT_AT_POSITION = (
    sa.update(position)
    .where(
        position.c.direction == sa.bindparam("of_direction"),
        position.c.channel == sa.bindparam("of_channel"),
        position.c.epoch == sa.bindparam("of_epoch"),
    )
    .values({name: position.c[name] + sa.bindparam(f"more_{name}") for name in Counts().as_dict()})
)


def note_dead_letters(
    connection: Connection,
    ids: Sequence[int],
    before: DeadLetterState | None,
    after: DeadLetterState,
    cause: str | sa.ColumnElement[str],
) -> None:
    """Write the event of one change of state that some dead letters have in common.

    ``cause`` may be made of the letters' own columns. Runs in the transaction that changes their state.
    """
    said: dict[str, Any] = {
        "subject": "dead_letter",
        "at": now(),
        "from_state": before,
        "to_state": after,
        "cause": cause,
        "who": whoami()[:255],
    }
    told = [
        value if isinstance(value, sa.ColumnElement) else sa.literal(value, event.c[name].type)
        for name, value in said.items()
    ]
    for part in in_parts(ids):
        some = among(connection, dead_letter.c.id, part)
        letters = sa.select(dead_letter.c.id, *told).where(some).order_by(dead_letter.c.id)
        connection.execute(sa.insert(event).from_select(["subject_id", *said], letters))


def _note(connection: Connection, batch_id: int, before: str | None, after: str, cause: str) -> None:
    said = {"subject": "batch", "subject_id": batch_id, "at": now(), "from_state": before, "to_state": after}
    connection.execute(_SAY, {**said, "cause": cause, "who": whoami()})


def at_place(connection: Connection, direction: Direction, channel: str, epoch: str, sequence: int) -> Entry | None:
    """Give the batch that holds a place, if any: one that is quarantined, given up or unbelieved holds none.

    Reads in the caller's transaction.
    """
    place = {"direction": direction, "channel": channel, "epoch": epoch, "sequence": sequence}
    row = connection.execute(_AT_PLACE, place).one_or_none()
    return _entry(row) if row else None


_AT_PLACE = sa.select(*_ENTRY).where(
    batch.c.direction == sa.bindparam("direction"),
    batch.c.channel == sa.bindparam("channel"),
    batch.c.epoch == sa.bindparam("epoch"),
    batch.c.sequence == sa.bindparam("sequence"),
    holds_place(batch),
)


def held_places(
    connection: Connection, direction: Direction, channel: str, epoch: str, sequences: Collection[int]
) -> set[int]:
    """Give those of some sequences at which a batch holds its place. Reads in the caller's transaction."""
    here = (batch.c.direction == direction, batch.c.channel == channel, batch.c.epoch == epoch)
    some = among(connection, batch.c.sequence, sequences)
    return set(connection.scalars(sa.select(batch.c.sequence).where(*here, some, holds_place(batch))))


def by_stem(connection: Connection, direction: Direction, stem: str) -> Entry | None:
    """Give the newest row of a stem, in any state. Reads in the caller's transaction."""
    row = connection.execute(_BY_STEM, {"stem": stem, "direction": direction}).one_or_none()
    return _entry(row) if row else None


_BY_STEM = (
    sa.select(*_ENTRY)
    .where(batch.c.stem == sa.bindparam("stem"), batch.c.direction == sa.bindparam("direction"))
    .order_by(batch.c.id.desc())
    .limit(1)
)


def in_state(
    connection: Connection, direction: Direction, states: Sequence[BatchState], channel: str | None = None
) -> list[Entry]:
    """Give the batches in some states that are not an end, oldest first. Reads in the caller's transaction."""
    asked = {"direction": direction, "states": states}
    if channel is None:
        rows = connection.execute(_IN_STATE, asked)
    else:
        rows = connection.execute(_IN_STATE_OF_CHANNEL, {**asked, "channel": channel})
    return [_entry(row) for row in rows]


_IN_STATE = (
    sa.select(*_ENTRY)
    .where(batch.c.direction == sa.bindparam("direction"), batch.c.state.in_(sa.bindparam("states", expanding=True)))
    .order_by(batch.c.channel, batch.c.id)
)
_IN_STATE_OF_CHANNEL = _IN_STATE.where(batch.c.channel == sa.bindparam("channel"))


def open_batches(connection: Connection) -> list[OpenBatch]:
    """Give the incoming batches that wait or are held, by channel and oldest first.

    Reads in the caller's transaction.
    """
    rows = connection.execute(_OPEN)
    return [OpenBatch(**{**row._mapping, "state": BatchState(row.state)}) for row in rows]


_OPEN = (
    sa.select(
        *(batch.c[name] for name in OpenBatch._fields if name != "believed"),
        batch.c.manifest.is_not(None).label("believed"),
    )
    .where(batch.c.direction == Direction.IN, batch.c.state.in_([BatchState.WAITING, BatchState.HELD]))
    .order_by(batch.c.channel, batch.c.id)
)


def by_id(connection: Connection, batch_id: int) -> Entry:
    """Give a batch as it is now. Rows of what is not settled never go.

    Reads in the caller's transaction; raises NoResultFound for an id that was never given.
    """
    return _entry(connection.execute(sa.select(*_ENTRY).where(batch.c.id == batch_id)).one())


def of_stem(connection: Connection, stem: str) -> list[Entry]:
    """Give the newest rows of a stem, both ways and in any state, newest first. Reads in the caller's transaction."""
    rows = connection.execute(
        sa.select(*_ENTRY).where(batch.c.stem == stem).order_by(batch.c.id.desc()).limit(MAX_ROWS)
    )
    return [_entry(row) for row in rows]


def quarantined(connection: Connection, stem: str, digest: str | None) -> Entry | None:
    """Give the newest quarantined row that speaks of files with this name and digest.

    Reads in the caller's transaction.
    """
    row = connection.execute(
        sa.select(*_ENTRY)
        .where(
            batch.c.stem == stem,
            batch.c.direction == Direction.IN,
            batch.c.state == BatchState.QUARANTINED,
            batch.c.digest.is_not_distinct_from(digest),
        )
        .order_by(batch.c.id.desc())
        .limit(1)
    ).one_or_none()
    return _entry(row) if row else None


def give_up(connection: Connection, entry: Entry, state: BatchState, reason: str) -> None:
    """Write down that a person gave a batch up. What was wrong with it stays in its history.

    Runs in the caller's transaction, under the batch's lock. Raises as ``move`` does.
    """
    cause = f"{state} by hand: {printable(reason, 1000)}"
    move(connection, entry, state, cause, reason=Reason(entry.reason) if entry.reason else None)


speaks_for_its_place = sa.or_(batch.c.manifest.is_not(None), batch.c.reason.in_([Reason.MALFORMED, Reason.UNSUPPORTED]))
"""Whether its sender signed a batch, though its manifest can't be read: of that one its file's name says the place."""


def signed_by(key: str, rows: sa.FromClause = batch) -> sa.ColumnElement[bool]:
    """Say that a batch was signed with the key of this name: as we write line 2 it begins with it."""
    opening = Signature(ALGORITHM, key, b"").encode().decode().partition(',"signature"')[0]
    return sa.func.substr(rows.c.signature, 1, len(opening)) == opening


def history(connection: Connection, batch_ids: Sequence[int]) -> list[Event]:
    """Give the events of some batches, oldest first. Reads in the caller's transaction."""
    rows = connection.execute(
        sa.select(event.c.at, event.c.from_state, event.c.to_state, event.c.cause, event.c.who)
        .where(event.c.subject == "batch", event.c.subject_id.in_(batch_ids))
        .order_by(event.c.id)
    )
    return [Event(*row) for row in rows]
