"""Celery's worker and beat as programs of ours: what they say is a line of the log, and a banner is for terminals."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from celery.apps import beat, worker

from exchange.operating import logs


class Worker(worker.Worker):  # type: ignore[misc]
    """Celery's worker."""

    def install_platform_tweaks(self, worker: Any) -> None:
        """Handle signals as Celery does, but for SIGHUP: it has the settings read anew, and restarts nothing.

        At a terminal it ends the worker with it.
        """
        super().install_platform_tweaks(worker)
        if not self._isatty:
            signal.signal(signal.SIGHUP, worker.app.reloader().ask)

    def emit_banner(self) -> None:
        """Show the banner where somebody sees it."""
        if sys.__stdout__ is not None and sys.__stdout__.isatty():
            super().emit_banner()


class Beat(beat.Beat):  # type: ignore[misc]
    """Celery's beat."""

    def __init__(self, **options: Any) -> None:
        """Take what Celery gives."""
        super().__init__(**options | {"quiet": options.get("quiet") or not os.isatty(1)})


def _say(sentence: object, _stream: object = None) -> None:
    """Log what Celery says in a handler of a signal, where no logger may be asked."""
    try:
        os.write(2, f"{logs.line_now(str(sentence).strip())}\n".encode(errors="backslashreplace"))
    except OSError:  # nobody reads it any more
        return


worker.safe_say = _say
