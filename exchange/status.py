"""Status: how far each channel has come, and what waits for somebody.

Everything is counted from indexes alone: years of history in the ledger cost a glance.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange import alarming, capture, dead_letters, ledger
from exchange.channels import Channel
from exchange.database import now, reading, world_errors
from exchange.dead_letters import Backlog
from exchange.format.errors import WorldError
from exchange.models import HOLDS_PLACE, BatchState, Direction, batch, position, success
from exchange.site import Site
from exchange.spool import MARKER

_SHOWN = {
    Direction.OUT: (BatchState.SEALED, BatchState.PUBLISHED, BatchState.ACKNOWLEDGED, BatchState.REJECTED),
    Direction.IN: (BatchState.APPLIED, BatchState.WAITING, BatchState.HELD, BatchState.QUARANTINED),
}


@dataclass(frozen=True)
class ChannelStatus:
    """One channel: ``pending`` counts changes that no batch carries yet, the others count batches by state."""

    channel: str
    direction: Direction
    pending: int = 0
    sealed: int = 0
    published: int = 0
    acknowledged: int = 0
    rejected: int = 0
    applied: int = 0
    waiting: int = 0
    held: int = 0
    quarantined: int = 0
    sequence: int = 0
    last_success_at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        moment = self.last_success_at
        return {
            **self.__dict__,
            "direction": self.direction.value,
            "last_success_at": moment.isoformat() if moment else None,
        }


@dataclass(frozen=True)
class Arrivals:
    """What lies in ``incoming/``: ``batches`` that have a manifest, data files without one, and what is no batch."""

    batches: int
    unpaired: int
    ignored: int

    def as_dict(self) -> dict[str, int]:
        """Give the fields as numbers."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Status:
    """This side at a glance.

    ``trouble`` says what is wrong with a shared folder; if ``incoming/`` can't be read at all, ``arrivals`` is None.
    """

    network: str
    peer: str
    epoch: str | None
    channels: tuple[ChannelStatus, ...]
    backlog: Backlog
    alarms: tuple[str, ...]
    arrivals: Arrivals | None
    trouble: str | None = field(default=None)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "network": self.network,
            "peer": self.peer,
            "epoch": self.epoch,
            "channels": [channel.as_dict() for channel in self.channels],
            "dead_letters": self.backlog.as_dict() | {"alarms": list(self.alarms)},
            "arrivals": self.arrivals.as_dict() if self.arrivals else None,
        }


@dataclass(frozen=True)
class BatchRow:
    """A batch of the ledger as people list it."""

    batch: str
    direction: Direction
    channel: str
    epoch: str
    sequence: int
    state: BatchState
    reason: str | None
    message: str | None
    records: ledger.Counts
    total: int
    bytes: int
    created_at: datetime
    updated_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            **self.__dict__,
            "direction": self.direction.value,
            "state": self.state.value,
            "records": self.records.as_dict(),
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


def look(site: Site) -> Status:
    """Count where everything stands; changes nothing. Raises WorldError if the database fails."""
    with world_errors(), reading(site.engine) as connection:
        epoch = ledger.known_epoch(connection, site.network)
        channels = _channels(site, connection)
        backlog = dead_letters.backlog(connection)
    alarms = alarming.sentences(backlog, site.limits, now())
    try:
        sightings = site.spool.sight()
    except WorldError as error:
        return Status(site.network, site.peer, epoch, channels, backlog, alarms, None, error.sentence)
    arrivals = Arrivals(len(sightings.found), sightings.unpaired, sightings.ignored)
    return Status(site.network, site.peer, epoch, channels, backlog, alarms, arrivals, _lost_marker(site))


def _lost_marker(site: Site) -> str | None:
    for folder in (site.spool.folders.outgoing, site.spool.folders.incoming):
        if not (folder / MARKER).exists():
            return f"{folder} has no marker {MARKER}: nothing advances; `exchange doctor` says what to do"
    return None


