"""Strangers as they were counted: by day and cause, and whether there is room for more. Only looks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.engine import now
from exchange.database.tables import stranger
from exchange.format.as_dict import AsDict
from exchange.format.errors import Problem, Reason
from exchange.site import Site

NEWS = timedelta(days=1)
"""For so long those that came are said to be there."""


@dataclass(frozen=True)
class StrangersOfDay(AsDict):
    """What came of a day for one cause: how many batches, the bytes of all their files, and some of them by name."""

    day: date
    cause: Reason
    batches: int
    bytes: int
    first_at: datetime
    last_at: datetime
    samples: tuple[dict[str, str], ...]

    @property
    def problem(self) -> Problem:
        """Say it for people."""
        some = ", ".join(sample["batch"] for sample in self.samples[:2])
        return Problem(
            f"on {self.day} {self.batches} batches came that nobody vouches for ({self.cause}), such as {some}; they"
            " changed nothing",
            "`exchange quarantine strangers` shows them by day and cause",
            "exchange quarantine strangers",
            self.first_at,
        )


def strangers_by_day(
    connection: Connection, *, since: datetime | None = None, limit: int | None = None
) -> list[StrangersOfDay]:
    """Give what came, by day and cause, the newest first: all of it, or what came ``since`` a moment.

    Only reads, in the caller's transaction.
    """
    query = sa.select(stranger).order_by(stranger.c.day.desc(), stranger.c.batches.desc()).limit(limit)
    if since is not None:
        query = query.where(stranger.c.last_at >= since)
    return [
        StrangersOfDay(
            row.day,
            Reason(row.cause),
            row.batches,
            row.bytes,
            row.first_at,
            row.last_at,
            tuple(json.loads(row.samples)),
        )
        for row in connection.execute(query)
    ]


def recent_strangers(connection: Connection) -> tuple[StrangersOfDay, ...]:
    """Give what came of late. Only reads, in the caller's transaction."""
    return tuple(strangers_by_day(connection, since=now() - NEWS))


def lack_of_room(site: Site) -> Problem | None:
    """Say that no more of them are kept, if so. Raises TransientError. Looks at the files alone."""
    files, size = site.spool.used_by_strangers()
    if files >= site.limits.stranger_files or size >= site.limits.stranger_bytes:
        return Problem(
            f"{files} files of {size} bytes are kept that nobody vouches for, and no more may be"
            " (EXCHANGE_STRANGER_FILES, EXCHANGE_STRANGER_BYTES): what comes now stays in incoming; see who brings"
            " them",
            "`exchange quarantine clear --reason TEXT` makes room",
            "exchange quarantine clear --reason TEXT",
        )
    return None
