"""Counts of what was done and how long it took, for metrics: noted in memory, added up in the database after the work.

They are no part of the work. What can't be written down is kept for the next time, and what a killed process had
noted is lost: at most what it did since its last run ended. What must be right to the last batch is counted by
triggers (``exchange_batch_count``), whoever moves a batch.
"""

from __future__ import annotations

import bisect
import functools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from exchange.database.dialects import Dialect, dialect_of
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, writing
from exchange.database.tables import Direction, work_count
from exchange.format.errors import TransientError

BOUNDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
"""The upper ends of the buckets that durations are counted in, in seconds; beyond the last one there is one more."""

BUSY = "busy"
RETRIED = "retried"
"""What is counted and has no duration."""

ANSWERED = "http_status"
ANSWER = "http_answer"
"""What was answered over HTTP: by which status, and how long that took. Its channel is the name of what was asked."""

PATIENCE_SECONDS = 0.2
"""So long a writer of SQLite's file is waited for: a count is worth no more, and the next run writes it too."""


class Counted(NamedTuple):
    """What is counted together. ``label`` is an outcome, or for a step the number of the bucket of how long it took."""

    what: str
    direction: Direction
    channel: str
    label: str


class Tally:
    """What one side did in this process and did not write down yet. Any number of threads may use one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: defaultdict[Counted, tuple[int, int]] = defaultdict(lambda: (0, 0))

    @property
    def is_empty(self) -> bool:
        """Whether all that was noted is written down."""
        return not self._noted

    def count(self, what: str, direction: Direction, channel: str, label: str = "", number: int = 1) -> None:
        """Note that something happened so many times."""
        if number:
            self._add(Counted(what, direction, channel, label), number, 0)

    def took(self, step: str, direction: Direction, channel: str, seconds: float) -> None:
        """Note how long a step took; less than nothing, as two clocks may have it, is nothing."""
        seconds = max(seconds, 0.0)
        label = str(bisect.bisect_left(BOUNDS, seconds))
        self._add(Counted(step, direction, channel, label), 1, round(seconds * 1_000_000))

    @contextmanager
    def timing(self, step: str, direction: Direction, channel: str) -> Iterator[None]:
        """Note how long the block takes; of one that raises nothing is noted."""
        began = time.monotonic()
        yield
        self.took(step, direction, channel, time.monotonic() - began)

    def _add(self, counted: Counted, number: int, microseconds: int) -> None:
        with self._lock:
            before = self._noted[counted]
            self._noted[counted] = (before[0] + number, before[1] + microseconds)

    def write(self, engine: Engine) -> None:
        """Add what was noted to what the database has; keep it, if that can't be written now.

        Commits a transaction of its own. Raises nothing that a workflow would have to know of.
        """
        with self._lock:
            noted, self._noted = self._noted, defaultdict(lambda: (0, 0))
        if not noted:
            return
        rows = [
            {**counted._asdict(), "number": number, "microseconds": microseconds}
            for counted, (number, microseconds) in sorted(noted.items())  # in one order: two processes never deadlock
        ]
        adding = _adding(dialect_of(engine))
        with suppress(Busy, TransientError, IntegrityError):
            with transient_errors(), writing(engine, patience_seconds=PATIENCE_SECONDS) as connection:
                connection.execute(adding, rows)
            return
        for counted, values in noted.items():
            self._add(counted, *values)


@functools.cache
def _adding(dialect: Dialect) -> sa.Executable:
    inserting = dialect.insert(work_count)
    more = {name: work_count.c[name] + inserting.excluded[name] for name in ("number", "microseconds")}
    statement: sa.Executable = inserting.on_conflict_do_update(index_elements=Counted._fields, set_=more)
    return statement
