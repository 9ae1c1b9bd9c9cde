"""Whether backups are made as often as they should be."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from exchange.database import clock
from exchange.format.moments import lasting
from exchange.operating.backup_state import read_last
from exchange.operating.doctor.finding import Alarm, Findings, fault, ok, warning
from exchange.settings import Settings

LATE_PERIODS = 2
"""So many periods without a backup are too many."""
LEAST = timedelta(minutes=15)
"""And so much more: making one takes a while."""


def check_backups(settings: Settings) -> Findings:
    """Look when the last backup was made, if beat is to make them, and whether it is still there."""
    if settings.backup_to is None:
        return
    last = read_last(settings.home)
    made = f"the last one was made {lasting(_age(last.at))} ago" if last.at else "none was made yet"
    if last.message is not None:
        message, remedy = f"none is made: {last.message}; {made}", "mend that; `exchange backup` tries it at once"
        yield fault("backup", message, remedy, command="exchange backup", since=last.failed_at, alarm=Alarm.BACKUP)
    elif last.at is None:
        remedy = "beat makes one when its time has come; make the first one now"
        message = f"{made} in {settings.backup_to}"
        yield warning("backup", message, remedy, command="exchange backup", alarm=Alarm.BACKUP)
    elif _age(last.at) > LATE_PERIODS * timedelta(seconds=settings.backup_every) + LEAST:
        message = f"{made}, and one is due every {lasting(timedelta(seconds=settings.backup_every))}"
        remedy = "see that beat and a worker run; make one now"
        yield fault("backup", message, remedy, command="exchange backup", since=last.at, alarm=Alarm.BACKUP)
    elif not Path(str(last.folder)).is_dir():
        message, remedy = f"the last one, {last.folder}, is gone", "see that its disk is mounted; make one anew"
        yield fault("backup", message, remedy, command="exchange backup", since=last.at, alarm=Alarm.BACKUP)
    else:
        yield ok("backup", f"{made}: {last.folder}", since=last.at)


def _age(moment: datetime) -> timedelta:
    return max(clock.now() - moment, timedelta())
