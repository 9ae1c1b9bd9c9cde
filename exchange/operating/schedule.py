"""What beat has done, how often, and when each was last done and is due: one list for beat, commands and pages."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.processes import Sign
from exchange.database.tables import Direction
from exchange.format.as_dict import AsDict
from exchange.operating import last_runs
from exchange.operating.backup_state import LastBackup, read_last
from exchange.operating.presence import Process, is_late, look_for_processes
from exchange.settings import Settings
from exchange.site import Site

DAY_SECONDS = 24 * 3600
RETRIES_SECONDS = 30.0
"""So often it is looked whether letters are to be tried in the background, if not with each import."""


@dataclass(frozen=True)
class Entry(AsDict):
    """One thing that is done every so often: what beat calls it, the task, and what it is called with."""

    name: str
    task: str
    every_seconds: float
    arguments: Mapping[str, Any] = field(default_factory=dict)


def entries(settings: Settings) -> list[Entry]:
    """Give what these settings have beat do."""
    found = [
        Entry("export", "exchange.export", settings.export_every, {"spread": True}),
        Entry("import", "exchange.import", settings.import_every, {"spread": True}),
        Entry("retries", "exchange.work_retries", min(settings.import_every, RETRIES_SECONDS)),
        Entry("intake", "exchange.intake", settings.intake_every),
        Entry("prune", "exchange.prune", DAY_SECONDS),
        Entry("reconcile", "exchange.reconcile", settings.reconcile_every, {"incoming": False}),
    ]
    if settings.backup_to is not None:
        found.append(Entry("backup", "exchange.backup", settings.backup_every))
    if settings.answers_requests:
        found.append(Entry("answer_requests", "exchange.answer_requests", settings.answer_every))
    return found


@dataclass(frozen=True)
class ChannelRun(AsDict):
    """When a channel was last exported or imported to its end, and when the next time is due; None: never yet."""

    direction: Direction
    channel: str
    at: datetime | None
    due_at: datetime | None
    late: bool


@dataclass(frozen=True)
class KindOfProcess(AsDict):
    """Beat, or the workers: whether one works, here or elsewhere, and the last sign of any."""

    kind: str
    works: bool
    here_since: datetime | None
    sign: Sign | None


@dataclass(frozen=True)
class OneProcess(AsDict):
    """A process of this home that lives."""

    process: str
    host: str
    pid: int


@dataclass(frozen=True)
class Restarted(AsDict):
    """How often processes of a kind did not end in order, and when that was lately."""

    process: str
    count: int
    at: tuple[datetime, ...]


@dataclass(frozen=True)
class Schedule(AsDict):
    """What is done when, and by whom."""

    entries: tuple[Entry, ...]
    runs: tuple[ChannelRun, ...]
    kinds: tuple[KindOfProcess, ...]
    living: tuple[OneProcess, ...]
    restarts: tuple[Restarted, ...]
    backup: LastBackup | None
    """None where no backups are scheduled."""


def read_schedule(settings: Settings, site: Site) -> Schedule:
    """Say what is done when, and when each was last done; changes nothing. Raises TransientError."""
    with transient_errors(), reading(site.engine) as connection:
        there = look_for_processes(settings, site, connection)
    every = {Direction.OUT: settings.export_every, Direction.IN: settings.import_every}
    living: list[OneProcess] = []
    restarts: list[Restarted] = []
    backup = None
    with suppress(OSError):
        living = [OneProcess(one.process, one.host, one.pid) for one in last_runs.living(settings)]
        restarts = [Restarted(name, one.count, one.at) for name, one in last_runs.restarts(settings).items()]
        backup = read_last(settings.home) if settings.backup_to is not None else None
    return Schedule(
        tuple(entries(settings)),
        tuple(
            _run(way, channel, at, every[way])
            for way, channels in there.last.items()
            for channel, at in channels.items()
        ),
        (_kind("beat", there.beat), _kind("worker", there.worker)),
        tuple(living),
        tuple(restarts),
        backup,
    )


def _run(way: Direction, channel: str, at: datetime | None, every: float) -> ChannelRun:
    if at is None:
        return ChannelRun(way, channel, None, None, late=False)
    return ChannelRun(way, channel, at, at + timedelta(seconds=every), is_late(at, every))


def _kind(kind: str, process: Process) -> KindOfProcess:
    return KindOfProcess(kind, process.works, process.begun, process.sign)
