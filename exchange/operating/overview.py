"""The link at a glance: what lies where between both databases, and what shows that each stretch of it works.

It costs the same however long the ledger is: counts are kept as they change, and of what grows only some is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import batch_counts
from exchange.database.errors import transient_errors
from exchange.database.failed_runs import FailedRuns
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction, batch, is_kept
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError
from exchange.format.names import CONTROL, BatchName
from exchange.operating.status import ChannelStatus, Status, read_status
from exchange.site import Site

MOST_PENDING = 100_000
"""So many pending changes of a channel are counted at most."""

MOST_FILES = 5_000
"""So many files of ``outgoing/`` are listed at most."""

MOST_BATCHES = 200
"""Of so many published batches of a channel, the oldest, it is looked whether the carrier has them."""

_FEW = 10


@dataclass(frozen=True)
class Outgoing(AsDict):
    """What lies in ``outgoing/``: so many batches, ``more`` if not all were listed.

    ``untaken`` of them were published and are not acknowledged, the oldest ``untaken_since``; what is acknowledged and
    lies there was left by the carrier, which may.
    """

    batches: int
    more: bool
    untaken: int
    untaken_since: datetime | None


@dataclass(frozen=True)
class Arrived(AsDict):
    """The batch of ours of which the other side said last that it has it: published, and known to be there."""

    batch: str
    published_at: datetime
    known_at: datetime


@dataclass(frozen=True)
class Overview:
    """The link as it is. ``trouble`` says why ``outgoing/`` can't be read.

    ``came_at`` is when something last came from the other side, as far as it was looked at; ``resent`` how often
    batches of a channel were published once more.
    """

    status: Status
    outgoing: Outgoing | None
    trouble: str | None
    arrived: Arrived | None
    came_at: datetime | None
    resent: Mapping[str, int]

    def failed(self, one: ChannelStatus) -> FailedRuns | None:
        """Give the last error of a channel that was not done since."""
        place = (one.direction, one.channel)
        return next((run for run in self.status.failed_runs if (run.direction, run.channel) == place), None)

    @property
    def sent(self) -> list[ChannelStatus]:
        """Give the channels that this side sends."""
        return [one for one in self.status.channels if one.direction is Direction.OUT]

    @property
    def received(self) -> list[ChannelStatus]:
        """Give those that it receives."""
        return [one for one in self.status.channels if one.direction is Direction.IN]

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "status": self.status.as_dict(),
            "outgoing": self.outgoing.as_dict() if self.outgoing else None,
            "trouble": self.trouble,
            "arrived": self.arrived.as_dict() if self.arrived else None,
            "came_at": self.came_at.isoformat() if self.came_at else None,
            "resent": dict(self.resent),
        }


def read_overview(site: Site) -> Overview:
    """Look at the link; changes nothing. Raises TransientError if the database fails."""
    status = read_status(site, most_pending=MOST_PENDING)
    channels = [one.channel for one in status.channels if one.direction is Direction.OUT]
    with transient_errors(), reading(site.engine) as connection:
        under_way = [row for one in channels if one != CONTROL for row in _published(site, connection, one)]
        known = [row for one in {*channels, CONTROL} for row in _newest_acknowledged(connection, one)]
        came_at = _last_came(connection)
        resent = batch_counts.count_resent(connection)
    try:
        outgoing, trouble = _outgoing(site, under_way), None
    except TransientError as error:
        outgoing, trouble = None, error.sentence
    newest = status.arrivals.newest_at if status.arrivals else None
    return Overview(
        status=status,
        outgoing=outgoing,
        trouble=trouble,
        arrived=max(known, key=lambda one: one.known_at, default=None),
        came_at=max(filter(None, (came_at, newest)), default=None),
        resent=resent,
    )


def _published(site: Site, connection: Connection, channel: str) -> list[tuple[BatchName, datetime]]:
    """Give what is published and not acknowledged, under its last name, the oldest first.

    On a one-way link nothing ever is acknowledged: there the newest.
    """
    query = (
        sa.select(batch.c.stem, batch.c.attempt, batch.c.created_at, batch.c.published_at)
        .where(batch.c.state == BatchState.PUBLISHED, batch.c.direction == Direction.OUT, batch.c.channel == channel)
        .order_by(batch.c.id.desc() if site.one_way else batch.c.id)
        .limit(MOST_BATCHES)
    )
    return [
        (BatchName.parse(row.stem).again(row.attempt), row.published_at or row.created_at)
        for row in connection.execute(query)
    ]


def _newest_acknowledged(connection: Connection, channel: str) -> list[Arrived]:
    here = (batch.c.direction == Direction.OUT, batch.c.channel == channel)
    query = (
        sa.select(batch.c.stem, batch.c.created_at, batch.c.published_at, batch.c.updated_at)
        .where(batch.c.state == BatchState.ACKNOWLEDGED, *here)
        .order_by(batch.c.id.desc())
        .limit(1)
    )
    return [Arrived(row.stem, row.published_at or row.created_at, row.updated_at) for row in connection.execute(query)]


def _last_came(connection: Connection) -> datetime | None:
    """Say when a batch came that was not in the ledger before, of those that were looked at last."""
    lately = (
        sa.select(batch.c.created_at)
        .where(batch.c.direction == Direction.IN, is_kept(batch))
        .order_by(batch.c.updated_at.desc())
        .limit(_FEW)
    )
    return max(connection.scalars(lately), default=None)


def _outgoing(site: Site, under_way: list[tuple[BatchName, datetime]]) -> Outgoing:
    since = dict(under_way)
    number, more, there = site.spool.look_outgoing(since, MOST_FILES)
    return Outgoing(number, more, len(there), min((since[one] for one in there), default=None))
