"""Rollouts: a new stream, or a new version of its schema, is sent to a share of its keys first, then to more, then all.

How far one has come is noted in ``exchange_first_load``, and that alone says what is sent, whatever a process declares
(``compose``). With a larger share the buckets that are new in it are asked for as a snapshot, in the transaction that
notes it. Changes beyond the share are passed over: what became of their rows, that snapshot has.

A stream that was sent before has rows on the other side beyond the share. Those stay as they are until their snapshot
comes, which removes what is gone: until all keys are sent the stream is not compared, and no other snapshot removes
what is not in the share.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import ALL, Stream
from exchange.database import clock, first_loads, rollouts
from exchange.database.dialects import insert_new
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.rollouts import Rollout
from exchange.database.tables import Direction, ResyncState, batch, first_load, folded, resync, schema
from exchange.format.buckets import share_of_buckets
from exchange.format.control import BUCKETS, SNAPSHOT
from exchange.format.errors import Problem, RecordError
from exchange.format.names import CONTROL
from exchange.link import send_requests
from exchange.site import Site
from exchange.tables.capture import carried

ROLLOUT = "rollout"
"""Who asks for the buckets that are new in a share, as its request says."""


@dataclass(frozen=True)
class _Step:
    """What a declaration asks for: how far the rollout is then, and the channels of which a snapshot is missing.

    With a ``problem`` the stream can't go on, and nothing is noted.
    """

    rollout: Rollout | None
    missing: Sequence[Channel] = ()
    problem: Problem | None = None


def settle_rollouts(site: Site, channels: Sequence[Channel]) -> dict[str, Problem]:
    """Note what is declared of rollouts, and ask for the snapshots that they take; give the streams that can't go on.

    ``channels`` as the files call them. May be repeated: what finds no room is left to the next run. Raises
    TransientError. Commits each stream in a transaction of its own.
    """
    wanted = {one.declared for one in channels}
    declared = [(one, stream) for one in site.channels if one.name in wanted for stream in one.streams]
    stopped: dict[str, Problem] = {}
    with transient_errors():
        with reading(site.engine) as connection:
            known = rollouts.read(connection)
        for channel, stream in declared:
            if stream.rollout is None and stream.name not in known:
                continue
            try:
                problem = _settle(site, channel, stream)
            except (Busy, RecordError) as error:  # or too much is asked for already, which comes first
                problem = None
                if stream.name not in known:
                    problem = Problem(f"stream {stream.name}: its rollout is not noted yet: {error}")
            if problem is not None:
                stopped[stream.name] = problem
    return stopped


def refusals(site: Site, connection: Connection) -> dict[str, Problem]:
    """Say of the streams that this side sends which can't go on. Only reads, in the caller's transaction."""
    known = rollouts.read(connection)
    found: dict[str, Problem] = {}
    for channel in site.channels:
        for stream in channel.streams if channel.source == site.network else ():
            if stream.rollout is not None or stream.name in known:
                problem = _step(site, connection, channel, stream, known.get(stream.name)).problem
                if problem is not None:
                    found[stream.name] = problem
    return found


def compared(connection: Connection, channel: Channel) -> list[tuple[Stream, int | None]]:
    """Give the streams of a channel of the files that can be compared, each with the bucket below which it is.

    Only reads, in the caller's transaction.
    """
    found: list[tuple[Stream, int | None]] = []
    known = rollouts.read(connection)
    for stream in carried(channel.streams, channel.shard):
        one = known.get(stream.name)
        if one is None or (not one.keeps_rest and _is_whole(connection, channel, stream, one)):
            found.append((stream, None if one is None else one.buckets))
    return found


def keeping_rest(connection: Connection, streams: Sequence[Stream]) -> dict[str, Rollout]:
    """Give those of some streams of which the other side has rows that are not sent now, which are to stay there."""
    names = {one.name for one in streams}
    return {name: one for name, one in rollouts.read(connection).items() if name in names and one.keeps_rest}


def _is_whole(connection: Connection, channel: Channel, stream: Stream, rollout: Rollout) -> bool:
    """Say whether a channel of the files sent all of a stream's share."""
    return rollout.done >= rollout.share or ResyncState.DONE in _asked(connection, channel, stream, rollout)


