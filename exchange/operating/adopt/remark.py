"""What is worth knowing of an application before it is exchanged: one remark, and how much it matters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from exchange.format.errors import Problem


class Severity(StrEnum):
    """How much a remark matters: to know, values or rows that don't cross, a table that can't cross as it is."""

    NOTE = "note"
    LOSES = "loses"
    STOPS = "stops"


@dataclass(frozen=True)
class Remark:
    """One sentence about a table, or a column of it, and what to do; ``table`` is empty where it is about all."""

    severity: Severity
    table: str
    message: str
    remedy: str = ""
    column: str = ""
    trigger: str = ""

    @property
    def where(self) -> str:
        """The table and its column or trigger."""
        place = f"{self.table}.{self.column}" if self.column else self.table
        return f"{place} (trigger {self.trigger})" if self.trigger else place

    def as_dict(self) -> dict[str, str | None]:
        """Give the fields that scripts rely on."""
        return {
            "kind": "remark",
            "severity": self.severity.value,
            "table": self.table or None,
            "column": self.column or None,
            "trigger": self.trigger or None,
            "message": self.message,
            "remedy": self.remedy or None,
        }


def of_problems(severity: Severity, table: str, problems: Iterable[Problem]) -> list[Remark]:
    """Give as remarks what another check found."""
    return [
        Remark(severity, table, one.message, one.remedy or (one.command and f"run `{one.command}`")) for one in problems
    ]
