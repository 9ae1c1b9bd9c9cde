"""What a command at work tells besides its own words: lines of the log and spans, as a worker does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from exchange import tracing

if TYPE_CHECKING:
    from exchange.settings import Settings


@contextmanager
def at_work(settings: Settings) -> Iterator[None]:
    """Have warnings of hooks, codecs and libraries be lines of the log, and spans go out before the command ends.

    Loads nothing before the first warning, nor where no ``OTEL_`` variable asks for spans.
    """
    root, first = logging.getLogger(), _FirstWarning(settings)
    if not root.handlers:  # else whoever runs this logs in a way of its own
        root.addHandler(first)
    tracing.begin()
    try:
        yield
    finally:
        root.removeHandler(first)
        tracing.end()


class _FirstWarning(logging.Handler):
    """Sets the log up when it is needed first, and leaves it to that."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(logging.WARNING)
        self._settings = settings

    def emit(self, record: logging.LogRecord) -> None:
        """Have it and all that follow be lines of the log."""
        from exchange.operating import logs

        logging.getLogger().removeHandler(self)
        level = max(logging.WARNING, logging.getLevelNamesMapping()[self._settings.log_level])
        form = self._settings.log_format
        logs.configure("command", logging.getLevelName(level), form, secrets=self._settings.passwords)
        logging.getLogger().handle(record)
