"""The ledger: what became of every batch, and how far each channel has come.

Every change of state is one ``UPDATE ... WHERE state = :from`` with an event beside it, inside the caller's
transaction; which may follow which stands in ``TRANSITIONS`` alone.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from exchange.database.batch_fault import Stumbled, is_its_own, stumbled
from exchange.database.engine import Busy, among, is_the_worlds, locked, now, whoami, world_errors, writing
from exchange.database.tables import (
    HOLDS_PLACE,
    BatchState,
    DeadLetterState,
    Direction,
    attempt,
    batch,
    dead_letter,
    event,
    network,
    position,
    success,
)
from exchange.database.tables import epoch as minted
from exchange.format.errors import BatchError, Reason, WorldError, printable
from exchange.format.lineage import MOST_NAMED, Left
from exchange.format.manifest import Manifest, Signature
from exchange.format.placement import Position
from exchange.format.signing import ALGORITHM

TRANSITIONS: Mapping[Direction, Mapping[BatchState | None, frozenset[BatchState]]] = {
    Direction.OUT: {
        None: frozenset({BatchState.SEALED}),
        BatchState.SEALED: frozenset({BatchState.PUBLISHED, BatchState.DISCARDED}),
        BatchState.PUBLISHED: frozenset(
            {BatchState.PUBLISHED, BatchState.ACKNOWLEDGED, BatchState.REJECTED, BatchState.DISCARDED}
        ),
        # Sent again, or lost: asked for again, and no longer kept.
        BatchState.ACKNOWLEDGED: frozenset({BatchState.PUBLISHED, BatchState.REJECTED}),
        BatchState.REJECTED: frozenset({BatchState.PUBLISHED, BatchState.REJECTED, BatchState.ACKNOWLEDGED}),
    },
    Direction.IN: {
        None: frozenset({BatchState.WAITING, BatchState.HELD, BatchState.APPLIED, BatchState.QUARANTINED}),
        BatchState.WAITING: frozenset(
            {
                BatchState.WAITING,
                BatchState.HELD,
                BatchState.APPLIED,
                BatchState.QUARANTINED,
                BatchState.DISCARDED,
            }
        ),
        BatchState.HELD: frozenset(
            {
                BatchState.WAITING,
                BatchState.HELD,
                BatchState.APPLIED,
                BatchState.QUARANTINED,
                BatchState.REJECTED,
                BatchState.DISCARDED,
            }
        ),
        BatchState.QUARANTINED: frozenset({BatchState.REJECTED, BatchState.DISCARDED}),
    },
}
"""From which state a batch may come to which. A waiting or held one may come to be so for another reason; a
quarantined one stays what it is until a person gives it up: brought back, it is judged anew and gets a row of its
own. What was acknowledged is published again for a receiver that was restored, what was rejected may be let in there
after all, and what is left of an epoch that was left is discarded; so is what waited, and comes to say nothing new."""

DEAD_LETTER_TRANSITIONS: Mapping[DeadLetterState, frozenset[DeadLetterState]] = {
    DeadLetterState.PARKED: frozenset(
        {
            DeadLetterState.PARKED,
            DeadLetterState.APPLIED,
            DeadLetterState.DISCARDED,
            DeadLetterState.SUPERSEDED,
        }
    ),
    DeadLetterState.DISCARDED: frozenset({DeadLetterState.PARKED}),
}
"""The same for dead letters: a parked one moves, and one that was given up may be taken back. Staying parked is a
retry that failed, or an edit."""


@dataclass(frozen=True)
class Counts:
    """What became of a batch's records."""

    applied: int = 0
    duplicate: int = 0
    stale: int = 0
    parked: int = 0

    def as_dict(self) -> dict[str, int]:
        """Give the fields that scripts rely on."""
        return {
            "applied": self.applied,
            "duplicate": self.duplicate,
            "stale": self.stale,
            "parked": self.parked,
        }


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


class Open(NamedTuple):
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

_ENTRY = [batch.c[name] for name in Entry.__dataclass_fields__]


def _entry(row: Any) -> Entry:
    return Entry(**{**row._mapping, "direction": Direction(row.direction), "state": BatchState(row.state)})


# This network


def open_network(connection: Connection, name: str) -> str:
    """Give this database's epoch, minting it at first. Raises WorldError if it belongs to another network."""
    epoch = known_epoch(connection, name)
    if epoch is None:
        epoch = secrets.token_hex(6)
        connection.execute(sa.insert(network).values(id=1, name=name, epoch=epoch, created_at=now()))
    return epoch


