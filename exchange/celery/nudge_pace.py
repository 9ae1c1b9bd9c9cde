"""Pacing: when to nudge, decided from what waits and what time it is. Pure: it looks at nothing itself.

Shortly after something new, so that what comes together goes together; then again for what does not move,
because a nudge may be lost or meet somebody at work, ever more seldom, until beat alone is left to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GATHER_SECONDS = 0.05
"""How long something new waits for more of it."""
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 32.0
"""Between two nudges where nothing moves: doubled from the one to the other."""

Marks = frozenset[object]


@dataclass(frozen=True)
class Pending:
    """What waits one way: of ``work`` something is gone when some was done, in ``news`` something is new with more."""

    work: Marks = frozenset()
    news: Marks = frozenset()


class NudgePace:
    """One way's pace. Times are seconds of one clock that only grows."""

    def __init__(self) -> None:
        self._seen = Pending()
        self._hoped: Marks = frozenset()
        """The news that a nudge is still to take care of."""
        self._asked: Marks = frozenset()
        """The work that waited at the last nudge."""
        self._moved = True
        self._pause = FIRST_PAUSE_SECONDS
        self._not_before = -math.inf
        self._gathered_at = -math.inf

    def see(self, found: Pending, now: float) -> None:
        """Take in what waits now."""
        fresh = found.news - self._seen.news
        if fresh and not self._hoped:
            self._gathered_at = now + GATHER_SECONDS
        self._seen = found
        self._hoped = self._hoped & found.news | fresh
        self._moved = self._moved or not self._asked <= found.work  # something that was asked for is gone
        if self._moved and (fresh or not self._hoped):
            self._pause = FIRST_PAUSE_SECONDS
            self._not_before = min(self._not_before, now + FIRST_PAUSE_SECONDS)

    @property
    def due_at(self) -> float:
        """When to nudge as far as is known; infinite if there is no need."""
        return max(self._not_before, self._gathered_at) if self._hoped else math.inf

    def nudged(self, now: float) -> None:
        """Take note of a nudge: the next one is for more news, or for work that does not move."""
        self._asked, self._moved = self._seen.work, False
        self._not_before = now + self._pause
        if self._pause >= LONGEST_PAUSE_SECONDS:
            self._hoped = frozenset()  # beat finds it
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def hold(self, now: float) -> None:
        """Put a due nudge off for a moment."""
        self._not_before = now + FIRST_PAUSE_SECONDS
