"""What every process has that runs the exchange's tasks, its own application or another one's."""

from __future__ import annotations

import mmap
import os
import threading
from typing import IO, Any

from celery import signals

from exchange.celery.calls import TICK
from exchange.operating import readiness
from exchange.operating.schedule import Entry, entries
from exchange.operating.service_manager import manager
from exchange.settings import Settings

VISIBILITY_MARGIN_SECONDS = 600
RESULT_SECONDS = 24 * 3600
EXPIRY_SHARE = 0.9
"""Of its period a scheduled task may wait: a tick that nobody took is gone before the next one comes."""
SOFT_SHARE = 0.9
"""Of its hard limit a task has until it is asked to end: rolled back in order rather than killed."""


_changes = mmap.mmap(-1, 8)
"""How often the settings were read anew, shared with the forked pool: a child does the same before its next task."""


def note_change() -> None:
    """Have the pool's children read the settings anew, each before its next task."""
    _changes[:] = (changes() + 1).to_bytes(8, "big")


def changes() -> int:
    """Say how often settings were read anew."""
    return int.from_bytes(_changes[:], "big")


_ticked = threading.Event()


def say_that_it_ticks() -> None:
    """Tell whoever started this process that beat ticks; with the first tick that it is ready."""
    if not _ticked.is_set():
        readiness.report_ready("ticking")
        _ticked.set()
    manager().works()


HELD: list[IO[Any]] = []
"""What this process holds as long as it lives."""

# Shared with the forked pool: made before the fork, one byte, set once.
_stop = mmap.mmap(-1, 1)


def stopping() -> bool:
    """Tell a running task that its worker is shutting down: end after the batch at hand."""
    return _stop[0] != 0


@signals.worker_shutting_down.connect
@signals.worker_shutdown.connect
def ask_to_stop(**_: Any) -> None:
    """Have running tasks end after the batch at hand."""
    _stop[0] = 1


def _let_go() -> None:
    while HELD:
        HELD.pop().close()


# A child that outlives its worker is no worker.
os.register_at_fork(after_in_child=_let_go)


def visibility_seconds(settings: Settings) -> int:
    """Say after how long a broker may give a task again that was not acknowledged: above every hard limit."""
    return int(settings.task_seconds) + VISIBILITY_MARGIN_SECONDS


def valid_seconds(settings: Settings) -> float:
    """Say how long a signed call may wait: as long as its result would be kept, and past a killed worker's return."""
    return max(RESULT_SECONDS, 2 * visibility_seconds(settings))


def schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Give beat's entries, every one gone before its next tick."""
    return {one.name: _entry(one) for one in entries(settings)}


def _entry(one: Entry) -> dict[str, Any]:
    options = {"expires": one.every_seconds * EXPIRY_SHARE, "headers": TICK}
    return {"task": one.task, "schedule": one.every_seconds, "kwargs": dict(one.arguments), "options": options}
