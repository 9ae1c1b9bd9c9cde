"""What was asked at the door: by what, with which status, how long it took.

All processes of a side add it up in its database, as other counts of what was done.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from anyio import move_on_after
from anyio.to_thread import run_sync
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlalchemy import Engine

from exchange.database.tables import Direction
from exchange.database.tally import ANSWER, ANSWERED, Tally
from exchange.format.errors import TransientError
from exchange.settings import SettingsFaults

WRITTEN_SECONDS = 10.0
"""So often what was counted is added to what the database has: a process that is killed takes so much with it."""

SETTLED_SECONDS = 1.5
"""So long a scrape, and the end of the process, wait for that."""


class Counting:
    """For any number of threads. Labels are those of the API's table: nobody can make up others."""

    def __init__(self, network: str, engine: Callable[[], Engine], waiting: Callable[[], int]) -> None:
        """Take the side's name, what gives its database, and what says how many wait for an answer."""
        self._engine, self._tally, self._writing = engine, Tally(), threading.Lock()
        self._registry = CollectorRegistry()
        said = "How many wait for an answer to a request, of the process that was asked."
        gauge = Gauge("exchange_door_waiting", said, ("network", "process"), registry=self._registry)
        gauge.labels(network, str(os.getpid())).set_function(waiting)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Note an answer, and how long it took without the time that whoever asked wanted to wait."""
        self._tally.count(ANSWERED, Direction.IN, endpoint, str(status))
        self._tally.took(ANSWER, Direction.IN, endpoint, seconds)

    async def keep_written(self) -> None:
        """Write down again and again what was counted, until it is cancelled."""
        while True:
            await asyncio.sleep(WRITTEN_SECONDS)
            await run_sync(self._write, abandon_on_cancel=True)

    async def settle(self) -> None:
        """Write down what was counted; a database that hangs is not waited for."""
        with move_on_after(SETTLED_SECONDS):
            await run_sync(self._write, abandon_on_cancel=True)

    def _write(self) -> None:
        """Write down what was counted; what can't be written now is kept. One thread at a time may hang in it."""
        if self._tally.is_empty or not self._writing.acquire(blocking=False):
            return
        try:
            with suppress(SettingsFaults, TransientError):
                self._tally.write(self._engine())
        finally:
            self._writing.release()

    def render(self) -> bytes:
        """Give what is this process's alone in Prometheus' text format."""
        return generate_latest(self._registry)
