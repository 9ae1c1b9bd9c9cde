"""The brake on deletes: a table that is being emptied waits for a person, in one batch or in many small ones.

What batches deleted is counted by the hour, in the transaction that deletes it, so that a window of time can be looked
at: a batch counts together with those before it. A table whose rows come and go all day is not being emptied as long
as it has the rows that it had. What a person let in is not counted, and the counting begins anew behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from exchange.arrivals import Arrival
from exchange.channels import Channel, Stream
from exchange.database import now
from exchange.format.json import MAX_INTEGER
from exchange.models import deleted
from exchange.site import Limits, Site

MOST_COUNTED = 1_000_000
"""No more rows of a table are counted: where there are more, it is not looked whether they come and go."""


AT_A_TIME = 4
"""So many times more rows are looked for than are needed now."""


class Brake:
    """What to think of deletes in one stream of a batch's channel. Deletes of the batch itself are not counted yet."""

    def __init__(self, site: Site, connection: Connection, channel: Channel, stream: Stream) -> None:
        """Look at what was deleted of late."""
        self._connection = connection
        self._limits = site.limits
        self._stream = stream
        shard = channel.shard
        self._parts = shard.of if shard is not None and stream.name in shard.split else 1
        of_late = (deleted.c.stream == stream.name, deleted.c.hour > _hour() - window_hours(site.limits))
        sums = sa.select(sa.func.coalesce(sa.func.sum(deleted.c.deleted), 0), sa.func.max(deleted.c.rows))
        before, most = connection.execute(sums.where(*of_late)).one()
        self._before = int(before)
        self._most: int | None = most
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
        rows = self._rows(total, 1)
        left = rows - max(deletes - upserts, 0)
        if total <= (rows + self._before) * self._limits.deleted_share or self._comes_and_goes(left):
            return None
        hours = f"{self._limits.deleted_hours:g} hours"
        return (
            f"{what} of {rows} rows of {self._stream.table.name}, and batches before it deleted {self._before} within"
            f" {hours}: together {self._more_than()}"
        )

    def _comes_and_goes(self, left: int) -> bool:
        """Whether the table keeps its rows, however many went: others came."""
        known = self._most is not None and self._most < MOST_COUNTED
        return known and left >= (self._most or 0) * (1 - self._limits.deleted_share)

    def _more_than(self) -> str:
        return f"more than the set share of {self._limits.deleted_share:.0%}"

    def _rows(self, deletes: int, parts: int) -> int:
        """Count the rows that one of ``parts`` has, but hardly more than let it through: it is judged at every run."""
        share = self._limits.deleted_share
        enough = math.ceil(parts * deletes / share) + parts if share else MAX_INTEGER
        if enough > self._looked_for and self._found == self._looked_for:
            # Of a snapshot ever more rows turn out to go: they are not to be counted each time.
            self._looked_for = min(AT_A_TIME * enough, MAX_INTEGER)
            self._found = _count(self._connection, self._stream, self._looked_for)
        return self._found // parts


def window_hours(limits: Limits) -> int:
    """Say how many hours, the present one among them, are looked at together."""
    return math.ceil(limits.deleted_hours)


def note(
    site: Site, connection: Connection, arrival: Arrival, gone: Mapping[str, int], upserts: Mapping[str, int]
) -> None:
    """Count the rows that a batch just deleted, by stream, beside so many upserts, in the transaction that did.

    Where a person let the batch in, what went before it is forgotten with it.
    """
    hour = _hour()
    for name, number in gone.items():
        if not number:
            continue
        mine = deleted.c.stream == name
        old = mine if arrival.released else mine & (deleted.c.hour <= hour - window_hours(site.limits))
        connection.execute(sa.delete(deleted).where(old))
        here = sa.update(deleted).where(mine, deleted.c.hour == hour)
        if arrival.released or connection.execute(here.values(deleted=deleted.c.deleted + number)).rowcount:
            continue
        left = _count(connection, arrival.channel.stream(name), MOST_COUNTED)
        rows = min(left + max(number - upserts.get(name, 0), 0), MOST_COUNTED)
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        first = insert(deleted).values(stream=name, hour=hour, deleted=number, rows=rows)
        more = {"deleted": deleted.c.deleted + first.excluded.deleted}
        connection.execute(first.on_conflict_do_update(index_elements=["stream", "hour"], set_=more))


def _count(connection: Connection, stream: Stream, most: int) -> int:
    some = sa.select(sa.literal(1)).select_from(stream.table).limit(most)
    return connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0


def _hour() -> int:
    return int(now().timestamp()) // 3600
