"""What doctor finds: one check, how it ended, and for what is not well what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from exchange.format.errors import Problem


class Level(StrEnum):
    """How a check ended. A warning is worth knowing and keeps nothing from working."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it is, and for what is not well what to do."""

    check: str
    level: Level
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str | None]:
        """Give the fields that scripts rely on."""
        return {
            "check": self.check,
            "level": self.level.value,
            "message": self.message,
            "remedy": self.remedy or None,
        }


Findings = Iterator[Finding]


def ok(check: str, message: str) -> Finding:
    """Say that a check ended well."""
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, remedy: str) -> Finding:
    """Say what is worth knowing, and what to do about it."""
    return Finding(check, Level.WARNING, message, remedy)


def fault(check: str, message: str, remedy: str) -> Finding:
    """Say what keeps this side from working, and what to do about it."""
    return Finding(check, Level.FAULT, message, remedy)


def found(check: str, problem: Problem, level: Level = Level.WARNING) -> Finding:
    """Give a problem as what a check found."""
    return Finding(check, level, problem.message, problem.remedy)