def batches(
    connection: Connection,
    *,
    channels: Collection[str] | None = None,
    state: BatchState | None = None,
    direction: Direction | None = None,
    limit: int = 50,
) -> list[BatchRow]:
    """Give the ledger's batches, newest first; of some channels, by their names in the files, or of all."""
    query = sa.select(batch).order_by(batch.c.id.desc()).limit(limit)
    if channels is not None:
        query = query.where(batch.c.channel.in_(channels))
    for column, wanted in ((batch.c.state, state), (batch.c.direction, direction)):
        if wanted is not None:
            query = query.where(column == wanted)
    return [
        BatchRow(
            batch=row.stem,
            direction=Direction(row.direction),
            channel=row.channel,
            epoch=row.epoch,
            sequence=row.sequence,
            state=BatchState(row.state),
            reason=row.reason,
            message=row.message,
            records=ledger.Counts(row.applied, row.duplicate, row.stale, row.parked),
            total=row.records,
            bytes=row.bytes,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        for row in connection.execute(query)
    ]


def _channels(site: Site, connection: Connection) -> tuple[ChannelStatus, ...]:
    counts = _count_states(connection)
    positions = {
        (row.direction, row.channel): row
        for row in connection.execute(
            sa.select(position.c.direction, position.c.channel, position.c.sequence).where(position.c.current == 1)
        )
    }
    successes = {(row.direction, row.channel): row.at for row in connection.execute(sa.select(success))}
    declared = [(Direction.OUT, one) for one in site.outgoing()] + [(Direction.IN, one) for one in site.incoming()]
    found = []
    for direction, name, channel in [(way, one.name, one) for way, one in declared] + _undeclared(counts, declared):
        at = positions.get((direction, name))
        found.append(
            ChannelStatus(
                name,
                direction,
                pending=_pending(connection, channel) if direction is Direction.OUT else 0,
                **{state.value: counts[direction, name, state] for state in _SHOWN[direction]},
                sequence=at.sequence if at else 0,
                last_success_at=successes.get((direction, name)),
            )
        )
    return tuple(found)


def _pending(connection: Connection, channel: Channel | None) -> int:
    return 0 if channel is None else capture.pending(connection, channel.streams, shard=channel.shard)


def _count_states(connection: Connection) -> Counter[tuple[Direction, str, BatchState]]:
    counts: Counter[tuple[Direction, str, BatchState]] = Counter()
    columns = (batch.c.state, batch.c.direction, batch.c.channel)  # as an index has them: no row is read
    for state, direction, channel, number in connection.execute(
        sa.select(*columns, sa.func.count()).group_by(*columns)
    ):
        counts[Direction(direction), channel, BatchState(state)] = number
    for direction, channel, number in connection.execute(_MENDED):
        counts[Direction(direction), channel, BatchState.QUARANTINED] -= number
    return counts


_later = batch.alias("later")

_MENDED = (
    sa.select(batch.c.direction, batch.c.channel, sa.func.count())
    .where(
        batch.c.state == BatchState.QUARANTINED,
        sa.exists().where(
            _later.c.direction == batch.c.direction,
            _later.c.channel == batch.c.channel,
            _later.c.epoch == batch.c.epoch,
            _later.c.sequence == batch.c.sequence,
            sa.text(re.sub(r"\b(?=state\b|direction\b|manifest\b)", "later.", HOLDS_PLACE)),
            _later.c.state == BatchState.APPLIED,
            _later.c.updated_at >= batch.c.updated_at,
        ),
    )
    .group_by(batch.c.direction, batch.c.channel)
)
"""What was quarantined and has been applied since, carried again or replayed, is nobody's worry any more."""


def _undeclared(
    counts: Iterable[tuple[Direction, str, BatchState]], declared: list[tuple[Direction, Channel]]
) -> list[tuple[Direction, str, None]]:
    """Name channels that the ledger knows and no declaration: batches from strangers, or of a channel now gone."""
    known = {(direction, channel.name) for direction, channel in declared}
    return [(*place, None) for place in sorted({(way, name) for way, name, _ in counts} - known)]
