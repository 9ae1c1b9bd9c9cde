"""Long polls: many wait, and one reader of the process looks for all of them whether their requests are answered."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from anyio.to_thread import run_sync

from exchange.database.locks import Busy
from exchange.format.errors import TransientError
from exchange.requesters.callers import Shown
from exchange.requesters.looking import MOST_ANSWERED_AT_ONCE

LONGEST_SECONDS = 60
POLL_SECONDS = 0.5
MOST_WAITING = 200
"""So many wait at once: the other places for connections are for those who don't."""
MOST_OF_ONE = 20
"""So many requests one of them waits for."""

Answered = tuple[dict[uuid.UUID, dict[str, Any]], set[Shown]]
"""Requests with their responses, and who of those that wait for them may see that."""
Look = Callable[[Mapping[uuid.UUID, Collection[Shown]]], Answered]
"""Looks which requests that are waited for have a response; it may wait for the database, and is called in a thread."""


@dataclass(eq=False)
class _Waiter:
    shown: Shown | None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    number: uuid.UUID | None = None
    found: dict[str, Any] | None = None
    """The request with its response, where whoever waits may see it as they are known to be who they said."""


@dataclass(frozen=True)
class Told:
    """One of the requests is answered. ``found`` is that one, if what is needed to show it was looked for already."""

    number: uuid.UUID
    found: dict[str, Any] | None


class TooManyWait(Exception):  # noqa: N818 - an answer to whoever asks
    """As many wait as may."""

    def __init__(self) -> None:
        super().__init__(f"{MOST_WAITING} wait already; ask again in a moment, or without `wait`")


class Waiting:
    """Those who wait. All of it belongs to the thread of the server's loop."""

    def __init__(self, look: Look) -> None:
        """Take what looks; it is called as long as somebody waits, once each half second for all."""
        self._look = look
        self._waiting: defaultdict[uuid.UUID, set[_Waiter]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.number = 0
        """How many wait."""

    async def for_one_of(
        self, wanted: Collection[uuid.UUID], seconds: float, gone: asyncio.Task[None], shown: Shown | None = None
    ) -> Told | None:
        """Wait until one of some requests is answered, at most so long; give that one.

        It ends, too, when ``gone`` does, as whoever asked is gone. Raises TooManyWait.
        """
        if self.number >= MOST_WAITING:
            raise TooManyWait
        wanted, waiter = frozenset(list(wanted)[:MOST_OF_ONE]), _Waiter(shown)
        self.number += 1
        for one in wanted:
            self._waiting[one].add(waiter)
        if self._task is None:
            self._task = asyncio.create_task(self._poll())
        woken = asyncio.create_task(waiter.answered.wait())
        try:
            await asyncio.wait({woken, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopped or waiter.number is None else Told(waiter.number, waiter.found)
        finally:
            woken.cancel()
            self.number -= 1
            for one in wanted & self._waiting.keys():
                self._waiting[one].discard(waiter)
                if not self._waiting[one]:
                    del self._waiting[one]
            if not self.number and self._task is not None:
                self._task.cancel()
                self._task = None

    async def stop(self) -> None:
        """Let everybody go."""
        self._stopped = True
        for waiters in self._waiting.values():
            for one in waiters:
                one.answered.set()

    async def _poll(self) -> None:
        away = False
        while True:
            found: dict[uuid.UUID, dict[str, Any]] = {}
            good: set[Shown] = set()
            try:
                found, good = await run_sync(self._look, self._shown(), abandon_on_cancel=True)
                away = False
            except (TransientError, Busy) as error:
                if not away:
                    structlog.get_logger("exchange").warning("nobody is told of answers", message=str(error))
                away = True
            for number, request in found.items():
                for waiter in self._waiting.pop(number, ()):  # so that what is left of many is found by the next look
                    waiter.number, waiter.found = number, request if waiter.shown in good else None
                    waiter.answered.set()
            await asyncio.sleep(POLL_SECONDS if len(found) < MOST_ANSWERED_AT_ONCE else 0)

    def _shown(self) -> dict[uuid.UUID, frozenset[Shown]]:
        return {
            number: frozenset(one.shown for one in waiters if one.shown is not None)
            for number, waiters in self._waiting.items()
        }
