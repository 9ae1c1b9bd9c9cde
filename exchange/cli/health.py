"""How this side is, at a glance: for people, Docker, systemd and Nagios."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail, settings

if TYPE_CHECKING:
    from exchange.operating.doctor import Alarm, Finding
    from exchange.watching.health import Health

OK, WARNING, CRITICAL, UNKNOWN = range(4)
"""Exit codes, as plugins of Nagios have them."""
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


def health(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="ALARM", help="Count only this alarm, such as beat; may be repeated."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the first line alone.")] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="N", min=0.1, max=60, help="How long a part may take.")
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Say at a glance how this side is, for people and monitors.

    It makes the quick checks of `exchange doctor`, in bounded time, whatever hangs.

    Exit codes are those of Nagios: 0 if all is well, 1 for a warning, 2 if something needs a person, 3 if the settings
    can't be read.
    """
    from exchange.settings import SettingsFaults

    wanted = _known(only or [])
    try:
        current = settings()
    except SettingsFaults as faults:
        output.tell(_first_line("", UNKNOWN, faults.faults[0]))
        for sentence in faults.faults[1:]:
            output.tell(sentence)
        fail(UNKNOWN)
    from exchange.watching.health import read_health

    found = read_health(current, seconds=seconds)
    counted = [one for one in found.worst_first() if not wanted or _is_about(one, wanted)]
    code = _code(counted)
    if as_json:
        output.emit(found.as_dict())
    else:
        _tell(found, counted, code, quiet=quiet)
    fail(code)


def _known(names: list[str]) -> set[Alarm]:
    from exchange.operating.doctor import Alarm

    found = set()
    for name in names:
        try:
            found.add(Alarm(name))
        except ValueError:
            raise Refused(f"--only: expected one of {', '.join(Alarm)}, found {name!r}") from None
    return found


def _is_about(one: Finding, wanted: set[Alarm]) -> bool:
    """Say whether what is found is about one of these alarms, or keeps it from being looked at.

    A check has its alarm's name where it says, too, that what never began does not run: nobody is told of that unasked.
    """
    from exchange.operating.doctor import Alarm

    outside = {Alarm.BACKUP, Alarm.BROKER, Alarm.CLOCK, Alarm.DISK, Alarm.FOLDER, Alarm.HANDLER, Alarm.KEY}
    blind = one.alarm in {Alarm.DATABASE, Alarm.MIGRATIONS} and not wanted <= outside
    return blind or one.alarm in wanted or one.check in wanted


def _code(counted: list[Finding]) -> int:
    from exchange.operating.doctor import Level

    return max((list(Level).index(one.level) for one in counted), default=OK)


def _first_line(network: str, code: int, said: str) -> str:
    """Give what a monitor shows: behind a bar it would read figures."""
    return f"exchange {network} {_WORDS[code]} - {said}".replace("  ", " ").replace("|", "/")


def _tell(found: Health, counted: list[Finding], code: int, *, quiet: bool) -> None:
    from exchange.operating.doctor import Level

    count = Counter(one.level for one in counted)
    bad = [one for one in counted if one.level is not Level.OK]
    said = f"{count[Level.FAULT]} faults, {count[Level.WARNING]} warnings"
    said += f": {bad[0].message}" if bad else f", {count[Level.OK]} well"
    output.tell(_first_line(found.network, code, said))
    if quiet:
        return
    from exchange.cli.findings import show_finding

    for one in reversed(bad):
        show_finding(one)
