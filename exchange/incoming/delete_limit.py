"""The brake on deletes: a table that is being emptied waits for a person, in one batch or in many small ones.

What batches deleted is counted by the hour, in the transaction that deletes it, so that a window of time can be looked
at: a batch counts together with those before it. A table whose rows come and go all day is not being emptied as long
as it has the rows that it had. What a person let in is not counted, and the counting begins anew behind it.

Of a large table with few deletes no more rows are counted than say that it has plenty: a multiple of what was deleted,
at the first delete of an hour and whenever that has doubled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.engine import now
from exchange.database.tables import deleted
from exchange.format.strict_json import MAX_INTEGER
from exchange.incoming.manifests import Arrival
from exchange.limits import Limits
from exchange.site import Site

MOST_COUNTED = 2**24
"""No more rows of a table are counted, however many were deleted."""

AT_A_TIME = 4
"""So many times more rows are looked for than are needed now."""

AHEAD = 2
"""And so many times more are counted for the batches to come: enough until twice as many are deleted."""


class DeleteLimit:
    """What to think of deletes in one stream of a batch's channel. Deletes of the batch itself are not counted yet."""

    def __init__(self, site: Site, connection: Connection, channel: Channel, stream: Stream) -> None:
        """Look at what was deleted of late."""
        self._connection = connection
        self._limits = site.limits
        self._stream = stream
        shard = channel.shard
        self._parts = shard.of if shard is not None and stream.name in shard.split else 1
        self._past = _Past(connection, stream.name, _hour() - window_hours(site.limits))
        self._before = self._past.deleted
        self._looked_for = 0
        self._found = 0

    def is_near(self, deletes: int) -> bool:
        """Whether so many deletes more are so many that rows must be counted."""
        return self._before + deletes > self._limits.deleted_rows

    def refusal(self, deletes: int, what: str, *, upserts: int = 0) -> str | None:
        """Say why so many deletes beside so many upserts are too many, as ``what`` begins it; None if they are not."""
        if not self.is_near(deletes):
            return None
        return self._of_the_batch(deletes, what) or self._of_the_window(deletes, what, upserts)

    def _of_the_batch(self, deletes: int, what: str) -> str | None:
        """Look at the batch alone, beside the rows that its shard has."""
        if deletes <= self._limits.deleted_rows:
            return None
        rows = self._rows(deletes, self._parts)
        if deletes <= rows * self._limits.deleted_share:
            return None
        of_shards = "" if self._parts == 1 else f" that one of {self._parts} shards has"
        return f"{what} of {rows} rows of {self._stream.table.name}{of_shards}, {self._more_than()}"

    def _of_the_window(self, deletes: int, what: str, upserts: int) -> str | None:
        """Look at it together with those before it, beside all rows that there were meanwhile."""
        if not self._before:
            return None
        total = self._before + deletes
        if self._is_part(total, self._past.at_least()):
            return None  # as at nearly every batch: nothing is counted for it
        rows = self._rows(total, 1)
        left = rows - max(deletes - upserts, 0)
        if self._is_part(total, rows) or self._comes_and_goes(rows, left):
            return None
        hours = f"{self._limits.deleted_hours:g} hours"
        return (
            f"{what} of {rows} rows of {self._stream.table.name}, and batches before it deleted {self._before} within"
            f" {hours}: together {self._more_than()}"
        )

    def _is_part(self, total: int, rows: int) -> bool:
        """Whether so many deletes are no more than the set share of the rows that there are and that went."""
        return total <= (rows + self._before) * self._limits.deleted_share

    def _comes_and_goes(self, rows: int, left: int) -> bool:
        """Whether the table keeps its rows, however many went: others came."""
        return left >= self._past.most(rows) * (1 - self._limits.deleted_share)

    def _more_than(self) -> str:
        return f"more than the set share of {self._limits.deleted_share:.0%}"

    def _rows(self, deletes: int, parts: int) -> int:
        """Count the rows that one of ``parts`` has, but hardly more than let it through: it is judged at every run."""
        enough = parts * _enough(self._limits, deletes) + parts
        if enough > self._looked_for and self._found == self._looked_for:
            # Of a snapshot ever more rows turn out to go: they are not to be counted each time.
            self._looked_for = min(AT_A_TIME * enough, MAX_INTEGER)
            self._found = _count(self._connection, self._stream, self._looked_for)
        return self._found // parts


@dataclass(frozen=True)
class _Hour:
    """What was deleted in an hour, and how many rows there were before; that or more, if the counting was cut off."""

    hour: int
    deleted: int
    rows: int

    @property
    def is_cut(self) -> bool:
        """Whether the counting was cut off: that happens at powers of two. One that is exact does no harm as well."""
        return self.rows >= MOST_COUNTED or self.rows & (self.rows - 1) == 0


