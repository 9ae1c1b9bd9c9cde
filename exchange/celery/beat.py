"""Beat's schedule: made of the settings at each start, and kept by a clock that only grows.

Celery's own keeps the moments of the last ticks in a database file, by the wall clock: a truncated file ends beat at
each start, and moments of a clock that was ahead keep it from ticking for as long. Here nothing but the last run of
what runs seldom is written down; a file that is gone, or that makes no sense, is as if all of it had run just now.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from celery.beat import ScheduleEntry, Scheduler

from exchange.celery import service
from exchange.celery.signs import BeatSigns
from exchange.database import clock
from exchange.files import durable
from exchange.operating import broker
from exchange.operating.reloading import Reloader, say_reloaded
from exchange.settings import Settings, load_settings

SELDOM_SECONDS = 3600
"""What runs no more often than this is not run at each start of beat, but when its time has come."""
AGAIN_SECONDS = 10.0
"""How soon a tick that the broker did not take is sent again."""

log = structlog.get_logger("exchange")


class SteadyScheduler(Scheduler):  # type: ignore[misc]
    """Sends each entry when beat starts and then at its interval, whatever becomes of the wall clock meanwhile.

    One that runs seldom is sent an interval after its last run, or after the first start of beat.
    """

    def __init__(self, *args: Any, schedule_filename: str, **options: Any) -> None:
        """Take where to keep the last runs; Celery gives the rest."""
        self._file = Path(schedule_filename)
        self._due: dict[str, float] = {}
        self._broker = Broker()
        self._signs = BeatSigns()
        super().__init__(*args, **options)
        self._reloader = reloader_of_beat(self.app)

    def setup_schedule(self) -> None:
        """Take the entries of the settings, and see when each is due first."""
        super().setup_schedule()
        runs, moment = self._last_runs(), clock.seconds()
        for name, entry in self.schedule.items():
            wait = 0.0
            if _runs_seldom(entry):
                # A run in the future was by a clock that was ahead: it says as little as none.
                if not (ago := moment - runs.get(name, math.inf)) >= 0:
                    self._keep(name)
                    ago = 0
                wait = max(entry.schedule.seconds - ago, 0)
            self._due[name] = time.monotonic() + wait

    def tick(self, *_: Any, **__: Any) -> float:
        """Send what is due; give the seconds until something is again."""
        self._signs.note()
        service.say_that_it_ticks()
        if self._reloader is not None and self._reloader.reload_if_asked():
            self._take_periods(self._reloader.settings)
        for name, entry in self.schedule.items():
            if self._due[name] <= time.monotonic():
                sent = self._send(entry)
                # By now, not by when it was due: after a long sleep one tick is enough.
                pause = entry.schedule.seconds if sent else min(AGAIN_SECONDS, entry.schedule.seconds)
                self._due[name] = time.monotonic() + pause
                if sent and _runs_seldom(entry):
                    self._keep(name)
        return float(min(max(min(self._due.values()) - time.monotonic(), 0), self.max_interval))

    def _take_periods(self, settings: Settings) -> None:
        """Tick as the settings say now: an entry is due no later than a new period from now."""
        self.app.conf.beat_schedule = service.schedule(settings)
        before = {name: entry.schedule.seconds for name, entry in self.schedule.items()}
        self.merge_inplace(self.app.conf.beat_schedule)
        for name, entry in self.schedule.items():
            if entry.schedule.seconds != before.get(name):
                soon = time.monotonic() + entry.schedule.seconds
                self._due[name] = min(self._due.get(name, soon), soon)

    def _send(self, entry: ScheduleEntry) -> bool:
        """Send one tick, and tell whether the broker took it."""
        try:
            self.apply_async(entry, producer=self.producer, advance=False)
        except Exception as error:  # noqa: BLE001 - whatever the broker does, the next tick is tried
            self._broker.refused(error)
            return False
        self._broker.took()
        return True

    @property
    def info(self) -> str:
        """Say what Celery prints at the start."""
        return f"    . last runs -> {self._file}"

    def _last_runs(self) -> dict[str, float]:
        """Give the wall clock's seconds of the last runs; nothing of what makes no sense."""
        try:
            said = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(said, dict):
            return {}
        return {name: at for name, at in said.items() if type(at) in (int, float)}

    def _keep(self, name: str) -> None:
        known = {one: at for one, at in self._last_runs().items() if one in self.schedule}
        with suppress(OSError):  # a full disk costs a run more or less
            durable.write(self._file, json.dumps(known | {name: int(clock.seconds())}).encode(), mode=0o600)


class Broker:
    """Whether the broker takes ticks: said when it changes, not at each of them."""

    _refusal: str | None = None

    def refused(self, error: Exception) -> None:
        """Say why it does not, unless that was said."""
        refusal = broker.refusal(error)
        if refusal != self._refusal:
            log.warning("away", what="the broker", message=f"{refusal}; ticks go on when it takes them again")
        self._refusal = refusal

    def took(self) -> None:
        """Say that it does again, if it did not."""
        if self._refusal is not None:
            log.info("back", what="the broker")
        self._refusal = None


def reloader_of_beat(app: Any, fixed: Iterable[str] = ()) -> Reloader | None:
    """Give what reads beat's settings anew, if this application is the exchange's own."""
    if not getattr(app, "is_the_exchanges", False):
        return None
    made = Reloader(load_settings(), say_reloaded, fixed=fixed)
    if not sys.stdin.isatty():  # whose end is to end us
        made.listen()
    return made


def _runs_seldom(entry: ScheduleEntry) -> bool:
    return bool(entry.schedule.seconds >= SELDOM_SECONDS)
