"""What checks found, shown to a person or a script, and the exit code that says how it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exchange.cli import output
from exchange.cli.runtime import WARNED, fail
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.operating.doctor import Finding


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print what is well first, and what is worst last, next to where one types; for a script a line each."""
    if as_json:
        for one in findings:
            output.emit(one.as_dict())
        return
    from exchange.operating.doctor import Level

    levels = list(Level)
    for one in sorted(findings, key=lambda one: levels.index(one.level)):
        show_finding(one, known="exchange doctor")
    count = Counter(one.level for one in findings)
    output.tell(f"faults: {count[Level.FAULT]}, warnings: {count[Level.WARNING]}, well: {count[Level.OK]}")


def show_finding(one: Finding, *, known: str = "") -> None:
    """Print one: how it is, what was found, for what is not well since when, what to do and what to type next.

    A command that is ``known`` is left out: whoever typed it reads this.
    """
    from exchange.database.engine import now
    from exchange.format.moments import lasting
    from exchange.operating.doctor import Level

    since = f"since {in_table(one.since)}, {lasting(now() - one.since)} ago" if one.since else ""
    output.paragraph(one.level, f"{one.check}: {one.message}", since if one.level is not Level.OK else "", one.remedy)
    if one.command and one.command != known:
        output.command(one.command)


def end_with(findings: Sequence[Finding]) -> None:
    """End with 1 if something needs a person, with 3 if there are only warnings."""
    from exchange.operating.doctor import Level

    levels = Counter(one.level for one in findings)
    if levels[Level.FAULT]:
        fail()
    if levels[Level.WARNING]:
        fail(WARNED)
