"""Alarms: when the dead letters that wait for somebody are too many, or have waited too long."""

from __future__ import annotations

from datetime import datetime, timedelta

from exchange import dead_letters
from exchange.database.engine import now, reading
from exchange.dead_letters import Backlog
from exchange.site import Limits, Site


def look(site: Site) -> tuple[str, ...]:
    """Say what is beyond the settings now, as ``sentences`` does."""
    with reading(site.engine) as connection:
        backlog = dead_letters.backlog(connection)
    return sentences(backlog, site.limits, now())


def sentences(backlog: Backlog, limits: Limits, moment: datetime) -> tuple[str, ...]:
    """Say what is beyond the settings at a moment, a sentence for each of size and age; none if all is in order."""
    said = []
    if backlog.parked > limits.alarm_letters:
        said.append(
            f"{backlog.parked} dead letters are parked, more than {limits.alarm_letters} (EXCHANGE_ALARM_LETTERS);"
            " `exchange dead-letters` shows them by cause"
        )
    oldest = backlog.oldest_at
    if oldest is not None and moment - oldest > timedelta(days=limits.alarm_days):
        said.append(
            f"a dead letter has been parked since {oldest:%Y-%m-%d %H:%M} UTC, longer than {limits.alarm_days:g} days"
            f" (EXCHANGE_ALARM_DAYS); `exchange dead-letters show {backlog.oldest}` says what to do"
        )
    return tuple(said)