def known_epoch(connection: Connection, name: str) -> str | None:
    """Give this database's epoch, None before its first use. Raises WorldError if it belongs to another network."""
    row = connection.execute(sa.select(network.c.name, network.c.epoch)).one_or_none()
    if row is None:
        return None
    if row.name != name:
        msg = (
            f"this database belongs to network {row.name}, but EXCHANGE_NETWORK says {name}; nothing was done;"
            " give each network a database of its own"
        )
        raise WorldError(msg)
    return str(row.epoch)


def left_behind(connection: Connection, channel: str, current: str) -> list[Left]:
    """Give the epochs that this network has left, the newest first, and how far an outgoing channel came in each."""
    names = sa.select(minted.c.epoch).where(minted.c.epoch != current)
    ordered = list(connection.scalars(names.order_by(minted.c.number.desc(), minted.c.epoch).limit(MOST_NAMED)))
    sealed = {
        row.epoch: Left(row.epoch, row.sequence, row.digest)
        for row in connection.execute(
            sa.select(position.c.epoch, position.c.sequence, position.c.digest).where(
                position.c.direction == Direction.OUT, position.c.channel == channel, position.c.epoch != current
            )
        )
    }
    return [sealed.get(one, Left(one)) for one in (*ordered, *sorted(sealed.keys() - set(ordered)))]


def remember_epoch(connection: Connection, name: str, reason: str, *, who: str, at: datetime | None = None) -> None:
    """Enter an epoch of this network as the newest of those that it knows, unless it knows it.

    Nothing orders them but their number: clocks are set back, and an older copy of a database is restored later.
    """
    if connection.scalar(sa.select(sa.exists().where(minted.c.epoch == name))):
        return
    number = (connection.scalar(sa.select(sa.func.max(minted.c.number))) or 0) + 1
    row = {"epoch": name, "at": at or now(), "who": who[:255], "reason": reason, "number": number}
    connection.execute(sa.insert(minted).values(row))


def remember_sealed(connection: Connection, channel: str, epoch: str, sequence: int, digest: str) -> None:
    """Note that this network sealed a batch in an epoch that it left, where its database says less or something else.

    Such a database went back to an earlier copy since.
    """
    here = (position.c.direction == Direction.OUT) & (position.c.channel == channel) & (position.c.epoch == epoch)
    past = here & (position.c.current == 0)
    known = connection.scalar(sa.select(position.c.sequence).where(here))
    values = {"sequence": sequence, "digest": digest}
    if known is None:
        fresh = {"direction": Direction.OUT, "channel": channel, "epoch": epoch, "current": 0, "adopted_at": now()}
        connection.execute(sa.insert(position).values(fresh | values))
        return
    ours = at_place(connection, Direction.OUT, channel, epoch, sequence)
    if known < sequence or (ours is not None and ours.digest != digest):
        connection.execute(sa.update(position).where(past).values(values))


def halted(connection: Connection) -> str | None:
    """Say why nothing is exported, if something was found out about this database; None if all is well."""
    return connection.scalar(sa.select(network.c.halted_because))


def halt(connection: Connection, because: str) -> None:
    """Stop all exports until a person acts; what was found out first is what stays written."""
    stopping = sa.update(network).where(network.c.halted_because.is_(None))
    connection.execute(stopping.values(halted_because=because, halted_at=now()))


# Batches


class Fresh(NamedTuple):
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
    """Write a batch's first row in ``state`` and its event; give its id. ``fresh`` are the members of ``Fresh``.

    Raises IntegrityError if another batch holds the place.
    """
    return record_all(connection, direction, state, [Fresh(**fresh)], reason=reason)[0]


