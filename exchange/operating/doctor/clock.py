"""This machine's clock, by itself."""

from __future__ import annotations

from datetime import UTC, datetime

from exchange.database import engine
from exchange.format.moments import in_words
from exchange.operating.doctor.finding import Alarm, Findings, fault, ok

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
"""A clock before this program was written was never set."""


def check_clock() -> Findings:
    """See that it was ever set."""
    moment = engine.now()
    if moment < EARLIEST:
        yield fault(
            "clock",
            f"it says {moment:%Y-%m-%d %H:%M} UTC, which is past",
            "set it, and have NTP keep it",
            alarm=Alarm.CLOCK,
        )
    else:
        yield ok("clock", in_words(moment))
