"""What a check finds wrong: one thing of a kind, by its name, and what is to be done about that kind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from exchange.operating.doctor.finding import Level


class Kind(NamedTuple):
    """A kind of thing that can be wrong. ``what`` goes on from a number of them; ``command`` is what to type next."""

    check: str
    what: str
    remedy: str
    command: str = ""
    level: Level = Level.FAULT


class Wrong(NamedTuple):
    """One thing that is wrong: of which kind, on which side (its network), and what it is called."""

    kind: Kind
    network: str
    name: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.network}: {self.kind.check}: {self.kind.what}: {self.name}"


Found = Iterator[Wrong]


class Pace:
    """Keeps a long look from taking more than half of the time, so that whoever works meanwhile has the other half."""

    LONGEST_SECONDS = 0.2

    def __init__(self, *, resting: bool) -> None:
        """Begin; one that is not ``resting`` never waits."""
        self._resting = resting
        self._since = time.monotonic()

    def rest(self) -> None:
        """Wait for as long as was worked since the last rest, at most for a moment. Not within a transaction."""
        if self._resting:
            time.sleep(min(time.monotonic() - self._since, self.LONGEST_SECONDS))
        self._since = time.monotonic()


AT_ONE_GO = Pace(resting=False)
