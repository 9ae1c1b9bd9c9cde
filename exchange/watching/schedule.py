"""When a daily and a weekly report are due: after EXCHANGE_REPORT_AT of each day, and of each Monday, by local time.

One that was missed is made up for within its day or week. Each is sent once, however many watch.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Connection

from exchange.database import clock
from exchange.settings import Settings
from exchange.watching import outbox

PERIODS = {"daily": timedelta(days=1), "weekly": timedelta(days=7)}


def due_reports(settings: Settings, local: datetime) -> Iterator[tuple[str, str]]:
    """Give the kind and the name of each report that is due at a local time, sent already or not."""
    kinds = (settings.reports or "").split(",")
    at = timedelta(hours=int(settings.report_at[:2]), minutes=int(settings.report_at[3:]))
    day = (local.replace(tzinfo=None) - at).date()  # before that time it is still the day before
    if "daily" in kinds:
        yield "daily", f"daily {day:%Y-%m-%d}"
    if "weekly" in kinds:
        year, week, _ = day.isocalendar()
        yield "weekly", f"weekly {year}-W{week:02}"


def unsent_reports(connection: Connection, settings: Settings) -> list[tuple[str, str]]:
    """Give the reports that are due and were not told to anybody. Reads in the caller's transaction."""
    due = due_reports(settings, clock.now().astimezone())
    return [(kind, once) for kind, once in due if not outbox.was_kept(connection, once)]