def record_all(
    connection: Connection,
    direction: Direction,
    state: BatchState,
    batches: Sequence[Fresh],
    *,
    reason: Reason | None = None,
) -> list[int]:
    """Write the first rows of many batches, all in one state, and their events; give their ids in the same order."""
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
    created = sa.insert(batch).returning(batch.c.id, sort_by_parameter_order=True)
    ids = [int(number) for number in connection.scalars(created, rows)]
    said = {"subject": "batch", "at": moment, "from_state": None, "to_state": state, "who": who}
    events = [{**said, "subject_id": number, "cause": fresh.cause} for number, fresh in zip(ids, batches, strict=True)]
    connection.execute(sa.insert(event), events)
    return ids


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

    Raises ValueError if the table does not allow it, WorldError if somebody else moved it meanwhile.
    """
    if state not in TRANSITIONS[entry.direction].get(entry.state, frozenset()):
        msg = f"batch {entry.stem} is {entry.state} and can't become {state}"
        raise ValueError(msg)
    changed = connection.execute(
        sa.update(batch)
        .where(batch.c.id == entry.id, batch.c.state == entry.state)
        .values(state=state, reason=reason, message=cause if reason else None, updated_at=now(), **values)
    )
    if changed.rowcount != 1:
        msg = f"batch {entry.stem} is no longer {entry.state}: somebody else moved it; run again"
        raise WorldError(msg)
    _note(connection, entry.id, entry.state, state, cause)


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

    One that somebody else moved meanwhile is left as it is. Raises ValueError if the table does not allow it.
    """
    before, after = change
    if after not in TRANSITIONS[direction].get(before, frozenset()):
        msg = f"no {direction} batch comes from {before} to {after}"
        raise ValueError(msg)
    moment, moved = now(), 0
    said = {"subject": "batch", "at": moment, "from_state": before, "to_state": after, "cause": cause, "who": whoami()}
    told = [sa.literal(value, event.c[name].type) for name, value in said.items()]
    values = {"state": after, "reason": reason, "message": cause if reason else None, "updated_at": moment}
    for start in range(0, len(ids), _AT_ONCE):
        some = among(connection, batch.c.id, ids[start : start + _AT_ONCE])
        moving = sa.update(batch).where(some, batch.c.direction == direction, batch.c.state == before).values(values)
        going = list(connection.scalars(moving.returning(batch.c.id)))
        events = sa.select(batch.c.id, *told).where(among(connection, batch.c.id, going)).order_by(batch.c.id)
        connection.execute(sa.insert(event).from_select(["subject_id", *said], events))
        moved += len(going)
    return moved


def mark_erased(connection: Connection, entry: Entry, cause: str) -> None:
    """Write down that a batch's bytes were removed by hand: it stays in its state, and is never sent again as it was.

    What was said of it when it was refused may quote a record, and goes, too.
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
    """Write what became of a batch's records beside its state, and add it to its channel's position."""
    connection.execute(sa.update(batch).where(batch.c.id == batch_id).values(**counts.as_dict()))
    place = sa.select(batch.c.direction, batch.c.channel, batch.c.epoch).where(batch.c.id == batch_id)
    direction, channel, epoch = connection.execute(place).one()
    here = (position.c.direction == direction, position.c.channel == channel, position.c.epoch == epoch)
    more = {name: position.c[name] + number for name, number in counts.as_dict().items()}
    connection.execute(sa.update(position).where(*here).values(more))


def note_dead_letters(
    connection: Connection,
    ids: Sequence[int],
    before: DeadLetterState | None,
    after: DeadLetterState,
    cause: str | sa.ColumnElement[str],
) -> None:
    """Write the event of one change of state that some dead letters have in common.

    ``cause`` may be made of the letters' own columns.
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
    for start in range(0, len(ids), _AT_ONCE):
        some = among(connection, dead_letter.c.id, ids[start : start + _AT_ONCE])
        letters = sa.select(dead_letter.c.id, *told).where(some).order_by(dead_letter.c.id)
        connection.execute(sa.insert(event).from_select(["subject_id", *said], letters))


_AT_ONCE = 10_000
"""Ids in one statement: no database binds any number of values."""


def _note(connection: Connection, batch_id: int, before: str | None, after: str, cause: str) -> None:
    connection.execute(
        sa.insert(event).values(
            subject="batch",
            subject_id=batch_id,
            at=now(),
            from_state=before,
            to_state=after,
            cause=cause,
            who=whoami(),
        )
    )


def at_place(connection: Connection, direction: Direction, channel: str, epoch: str, sequence: int) -> Entry | None:
    """Give the batch that holds a place, if any: one that is quarantined, given up or unbelieved holds none."""
    row = connection.execute(
        sa.select(*_ENTRY).where(
            batch.c.direction == direction,
            batch.c.channel == channel,
            batch.c.epoch == epoch,
            batch.c.sequence == sequence,
            sa.text(HOLDS_PLACE),
        )
    ).one_or_none()
    return _entry(row) if row else None


