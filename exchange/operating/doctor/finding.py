"""What doctor finds: one check, how it ended, and for what is not well since when, what to do and what to type next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy.exc import SQLAlchemyError

from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy
from exchange.format.errors import Problem, TransientError, printable
from exchange.format.moments import to_rfc3339
from exchange.settings import Settings
from exchange.site import Site


class Level(StrEnum):
    """How a check ended. A warning is worth knowing and keeps nothing from working; a fault needs a person."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


class Alarm(StrEnum):
    """What somebody is told of: the names that metrics, alert rules, messages and pages share."""

    LINK_SILENT = "link_silent"
    EXPORT_LATE = "export_late"
    IMPORT_LATE = "import_late"
    UNACKNOWLEDGED = "unacknowledged"
    GAP = "gap"
    QUARANTINED = "quarantined"
    HELD = "held"
    DEAD_LETTERS = "dead_letters"
    DISAGREEMENT = "disagreement"
    DISK = "disk"
    FOLDER = "folder"
    BEAT = "beat"
    WORKER = "worker"
    KEY = "key"
    CLOCK = "clock"
    HALTED = "halted"
    DATABASE = "database"
    BROKER = "broker"
    MIGRATIONS = "migrations"
    TRIGGERS = "triggers"
    RUN_FAILED = "run_failed"
    SETTINGS = "settings"
    BACKUP = "backup"
    FILE_REFUSED = "file_refused"
    FILE_LATE = "file_late"
    DROP_FOLDER = "drop_folder"
    HANDLER = "handler"


class Whose(StrEnum):
    """Whose fault something is, as far as this side can tell, as a sentence says it."""

    OURS = "ours"
    THEIRS = "theirs"
    CARRIER = "the carrier's"
    FAR = "theirs or the carrier's"
    EITHER = "ours or theirs"
    DROPPER = "whoever dropped it's"
    NOBODY = "nobody's"


_WHOSE: Mapping[Alarm | str, Whose] = {
    Alarm.LINK_SILENT: Whose.FAR,
    Alarm.UNACKNOWLEDGED: Whose.FAR,
    Alarm.GAP: Whose.CARRIER,
    Alarm.QUARANTINED: Whose.THEIRS,
    Alarm.HELD: Whose.NOBODY,
    Alarm.DEAD_LETTERS: Whose.EITHER,
    Alarm.FILE_REFUSED: Whose.DROPPER,
    "letters": Whose.EITHER,
    "paused": Whose.NOBODY,
    "link": Whose.FAR,
}
"""Whose fault something is by its alarm, or the check of what is none: all else is ours. A check that knows says it."""


_NEXT = {
    Alarm.LINK_SILENT: "exchange status",
    Alarm.DEAD_LETTERS: "exchange dead-letters",
    Alarm.DISK: "exchange prune",
    Alarm.KEY: "exchange keys list",
    Alarm.HALTED: "exchange epoch list",
    Alarm.BACKUP: "exchange backup",
    Alarm.FOLDER: "exchange init",
    Alarm.DROP_FOLDER: "exchange init",
    Alarm.FILE_REFUSED: "exchange files",
    Alarm.FILE_LATE: "exchange files",
}
"""What is typed next where a check knows nothing better: whoever is told of an alarm is told a command."""


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it is, and for what is not well what to do.

    ``command`` is what to type next, whole; ``since`` is when it began. Either is there where it is known. ``alarm`` is
    what somebody is told of it as, and ``subject`` which one it is about (a channel, a folder, a key): together they
    stay the same for as long as the trouble does, whatever its sentence says meanwhile. What is well has no alarm; its
    ``since`` is when that was last seen (a tick, a task, an export).
    """

    check: str
    level: Level
    message: str
    remedy: str = ""
    command: str = ""
    since: datetime | None = None
    alarm: Alarm | None = None
    subject: str = ""
    whose: Whose | None = None
    """Of what is well nobody's: None."""

    def __post_init__(self) -> None:
        """Have each alarm name a command, and what is not well whose fault it is."""
        if self.whose is None and self.level is not Level.OK:
            object.__setattr__(self, "whose", _WHOSE.get(self.alarm or self.check, Whose.OURS))
        if self.alarm is not None and not self.command:
            object.__setattr__(self, "command", _NEXT.get(self.alarm, "exchange doctor"))

    @property
    def advice(self) -> str:
        """What to do, as a sentence; empty for what is well."""
        return self.remedy or (f"run `{self.command}`" if self.command else "")

    def as_dict(self) -> dict[str, str | int | None]:
        """Give the fields that scripts rely on."""
        return {
            "check": self.check,
            "level": self.level.value,
            "message": self.message,
            "remedy": self.advice or None,
            "command": self.command or None,
            "since": to_rfc3339(self.since) if self.since else None,
            "age_seconds": max(int((now() - self.since).total_seconds()), 0) if self.since else None,
            "alarm": self.alarm.value if self.alarm else None,
            "subject": self.subject or None,
        }


Findings = Iterator[Finding]

DatabaseCheck = Callable[[Settings, Site], Findings]


def looked(check: str, look: Callable[[], Findings], remedy: str, alarm: Alarm | None = None) -> list[Finding]:
    """Give what a check finds. That it could not look is a finding of its own, and keeps no other check from it."""
    try:
        with transient_errors():
            return list(look())
    except TransientError as error:
        return [fault(check, error.sentence, remedy, alarm=alarm)]
    except Busy as busy:
        return [fault(check, str(busy), "have whoever holds it end, if it does not by itself", alarm=alarm)]
    except SQLAlchemyError as error:
        said = f"it can't be looked at: {printable(str(error.__cause__ or error), 300)}"
        return [fault(check, said, remedy, alarm=alarm)]


def ok(check: str, message: str, *, since: datetime | None = None, subject: str = "") -> Finding:
    """Say that a check ended well."""
    return Finding(check, Level.OK, message, since=since, subject=subject)


def warning(
    check: str,
    message: str,
    remedy: str = "",
    *,
    command: str = "",
    since: datetime | None = None,
    alarm: Alarm | None = None,
    subject: str = "",
) -> Finding:
    """Say what is worth knowing, and what to do about it: a sentence, a command to run, or both."""
    return Finding(check, Level.WARNING, message, remedy, command, since, alarm, subject)


def fault(
    check: str,
    message: str,
    remedy: str = "",
    *,
    command: str = "",
    since: datetime | None = None,
    alarm: Alarm | None = None,
    subject: str = "",
) -> Finding:
    """Say what needs a person, and what to do about it: a sentence, a command to run, or both."""
    return Finding(check, Level.FAULT, message, remedy, command, since, alarm, subject)


def of_problem(
    check: str, problem: Problem, level: Level = Level.WARNING, *, alarm: Alarm | None = None, subject: str = ""
) -> Finding:
    """Give a problem as what a check found."""
    alarm = None if level is Level.OK else alarm
    return Finding(check, level, problem.message, problem.remedy, problem.command, problem.since, alarm, subject)
