"""How full disks were, a few times a day, and when they will be full at this pace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from exchange.database import clock
from exchange.database.dialects import insert_new
from exchange.database.tables import sample
from exchange.format.as_dict import AsDict
from exchange.settings import Settings

EVERY = timedelta(hours=6)
KEPT = timedelta(days=60)
LEAST = timedelta(days=1)
"""A forecast needs samples over so long a time."""
FAR = timedelta(days=3650)
"""A disk that lasts longer than this is not said to get full."""


@dataclass(frozen=True)
class Disk(AsDict):
    """One file system: how much of it is free now, of how many bytes, and when it is full at the pace of ``over``.

    ``full_at`` is None where it does not fill, or where too little is known: then ``over`` is None, too.
    """

    place: str
    total: int
    free: int
    a_day: int | None = None
    full_at: datetime | None = None
    over: timedelta | None = None

    @property
    def used_share(self) -> float:
        """How much of it is taken, from 0 to 1."""
        return 1 - self.free / self.total if self.total else 0.0


def keep_samples(connection: Connection, settings: Settings) -> None:
    """Keep how full each disk is, if that was not kept lately. Runs in the caller's transaction, which writes."""
    moment = clock.now()
    newest = connection.scalar(sa.select(sa.func.max(sample.c.at, type_=sample.c.at.type)))
    if newest is not None and clock.since(newest, moment) < EVERY:
        return
    for place, (total, free) in _disks(settings):
        insert_new(connection, sample, {"place": place, "at": moment, "total": total, "free": free})
    wrong = sa.or_(sample.c.at < moment - KEPT, sample.c.at > moment + clock.SKEW)
    connection.execute(sa.delete(sample).where(wrong))


def read_disks(connection: Connection, settings: Settings) -> list[Disk]:
    """Give each disk as it is, with a forecast. Reads in the caller's transaction."""
    moment = clock.now()
    found = []
    for place, (total, free) in _disks(settings):
        rows = connection.execute(
            sa.select(sample.c.at, sample.c.free)
            .where(sample.c.place == place, sample.c.at <= moment)
            .order_by(sample.c.at)
        )
        found.append(forecast(place, total, free, [*((row.at, row.free) for row in rows), (moment, free)]))
    return found


def forecast(place: str, total: int, free: int, samples: Sequence[tuple[datetime, int]]) -> Disk:
    """Work out when a disk is full by the line that fits its samples best, each a moment and the bytes free then."""
    last = samples[-1][0]
    days = [(at - last).total_seconds() / 86400 for at, _ in samples]
    over = timedelta(days=-days[0])
    if over < LEAST:
        return Disk(place, total, free)
    middle, mean = sum(days) / len(days), sum(one for _, one in samples) / len(samples)
    spread = sum((day - middle) ** 2 for day in days)
    slope = sum((day - middle) * (one - mean) for day, (_, one) in zip(days, samples, strict=True)) / spread
    full = None
    if slope < 0 and free / -slope <= FAR / timedelta(days=1):
        full = last + timedelta(days=free / -slope)
    return Disk(place, total, free, round(-slope), full, over)


def _disks(settings: Settings) -> Iterator[tuple[str, tuple[int, int]]]:
    """Give the file systems of our folders, each once by the first folder on it: bytes in all, and free for us."""
    url = make_url(settings.database_url)
    places = [settings.home, settings.outgoing, settings.incoming]
    if url.get_backend_name() == "sqlite" and url.database:
        places.append(Path(url.database).parent)
    seen = set()
    for place in places:
        try:
            device, usage = os.stat(place).st_dev, shutil.disk_usage(place)  # noqa: PTH116 - beside disk_usage
        except OSError:
            continue  # doctor says what is wrong with it
        if device not in seen:
            seen.add(device)
            yield str(place)[:255], (usage.total, usage.free)