def held_places(
    connection: Connection, direction: Direction, channel: str, epoch: str, sequences: Collection[int]
) -> set[int]:
    """Give those of some sequences at which a batch holds its place."""
    here = (batch.c.direction == direction, batch.c.channel == channel, batch.c.epoch == epoch)
    some = among(connection, batch.c.sequence, sequences)
    return set(connection.scalars(sa.select(batch.c.sequence).where(*here, some, sa.text(HOLDS_PLACE))))


def by_stem(connection: Connection, direction: Direction, stem: str) -> Entry | None:
    """Give the newest row of a stem, in any state."""
    row = connection.execute(
        sa.select(*_ENTRY)
        .where(batch.c.stem == stem, batch.c.direction == direction)
        .order_by(batch.c.id.desc())
        .limit(1)
    ).one_or_none()
    return _entry(row) if row else None


def in_state(
    connection: Connection, direction: Direction, states: Sequence[BatchState], channel: str | None = None
) -> list[Entry]:
    """Give the batches in some states that are not an end, oldest first."""
    query = sa.select(*_ENTRY).where(batch.c.direction == direction, batch.c.state.in_(states))
    if channel is not None:
        query = query.where(batch.c.channel == channel)
    rows = connection.execute(query.order_by(batch.c.channel, batch.c.id))
    return [_entry(row) for row in rows]


def open_batches(connection: Connection) -> list[Open]:
    """Give the incoming batches that wait or are held, by channel and oldest first."""
    columns = [batch.c[name] for name in Open._fields if name != "believed"]
    rows = connection.execute(
        sa.select(*columns, batch.c.manifest.is_not(None).label("believed"))
        .where(batch.c.direction == Direction.IN, batch.c.state.in_([BatchState.WAITING, BatchState.HELD]))
        .order_by(batch.c.channel, batch.c.id)
    )
    return [Open(**{**row._mapping, "state": BatchState(row.state)}) for row in rows]


def by_id(connection: Connection, batch_id: int) -> Entry:
    """Give a batch as it is now. Rows of the ledger never go."""
    return _entry(connection.execute(sa.select(*_ENTRY).where(batch.c.id == batch_id)).one())


def of_stem(connection: Connection, stem: str) -> list[Entry]:
    """Give the newest rows of a stem, both ways and in any state, newest first."""
    rows = connection.execute(
        sa.select(*_ENTRY).where(batch.c.stem == stem).order_by(batch.c.id.desc()).limit(MAX_ROWS)
    )
    return [_entry(row) for row in rows]


def quarantined(connection: Connection, stem: str, digest: str | None) -> Entry | None:
    """Give the newest quarantined row that speaks of files with this name and digest."""
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
    """Write down that a person gave a batch up. What was wrong with it stays in its history."""
    cause = f"{state} by hand: {printable(reason, 1000)}"
    move(connection, entry, state, cause, reason=Reason(entry.reason) if entry.reason else None)


def signed_by(key: str) -> sa.ColumnElement[bool]:
    """Say that a batch was signed with the key of this name: as we write line 2 it begins with it."""
    opening = Signature(ALGORITHM, key, b"").encode().decode().partition(',"signature"')[0]
    return sa.func.substr(batch.c.signature, 1, len(opening)) == opening


def history(connection: Connection, batch_ids: Sequence[int]) -> list[Event]:
    """Give the events of some batches, oldest first."""
    rows = connection.execute(
        sa.select(event.c.at, event.c.from_state, event.c.to_state, event.c.cause, event.c.who)
        .where(event.c.subject == "batch", event.c.subject_id.in_(batch_ids))
        .order_by(event.c.id)
    )
    return [Event(*row) for row in rows]


# Positions


def current_position(connection: Connection, direction: Direction, channel: str) -> Position | None:
    """Give the position in the channel's current epoch; None before the first batch."""
    row = connection.execute(
        sa.select(position.c.epoch, position.c.sequence, position.c.digest).where(
            position.c.direction == direction, position.c.channel == channel, position.c.current == 1
        )
    ).one_or_none()
    return Position(row.epoch, row.sequence, row.digest) if row else None


def left_epochs(connection: Connection, channel: str) -> frozenset[str]:
    """Give the epochs of the other side that were left, but the one that an incoming channel is still in.

    An epoch is the life of a database: what one channel has left no other one begins.
    """
    mine = sa.select(position.c.epoch).where(
        position.c.direction == Direction.IN, position.c.channel == channel, position.c.current == 1
    )
    rows = sa.select(position.c.epoch).where(position.c.direction == Direction.IN, position.c.current == 0)
    return frozenset(connection.scalars(rows.where(position.c.epoch.not_in(mine)).distinct()))


