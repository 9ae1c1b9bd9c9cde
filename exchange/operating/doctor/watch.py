"""Whether somebody watches this side where people are to be told, and whether what they are told reaches them."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from exchange.database import clock
from exchange.database.locks import reading
from exchange.database.tables import message
from exchange.format.errors import printable
from exchange.format.moments import lasting
from exchange.operating.doctor.finding import Findings, fault, ok, warning
from exchange.settings import WEBHOOKS, Settings, SettingsFaults
from exchange.site import Site

MISSED_PERIODS = 3
"""So many periods of EXCHANGE_WATCH_EVERY without a look are too many."""
LEAST = timedelta(seconds=30)
"""A look may take that long by itself, where receivers hang."""


def check_watch(settings: Settings) -> Findings:
    """Look whether somebody watches, and whether what sends messages is installed."""
    try:
        targets = settings.notify_targets
    except SettingsFaults as faults:
        yield fault("watch", f"nobody can be told: {faults}", "correct it")
        return
    if not targets:
        yield ok("watch", "nobody is told of alarms (EXCHANGE_NOTIFY)")
        return
    others = [one.name for one in targets if one.scheme.lower() not in WEBHOOKS]
    if others and importlib.util.find_spec("apprise") is None:
        remedy = "pip install 'exchange[notify]'"
        yield fault("watch", f"{', '.join(others)} can't be told, as Apprise is not installed", remedy)
    start = "run `exchange up`, `exchange serve` or `exchange watch`; or have cron run `exchange watch --once`"
    try:
        last = datetime.fromtimestamp(settings.watch_file.stat().st_mtime, UTC)
    except OSError:
        yield warning("watch", "nobody has watched this side yet: nobody is told", start, command="exchange watch")
        return
    if clock.since(last) > max(MISSED_PERIODS * timedelta(seconds=settings.watch_every), LEAST):
        said = f"nobody watches this side since {lasting(clock.now() - last)}: nobody is told"
        yield fault("watch", said, start, command="exchange watch", since=last)
    else:
        yield ok("watch", f"{', '.join(one.name for one in targets)} are told what is not well")


def check_told(_settings: Settings, site: Site) -> Findings:
    """Look for messages that were not taken yet."""
    tried = (message.c.state == "waiting", message.c.attempts > 0)
    columns = (message.c.target, message.c.last_error, message.c.created_at)
    with reading(site.engine) as connection:
        rows = connection.execute(sa.select(*columns).where(*tried).order_by(message.c.id).limit(100)).all()
    for target in dict.fromkeys(row.target for row in rows):
        mine = [row for row in rows if row.target == target]
        said = f"{target} has not taken {len(mine)} messages: {printable(mine[0].last_error, 300)}"
        remedy = "mend that; they are sent again, and `exchange alarms test` tries it at once"
        yield warning("watch", said, remedy, command="exchange alarms test", since=mine[0].created_at)
