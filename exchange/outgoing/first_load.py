"""The first load: rows that were there before their changes were captured are sent once, by a snapshot, unasked.

Which streams those are is noted when capture is installed (``database.first_loads``). Nothing is sent twice: a snapshot
that somebody asked for since does as well, and what an earlier version sent is known from the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database import first_loads, positions
from exchange.database.dialects import insert_new
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import BatchState, Direction, ResyncState, batch, first_load, resync
from exchange.format.control import SNAPSHOT
from exchange.format.errors import RecordError
from exchange.format.manifest import BatchKind
from exchange.link import send_requests
from exchange.link.send_requests import FIRST_LOAD
from exchange.results import FirstLoad
from exchange.site import Site
from exchange.tables import capture
from exchange.tables.capture import carried


@dataclass(frozen=True)
class FirstLoads:
    """The first loads that begin with a run, and sentences about those that wait for another channel's."""

    begun: tuple[FirstLoad, ...] = ()
    waiting: tuple[str, ...] = ()


def ask_for_first_loads(site: Site, channels: Sequence[Channel], faulty: AbstractSet[str]) -> FirstLoads:
    """Have what was never sent of channels sent by snapshots, and say of which streams that was asked just now.

    ``channels`` as the files call them. Streams that are ``faulty`` wait until they are captured as they should be, and
    so do those that refer to them. One that refers to a stream of another channel waits until that was sent, and where
    receipts come back until it is applied there. May be repeated; what finds no room is left to the next run. Raises
    TransientError. Commits each channel in a transaction of its own.
    """
    if not site.first_load:
        return FirstLoads()
    wanted = {one.declared for one in channels}
    begun: list[FirstLoad] = []
    waiting: list[str] = []
    with transient_errors():
        with reading(site.engine) as connection:
            open_ = _open_streams(site, connection)
        asking = [one for one in site.channels if one.name in wanted and open_[one.name]]
        for channel in sorted(asking, key=lambda one: bool(_channels_before(site, one))):
            with suppress(Busy, RecordError):
                held = _held(site, channel)
                waiting += held.values()
                begun += _ask(site, channel, [*_ready(open_[channel.name], faulty | held.keys())])
    return FirstLoads(tuple(begun), tuple(waiting))


def never_sent(site: Site, connection: Connection, channel: Channel) -> list[str]:
    """Name the streams of a channel that have rows which were never sent whole, nor asked for.

    Only reads, in the caller's transaction.
    """
    return [
        one.name
        for one in _open_streams(site, connection)[channel.name]
        if _is_sent(connection, channel, one) is None and capture.has_rows(connection, one)
    ]


def _open_streams(site: Site, connection: Connection) -> dict[str, list[Stream]]:
    """Give the streams of each channel whose first load is not done."""
    done = set(connection.scalars(sa.select(first_load.c.stream).where(first_load.c.done_at.is_not(None))))
    return {one.name: [stream for stream in one.streams if stream.name not in done] for one in site.channels}


def _held(site: Site, channel: Channel) -> dict[str, str]:
    """Give the streams with rows that wait for a stream of another channel, each with a sentence.

    Where channels refer to each other in a circle none waits.
    """
    before = _channels_before(site, channel)
    if not before:
        return {}
    with reading(site.engine) as connection:
        open_ = _open_streams(site, connection)
        snapshots = sa.select(batch.c.channel).where(
            batch.c.state.in_([BatchState.SEALED] if site.one_way else [BatchState.SEALED, BatchState.PUBLISHED]),
            batch.c.direction == Direction.OUT,
            batch.c.manifest.contains(f'"kind":"{BatchKind.SNAPSHOT}"'),
        )
        on_their_way = set(connection.scalars(snapshots.distinct()))
        held: dict[str, str] = {}
        for stream in open_[channel.name]:
            for other in before:
                names = {one.name for one in other.in_files()}
                late = open_[other.name] if names.isdisjoint(on_their_way) else other.streams
                parents = [one.name for one in late if one.table.key in stream.parents()]
                if parents and capture.has_rows(connection, stream):
                    held[stream.name] = (
                        f"the first load of {stream.name} waits until {site.peer} has {parents[0]} of channel"
                        f" {other.name}, which it refers to"
                    )
    return held