def leave(connection: Connection, channel: str, epochs: Collection[str], adopted: str | None = None) -> None:
    """Write down which epochs of an incoming channel came before an ``adopted`` one, heard of or not.

    Beyond ``MOST_LEFT`` none is written down: no honest side has so many lives.
    """
    if not epochs:
        return
    here = (position.c.direction == Direction.IN) & (position.c.channel == channel)
    known = set(connection.scalars(sa.select(position.c.epoch).where(here)))
    row = {"direction": Direction.IN, "channel": channel, "sequence": 0, "current": 0, "adopted_at": now()}
    for one in sorted(set(epochs) - known - {adopted})[: max(MOST_LEFT - len(known), 0)]:
        connection.execute(sa.insert(position).values(**row, epoch=one))


MOST_LEFT = 1000
"""So many epochs of an incoming channel are remembered, at most."""


def still_before(connection: Connection, channel: str, epoch: str) -> frozenset[str]:
    """Give the epochs that an incoming channel is in, and that nothing applied shows to have been left for ``epoch``.

    A channel of which nothing was applied is in those that the other ones are in. None: ``epoch`` may be adopted.
    """
    rows = connection.execute(
        sa.select(position.c.channel, position.c.epoch, position.c.current).where(position.c.direction == Direction.IN)
    ).all()
    current = {row.channel: row.epoch for row in rows if row.current}
    gone = {row.epoch for row in rows if not row.current}
    present = {current[channel]} if channel in current else set(current.values()) - gone
    for other in (other for other, there in current.items() if there == epoch):
        present -= {row.epoch for row in rows if row.channel == other and not row.current}
    return frozenset(present - {epoch})


def adopt(connection: Connection, channel: str, epoch: str) -> None:
    """Let an incoming channel be in an epoch of which nothing was applied yet; the one it was in is left."""
    here = (position.c.direction == Direction.IN) & (position.c.channel == channel)
    connection.execute(sa.update(position).where(here).values(current=0))
    row = {"direction": Direction.IN, "channel": channel, "epoch": epoch, "sequence": 0, "current": 1}
    connection.execute(sa.insert(position).values(**row, adopted_at=now()))


def advance(
    connection: Connection, direction: Direction, channel: str, epoch: str, sequence: int, digest: str | None
) -> None:
    """Move a channel's position to a batch just sealed or applied, adopting its epoch if it is a new one.

    ``digest`` is None for a place that was given up.
    """
    here = (position.c.direction == direction) & (position.c.channel == channel)
    of_epoch = here & (position.c.epoch == epoch)
    moved = connection.execute(
        sa.update(position).where(of_epoch, position.c.sequence < sequence).values(sequence=sequence, digest=digest)
    )
    if moved.rowcount or connection.scalar(sa.select(sa.exists().where(of_epoch))):
        return  # or an unordered channel filled a hole behind its position
    connection.execute(sa.update(position).where(here).values(current=0))
    connection.execute(
        sa.insert(position).values(
            direction=direction,
            channel=channel,
            epoch=epoch,
            sequence=sequence,
            digest=digest,
            current=1,
            adopted_at=now(),
        )
    )


def note_success(engine: Engine, direction: Direction, channels: Collection[str]) -> None:
    """Write down that channels were worked on to the end just now, unless somebody else is at work."""
    if not channels:
        return
    with suppress(Busy), world_errors(), writing(engine) as connection:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        for channel in sorted(channels):  # in one order, so that two processes never wait for each other
            row = insert(success).values(direction=direction, channel=channel, at=now())
            key = [success.c.direction, success.c.channel]
            connection.execute(row.on_conflict_do_update(index_elements=key, set_={"at": row.excluded.at}))


# Attempts


class Stumble(NamedTuple):
    """A batch that could not be taken in so far: how often, and what went wrong the last time if anybody could say."""

    batch: str
    attempts: int
    why: str | None


