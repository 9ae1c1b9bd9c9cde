"""What crossed of late: records by channel, direction and time, from the index of batches that are kept.

A batch that came counts when it was applied; one that went when it is known to have come, on a one-way link when it was
published. Control batches are no news. What was pruned is not counted any more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction, batch, is_kept
from exchange.format.as_dict import AsDict
from exchange.format.names import CONTROL
from exchange.site import Site

MOST_PARTS = 25
"""Into so many parts of whole hours a time is divided at most: a day ago is within an hour that had begun."""

_HOUR = 3600


@dataclass(frozen=True)
class ChannelCrossed(AsDict):
    """One channel in one direction; ``by_part`` has the records of each part of the time, the oldest first."""

    direction: Direction
    channel: str
    records: int
    batches: int
    bytes: int
    by_part: tuple[int, ...]


@dataclass(frozen=True)
class Crossed(AsDict):
    """What crossed in parts of so many hours each, the last one not over yet; ``counted_since`` is when it begins.

    What was pruned is missing, so that it begins no earlier than retention reaches.
    """

    counted_since: datetime
    hours: int
    channels: tuple[ChannelCrossed, ...]


def read_crossed(site: Site, since: datetime) -> Crossed:
    """Count what crossed since a moment; changes nothing. Raises TransientError if the database fails."""
    moment = now()
    kept = moment - timedelta(days=site.limits.retention_days)
    end = (math.floor(moment.timestamp()) // _HOUR + 1) * _HOUR
    asked = max(math.ceil((end - max(since, kept).timestamp()) / _HOUR), 1)
    hours = math.ceil(asked / MOST_PARTS)
    parts = math.ceil(asked / hours)
    begin = end - parts * hours * _HOUR
    came = (Direction.IN, BatchState.APPLIED)
    went = (Direction.OUT, BatchState.PUBLISHED if site.one_way else BatchState.ACKNOWLEDGED)
    declared = [(Direction.OUT, one.name) for one in site.outgoing()]
    declared += [(Direction.IN, one.name) for one in site.incoming()]
    found: dict[tuple[Direction, str], list[Sequence[int]]] = {place: [] for place in declared}
    with transient_errors(), reading(site.engine) as connection:
        for row in connection.execute(_COUNTED, {"begin": datetime.fromtimestamp(begin, moment.tzinfo)}):
            if (row.direction, row.state) in {came, went} and row.channel != CONTROL:
                place = (Direction(row.direction), row.channel)
                part = min(max(int(row.hour) - begin // _HOUR, 0) // hours, parts - 1)
                found.setdefault(place, []).append((part, int(row.records), int(row.batches), int(row.bytes)))
    counted = tuple(_channel(*place, rows, parts) for place, rows in found.items())
    return Crossed(datetime.fromtimestamp(begin, moment.tzinfo), hours, counted)


def _channel(direction: Direction, channel: str, rows: Sequence[Sequence[int]], parts: int) -> ChannelCrossed:
    by_part = [0] * parts
    for part, records, _, _ in rows:
        by_part[part] += records
    records, batches, size = (sum(row[at] for row in rows) for at in (1, 2, 3))
    return ChannelCrossed(direction, channel, records, batches, size, tuple(by_part))


_AT_HOUR = sa.cast(sa.extract("epoch", batch.c.updated_at), sa.BigInteger) // sa.literal_column(str(_HOUR), sa.Integer)
_PLACE = (batch.c.direction, batch.c.channel, batch.c.state)
_COUNTED = (
    # No state is asked for: an index of states would be read instead, with the whole ledger in it.
    sa.select(
        *_PLACE,
        _AT_HOUR.label("hour"),
        sa.func.sum(batch.c.records).label("records"),
        sa.func.count().label("batches"),
        sa.func.sum(batch.c.bytes).label("bytes"),
    )
    .where(batch.c.direction.in_(list(Direction)), batch.c.updated_at >= sa.bindparam("begin"), is_kept(batch))
    .group_by(*_PLACE, sa.text("4"))
)
