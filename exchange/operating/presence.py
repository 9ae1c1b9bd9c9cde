"""Whether beat and worker are there and get something done: by their locks, and by what they leave word of.

The locks, which they hold while they live, tell of this machine, and of any other that shares the home in a file system
with locks; the database tells of all that is done, by whoever.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import clock, pauses
from exchange.database.dialects import dialect_of
from exchange.database.engine import among
from exchange.database.processes import Kind, Sign, read_signs, silent, this_host
from exchange.database.tables import BatchState, Direction, batch, success
from exchange.files.pid_lock import held
from exchange.operating.last_runs import stopped
from exchange.settings import Settings
from exchange.site import Site

LATE_PERIODS = 3
"""So many periods without work are too many."""
LEAST = timedelta(minutes=2)
"""No channel is late sooner."""

_BEGUN = {Direction.OUT: (BatchState.SEALED, BatchState.PUBLISHED), Direction.IN: (BatchState.APPLIED,)}
"""What a run that has not ended yet leaves in the ledger as it goes on."""


@dataclass(frozen=True)
class Process:
    """Beat, or a worker: whether one lives here, ``begun`` then, and the last ``sign`` of any, on whichever machine."""

    begun: datetime | None
    sign: Sign | None
    every_seconds: float
    """How often one leaves word that has not done so yet."""
    heard_since: datetime | None = None
    """Since when the database's server runs, if that is known: nobody could leave word before."""
    stopped_at: datetime | None = None
    """When the last one of this machine was told to stop, if none lives since."""

    @property
    def here(self) -> bool:
        """Whether one lives on this machine."""
        return self.begun is not None

    @property
    def quiet_since(self) -> datetime | None:
        """Since when nothing was heard: its last word, or its start; None if it never was."""
        moments = (self.begun, self.sign.at if self.sign else None)
        return max((one for one in moments if one is not None), default=None)

    @property
    def is_quiet(self) -> bool:
        """Whether word of it should have come long ago."""
        if self.quiet_since is None:
            return False
        every = self.sign.every_seconds if self.sign else self.every_seconds
        return silent(self.quiet_since, every) and (self.heard_since is None or silent(self.heard_since, every))

    @property
    def works(self) -> bool:
        """Whether one works, here or elsewhere. One of this machine whose lock is free is gone, whatever it said."""
        there = self.here or (self.sign is not None and self.sign.host != this_host())
        return there and not self.is_quiet


@dataclass(frozen=True)
class Presence:
    """Who is there, and when each channel was last exported or imported to its end; None: never."""

    beat: Process
    worker: Process
    last: Mapping[Direction, Mapping[str, datetime | None]]


def look_for_processes(settings: Settings, site: Site, connection: Connection) -> Presence:
    """Say who is there and what was done. Reads in the caller's transaction, a few rows."""
    signs, still, server_began = read_signs(connection), pauses.paused(connection, site.off), None
    if dialect_of(connection).is_postgresql:
        server_began = connection.scalar(sa.select(sa.func.pg_postmaster_start_time()))
    return Presence(
        _process(settings, Kind.BEAT, signs, 0, server_began),
        _process(settings, Kind.WORKER, signs, min(settings.export_every, settings.import_every), server_began),
        {
            Direction.OUT: _last_runs(connection, still, Direction.OUT, site.outgoing()),
            Direction.IN: _last_runs(connection, still, Direction.IN, site.incoming()),
        },
    )


def _process(
    settings: Settings, kind: Kind, signs: Mapping[Kind, Sign], every_seconds: float, heard_since: datetime | None
) -> Process:
    lock = settings.beat_lock if kind is Kind.BEAT else settings.worker_lock
    begun, stopped_at = _begun(lock, by_others=kind is Kind.WORKER), None
    if begun is None:
        with suppress(OSError):
            stopped_at = stopped(settings, kind, datetime.fromtimestamp(lock.stat().st_mtime, UTC))
    return Process(begun, signs.get(kind), every_seconds, heard_since, stopped_at)


def _last_runs(
    connection: Connection, still: Container[pauses.Place], direction: Direction, channels: Iterable[Channel]
) -> dict[str, datetime | None]:
    """Say when each channel was last done; of what is paused nothing, and one that goes on begins to count then."""
    resumed = pauses.resumed(connection, direction)
    running = [one for one in channels if (direction, one.declared) not in still]
    return {
        name: max(filter(None, (at, resumed.get(name))), default=None)
        for name, at in last_runs(connection, direction, running).items()
    }


def _begun(lock: Path, *, by_others: bool = False) -> datetime | None:
    """Say when the process that holds a lock took it; None if none does."""
    if not held(lock, by_others=by_others):
        return None
    with suppress(OSError):
        return datetime.fromtimestamp(lock.stat().st_mtime, UTC)
    return clock.now()


def last_runs(connection: Connection, direction: Direction, channels: Iterable[Channel]) -> dict[str, datetime | None]:
    """Say by its declared name when a channel was last done, all of its shards; None: never.

    Reads in the caller's transaction.
    """
    declared = {one.name: one.declared for one in channels}
    here = (success.c.direction == direction, among(connection, success.c.channel, declared))
    done = {row.channel: row.at for row in connection.execute(sa.select(success.c.channel, success.c.at).where(*here))}
    found: dict[str, datetime | None] = {}
    for name, channel in declared.items():
        at, before = done.get(name), found.get(channel)
        known = channel in found
        found[channel] = at if not known else None if at is None or before is None else min(at, before)
    return found


def is_late(at: datetime, period_seconds: float) -> bool:
    """Whether what is to be done each period was done too long ago; a moment that lies ahead is as long ago as any."""
    return clock.since(at) > max(LATE_PERIODS * timedelta(seconds=period_seconds), LEAST)


def last_batch(site: Site, connection: Connection, direction: Direction, channel: str) -> datetime | None:
    """Say when a batch of a channel last came as far as a run takes it: one may go on for long. A few glances.

    Reads in the caller's transaction.
    """
    parts = site.outgoing() if direction is Direction.OUT else site.incoming()
    newest = (
        connection.scalar(
            sa.select(batch.c.updated_at)
            .where(batch.c.state == state, batch.c.direction == direction, batch.c.channel == part.name)
            .order_by(batch.c.id.desc())
            .limit(1)
        )
        for part in parts
        if part.declared == channel
        for state in _BEGUN[direction]
    )
    return max(filter(None, newest), default=None)
