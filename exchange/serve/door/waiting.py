"""Long polls: many wait, and one reader of the process looks for all of them whether their requests are answered."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection

import structlog
from anyio.to_thread import run_sync

from exchange.database.locks import Busy
from exchange.format.errors import TransientError

LONGEST_SECONDS = 60
POLL_SECONDS = 0.5
MOST_WAITING = 200
"""So many wait at once: the other places for connections are for those who don't."""
MOST_OF_ONE = 20
"""So many requests one of them waits for."""

Look = Callable[[Collection[uuid.UUID]], set[uuid.UUID]]
"""Says which requests have a response; it may wait for the database, and is called in a thread."""


class TooManyWait(Exception):  # noqa: N818 - an answer to whoever asks
    """As many wait as may."""

    def __init__(self) -> None:
        super().__init__(f"{MOST_WAITING} wait already; ask again in a moment, or without `wait`")


class Waiting:
    """Those who wait. All of it belongs to the thread of the server's loop."""

    def __init__(self, look: Look) -> None:
        """Take what looks; it is called as long as somebody waits, once each half second for all."""
        self._look = look
        self._waiting: defaultdict[uuid.UUID, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.number = 0
        """How many wait."""

    async def for_one_of(self, wanted: Collection[uuid.UUID], seconds: float, gone: asyncio.Task[None]) -> bool:
        """Wait until one of some requests is answered, at most so long; tell whether one is.

        It ends, too, when ``gone`` does, as whoever asked is gone. Raises TooManyWait.
        """
        if self.number >= MOST_WAITING:
            raise TooManyWait
        wanted, answered = frozenset(list(wanted)[:MOST_OF_ONE]), asyncio.Event()
        self.number += 1
        for one in wanted:
            self._waiting[one].add(answered)
        if self._task is None:
            self._task = asyncio.create_task(self._poll())
        woken = asyncio.create_task(answered.wait())
        try:
            await asyncio.wait({woken, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return answered.is_set() and not self._stopped
        finally:
            woken.cancel()
            self.number -= 1
            for one in wanted:
                self._waiting[one].discard(answered)
                if not self._waiting[one]:
                    del self._waiting[one]
            if not self.number and self._task is not None:
                self._task.cancel()
                self._task = None

    async def stop(self) -> None:
        """Let everybody go."""
        self._stopped = True
        for events in self._waiting.values():
            for one in events:
                one.set()

    async def _poll(self) -> None:
        away = False
        while True:
            try:
                found = await run_sync(self._look, list(self._waiting), abandon_on_cancel=True)
                away = False
            except (TransientError, Busy) as error:
                if not away:
                    structlog.get_logger("exchange").warning("nobody is told of answers", message=str(error))
                found, away = set(), True
            for one in found:
                for answered in self._waiting.get(one, ()):
                    answered.set()
            await asyncio.sleep(POLL_SECONDS)
