"""What a retry of many letters would do, found out beside whoever asked: grouped by outcome, with a few of each.

A rehearsal runs in a thread of this process, changes nothing, and is gone with it. Of one selection there is one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from exchange.api import Exchange
from exchange.database import clock
from exchange.database.errors import first_line
from exchange.database.locks import Busy
from exchange.format.errors import TransientError
from exchange.results import Retried

SAMPLES = 3
"""So many letters of one outcome are shown."""
MOST_AT_ONCE = 3
MOST_KEPT = 20
FIRST_LOOK_SECONDS = 1.5
"""Whoever asks waits so long: most are done by then."""


@dataclass
class Outcome:
    """Letters of which the same became, or would become; ``unchanged`` could not be tried."""

    state: str
    rule: str
    failed: bool
    unchanged: bool
    number: int = 0
    samples: list[Retried] = field(default_factory=list)


class Outcomes:
    """What became of letters, or would: how many of each outcome, and the first few of them."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, bool], Outcome] = {}

    def add(self, retried: Iterable[Retried]) -> None:
        """Count some more."""
        for one in retried:
            state = str(one.state or "unknown")
            kind = self._kinds.setdefault(
                (state, one.rule, one.changed), Outcome(state, one.rule, one.failed, not one.changed)
            )
            kind.number += 1
            if len(kind.samples) < SAMPLES:
                kind.samples.append(one)

    @property
    def kinds(self) -> list[Outcome]:
        """Give them, the most frequent first."""
        return sorted(self._kinds.values(), key=lambda kind: -kind.number)


class Rehearsal:
    """One: how far it is, and what it found."""

    def __init__(self, selection: str, total: int, who: str) -> None:
        self.selection, self.total, self.who = selection, total, who
        self.at: datetime = clock.now()
        self.done = 0
        self.fault = ""
        self.poison = 0
        self.outcomes = Outcomes()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended = threading.Event()

    @property
    def runs(self) -> bool:
        """Say whether it goes on."""
        return not self._ended.is_set()

    @property
    def cancelled(self) -> bool:
        """Say whether somebody ended it early."""
        return self._stop.is_set()

    @property
    def kinds(self) -> list[Outcome]:
        """Give what it found so far, the most frequent first."""
        with self._lock:
            return self.outcomes.kinds

    def cancel(self) -> None:
        """End it after the group at hand."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Wait until it is over, or so long."""
        self._ended.wait(seconds)

    def run(self, exchange: Exchange) -> None:
        """Do it, to its end or until it is cancelled."""
        try:
            bulk = exchange.dead_letters.retry_selection(
                self.selection, rehearse=True, skip_changed=True, stopping=self._stop.is_set, report=self._count
            )
            self.poison = bulk.poison
        except (TransientError, Busy) as error:
            self.fault = str(error)
        except SQLAlchemyError as error:
            self.fault = first_line(error)
        finally:
            self._ended.set()

    def _count(self, retried: Iterable[Retried]) -> None:
        with self._lock:
            some = list(retried)
            self.outcomes.add(some)
            self.done += len(some)


class Rehearsals:
    """Those that this process knows, by selection; safe from any number of threads."""

    def __init__(self) -> None:
        self._known: dict[str, Rehearsal] = {}
        self._lock = threading.Lock()

    def find(self, selection: str) -> Rehearsal | None:
        """Give the newest one of a selection."""
        with self._lock:
            return self._known.get(selection)

    def begin(self, exchange: Exchange, selection: str, total: int, who: str) -> Rehearsal:
        """Begin one, or give the one that runs. Raises TransientError if too many run."""
        with self._lock:
            there = self._known.get(selection)
            if there is not None and there.runs:
                return there
            if sum(one.runs for one in self._known.values()) >= MOST_AT_ONCE:
                raise TransientError(f"{MOST_AT_ONCE} dry runs are at work already; one of them has to end first")
            self._known.pop(selection, None)
            ended = [name for name, one in self._known.items() if not one.runs]
            for name in ended[: max(len(self._known) + 1 - MOST_KEPT, 0)]:
                del self._known[name]
            made = self._known[selection] = Rehearsal(selection, total, who)
        threading.Thread(target=made.run, args=(exchange,), name="rehearsal", daemon=True).start()
        made.wait(FIRST_LOOK_SECONDS)
        return made

    def forget(self, selection: str) -> None:
        """Let go of one: its selection is gone, or was tried."""
        with self._lock:
            there = self._known.pop(selection, None)
        if there is not None:
            there.cancel()

    def close(self) -> None:
        """End all."""
        with self._lock:
            for one in self._known.values():
                one.cancel()
