"""How old things are in time that this side has lived through: a clock that leaps ahead makes nothing old.

Each prune notes the moment. Where the next one finds that more time has passed than lies between two, the clock was
changed, or this side was down: that time counts for nothing that was there before. It is kept in a file of the home.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from exchange.database import clock
from exchange.files import durable
from exchange.files.layout import Folders

FILE = "retention.json"

MOST_STEP = timedelta(days=2).total_seconds()
"""More seconds than that between two runs are a leap, or a time without any run; less a wrong clock may add unseen."""

_MOST_LEAPS = 100


@dataclass(frozen=True)
class Leap:
    """Time that was not lived through: from ``begin`` to ``end``, in seconds since 1970."""

    begin: float
    end: float


class RetentionClock:
    """What is older than a number of days, by time lived through. Reads the file of the home, and the clock once."""

    def __init__(self, folders: Folders) -> None:
        """Read what the last run noted; of a file that can't be understood, when it was written.

        Where nothing was ever noted the clock is believed. Raises OSError if the file is there and can't be read.
        """
        self._path = folders.home / FILE
        self.moment = clock.seconds()
        self._leaps: list[Leap] = []
        seen = self.moment
        with contextlib.suppress(FileNotFoundError):
            seen = self._path.stat().st_mtime
            with contextlib.suppress(ValueError, TypeError, KeyError):
                said = json.loads(self._path.read_bytes())
                self._leaps = [Leap(float(begin), float(end)) for begin, end in said["leaps"]]
                seen = float(said["seen"])
        # A leap into a time that has not come was taken back.
        self._leaps = [one for one in self._leaps if one.end <= self.moment]
        self.leap = self.moment - seen
        if self.leap > MOST_STEP:
            self._leaps = [*self._leaps, Leap(seen, self.moment)][-_MOST_LEAPS:]

    def before(self, days: float) -> datetime:
        """Give the moment before which things are older than so many days."""
        cutoff = self.moment - days * 86_400
        for leap in sorted(self._leaps, key=lambda one: one.end, reverse=True):
            if cutoff < leap.end:
                cutoff -= leap.end - leap.begin
        return datetime.fromtimestamp(max(cutoff, 0), UTC)

    def note(self) -> None:
        """Write down that this side is here now. Raises OSError."""
        said = {"seen": self.moment, "leaps": [[one.begin, one.end] for one in self._leaps]}
        durable.write(self._path, json.dumps(said).encode() + b"\n", mode=0o600)
