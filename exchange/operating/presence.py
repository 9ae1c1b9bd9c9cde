"""Whether beat and worker are there: by the locks that they hold while they live, and by when work was last done.

The locks tell of this machine, and of any other that shares the home in a file system with locks; the database tells
of all that is done, by whoever.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import clock
from exchange.database.tables import Direction, success
from exchange.files.pid_lock import held
from exchange.format.errors import Problem
from exchange.format.moments import in_words
from exchange.settings import Settings
from exchange.site import Site

LATE_PERIODS = 3
"""So many periods without work are too many."""
LEAST = timedelta(minutes=2)
"""Nothing is late sooner; where beat and worker are there, one task may take its whole time."""


def absences(settings: Settings, site: Site, connection: Connection) -> Iterator[Problem]:
    """Say what is not done any more and which process is missing, or that one is missing beside the other.

    Reads in the caller's transaction.
    """
    beat, worker = held(settings.beat_lock), held(settings.worker_lock, by_others=True)
    least = timedelta(seconds=settings.task_seconds) if beat and worker else LEAST
    late = [*_late(settings, site, connection, least)]
    if late:
        done = " and ".join(what for what, _ in late)
        moments = [moment for _, moment in late if moment is not None]
        since = min(moments, default=None)
        when = f"for {done} nothing was done since {in_words(since)}" if since else f"{done} have not run yet"
        yield Problem(f"{when}: {_who_is_there(beat, worker)}", _REMEDIES[beat, worker], "exchange up", since)
    elif worker and not beat:
        yield Problem(
            "a worker runs here, but no beat: nothing is called but by hand, unless another machine's beat does",
            "start beat (`exchange up`, or `celery -A exchange beat`)",
            "exchange up",
        )
    elif beat and not worker:
        yield Problem(
            "beat runs here, but no worker: what it calls waits, unless another machine's worker takes it",
            "start the worker (`exchange up`, or `celery -A exchange worker`)",
            "exchange up",
        )


def _who_is_there(beat: bool, worker: bool) -> str:
    if beat and worker:
        return "beat and worker run here, and get nothing done"
    if not beat and not worker:
        return "neither beat nor a worker runs here"
    return "beat runs here, but no worker" if beat else "a worker runs here, but no beat"


_REMEDIES = {
    (True, True): "see what they log",
    (True, False): "start the worker: run `exchange up`, or `celery -A exchange worker`",
    (False, True): "start beat: run `exchange up`, or `celery -A exchange beat`",
    (
        False,
        False,
    ): "run `exchange up`, or a worker and beat of your own; or have cron run `exchange export` and `import`",
}


def _late(
    settings: Settings, site: Site, connection: Connection, least: timedelta
) -> Iterator[tuple[str, datetime | None]]:
    """Name exports and imports of which the last one came to its end too long ago, and when that was."""
    ways = (
        ("exports", Direction.OUT, site.outgoing(), settings.export_every),
        ("imports", Direction.IN, site.incoming(), settings.import_every),
    )
    for what, way, channels, period in ways:
        names = [one.name for one in channels]
        if not names:
            continue
        last = connection.scalar(
            sa.select(sa.func.max(success.c.at)).where(success.c.direction == way, success.c.channel.in_(names))
        )
        patience = max(LATE_PERIODS * timedelta(seconds=period), least)
        if last is None or clock.since(last) > patience:
            yield what, last
