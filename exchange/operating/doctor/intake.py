"""Files that people drop: folders that can't be read, files that were refused, that wait, or that come no further."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from exchange.database import clock, engine, locks
from exchange.database.tables import IntakeState
from exchange.format.errors import printable
from exchange.format.moments import lasting
from exchange.intake import folders, standing
from exchange.intake.folders import SeenFolder
from exchange.intake.standing import DroppedFile
from exchange.operating.doctor.finding import Alarm, Finding, Findings, Level, fault, of_problem, ok, warning
from exchange.settings import Settings
from exchange.site import Site

WAITS = timedelta(hours=1)
"""What was dropped so long ago and is not begun is told."""
STALLED = timedelta(minutes=15)
"""And what was begun and has come no further for so long."""
TRIES = 3
"""After so many tries in vain a file needs a person; until then it is tried again."""


def check_intake(settings: Settings, site: Site) -> Findings:
    """Look at the declared folders and at the files that are not dealt with, or were refused."""
    with locks.reading(site.engine) as connection:
        waiting, refused = standing.open_files(connection), standing.refused_files(connection)
    if not (folders.declared(site) or waiting or refused):
        return
    moment = engine.now()
    found = [
        *(finding for one in folders.see(site) for finding in _of_folder(one, moment)),
        *(finding for one in waiting for finding in _of_file(settings, one, moment)),
        *(_refused(one) for one in refused if _lies_there(one)),
    ]
    yield from found
    if not found:
        under_way = f", {len(waiting)} files are being loaded" if waiting else ""
        yield ok("files", f"every declared folder can be read{under_way}")


def check_misplaced(_settings: Settings, site: Site) -> Findings:
    """Look for declared folders that are this side's own."""
    for said in folders.misplaced(site):
        yield fault("files", said, "nothing is taken from there", alarm=Alarm.DROP_FOLDER)


def _of_folder(one: SeenFolder, moment: datetime) -> Iterator[Finding]:
    if one.trouble is not None:
        yield fault(
            "files", one.trouble, "`exchange init` makes what is missing", alarm=Alarm.DROP_FOLDER, subject=one.folder
        )
    for problem in one.problems:
        yield of_problem("files", problem)
    if one.oldest_at is not None and clock.since(one.oldest_at, moment) > WAITS:
        files = f"{one.ready} files wait" if one.ready > 1 else "1 file waits"
        yield warning(
            "files",
            f"{files} in {one.folder}, the oldest for {lasting(clock.since(one.oldest_at, moment))}",
            "see that beat and a worker run; files of a greater priority go first",
            command="exchange files",
            since=one.oldest_at,
            alarm=Alarm.FILE_LATE,
            subject=one.folder,
        )


def _of_file(settings: Settings, one: DroppedFile, moment: datetime) -> Iterator[Finding]:
    name = f"{printable(one.file, 120)} of intake {one.intake}"
    told = {"command": "exchange files", "alarm": Alarm.FILE_LATE, "subject": f"file {one.id}"}
    if one.attempts:
        level = Level.FAULT if one.attempts > TRIES else Level.WARNING
        said = f"{name} failed {one.attempts} times and is tried again: {printable(one.message, 300)}"
        remedy = "mend what it says; `exchange files cancel` gives it up"
        yield Finding("files", level, said, remedy, since=one.started_at or one.created_at, **told)  # type: ignore[arg-type]
    elif one.state is IntakeState.LOADING and clock.since(one.updated_at, moment) > STALLED:
        said = f"{name} came no further for {lasting(clock.since(one.updated_at, moment))}: {one.pace}"
        remedy = f"see that a worker runs on {settings.network}, and what the database does"
        yield Finding("files", Level.FAULT, said, remedy, since=one.updated_at, **told)  # type: ignore[arg-type]
    elif one.state is IntakeState.WAITING and clock.since(one.created_at, moment) > WAITS:
        said = f"{name} waits for {lasting(clock.since(one.created_at, moment))}"
        remedy = "see that beat and a worker run; files of a greater priority go first"
        yield Finding("files", Level.WARNING, said, remedy, since=one.created_at, **told)  # type: ignore[arg-type]


def _refused(one: DroppedFile) -> Finding:
    return fault(
        "files",
        f"{printable(one.file, 120)} of intake {one.intake}, dropped by {one.who}, was refused:"
        f" {printable(one.message, 300)}",
        f"mend it and drop it again under its name, or remove {printable(one.place, 200)}",
        since=one.updated_at,
        alarm=Alarm.FILE_REFUSED,
        subject=f"file {one.id}",
    )


def _lies_there(one: DroppedFile) -> bool:
    """Tell whether a refused file still lies where it was put: whoever removed it has seen it."""
    return Path(one.place).parent.name == folders.REFUSED and Path(one.place).exists()
