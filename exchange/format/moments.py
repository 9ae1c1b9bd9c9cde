"""Moments and lengths of time as text: of a moment one form for files and one for people, in UTC, with a zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"([0-9]{1,5})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def to_rfc3339(moment: datetime) -> str:
    """Write a moment as files have it: ``2026-01-31T12:00:00.000000Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_rfc3339(text: object) -> datetime:
    """Read a moment in any spelling that RFC 3339 has for it; ``ValueError`` for anything else."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("an RFC 3339 date-time")


def as_typed(text: str, now: datetime) -> datetime:
    """Read a moment as people type it: a date, a date and time (UTC unless it says otherwise), or so long ago.

    Raises ValueError.
    """
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        read = datetime.fromisoformat(text)
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("a moment as 2026-11-22T06:15 or 90m, 3h, 2d ago") from None


def length_typed(text: str) -> timedelta:
    """Read a length of time as people type it. Raises ValueError."""
    if found := _AGO.fullmatch(text):
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    raise ValueError("a length of time as 90m, 12h or 90d")


def in_words(moment: datetime) -> str:
    """Give a moment as sentences have it: ``2026-01-31 12:00:00 UTC``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def in_table(moment: datetime) -> str:
    """Give a moment as commands' tables have it: ``2026-01-31 12:00:00Z``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def lasting(time: timedelta) -> str:
    """Word a length of time for people, in its two largest units."""
    seconds = max(round(time.total_seconds()), 0)
    units = (("d", seconds // 86400), ("h", seconds // 3600 % 24), ("min", seconds // 60 % 60), ("s", seconds % 60))
    worded = [f"{number} {unit}" for unit, number in units if number]
    return " ".join(worded[:2]) or "0 s"
