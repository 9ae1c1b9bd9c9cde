"""How this program logs: one event a line on stderr, named fields, never a payload, never a secret."""

from __future__ import annotations

import structlog

LINE = "%(asctime)s %(levelname)s %(message)s"


def configure() -> None:
    """Hand our events to the standard library's loggers, as a line of named fields."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.processors.LogfmtRenderer(key_order=["event"], drop_missing=True),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