def _channels_before(site: Site, channel: Channel) -> list[Channel]:
    """Give the channels of this side that a channel's streams refer to, but those that lead back to it."""
    sent = [one for one in site.channels if one.source == site.network]
    tables = {one.name: {stream.table.key for stream in one.streams} for one in sent}
    refers = {
        one.name: {
            other.name
            for other in sent
            if other is not one and any(not tables[other.name].isdisjoint(stream.parents()) for stream in one.streams)
        }
        for one in sent
    }

    def leads_back(name: str, seen: set[str]) -> bool:
        seen.add(name)
        return channel.name in refers[name] or any(leads_back(one, seen) for one in refers[name] - seen)

    return [one for one in sent if one.name in refers[channel.name] and not leads_back(one.name, set())]


def _ready(streams: Sequence[Stream], faulty: AbstractSet[str]) -> Iterator[Stream]:
    """Give the streams that can be sent, parents first: none that is faulty, or refers to one that is."""
    waiting = set[str]()
    for stream in streams:
        if stream.name in faulty or not waiting.isdisjoint(stream.parents()):
            waiting.add(stream.table.key)
        else:
            yield stream


def _ask(site: Site, channel: Channel, streams: Sequence[Stream]) -> list[FirstLoad]:
    """Ask for streams of a channel. Raises Busy, and RecordError if too much of it is asked for already."""
    with reading(site.engine) as connection:
        new = [one for one in streams if _is_sent(connection, channel, one) is None]
        rows = {one.name: capture.estimate_rows(connection, one) for one in new}
        if not rows and not any(_is_sent(connection, channel, one) for one in streams):
            return []
    with writing(site.engine) as connection:
        begun = [one.name for one in streams if _settle(connection, channel, one, rows.get(one.name))]
        for part in channel.in_files() if begun else ():
            _add_request(connection, part, begun)
    return [FirstLoad(channel.name, name, rows[name]) for name in begun]


def _is_sent(connection: Connection, channel: Channel, stream: Stream) -> bool | None:
    """Say whether snapshots that were asked for since a stream was captured brought all its rows; None: none were.

    None, too, where they were asked for of another number of shards, or of some of those alone.
    """
    row = connection.execute(sa.select(first_load).where(first_load.c.stream == stream.name)).one_or_none()
    if row is None or row.shards not in (None, channel.shards):
        return None
    states = {one.name: set[str]() for one in channel.in_files() if stream in carried(one.streams, one.shard)}
    found = connection.execute(
        sa.select(resync.c.channel, resync.c.streams, resync.c.state).where(
            resync.c.id > row.after,
            resync.c.channel.in_(states),
            resync.c.want == SNAPSHOT,
            resync.c.buckets.is_(None),
            resync.c.state != ResyncState.CANCELLED,
        )
    )
    for one in found:
        if one.streams is None or stream.name in json.loads(one.streams):
            states[one.channel].add(one.state)
    return all(ResyncState.DONE in those for those in states.values()) if all(states.values()) else None


def _settle(connection: Connection, channel: Channel, stream: Stream, rows: int | None) -> bool:
    """Note that a stream's first load is done, or that it begins now, which is to be asked for: then give True.

    ``rows`` are those that its table has, if it was found new. Its row of ``first_load`` is locked, so that of two
    processes one begins it.
    """
    insert_new(connection, first_load, {"stream": stream.name, "after": 0})  # captured by an earlier version
    mine = first_load.c.stream == stream.name
    row = connection.execute(sa.select(first_load).where(mine).with_for_update()).one()
    sent = _is_sent(connection, channel, stream)
    if row.done_at is not None or sent is False or (sent is None and rows is None):
        return False
    if sent or not rows:
        connection.execute(sa.update(first_load).where(mine).values(done_at=now()))
        return False
    after = row.after
    if row.shards not in (None, channel.shards):
        after = first_loads.newest_request(connection)
        for part in channel.in_files():
            send_requests.cancel_requests(connection, part.name, who=FIRST_LOAD)
    connection.execute(sa.update(first_load).where(mine).values(shards=channel.shards, after=after))
    return True


def _add_request(connection: Connection, channel: Channel, streams: Sequence[str]) -> None:
    """Ask for a snapshot of those of ``streams`` that a channel carries: of all it has, if it never sent anything."""
    has = [stream.name for stream in carried(channel.streams, channel.shard)]
    some = [name for name in has if name in streams]
    if some:
        never_sent = positions.current_position(connection, Direction.OUT, channel.name) is None
        done = sa.select(first_load.c.stream).where(first_load.c.stream.in_(has), first_load.c.done_at.is_not(None))
        whole = never_sent and set(has) == {*some, *connection.scalars(done)}
        reason = f"the first load of {', '.join(some)}"
        send_requests.add_request(
            connection,
            channel=channel.name,
            want=SNAPSHOT,
            streams=None if whole else some,
            reason=reason,
            who=FIRST_LOAD,
        )
