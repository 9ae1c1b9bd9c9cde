"""What happens, told to whoever listens: one reader for the process, however many pages look."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress

from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError

from exchange.format.errors import TransientError
from exchange.operating.happenings import Happening
from exchange.settings import SettingsFaults

POLL_SECONDS = 1.0
STREAM_SECONDS = 300.0
"""A stream ends after so long, and the browser comes again."""
MOST_STREAMS = 20
"""So many pages are told at once: the places of health checks are nobody's else."""
MOST_REMEMBERED = 2_000

Mark = Mapping[str, int]
"""How far somebody has seen: the greatest number of each source."""


News = tuple[list[Happening], str]
"""What is new, the oldest first, and why nothing can be read; empty if it can."""


class Feed:
    """Reads what happens as long as somebody listens. All of it belongs to the thread of the server's loop."""

    def __init__(self, read: Callable[[], Sequence[Happening]]) -> None:
        """Take what reads the newest; it may wait for the database, and is called in a thread."""
        self._read = read
        self._remembered: deque[Happening] = deque(maxlen=MOST_REMEMBERED)
        self._number = 0
        self._trouble = ""
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._listeners = 0
        self._stopped = False

    @property
    def is_full(self) -> bool:
        """Say whether as many listen as may."""
        return self._listeners >= MOST_STREAMS

    async def stop(self) -> None:
        """End all streams."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        async with self._news:
            self._news.notify_all()

    async def listen(self, after: Mark, seconds: float = STREAM_SECONDS) -> AsyncGenerator[News, None]:
        """Give what happened after a mark and then what happens, the oldest first, with why nothing can be read.

        Each time something is new, and every few seconds without anything, until so many seconds are over.
        """
        self._listeners += 1
        end = asyncio.get_running_loop().time() + seconds
        try:
            if self._task is None:
                await self._look()
                self._task = asyncio.create_task(self._poll())
            seen = self._number
            yield [one for one in self._remembered if one.number > after.get(one.source, 0)], self._trouble
            while not self._stopped and asyncio.get_running_loop().time() < end:
                with suppress(TimeoutError):
                    async with asyncio.timeout(10 * POLL_SECONDS), self._news:
                        await self._news.wait()
                fresh = list(self._remembered)[-(self._number - seen) :] if self._number > seen else []
                seen = self._number
                yield fresh, self._trouble
        finally:
            self._listeners -= 1
            if not self._listeners and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if await self._look():
                async with self._news:
                    self._news.notify_all()

    async def _look(self) -> bool:
        """Read once, and say whether there is news."""
        before = self._trouble
        try:
            found, self._trouble = await run_sync(self._read, abandon_on_cancel=True), ""
        except (TransientError, SettingsFaults, SQLAlchemyError) as error:
            found, self._trouble = [], str(error)
        known = {(one.source, one.number) for one in self._remembered}
        fresh = [one for one in reversed(found) if (one.source, one.number) not in known]
        self._remembered.extend(fresh)
        self._number += len(fresh)
        return bool(fresh) or self._trouble != before
