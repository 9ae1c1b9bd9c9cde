"""Moments as text: one form for files and one for people, both in UTC. Every moment has a zone."""

from __future__ import annotations

from datetime import UTC, datetime


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