@contextmanager
def attempted(
    engine: Engine, lock: str, key: str, prepare: Callable[[int], None] | None = None
) -> Iterator[tuple[Connection, int]]:
    """Hold ``lock`` for one attempt at a batch; give the transaction, and how many attempts before never ended.

    The attempt is counted and committed with the lock held and before the work. It ends in order, and is taken back, if
    it gives an outcome, or raises that the batch or the world is bad: then the work is undone. It stays counted when
    the process dies or is told to stop, and when something goes wrong that nobody foresaw: Stumbled is raised then.
    Whoever settles the batch clears the count (``forget_attempts``) with the settling. ``prepare`` is the work that
    needs the lock and not the transaction: it is called before that writes, with the number of crashes. Raises Busy.
    """
    crashes: int | None = None

    def begin() -> None:
        nonlocal crashes
        crashes = _begin_attempt(engine, key)
        if prepare is not None:
            prepare(crashes)

    fault: BatchError | None = None
    try:
        with locked(engine, lock, prepare=begin) as connection:
            try:
                with connection.begin_nested():
                    yield connection, crashes or 0
            except BatchError as error:
                if isinstance(error, Stumbled):
                    raise
                fault = error
            _take_back(connection, key)
    except Exception as error:
        if crashes is None:
            raise  # somebody else is at work, or the database is away: there was no attempt
        if _ends_in_order(error):
            _take_back_alone(engine, key)
            raise
        if not is_its_own(error):
            raise
        raise stumbled(error, crashes + 1) from error
    if fault is not None:
        raise fault


def _ends_in_order(error: Exception) -> bool:
    """Say whether an attempt ended as foreseen; what a commit refuses is the batch's, and known to be."""
    foreseen = isinstance(error, (BatchError, Busy, IntegrityError)) and not isinstance(error, Stumbled)
    return foreseen or is_the_worlds(error)


def _begin_attempt(engine: Engine, key: str) -> int:
    who = whoami()[:255]
    owed = _owed.get(engine, Counter())
    with writing(engine) as connection:
        for _ in range(owed[key]):
            _take_back(connection, key)
        crashes = connection.scalar(sa.select(attempt.c.attempts).where(attempt.c.batch == key)) or 0
        _count(connection, key, crashes, who=who)
    owed.pop(key, None)
    return crashes


def _count(connection: Connection, key: str, before: int, **values: Any) -> None:
    """Count an attempt beside those that there were before."""
    if before:
        counting = sa.update(attempt).where(attempt.c.batch == key)
        connection.execute(counting.values(attempts=attempt.c.attempts + 1, started_at=now(), **values))
    else:
        connection.execute(sa.insert(attempt).values(batch=key, attempts=1, started_at=now(), **values))


def _take_back(connection: Connection, key: str) -> None:
    connection.execute(sa.update(attempt).where(attempt.c.batch == key).values(attempts=attempt.c.attempts - 1))
    connection.execute(sa.delete(attempt).where(attempt.c.batch == key, attempt.c.attempts <= 0))


_owed: WeakKeyDictionary[Engine, Counter[str]] = WeakKeyDictionary()
"""Attempts that ended in order, and are still counted because the database was away: this process knows better."""


def _take_back_alone(engine: Engine, key: str) -> None:
    """Take an attempt back on a connection of its own: the one of the attempt may have died with it."""
    try:
        with writing(engine) as connection:
            _take_back(connection, key)
    except Exception as error:
        if not (is_the_worlds(error) or isinstance(error, Busy)):
            raise
        _owed.setdefault(engine, Counter())[key] += 1


def count_stumble(engine: Engine, key: str, why: str, attempts: int | None) -> int:
    """Write down why an attempt failed, and count it unless it is one of ``attempts`` that are counted; give them."""
    with writing(engine) as connection:
        known = connection.scalar(sa.select(attempt.c.attempts).where(attempt.c.batch == key)) or 0
        if attempts is None or not known:
            _count(connection, key, known, who=whoami()[:255], why=why)
            return known + 1
        connection.execute(sa.update(attempt).where(attempt.c.batch == key).values(why=why))
        return attempts


def stumbles(connection: Connection, most: int = MAX_ROWS) -> list[Stumble]:
    """Give the batches at which attempts failed, and that are tried again; not those that are just being taken in."""
    failed = sa.or_(attempt.c.why.is_not(None), attempt.c.attempts > 1)
    rows = sa.select(attempt.c.batch, attempt.c.attempts, attempt.c.why).where(failed).order_by(attempt.c.batch)
    return [Stumble(*row) for row in connection.execute(rows.limit(most))]


def has_attempts(connection: Connection, key: str) -> bool:
    """Say whether an attempt at a batch is counted."""
    return connection.scalar(sa.select(attempt.c.attempts).where(attempt.c.batch == key)) is not None


def forget_attempts(connection: Connection, key: str) -> None:
    """Clear the count, in the transaction that settles the batch."""
    connection.execute(sa.delete(attempt).where(attempt.c.batch == key))
