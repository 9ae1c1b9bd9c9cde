"""Signs of life of beat and workers, in the database: a process that hangs holds its lock, and does nothing.

Beat must tick on whatever becomes of the database, so a thread of its own writes: the moment of the last tick, not
that the thread lives.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import datetime

from sqlalchemy import Engine

from exchange.database import clock
from exchange.database.engine import make_engine, missing_file
from exchange.database.processes import Kind, note_sign
from exchange.settings import Settings, SettingsFaults, load_settings

TICK_SECONDS = 10
"""Beat ticks at least this often, and neither it nor a worker is written down more often."""


class BeatSigns:
    """Writes down when beat ticked last: ours by itself, another application's (``guest``) when it calls our tasks."""

    def __init__(self, *, guest: bool = False) -> None:
        self._guest = guest
        self._ticked_at: datetime | None = None
        self._waiting = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self) -> None:
        """Say that beat ticks; returns at once, and raises nothing."""
        self._ticked_at = clock.now()
        self._waiting.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_for_ever, name="signs", daemon=True)
            self._thread.start()

    def _write_for_ever(self) -> None:
        with suppress(SettingsFaults):
            settings = load_settings()
            promised = _period(settings) if self._guest else TICK_SECONDS
            engine = make_engine(settings.database_url, lock_seconds=settings.lock_seconds)
            while self._waiting.wait():
                self._waiting.clear()
                if missing_file(engine) is None:
                    note_sign(engine, Kind.BEAT, promised, at=self._ticked_at)
                engine.dispose()  # between two words it holds no connection
                time.sleep(_pause(settings))


class WorkerSigns:
    """Writes down when a process of a worker last got something done."""

    def __init__(self) -> None:
        self._next = 0.0

    def note(self, engine: Engine, settings: Settings, patience_seconds: float) -> None:
        """Say that something is done, unless that was said a moment ago; commits a transaction of its own."""
        moment = time.monotonic()
        if moment >= self._next:
            self._next = moment + _pause(settings)
            note_sign(engine, Kind.WORKER, _period(settings), patience_seconds=patience_seconds)


def _period(settings: Settings) -> float:
    """Say how often there is something to do: beat calls as often."""
    return max(min(settings.export_every, settings.import_every), TICK_SECONDS)


def _pause(settings: Settings) -> float:
    return min(TICK_SECONDS, settings.export_every, settings.import_every)
