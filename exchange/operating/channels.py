"""The channels of this side: each with how it stands, and a person's word that one stands still or goes on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import pauses, rollouts
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, export_lock, import_lock, locked, reading, writing
from exchange.database.pauses import Pause, Place
from exchange.database.tables import Direction, success
from exchange.database.whoami import person
from exchange.format.as_dict import AsDict
from exchange.format.errors import Problem, RecordError, TransientError, printable
from exchange.link import peer_state
from exchange.link.peer_state import PausedThere
from exchange.outgoing import control_batch
from exchange.site import Site
from exchange.tables import capture


class ChannelState(StrEnum):
    """Whether a channel runs, or stands still by a person's word, by a setting or on the other side."""

    RUNS = "runs"
    PAUSED = "paused"
    OFF = "off"
    PAUSED_THERE = "paused there"


@dataclass(frozen=True)
class ListedChannel(AsDict):
    """A declared channel: ``pending`` counts changes that no batch carries yet, or batches that lie in ``incoming/``.

    That is None where the folder can't be read. ``last_success_at`` is when it was last done, of its shards the one
    that was first. ``rollouts`` are streams that are sent to a share of their keys, each with that in per cent.
    """

    channel: str
    direction: Direction
    peer: str
    streams: tuple[str, ...]
    shards: int
    state: ChannelState
    pending: int | None
    last_success_at: datetime | None
    paused: Pause | None
    paused_there: PausedThere | None
    rollouts: Mapping[str, int]


@dataclass(frozen=True)
class PausedOrResumed(AsDict):
    """What became of a word to pause a channel or to let it go on; ``changed`` is false where it was so already.

    ``busy`` says who works on a batch of it, which is the last one; ``untold`` why the other side was not told yet.
    """

    channel: str
    direction: Direction
    state: ChannelState
    changed: bool
    message: str
    busy: str | None = None
    untold: str | None = None


def list_channels(site: Site) -> list[ListedChannel]:
    """Give all declared channels, those that are sent first. Raises TransientError if the database fails."""
    arrived = _arrived(site)
    with transient_errors(), reading(site.engine) as connection:
        still = pauses.paused(connection, site.off)
        there = {one.channel: one for one in peer_state.read_peer_state(site, connection).paused}
        done = {(row.direction, row.channel): row.at for row in connection.execute(sa.select(success))}
        shares = rollouts.read(connection)
        ways = [(_way(site, one), one) for one in site.channels]
        return [
            ListedChannel(
                channel=one.name,
                direction=way,
                peer=site.peer,
                streams=tuple(stream.name for stream in one.streams),
                shards=one.shards,
                state=_state(still.get((way, one.name)), there.get(one.name)),
                pending=_pending(connection, way, one, arrived),
                last_success_at=min(
                    (moment for part in one.in_files() if (moment := done.get((way, part.name))) is not None),
                    default=None,
                ),
                paused=still.get((way, one.name)),
                paused_there=there.get(one.name),
                rollouts={
                    stream.name: shares[stream.name].share
                    for stream in one.streams
                    if way is Direction.OUT and stream.name in shares
                },
            )
            for way, one in sorted(ways, key=lambda pair: (pair[0] is Direction.IN, pair[1].name))
        ]


def pause_channel(site: Site, name: str, reason: str, direction: Direction | None = None) -> PausedOrResumed:
    """Have a channel stand still: no batch of it is begun from now on, and the other side is told.

    Commits a transaction of its own; then a control batch. Raises RecordError for a channel that is not declared here,
    or not in this direction; Busy and TransientError.
    """
    place = _place(site, name, direction)
    with transient_errors(), writing(site.engine) as connection:
        changed = pauses.begin(connection, place, person(), reason)
        found = pauses.paused(connection, ())[place]
    done = PausedOrResumed(name, place[0], ChannelState.PAUSED, changed, found.fact)
    return _told(site, replace(done, busy=_who_is_at_work(site, place)))


