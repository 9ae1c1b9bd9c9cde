"""Moments and lengths of time as text: of a moment one form for files and one for people, in UTC, with a zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


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
