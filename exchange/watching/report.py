"""The figures of a report: what crossed, how fast, what is parked and why, agreement, disks, what stands.

Batches are counted from the ledger's index of those that are kept: a report reaches as far back as retention does.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import clock
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import BatchState, DeadLetterState, Direction, batch, is_kept, sample
from exchange.dead_letters import counts
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.groups import grouped
from exchange.format.as_dict import AsDict
from exchange.format.names import CONTROL
from exchange.link import peer_statements
from exchange.link.reconcile import report_agreement
from exchange.operating.doctor.finding import Finding
from exchange.settings import Settings
from exchange.site import Site
from exchange.watching.alarms import Rules, Standing, compare
from exchange.watching.samples import Disk, read_disks

MOST_BATCHES = 50_000
"""So many of the newest batches of each direction are looked at."""
MOST_CAUSES = 5
BARS = 24
"""In so many parts a time is cut for a plot; a week in seven."""


@dataclass(frozen=True)
class Crossed(AsDict):
    """What crossed of one channel. Seconds are from when a batch was sealed until it was acknowledged or applied."""

    direction: Direction
    channel: str
    batches: int
    records: int
    bytes: int
    median_seconds: float | None
    most_seconds: float | None
    """95 of 100 took no longer."""


@dataclass(frozen=True)
class Cause(AsDict):
    """Parked dead letters of one cause."""

    letters: int
    error: str
    where: str
    message: str
    example: int


@dataclass(frozen=True)
class Report(AsDict):
    """All of it. ``bars`` are the records of each part of the time by direction, ``used`` each disk's used share."""

    network: str
    peer: str
    since: datetime
    until: datetime
    standing: tuple[Standing, ...]
    crossed: tuple[Crossed, ...]
    bars: Mapping[str, tuple[int, ...]]
    parked: int
    parked_since: datetime | None
    causes: tuple[Cause, ...]
    agreement: Mapping[str, int]
    differing: tuple[str, ...]
    disks: tuple[Disk, ...]
    used: Mapping[str, tuple[float, ...]]
    cut: bool = False
    """Whether there were more batches than were looked at."""
    one_way: bool = False
    name: str = "report"


def read_report(settings: Settings, site: Site, since: datetime, name: str, findings: Iterable[Finding]) -> Report:
    """Work out a report of the time ``since`` a moment, with what was found just now. Only reads.

    Raises TransientError.
    """
    until = clock.now()
    agreed = report_agreement(site)
    with transient_errors(), reading(site.engine, one_moment=True) as connection:
        rows = {way: list(_batches(connection, way, since, one_way=site.one_way)) for way in Direction}
        backlog = counts.backlog(connection)
        groups = grouped(connection, Filters(state=DeadLetterState.PARKED))[:MOST_CAUSES] if backlog.parked else []
        disks = read_disks(connection, settings)
        used = {disk.place: _used(connection, disk) for disk in disks}
    return Report(
        network=site.network,
        peer=site.peer,
        since=since,
        until=until,
        standing=compare((), findings, (), Rules(), until, ()).known,
        crossed=tuple(one for way in Direction for one in _by_channel(site, way, rows[way])),
        bars={way.value: _bars(rows[way], since, until) for way in Direction},
        parked=backlog.parked,
        parked_since=backlog.oldest_at,
        causes=tuple(
            Cause(one.letters, one.error, f"{one.channel}/{one.stream} ({one.direction})", one.message, one.example)
            for one in groups
        ),
        agreement=Counter(one.state for one in agreed),
        differing=tuple(f"{one.stream} of {one.channel}" for one in agreed if one.state == "different"),
        disks=tuple(disks),
        used=used,
        cut=any(len(some) >= MOST_BATCHES for some in rows.values()),
        one_way=site.one_way,
        name=name,
    )


@dataclass(frozen=True)
class _Batch:
    channel: str
    records: int
    bytes: int
    at: datetime
    seconds: float | None


def _batches(connection: Connection, way: Direction, since: datetime, *, one_way: bool) -> Iterator[_Batch]:
    """Give the batches that crossed since a moment; on a one-way link those that were published."""
    unconfirmable = one_way and way is Direction.OUT
    done = {Direction.OUT: BatchState.ACKNOWLEDGED, Direction.IN: BatchState.APPLIED}[way]
    at = batch.c.created_at if unconfirmable else batch.c.updated_at
    query = (
        sa.select(batch)
        .where(batch.c.direction == way, is_kept(batch), batch.c.updated_at >= since, at >= since)
        .where(batch.c.channel != CONTROL, batch.c.state == (BatchState.PUBLISHED if unconfirmable else done))
        .order_by(batch.c.updated_at.desc())
        .limit(MOST_BATCHES)
    )
    for row in connection.execute(query):
        sealed = row.created_at
        if way is Direction.IN:
            claim = peer_statements.manifest(row.manifest)
            sealed = claim.created_at if claim else None
        lasted = None if sealed is None or unconfirmable else max((row.updated_at - sealed).total_seconds(), 0.0)
        moment = row.created_at if unconfirmable else row.updated_at
        yield _Batch(row.channel, row.records, row.bytes, moment, lasted)


def _by_channel(site: Site, way: Direction, rows: Sequence[_Batch]) -> Iterator[Crossed]:
    """Give what crossed of each channel, of those that nothing crossed of, too."""
    of: defaultdict[str, list[_Batch]] = defaultdict(list)
    for one in site.outgoing() if way is Direction.OUT else site.incoming():
        of[one.name] = []
    for row in rows:
        of[row.channel].append(row)
    for channel, some in of.items():
        lasted = sorted(one.seconds for one in some if one.seconds is not None)
        yield Crossed(
            way,
            channel,
            len(some),
            sum(one.records for one in some),
            sum(one.bytes for one in some),
            statistics.median(lasted) if lasted else None,
            lasted[max(-(-len(lasted) * 95 // 100) - 1, 0)] if lasted else None,
        )


def _bars(rows: Sequence[_Batch], since: datetime, until: datetime) -> tuple[int, ...]:
    parts = 7 if until - since >= timedelta(days=6) else BARS
    heights = [0] * parts
    for one in rows:
        place = (one.at - since) / (until - since) * parts
        heights[min(max(int(place), 0), parts - 1)] += one.records
    return tuple(heights)


def _used(connection: Connection, disk: Disk) -> tuple[float, ...]:
    """Give the share of a disk that was used, the last samples and now."""
    newest = sa.select(sample.c.total, sample.c.free).where(sample.c.place == disk.place)
    rows = connection.execute(newest.order_by(sample.c.at.desc()).limit(BARS - 1)).all()
    shares = [1 - row.free / row.total if row.total else 0.0 for row in reversed(rows)]
    return (*shares, disk.used_share)