def resume_channel(site: Site, name: str, direction: Direction | None = None) -> PausedOrResumed:
    """Let a channel go on, and tell the other side. Commits and raises as ``pause_channel`` does.

    Raises RecordError for one that a setting names, too.
    """
    place = _place(site, name, direction)
    if place in site.off:
        with reading(site.engine) as connection:
            raise RecordError("off", "", str(pauses.paused(connection, site.off)[place]))
    shards = site.names_in_files(name)
    with transient_errors(), writing(site.engine) as connection:
        changed = pauses.end(connection, place, shards)
    way = "export" if place[0] is Direction.OUT else "import"
    said = f"channel {name} goes on with the next {way}" if changed else f"channel {name} is not paused"
    return _told(site, PausedOrResumed(name, place[0], ChannelState.RUNS, changed, said))


def waiting_files(site: Site) -> Problem | None:
    """Say how much room there is for the files of paused channels, if one is that comes in; nothing else bounds them.

    Only looks. Raises TransientError if the database fails.
    """
    with transient_errors(), reading(site.engine) as connection:
        still = sorted(name for way, name in pauses.paused(connection, site.off) if way is Direction.IN)
    arrived = _arrived(site)
    if not still or arrived is None:
        return None
    folder = site.spool.folders.incoming
    number = sum(arrived[name] for name in still)
    free = shutil.disk_usage(folder).free / 1e9
    return Problem(
        f"{number} batches of {', '.join(still)} lie in {printable(str(folder))}; {free:,.1f} GB are free there, and"
        " nothing else bounds what comes",
        "let the channel go on before that is full",
    )


def _way(site: Site, channel: Channel) -> Direction:
    return Direction.OUT if channel.source == site.network else Direction.IN


def _state(pause: Pause | None, there: PausedThere | None) -> ChannelState:
    if pause is None:
        return ChannelState.RUNS if there is None else ChannelState.PAUSED_THERE
    return ChannelState.PAUSED if pause.since else ChannelState.OFF


def _pending(connection: Connection, way: Direction, channel: Channel, arrived: Mapping[str, int] | None) -> int | None:
    if way is Direction.OUT:
        return capture.pending(connection, channel.streams)
    return None if arrived is None else arrived[channel.name]


def _arrived(site: Site) -> Counter[str] | None:
    """Count the batches in ``incoming/`` by declared channel; None if the folder can't be read."""
    try:
        sightings = site.spool.list_arrivals()
    except TransientError:
        return None
    names = Counter(one.name.channel for one in sightings.batches)
    found: Counter[str] = Counter()
    for name, number in names.items():
        channel = site.channel(name)
        if channel is not None:
            found[channel.declared] += number
    return found


def _place(site: Site, name: str, direction: Direction | None) -> Place:
    """Find where a channel goes. Raises RecordError."""
    ways = {one.name: _way(site, one) for one in site.channels}
    if name not in ways:
        known = ", ".join(sorted(ways))
        found = printable(repr(name), 80)
        raise RecordError("absurd", "", f"channel: expected a declared one ({known}), found {found}")
    if direction not in {None, ways[name]}:
        raise RecordError("absurd", "", f"channel {name} goes {ways[name]} here, not {direction}")
    return ways[name], name


def _who_is_at_work(site: Site, place: Place) -> str | None:
    """Say who works on a batch of a channel, if somebody does: whoever comes next finds the channel paused."""
    lock_of = export_lock if place[0] is Direction.OUT else import_lock
    for name in _names(site, place[1]):
        try:
            with suppress(TransientError), transient_errors(), locked(site.engine, lock_of(name)):
                pass
        except Busy as busy:
            return busy.who
    return None


def _names(site: Site, declared: str) -> Iterator[str]:
    for channel in site.channels:
        if channel.name == declared:
            yield from (one.name for one in channel.in_files())


def _told(site: Site, done: PausedOrResumed) -> PausedOrResumed:
    return replace(done, untold=control_batch.try_to_publish(site)) if done.changed else done
