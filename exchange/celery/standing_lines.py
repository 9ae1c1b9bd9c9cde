"""What stands in the log: a line for each trouble when it begins, each hour that it lasts, and when it has ended.

The worker says it, in a thread of its own, and of several workers of a home one. What is wrong is what ``exchange
health`` finds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from exchange.database.locks import try_lock
from exchange.files.folder import make_private
from exchange.format.moments import to_rfc3339
from exchange.operating.doctor.finding import Finding, Level
from exchange.settings import Settings
from exchange.watching.health import Looker

FIRST_SECONDS = 30.0
"""So long after the start it is looked first: beat and the others are starting, too."""
LOOK_SECONDS = 60.0
AGAIN_SECONDS = 3600.0

log = structlog.get_logger("exchange")


class StandingLines:
    """Which troubles stand, and when each was said last."""

    def __init__(self) -> None:
        self._said_at: dict[tuple[str, str], float] = {}
        self._standing: dict[tuple[str, str], Finding] = {}

    def say(self, findings: Iterable[Finding], moment: float) -> None:
        """Log what is new, what has lasted for an hour since it was said, and what has ended, at ``moment`` (seconds).

        One that ends and begins again within the hour is not said anew.
        """
        found = {(str(one.alarm), one.subject): one for one in findings if one.alarm and one.level is not Level.OK}
        for key, one in found.items():
            if moment - self._said_at.get(key, -AGAIN_SECONDS) >= AGAIN_SECONDS:
                self._said_at[key] = moment
                (log.error if one.level is Level.FAULT else log.warning)("alarm", **_fields(one))
                self._standing[key] = one
        for key in self._standing.keys() - found.keys():
            ended = self._standing.pop(key)
            log.info("alarm ended", alarm=str(ended.alarm), subject=ended.subject or None)
        self._said_at = {key: at for key, at in self._said_at.items() if key in found or moment - at < AGAIN_SECONDS}


def _fields(one: Finding) -> dict[str, Any]:
    return {
        "alarm": str(one.alarm),
        "subject": one.subject or None,
        "message": one.message,
        "next": one.command or one.remedy or None,
        "since": to_rfc3339(one.since) if one.since else None,
    }


def begin(settings: Callable[[], Settings]) -> None:
    """Say what stands as long as this process lives; ``settings`` gives those of the moment."""
    threading.Thread(target=_say_for_ever, args=(settings,), name="standing", daemon=True).start()


def _say_for_ever(settings: Callable[[], Settings]) -> None:
    lines, present = StandingLines(), settings()
    time.sleep(FIRST_SECONDS)
    lock = present.run_folder / "standing.lock"
    make_private(lock.parent)
    with lock.open("ab") as file:
        while not try_lock(file):  # another worker says it
            time.sleep(LOOK_SECONDS)
        while True:
            looker = Looker(settings())
            try:
                lines.say(looker.read().parts, time.monotonic())
            except Exception:  # whatever it is, the next look may tell
                log.exception("not looked")
            finally:
                looker.close()
            time.sleep(LOOK_SECONDS)
