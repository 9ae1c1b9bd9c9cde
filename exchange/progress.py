"""How far long work has come: told by whoever does it, read by whoever watches this process, or the database.

A signal asks for it, too: SIGUSR1, and where there is one SIGINFO, which Ctrl-T sends.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from exchange.format.moments import lasting

TELL_SECONDS = 0.2
"""So often a watcher is told at most."""

LEAST_SECONDS = 0.1
"""So long work must have gone on before its rate is told."""


ASKING = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGINFO") if hasattr(signal, name))
"""The signals by which a person asks how far it is."""


@dataclass(frozen=True)
class Pace:
    """So many ``rows``, of about as many as are ``expected`` (None: nobody knows), took so many ``seconds``."""

    rows: int
    expected: int | None
    seconds: float

    @property
    def share(self) -> float | None:
        """The part of all rows, 0 to 1."""
        return min(self.rows / self.expected, 1.0) if self.expected else None

    @property
    def rows_per_second(self) -> float | None:
        """The rate; None as long as it is too early to say."""
        return self.rows / self.seconds if self.rows and self.seconds >= LEAST_SECONDS else None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate."""
        rate = self.rows_per_second
        return max(self.expected - self.rows, 0) / rate if rate and self.expected is not None else None

    def __str__(self) -> str:
        """Say it for people."""
        words = [f"{self.rows:,} rows"]
        if self.expected and self.share is not None:
            words = [f"{self.rows:,} of {max(self.expected, self.rows):,} rows ({self.share:.0%})"]
        if self.rows_per_second is not None:
            words.append(f"{self.rows_per_second:,.0f} rows/s")
        if self.seconds_left is not None:
            words.append(f"{lasting(timedelta(seconds=self.seconds_left))} left")
        return ", ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        names = ("rows", "expected", "share", "rows_per_second", "seconds_left")
        return {name: getattr(self, name) for name in names}


class Progress:
    """The rows of the work at hand in this process; nothing is counted unless somebody watches, or may ask."""

    def __init__(self) -> None:
        self._watch: Callable[[Pace], None] | None = None
        self._say: Callable[[str], None] | None = None
        self._counts = False
        self._rows = 0
        self._expected: dict[Hashable, int] = {}
        self._begun: float | None = None
        self._told = 0.0

    @contextmanager
    def watched(self, watch: Callable[[Pace], None], say: Callable[[str], None] | None = None) -> Iterator[None]:
        """Count from now on, and call ``watch`` as rows are done, a few times a second at most; ``say`` what begins."""
        self._watch, self._say = watch, say
        try:
            with self.counted():
                yield
        finally:
            self._watch = self._say = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count from now on, for whoever may ask; what is expected is noted where it is known anyhow."""
        self._rows, self._expected, self._begun, self._told = 0, {}, None, 0.0
        self._counts = True
        try:
            yield
        finally:
            self._counts = False

    @property
    def is_counted(self) -> bool:
        """Whether work is at hand."""
        return self._counts

    def say(self, sentence: str) -> None:
        """Say what begins, to whoever watches."""
        if self._say is not None:
            self._say(sentence)

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants to know: what is expected is counted for him alone."""
        return self._watch is not None

    def expect(self, what: Hashable, rows: int | None) -> None:
        """Note that so many rows are to be done about; each ``what`` counts once."""
        if self._counts and rows is not None:
            self._expected.setdefault(what, rows)

    def add(self, rows: int) -> None:
        """Note that so many rows are done."""
        if not self._counts:
            return
        self._rows += rows
        moment = time.monotonic()
        if self._begun is None:  # what came before the first rows is no measure of how fast they are
            self._begun = moment
        if self._watch is not None and moment - self._told >= TELL_SECONDS:
            self._told = moment
            self._watch(self.pace())

    def pace(self) -> Pace:
        """Say how far it is."""
        expected = sum(self._expected.values()) if self._expected else None
        return Pace(self._rows, expected, 0.0 if self._begun is None else time.monotonic() - self._begun)