class _Past:
    """What was deleted of a stream of late."""

    def __init__(self, connection: Connection, stream: str, after: int) -> None:
        """Read of the hours after that one."""
        columns = sa.select(deleted.c.hour, deleted.c.deleted, deleted.c.rows)
        of_late = columns.where(deleted.c.stream == stream, deleted.c.hour > after)
        self._hours = [_Hour(*row) for row in connection.execute(of_late.order_by(deleted.c.hour.desc()))]
        self.deleted = sum(one.deleted for one in self._hours)

    def of(self, hour: int) -> _Hour | None:
        """Give what is known of an hour."""
        return next((one for one in self._hours if one.hour == hour), None)

    def at_least(self) -> int:
        """Say how many rows there still are at least: those that there were, but for all that went since."""
        gone = least = 0
        for one in self._hours:
            gone += one.deleted
            least = max(least, one.rows - gone)
        return least

    def most(self, rows: int) -> int:
        """Say how many rows there were at most at the beginning of any hour, beside so many now.

        Where the counting was cut off, there were no more than were there later and those that went meanwhile.
        """
        most, there = 0, rows
        for one in self._hours:
            there = there + one.deleted if one.is_cut else one.rows
            most = max(most, there)
        return most


def window_hours(limits: Limits) -> int:
    """Say how many hours, the present one among them, are looked at together."""
    return math.ceil(limits.deleted_hours)


def count_deletes(
    site: Site, connection: Connection, arrival: Arrival, gone: Mapping[str, int], upserts: Mapping[str, int]
) -> None:
    """Count the rows that a batch just deleted, by stream, beside so many upserts, in the transaction that did.

    Where a person let the batch in, what went before it is forgotten with it.
    """
    hour = _hour()
    passed = hour - window_hours(site.limits)
    for name, number in gone.items():
        if not number:
            continue
        mine = deleted.c.stream == name
        _redate(connection, name, hour)
        old = mine if arrival.released else mine & (deleted.c.hour <= passed)
        connection.execute(sa.delete(deleted).where(old))
        if arrival.released:
            continue
        here = sa.update(deleted).where(mine, deleted.c.hour == hour)
        connection.execute(here.values(deleted=deleted.c.deleted + number))
        past = _Past(connection, name, passed)
        known = past.of(hour)
        bound = _bound(site.limits, past.deleted + (0 if known else number))
        if known is not None and (not known.is_cut or known.rows >= bound):
            continue
        left = _count(connection, arrival.channel.stream(name), bound)
        if known is not None:  # what came in this hour is not known: there were so many before it, or fewer
            connection.execute(here.values(rows=min(left + known.deleted, bound)))
            continue
        rows = min(left + max(number - upserts.get(name, 0), 0), bound)
        first = dialect_of(connection).insert(deleted).values(stream=name, hour=hour, deleted=number, rows=rows)
        more = {"deleted": deleted.c.deleted + first.excluded.deleted}
        connection.execute(first.on_conflict_do_update(index_elements=["stream", "hour"], set_=more))


def _redate(connection: Connection, stream: str, hour: int) -> None:
    """Count what was deleted while the clock was ahead as if it had been now: it would count until then."""
    future = (deleted.c.stream == stream, deleted.c.hour > hour + 1)
    said = sa.select(sa.func.sum(deleted.c.deleted).label("deleted"), sa.func.max(deleted.c.rows).label("rows"))
    sums = connection.execute(said.where(*future)).one()
    if sums.deleted is None:
        return
    connection.execute(sa.delete(deleted).where(*future))
    moved = dialect_of(connection).insert(deleted).values(stream=stream, hour=hour, **sums._asdict())
    more = {"deleted": deleted.c.deleted + moved.excluded.deleted}
    connection.execute(moved.on_conflict_do_update(index_elements=["stream", "hour"], set_=more))


def _enough(limits: Limits, deletes: int) -> int:
    """Say of how many rows so many deletes are the set share."""
    return math.ceil(deletes / limits.deleted_share) if limits.deleted_share else MAX_INTEGER


def _bound(limits: Limits, deletes: int) -> int:
    """Say how far to count rows beside so many deletes: to a power of two, which tells later that it was cut off."""
    enough = min(AHEAD * _enough(limits, deletes), MOST_COUNTED)
    return min(1 << (enough - 1).bit_length(), MOST_COUNTED)


def _count(connection: Connection, stream: Stream, most: int) -> int:
    some = sa.select(sa.literal(1)).select_from(stream.table).limit(most)
    return connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0


def _hour() -> int:
    return int(now().timestamp()) // 3600
