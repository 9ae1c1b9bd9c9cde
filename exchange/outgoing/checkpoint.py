"""Checkpoints: what this side's rows are at one place of a channel's sequence, sealed as a batch of its own.

What is pending is sealed first, and the rows are digested as they were at that very moment, while others go on
writing: PostgreSQL sees that moment as long as the transaction lasts, SQLite through a reader of its own. So what came
before the checkpoint is in its digests, and what comes after is not.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database import pauses
from exchange.database.engine import now
from exchange.database.locks import export_lock, locked, reading, writing
from exchange.database.tables import Direction, ResyncState, position, resync
from exchange.format import record as records
from exchange.format.batch import BatchWriter
from exchange.format.control import DIGEST, VERSION, Digest
from exchange.format.manifest import BatchKind
from exchange.format.record import Op, Record
from exchange.outgoing import compose, rollout
from exchange.outgoing.seal import ENCODING, Sealed, check_room, exported, seal_batch
from exchange.results import Exported
from exchange.site import Site
from exchange.tables import bucket_digests

MOST_BATCHES = 20
"""So many batches of changes are sealed before a checkpoint at once: where more is pending, the next call goes on."""


def seal_checkpoint(site: Site, channel: Channel, row: sa.Row[Any]) -> Sealed | None:
    """Answer an open row of ``resync`` that wants a checkpoint; None if it was answered, or waits for a rollout.

    ``more`` says that there were too many changes before it: call again. Raises Busy, and TransientError if the disk,
    the database or the signing key fails. Commits under the channel's lock; on SQLite the changes before it in a
    transaction of their own.
    """
    check_room(site)
    lock = export_lock(channel.name)
    names = None if row.streams is None else frozenset(json.loads(row.streams))
    running = pauses.refusing(site.engine, site.off, Direction.OUT, channel.declared)
    with reading(site.engine) as connection:
        if not _compared(connection, channel, names):
            return None
    if site.many_writers:
        with locked(site.engine, lock, prepare=running, isolation_level="REPEATABLE READ") as connection:
            before = _Before(site, connection, channel)
            if before.more:
                return before.only()
            return _seal(site, connection, channel, row, _digests(connection, channel, names), before)
    prepared: list[tuple[_Before, list[Digest]]] = []

    def prepare() -> None:
        running()
        with reading(site.engine) as reader:
            with writing(site.engine, lock) as connection:
                before = _Before(site, connection, channel)
                reader.execute(sa.select(position.c.channel).limit(1))  # from here on it sees this moment
            prepared.append((before, [] if before.more else _digests(reader, channel, names)))

    with locked(site.engine, lock, prepare=prepare) as connection:
        ((before, digests),) = prepared
        return before.only() if before.more else _seal(site, connection, channel, row, digests, before)


def _compared(
    connection: Connection, channel: Channel, names: Collection[str] | None
) -> list[tuple[Stream, int | None]]:
    """Give the streams that the digests are of: none of which the other side can't have the rows yet."""
    return [one for one in rollout.compared(connection, channel) if names is None or one[0].name in names]


def _digests(connection: Connection, channel: Channel, names: Collection[str] | None) -> list[Digest]:
    """Digest streams of a channel of the files, of each what is sent of it. Reads in the caller's transaction."""
    return [
        bucket_digests.digest(connection, stream, channel.shard, below)
        for stream, below in _compared(connection, channel, names)
    ]


class _Before:
    """The changes that had to be sealed before a checkpoint."""

    def __init__(self, site: Site, connection: Connection, channel: Channel) -> None:
        self.batches: list[Exported] = []
        self.parked = 0
        self.more = True
        while self.more and len(self.batches) < MOST_BATCHES:
            sealed = compose.seal_changes(site, connection, channel)
            if sealed.batch is not None:
                self.batches.append(sealed.batch)
            self.parked += sealed.parked
            self.more = sealed.more

    def only(self) -> Sealed:
        """Say that nothing else was sealed."""
        return Sealed(None, self.parked, self.more, tuple(self.batches))


def _seal(
    site: Site,
    connection: Connection,
    channel: Channel,
    row: sa.Row[Any],
    digests: Sequence[Digest],
    before: _Before,
) -> Sealed | None:
    if not digests:
        return before.only() if before.batches else None
    moment = now()
    done = connection.execute(
        sa.update(resync)
        .where(resync.c.id == row.id, resync.c.state.in_([ResyncState.ASKED, ResyncState.RUNNING]))
        .values(state=ResyncState.DONE, parts=1, records=len(digests), updated_at=moment)
    )
    if done.rowcount != 1:
        return before.only() if before.batches else None
    with site.spool.drafting() as draft:
        writer = BatchWriter(draft[0], ENCODING)
        version = int(moment.timestamp() * 1_000_000)
        for one in digests:
            writer.write(records.encode(Record(DIGEST, Op.UPSERT, version, one.as_data())), DIGEST, Op.UPSERT)
        manifest = seal_batch(
            site,
            connection,
            writer,
            draft,
            channel=channel.name,
            kind=BatchKind.CHECKPOINT,
            schemas={DIGEST: VERSION},
            shards=channel.shards,
        )
    return Sealed(exported(manifest), before.parked, more=False, before=tuple(before.batches))
