"""The last error of each channel: how many runs of it failed since it was last done, and why the last one did."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, writing
from exchange.database.tables import Direction, failed_run
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError, printable

MAX_MESSAGE = 500
"""So many characters of an error's sentence are kept."""


@dataclass(frozen=True)
class FailedRuns(AsDict):
    """So many exports or imports of a channel failed, the first one ``since``, the last one for ``message``."""

    direction: Direction
    channel: str
    runs: int
    since: datetime
    at: datetime
    message: str

    def __str__(self) -> str:
        """Say it for people."""
        what = "export" if self.direction is Direction.OUT else "import"
        runs = f"1 {what} failed at" if self.runs == 1 else f"{self.runs} {what}s failed since"
        return f"channel {self.channel}: {runs} {self.since:%Y-%m-%d %H:%M} UTC: {self.message}"


@contextmanager
def noted_failures(engine: Engine, direction: Direction, channels: Collection[str]) -> Iterator[None]:
    """Note what the block raises as TransientError as the last error of channels, and let it go on."""
    try:
        yield
    except TransientError as error:
        note_failure(engine, direction, channels, error.sentence)
        raise


def note_failure(engine: Engine, direction: Direction, channels: Collection[str], sentence: str) -> None:
    """Count a run of channels that failed, unless the database can't be written: then its caller's word is all.

    Commits a transaction of its own, on a connection of its own.
    """
    with suppress(Busy, TransientError, IntegrityError), transient_errors(), writing(engine) as connection:
        for channel in sorted(channels):  # in one order, so that two processes never wait for each other
            here = (failed_run.c.direction == direction, failed_run.c.channel == channel)
            last = {"at": now(), "message": printable(sentence, MAX_MESSAGE)}
            again = sa.update(failed_run).where(*here).values(runs=failed_run.c.runs + 1, **last)
            if not connection.execute(again).rowcount:
                first = {"direction": direction, "channel": channel, "runs": 1, "since": last["at"]}
                connection.execute(sa.insert(failed_run).values(**first, **last))


def failed_among(connection: Connection, direction: Direction, channels: Collection[str]) -> set[str]:
    """Give those of some channels that were not done since a run of them failed. Reads in the caller's transaction."""
    return set(connection.scalars(_FAILED, {"direction": direction})) & set(channels)


_FAILED = sa.select(failed_run.c.channel).where(failed_run.c.direction == sa.bindparam("direction"))


def forget_failures(connection: Connection, direction: Direction, channels: Collection[str]) -> None:
    """Forget the errors of channels that were done. In the caller's transaction, which commits it."""
    if channels:
        done = sa.delete(failed_run).where(failed_run.c.direction == direction, failed_run.c.channel.in_(channels))
        connection.execute(done)


def list_failed_runs(connection: Connection, channels: Collection[str]) -> list[FailedRuns]:
    """Give the last error of each of some channels that was not done since.

    Only reads, in the caller's transaction.
    """
    query = sa.select(failed_run).where(failed_run.c.channel.in_(channels))
    rows = connection.execute(query.order_by(failed_run.c.channel, failed_run.c.direction))
    return [FailedRuns(Direction(row.direction), row.channel, row.runs, row.since, row.at, row.message) for row in rows]