def _asked(connection: Connection, channel: Channel, stream: Stream, rollout: Rollout) -> set[str]:
    """Give the states of the snapshots that were asked of a channel of the files for what is not done."""
    asked = sa.select(resync.c.streams, resync.c.state).where(
        resync.c.id > rollout.after,
        resync.c.channel == channel.name,
        resync.c.want == SNAPSHOT,
        resync.c.who == ROLLOUT,
        resync.c.state != ResyncState.CANCELLED,
    )
    return {row.state for row in connection.execute(asked) if stream.name in json.loads(row.streams)}


def _settle(site: Site, channel: Channel, stream: Stream) -> Problem | None:
    """Note and ask for what is declared of a stream; say why that can't be. Raises Busy and RecordError."""
    mine = first_load.c.stream == stream.name
    with reading(site.engine) as connection:
        known = rollouts.read(connection).get(stream.name)
        step = _step(site, connection, channel, stream, known)
        if step.problem is not None or (step.rollout == known and not step.missing):
            return step.problem
    with writing(site.engine) as connection:
        insert_new(connection, first_load, {"stream": stream.name, "after": 0})  # captured by an earlier version
        connection.execute(sa.select(first_load).where(mine).with_for_update()).one()
        step = _step(site, connection, channel, stream, rollouts.read(connection).get(stream.name))
        if step.problem is not None:
            return step.problem
        rollouts.write(connection, stream.name, step.rollout)
        for part in step.missing:
            assert step.rollout is not None  # else nothing is missing
            _ask(connection, part, stream, step.rollout)
    return None


def _step(site: Site, connection: Connection, channel: Channel, stream: Stream, known: Rollout | None) -> _Step:
    """Work out what a declaration asks for beside what is known. Only reads, in the caller's transaction."""
    share, version, newest = stream.rollout or ALL, stream.schema_version, first_loads.newest_request(connection)
    before = ALL if known is None else known.share
    is_smaller = share < before and (known is None or version == known.version)
    if is_smaller and _was_sent(site, connection, stream, version):
        return _Step(known, problem=_smaller(stream, before))
    if known is None:
        if share == ALL:
            return _Step(None)
        there = _was_sent(site, connection, stream)
        return _with_missing(
            connection, channel, stream, Rollout(share, 0 if there else share, newest, version, there, channel.shards)
        )
    if version < known.version:
        return _Step(known, problem=_older(stream, known))
    if version > known.version:
        known = Rollout(share, 0, newest, version, there=True, shards=channel.shards)
    elif (share, channel.shards) != (known.share, known.shards):
        if channel.shards == known.shards:
            known = _as_far_as_sent(known, _asked_of(connection, channel, stream, known))
        done = min(known.done, share)
        known = replace(known, share=share, done=done, after=newest, shards=channel.shards)
    return _with_missing(connection, channel, stream, known)


def _with_missing(connection: Connection, channel: Channel, stream: Stream, rollout: Rollout) -> _Step:
    """Find which channels of the files were not asked for a snapshot of what is not done, and whether all of it is."""
    asked = _asked_of(connection, channel, stream, rollout)
    rollout = _as_far_as_sent(rollout, asked)
    return _Step(None if rollout.done == ALL else rollout, [part for part, states in asked.items() if not states])


def _asked_of(
    connection: Connection, channel: Channel, stream: Stream, rollout: Rollout
) -> Mapping[Channel, Collection[str]]:
    """Give the states of what was asked of each channel of the files for what is not done; nothing if all is."""
    return {
        part: _asked(connection, part, stream, rollout)
        for part in (channel.in_files() if rollout.done < rollout.share else ())
        if stream in carried(part.streams, part.shard)
    }


def _as_far_as_sent(rollout: Rollout, asked: Mapping[Channel, Collection[str]]) -> Rollout:
    """Give a rollout as it is if each channel of the files sent what was asked of it."""
    is_done = all(ResyncState.DONE in states for states in asked.values())
    return replace(rollout, done=rollout.share) if is_done else rollout


