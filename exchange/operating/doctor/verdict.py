"""Whether a person is needed: of all that was found what comes first, whose fault that is, and the next step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from exchange.database import clock
from exchange.format.moments import lasting
from exchange.operating.doctor.finding import Alarm, Finding, Level, Whose

_CROSSING = (
    *(Alarm.DATABASE, Alarm.MIGRATIONS, Alarm.SETTINGS, Alarm.HALTED, Alarm.KEY, Alarm.RUN_FAILED, Alarm.FOLDER),
    *(Alarm.DISK, Alarm.BROKER, Alarm.WORKER, Alarm.BEAT, Alarm.EXPORT_LATE, Alarm.IMPORT_LATE, Alarm.TRIGGERS),
    *(Alarm.LINK_SILENT, Alarm.HELD, Alarm.QUARANTINED, "paused", Alarm.GAP, Alarm.UNACKNOWLEDGED, "link"),
    *(Alarm.DEAD_LETTERS, "letters", Alarm.DISAGREEMENT, Alarm.HANDLER, Alarm.CLOCK),
    Alarm.BACKUP,
)
"""In which order a person sees to things, by their alarm, else by their check: first what keeps all rows from crossing,
then what keeps some, then what crossed and did not take effect."""


@dataclass(frozen=True)
class Verdict:
    """How a side is: the finding that comes first, whose fault it is, and how many more there are of its level."""

    level: Level
    first: Finding | None = None
    more: int = 0

    @property
    def opening(self) -> str:
        """Say whether a person is needed, and since when."""
        if self.level is not Level.FAULT:
            return "Nobody is needed"
        return f"A person is needed, since {_ago(self.since)}" if self.since else "A person is needed"

    @property
    def since(self) -> datetime | None:
        """Give when it began, where that is known."""
        return self.first.since if self.first else None

    @property
    def whose(self) -> Whose | None:
        """Say whose fault it is."""
        return self.first.whose if self.first else None

    @property
    def what(self) -> str:
        """Say what it is about."""
        if self.first is None:
            return "all is well"
        return self.first.message

    @property
    def next(self) -> str:
        """Say what to do; empty where there is nothing."""
        return self.first.advice if self.first and self.level is not Level.OK else ""

    @property
    def words(self) -> str:
        """Say all of it in one sentence."""
        fault = f" (whose fault: {self.whose})" if self.whose else ""
        known = "; worth knowing" if self.level is Level.WARNING else ""
        more = f"; {self.more} more" if self.more else ""
        return f"{self.opening}{known}: {self.what}{fault}{f'; {self.next}' if self.next else ''}{more}"


def judge(found: Iterable[Finding]) -> Verdict:
    """Say whether a person is needed: of what is worst that which keeps most rows from crossing, and longest, is first.

    Where nothing is amiss the other side's last sign of life is what shows it.
    """
    parts = list(found)
    for level in (Level.FAULT, Level.WARNING):
        worst = sorted((one for one in parts if one.level is level), key=_place)
        if worst:
            return Verdict(level, worst[0], len(worst) - 1)
    alive = (one for one in parts if one.check == "link" and one.since is not None)
    return Verdict(Level.OK, next(alive, None))


def _place(one: Finding) -> tuple[int, datetime]:
    """Give its place; a file's mode alone keeps nothing from crossing."""
    key = one.alarm or one.check
    at = _CROSSING.index(key) if key in _CROSSING and not one.command.startswith("chmod ") else len(_CROSSING)
    return at, one.since or clock.now()


def _ago(since: datetime) -> str:
    return lasting(max(clock.now() - since, timedelta()))