def _older(stream: Stream, known: Rollout) -> Problem:
    return Problem(
        f"stream {stream.name} is declared in schema version {stream.schema_version}, and its rollout is of version"
        f" {known.version}",
        "start this process anew with the newer declaration; its changes wait until then",
    )


def _smaller(stream: Stream, share: int) -> Problem:
    return Problem(
        f"stream {stream.name} is declared with rollout={stream.rollout}, and {share} % of its keys were sent already"
        f" in schema version {stream.schema_version}: a share never becomes smaller",
        f"declare {f'rollout={share}' if share < ALL else 'no rollout'}; its changes wait until then",
    )


def _ask(connection: Connection, part: Channel, stream: Stream, rollout: Rollout) -> None:
    """Ask for the buckets that are new in a share. Raises RecordError if too much is asked for already."""
    first = share_of_buckets(rollout.done, BUCKETS)
    send_requests.add_request(
        connection,
        channel=part.name,
        want=SNAPSHOT,
        streams=[stream.name],
        buckets=range(first, rollout.buckets),
        prune=rollout.there,
        reason=f"the rollout of {stream.name} goes from {rollout.done} to {rollout.share} % of its keys",
        who=ROLLOUT,
    )


# What was sent before


def _was_sent(site: Site, connection: Connection, stream: Stream, version: int | None = None) -> bool:
    """Say whether rows of a stream were sent, in one version of its schema or in any, or may have been."""
    return _is_in_ledger(connection, stream, version) or _may_be_folded(site, connection, stream, version)


def _is_in_ledger(connection: Connection, stream: Stream, version: int | None) -> bool:
    said = f'"{stream.name}":' + ("" if version is None else str(version))
    mine = (batch.c.direction == Direction.OUT, batch.c.channel != CONTROL)
    manifests = sa.select(batch.c.manifest).where(*mine, batch.c.manifest.contains(said, autoescape=True))
    with connection.execute(manifests.order_by(batch.c.id.desc()), execution_options={"yield_per": 100}) as found:
        return any(_has(text, stream.name, version) for text in found.scalars())


def _has(manifest: str, stream: str, version: int | None) -> bool:
    schemas = json.loads(manifest).get("schemas", {})
    return stream in schemas and version in {None, schemas[stream]}


def _may_be_folded(site: Site, connection: Connection, stream: Stream, version: int | None) -> bool:
    """Say whether a batch with rows of a stream may be one of those of which the ledger has only the sum.

    Not if the stream was first declared since: the newest of those are older than any retention.
    """
    old = sa.exists().where(folded.c.direction == Direction.OUT, folded.c.channel != CONTROL)
    if not connection.scalar(sa.select(old)):
        return False
    first = sa.select(sa.func.min(schema.c.since)).where(schema.c.direction == Direction.OUT)
    mine = first.where(schema.c.stream == stream.name)
    since = connection.scalar(mine if version is None else mine.where(schema.c.version == version))
    if since is None or since == connection.scalar(first):  # or before it was remembered which are declared
        return True
    return clock.since(since) >= timedelta(days=site.limits.retention_days)


def told(site: Site, connection: Connection) -> Iterator[tuple[Channel, Stream, Rollout, str]]:
    """Say of each stream that this side sends by a rollout how far that is. Reads in the caller's transaction."""
    known = rollouts.read(connection)
    for channel in site.channels:
        for stream in channel.streams if channel.source == site.network else ():
            if (one := known.get(stream.name)) is not None:
                yield channel, stream, one, _sentence(stream, one)


def _sentence(stream: Stream, one: Rollout) -> str:
    said = f"stream {stream.name} is sent to {one.share} % of its keys ({one.buckets:,} of {BUCKETS:,} buckets)"
    if one.done < one.share:
        said += f"; those beyond {one.done} % come with a snapshot" if one.done else "; they come with a snapshot"
    if one.keeps_rest:
        return f"{said}; the rest waits for the rollout, and so does every comparison of it"
    return f"{said}; the rest waits for the rollout" if one.is_partial else said
