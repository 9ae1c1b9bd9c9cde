"""Metrics: what a side is and did, in Prometheus' text format, read from database and file system at each scrape.

All counts come from the database, so that forked workers, several of them and restarts make no difference. Nothing
that grows is read from end to end: batches are counted by triggers (``exchange_batch_count``), durations by whoever
did the work (``exchange_work_count``), dead letters by cause, and pending changes up to ``MOST_PENDING``. What can't be
read leaves its metrics out, and ``exchange_database_up`` says so.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from exchange import __version__
from exchange.database import clock, engine, ledger, tally
from exchange.database.dialects import dialect_of
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.pauses import paused
from exchange.database.tables import (
    BatchState,
    DeadLetterState,
    Direction,
    IntakeState,
    agreement,
    batch,
    batch_count,
    dead_letter,
    failed_run,
    folded,
    gap,
    is_missing,
    network,
    position,
    process,
    schema,
    success,
    work_count,
)
from exchange.dead_letters import counts
from exchange.files import keys
from exchange.format.errors import TransientError
from exchange.format.names import CONTROL
from exchange.incoming.stranger_counts import recent_strangers
from exchange.intake import folders, standing
from exchange.link import peer_state, peer_statements
from exchange.operating import last_runs
from exchange.operating.backup_state import read_last
from exchange.operating.presence import LATE_PERIODS, LEAST
from exchange.settings import Settings
from exchange.site import Site
from exchange.tables import capture
from exchange.watching.health import Health, Looker

MOST_PENDING = 100_000
"""So many pending changes of a channel are counted at most: a scrape is no scan of a backlog."""

MOST_QUARANTINED = 1_000
"""So many quarantined batches, the newest, are looked at whether they were applied since."""

MOST_CAUSES = 1_000
"""So many causes of dead letters in a state are told by channel and error, those with the most letters."""

OTHER = "other"
"""The channel of what is not declared: whoever sends can't make up labels."""

Samples = Mapping[Any, float]
"""Values by their labels, a tuple of texts each."""


def render_metrics(settings: Settings, site: Site, health: Health) -> bytes:
    """Give all metrics of a side as text; ``health`` is what was found of it just now.

    Reads in one transaction, and the file systems' room; changes nothing. A database that fails leaves out what it
    would have said.
    """
    page = _Page(site)
    return _rendered(settings, page, health, _read_files(settings, page), _read_database(page))


class Scraper:
    """Renders the metrics of a side, again and again, from any thread, and within a time, whatever hangs.

    All that ask at once get what one reading of database and folders found. What is not read in time is left out, and
    of the looks at the side those before count.
    """

    def __init__(self, settings: Settings, looker: Looker, make_site: Callable[[], Site]) -> None:
        """Take the side, who looks at it, and what makes its site: it is made when the first one asks."""
        self._settings, self._looker, self._make_site = settings, looker, make_site
        self._lock = threading.Lock()
        self._page: _Page | None = None
        self._files = _Shared(lambda: _read_files(settings, self._known_page()))
        self._database = _Shared(lambda: _read_database(self._known_page()))

    def render(self, seconds: float) -> bytes:
        """Give all metrics as text; takes at most ``seconds``. Raises SettingsFaults."""
        deadline = time.monotonic() + seconds
        page = self._known_page()
        readings = [one.begin() for one in (self._files, self._database)]
        health = self._looker.read_lately(seconds / 2)
        found = [one.found(deadline) for one in readings]
        return _rendered(self._settings, page, health, found[0] or [], found[1])

    def close(self) -> None:
        """Let go of the connections."""
        if self._page is not None:
            self._page.site.engine.dispose()

    def _known_page(self) -> _Page:
        with self._lock:
            if self._page is None:
                self._page = _Page(self._make_site())
            return self._page


class _Reading:
    """One reading, which goes on or is done."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._metrics: list[Metric] | None = None
        self._error: Exception | None = None

    @property
    def goes_on(self) -> bool:
        return not self._done.is_set()

    def run(self, read: Callable[[], list[Metric] | None]) -> None:
        try:
            self._metrics = read()
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
            self._error = error
        finally:
            self._done.set()

    def found(self, deadline: float) -> list[Metric] | None:
        """Wait for what it finds until ``deadline``; None if that is not known by then. Raises what it raised."""
        if not self._done.wait(max(deadline - time.monotonic(), 0)):
            return None
        if self._error is not None:
            raise self._error
        return self._metrics


class _Shared:
    """What one thread at a time reads: all that ask meanwhile wait for what that one finds."""

    def __init__(self, read: Callable[[], list[Metric] | None]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._present: _Reading | None = None

    def begin(self) -> _Reading:
        """Begin to read, unless that goes on."""
        with self._lock:
            if self._present is None or not self._present.goes_on:
                self._present = _Reading()
                threading.Thread(target=self._present.run, args=(self._read,), name="scrape", daemon=True).start()
            return self._present


def _rendered(
    settings: Settings, page: _Page, health: Health, files: Iterable[Metric], database: list[Metric] | None
) -> bytes:
    """Write all metrics; ``database`` is None where it could not be read."""
    up = {(): 0.0 if database is None else 1.0}
    metrics = [
        *_about(settings, page),
        *files,
        *_alarms(health, page),
        page.gauge("database_up", "Whether the database could be read.", (), up),
        *(database or ()),
        page.gauge(
            "rendered_timestamp_seconds",
            "When these metrics were read: a textfile that nobody writes any more is old.",
            (),
            {(): clock.seconds()},
        ),
    ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics))
    return generate_latest(registry)


class _Collector:
    """The metrics of one scrape, as the library takes them."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Give each metric with its samples."""
        yield from self._metrics


def _read_files(settings: Settings, page: _Page) -> list[Metric]:
    """Read what the file systems have."""
    return [*_home(settings, page), *_room(page), *_keys(settings, page)]


def _read_database(page: _Page) -> list[Metric] | None:
    """Read what the database has, in one transaction; None if it is away, or not migrated."""
    with suppress(TransientError, SQLAlchemyError), transient_errors():
        if engine.missing_file(page.site.engine) is None:
            with reading(page.site.engine, one_moment=True) as connection:
                return [one for section in _SECTIONS for one in section(page, connection)]
    return None


class _Page:
    """Makes metrics whose labels begin with the side that they are of."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.declared = {one.name for one in (*site.outgoing(), *site.incoming())} | {CONTROL}

    def channel(self, name: str) -> str:
        """Name a channel as labels do."""
        return name if name in self.declared else OTHER

    def gauge(self, name: str, said: str, labels: tuple[str, ...], samples: Samples) -> Metric:
        """Make a metric of what stands."""
        return self._filled(GaugeMetricFamily(f"exchange_{name}", said, labels=("network", *labels)), samples)

    def counter(self, name: str, said: str, labels: tuple[str, ...], samples: Samples) -> Metric:
        """Make a metric of what only grows; ``name`` is without ``_total``."""
        return self._filled(CounterMetricFamily(f"exchange_{name}", said, labels=("network", *labels)), samples)

    def _filled(self, family: GaugeMetricFamily | CounterMetricFamily, samples: Samples) -> Metric:
        for labels, value in sorted(samples.items()):
            family.add_metric((self.site.network, *labels), value)
        return family

    def histogram(
        self, name: str, said: str, labels: tuple[str, ...], samples: Mapping[tuple[str, ...], _Durations]
    ) -> Metric:
        """Make a metric of how long things took."""
        family = HistogramMetricFamily(f"exchange_{name}", said, labels=("network", *labels))
        ends = [*map(str, tally.BOUNDS), "+Inf"]
        for values, took in sorted(samples.items()):
            each = [took.buckets[number] for number in range(len(ends))]
            upto = list(zip(ends, accumulate(each), strict=True))
            family.add_metric((self.site.network, *values), upto, took.seconds)
        return family


class _Durations:
    """How often a step took how long: by the number of the bucket, and all together."""

    def __init__(self) -> None:
        self.buckets: defaultdict[int, int] = defaultdict(int)
        self.seconds = 0.0


def _age(moment: datetime | None) -> float:
    """Give how long ago a moment was, in seconds; endless if a clock that was ahead wrote it."""
    if moment is None:
        return 0.0
    ago = clock.since(moment)
    return float("inf") if ago == timedelta.max else max(ago.total_seconds(), 0.0)


# What needs no database


def _about(settings: Settings, page: _Page) -> Iterator[Metric]:
    site = page.site
    labels = ("peer", "version", "python", "database", "link")
    kind = dialect_of(site.engine).name
    link = "one-way" if site.one_way else "two-way"
    about = (site.peer, __version__, platform.python_version(), kind, link)
    yield page.gauge("build_info", "What runs here.", labels, {about: 1})
    periods = {("out",): settings.export_every, ("in",): settings.import_every}
    yield page.gauge("period_seconds", "How often beat calls exports and imports.", ("direction",), periods)
    late = {way: max(LATE_PERIODS * every, LEAST.total_seconds()) for way, every in periods.items()}
    said = "For how long exports and imports may not be done until they are late."
    yield page.gauge("late_after_seconds", said, ("direction",), late)


def _home(settings: Settings, page: _Page) -> Iterator[Metric]:
    """Tell what files of the home have."""
    with suppress(OSError):
        counted = {(name,): one.count for name, one in last_runs.restarts(settings).items()}
        said = "Processes of this home that were killed, or fell, and were started again."
        yield page.counter("process_restarts", said, ("process",), counted)
    with suppress(OSError):
        made_at = read_last(settings.home).at
        made = {} if made_at is None else {(): made_at.timestamp()}
        yield page.gauge("last_backup_timestamp_seconds", "When the last backup was made here.", (), made)


def _room(page: _Page) -> Iterator[Metric]:
    """Say how much room is left under each folder; one that can't be looked at is left out."""
    places = page.site.spool.folders
    folders = {one.name: one for one in places.private} | {"outgoing": places.outgoing, "incoming": places.incoming}
    seen = {}
    for name, folder in folders.items():
        with suppress(OSError):
            seen[name,] = os.statvfs(folder)
    label = ("folder",)
    free = {name: float(one.f_bavail * one.f_frsize) for name, one in seen.items()}
    size = {name: float(one.f_blocks * one.f_frsize) for name, one in seen.items()}
    yield page.gauge("disk_free_bytes", "Room left on the file system of a folder.", label, free)
    yield page.gauge("disk_size_bytes", "Size of the file system of a folder.", label, size)
    inodes = {name: float(one.f_favail) for name, one in seen.items() if one.f_files}
    files = {name: float(one.f_files) for name, one in seen.items() if one.f_files}
    yield page.gauge("disk_free_inodes", "Files that the file system of a folder has room for.", label, inodes)
    yield page.gauge("disk_inodes", "Files that the file system of a folder can have at most.", label, files)


def _keys(settings: Settings, page: _Page) -> Iterator[Metric]:
    listed = []
    with suppress(keys.KeyFault, OSError):
        listed = [one for one in keys.listed(settings.keys_folder, settings.signing_key) if one.fault is None]
    ages, ends = {}, {}
    for one in listed:
        use = "trusted" if one.trusted else "signs" if one.signs else "own"
        with suppress(OSError):
            ages[one.name, use] = max(clock.seconds() - one.path.stat().st_mtime, 0.0)
        if one.terms.not_after is not None:
            ends[one.name, use] = one.terms.not_after.timestamp()
    label = ("key", "use")
    yield page.gauge("key_age_seconds", "Since when a key's file is here.", label, ages)
    yield page.gauge("key_expiry_timestamp_seconds", "Until when a key is trusted, if that is limited.", label, ends)


def _alarms(health: Health, page: _Page) -> Iterator[Metric]:
    """Tell what doctor's quick checks find that somebody is to be told of."""
    standing = {(one.alarm.value, one.subject, one.level.value): 1.0 for one in health.parts if one.alarm is not None}
    label = ("alarm", "subject", "level")
    yield page.gauge(
        "alarm", "1 while an alarm stands, as `exchange health` says it, by what it is about.", label, standing
    )
    ready = {(): 1.0 if health.is_ready else 0.0}
    yield page.gauge("ready", "Whether nothing needs a person.", (), ready)
    said = "Since when the oldest part of what alarms and ready say was looked at: more, where a look hangs."
    yield page.gauge("look_age_seconds", said, (), {(): _age(health.looked_at)})


# What the database has


def _batches(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell of batches, records and bytes by what became of them, and of what stands in which state since when."""
    numbers = ("batches", "records", "bytes", "standing")
    place = (batch_count.c.channel, batch_count.c.direction, batch_count.c.outcome)
    query = sa.select(*place, *(sa.func.sum(batch_count.c[name]).label(name) for name in numbers)).group_by(*place)
    came: dict[str, defaultdict[tuple[str, ...], float]] = {name: defaultdict(float) for name in numbers}
    for row in connection.execute(query):
        for name in numbers:
            came[name][page.channel(row.channel), row.direction, row.outcome] += float(getattr(row, name))
    labels = ("channel", "direction", "outcome")
    yield page.counter("batches", "Batches that ever came to a state, or were resent.", labels, came["batches"])
    yield page.counter("batch_bytes", "Bytes of the data files of those batches.", labels, came["bytes"])
    yield page.counter("batch_records", "Records of those batches.", labels, came["records"])
    standing = {place: number for place, number in came["standing"].items() if place[2] != "resent"}
    old = sa.select(folded.c.channel, folded.c.direction, sa.func.sum(folded.c.batches))
    for channel, direction, number in connection.execute(old.group_by(folded.c.channel, folded.c.direction)):
        end = BatchState.APPLIED if direction == Direction.IN else BatchState.ACKNOWLEDGED
        ended = (page.channel(channel), direction, end.value)
        standing[ended] = standing.get(ended, 0.0) + float(number)
    oldest = _oldest(page, connection)
    for channel in sorted({one for one, _, state in standing if state == BatchState.QUARANTINED}):
        refused = (channel, Direction.IN.value, BatchState.QUARANTINED.value)
        mended, since = _quarantined(page, connection, channel)
        standing[refused] -= mended
        if since is not None:
            oldest[refused] = _age(since)
    state = ("channel", "direction", "state")
    yield page.gauge(
        "batches", "Batches in a state now; quarantined are those that were not applied since.", state, standing
    )
    yield page.gauge(
        "batches_oldest_age_seconds",
        "Since when the oldest batch is under way or waits for something, by its state.",
        state,
        oldest,
    )


_UNDER_WAY = (BatchState.SEALED, BatchState.PUBLISHED, BatchState.WAITING, BatchState.HELD)


def _oldest(page: _Page, connection: Connection) -> dict[tuple[str, ...], float]:
    """Find the oldest batch of each channel in a state that is no end: a look at the index for each."""
    oldest = (
        sa.select(sa.func.min(batch.c.id))
        .where(
            batch.c.state == batch_count.c.outcome,
            batch.c.direction == batch_count.c.direction,
            batch.c.channel == batch_count.c.channel,
        )
        .correlate(batch_count)
        .scalar_subquery()
    )
    place = (batch_count.c.channel, batch_count.c.direction, batch_count.c.outcome)
    kinds = (
        sa.select(*place, oldest.label("oldest"))
        .where(batch_count.c.outcome.in_(_UNDER_WAY))
        .group_by(*place)
        .having(sa.func.sum(batch_count.c.standing) > 0)
        .subquery()
    )
    query = sa.select(kinds.c.channel, kinds.c.direction, kinds.c.outcome, batch.c.created_at).join(
        batch, batch.c.id == kinds.c.oldest
    )
    found: dict[tuple[str, ...], float] = {}
    for channel, direction, state, since in connection.execute(query):
        if page.site.one_way and state == BatchState.PUBLISHED:
            continue  # nobody will ever acknowledge it
        where = (page.channel(channel), direction, state)
        found[where] = max(found.get(where, 0.0), _age(since))
    return found


def _quarantined(page: _Page, connection: Connection, channel: str) -> tuple[int, datetime | None]:
    """Say how many of a channel's newest quarantined batches were applied since, and since when others are there."""
    of = batch.c.channel == channel if channel in page.declared else batch.c.channel.not_in(page.declared)
    newest = (
        sa.select(batch.c.updated_at, ledger.was_applied_since.label("mended"))
        .where(batch.c.state == BatchState.QUARANTINED, batch.c.direction == Direction.IN, of)
        .order_by(batch.c.channel.desc(), batch.c.id.desc())
        .limit(MOST_QUARANTINED)
        .subquery()
    )
    left = sa.case((newest.c.mended, None), else_=newest.c.updated_at)
    mended = sa.func.coalesce(sa.func.sum(sa.case((newest.c.mended, 1), else_=0)), 0)
    row = connection.execute(sa.select(mended, sa.func.min(left, type_=batch.c.updated_at.type))).one()
    return int(row[0]), row[1]


def _records(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell what became of records that came, of all epochs, and how far channels are."""
    outcomes = ("applied", "duplicate", "stale", "parked")
    place = (position.c.channel, position.c.direction)
    last = sa.func.max(sa.case((position.c.current == 1, position.c.sequence), else_=0)).label("sequence")
    sums = [sa.func.sum(position.c[name]).label(name) for name in outcomes]
    records: defaultdict[tuple[str, ...], float] = defaultdict(float)
    at: dict[tuple[str, ...], float] = {}
    for row in connection.execute(sa.select(*place, last, *sums).group_by(*place)):
        channel = page.channel(row.channel)
        at[channel, row.direction] = max(at.get((channel, row.direction), 0.0), float(row.sequence))
        for name in outcomes if row.direction == Direction.IN else ():
            records[channel, name] += float(getattr(row, name))
    said = "Records that came and what became of each."
    yield page.counter("records", said, ("channel", "outcome"), records)
    yield page.gauge("sequence", "The last batch of a channel's epoch.", ("channel", "direction"), at)


def _runs(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell when exports and imports were last done, how many failed since, and what waits to be exported since when."""
    label = ("channel", "direction")
    done = {(row.direction, row.channel): row.at for row in connection.execute(sa.select(success))}
    begun = connection.scalar(sa.select(network.c.created_at))
    declared = [(Direction.OUT, one) for one in page.site.outgoing()]
    declared += [(Direction.IN, one) for one in page.site.incoming()]
    ages = {(one.name, way.value): _age(done.get((way, one.name), begun)) for way, one in declared}
    said = "Since when a channel was not exported or imported to its end, with or without anything to do."
    yield page.gauge("last_success_age_seconds", said, label, ages)
    failed = dict.fromkeys(ages, 0.0) | {
        (page.channel(row.channel), row.direction): float(row.runs)
        for row in connection.execute(sa.select(failed_run.c.channel, failed_run.c.direction, failed_run.c.runs))
    }
    yield page.gauge("failed_runs", "Exports or imports that failed since the last one that was done.", label, failed)
    stopped = paused(connection, page.site.off)
    still = {(one.name, way.value): 1.0 for way, one in declared if (way, one.declared) in stopped}
    yield page.gauge("paused", "Channels that a person or a setting has stopped.", label, still)
    pending, waits = {}, {}
    for one in page.site.outgoing():
        number = capture.pending(connection, one.streams, MOST_PENDING, one.shard)
        pending[one.name,] = float(number)
        waits[one.name,] = ages[one.name, Direction.OUT.value] if number else 0.0
    sent = {stream.name for one in page.site.outgoing() for stream in one.streams}
    left = float(len(set(capture.pending_streams(connection)) - sent))
    yield page.gauge("leftover_streams", "Names under which changes wait and that no channel sends.", (), {(): left})
    said = f"Changes that no batch carries yet; counted up to {MOST_PENDING}."
    yield page.gauge("pending_changes", said, ("channel",), pending)
    said = "For how long the oldest of them waits at most: since the last export that took all there was."
    yield page.gauge("pending_oldest_age_seconds", said, ("channel",), waits)


def _gaps(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell what is missing."""
    noticed = sa.func.min(gap.c.noticed_at, type_=gap.c.noticed_at.type)
    query = sa.select(gap.c.channel, sa.func.count(), noticed).where(is_missing(gap), gap.c.channel > "")
    rows = connection.execute(query.group_by(gap.c.channel)).all()
    numbers = {(one.name,): 0.0 for one in page.site.incoming()}
    numbers |= {(page.channel(channel),): float(number) for channel, number, _ in rows}
    ages = dict.fromkeys(numbers, 0.0) | {(page.channel(channel),): _age(since) for channel, _, since in rows}
    yield page.gauge("gaps", "Batches that are missing between others that came.", ("channel",), numbers)
    yield page.gauge(
        "gaps_oldest_age_seconds", "Since when the first of them is missing; 0 if none is.", ("channel",), ages
    )


def _letters(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell of dead letters: by what all of one cause have in common, of which one letter is looked at."""
    there = counts.groups_in(*DeadLetterState)
    first = (
        sa.select(dead_letter.c.id)
        .where(dead_letter.c.fingerprint == there.c.fingerprint, dead_letter.c.state == there.c.state)
        .order_by(dead_letter.c.created_at, dead_letter.c.id)
        .limit(1)
        .correlate(there)
        .scalar_subquery()
    )
    most = sa.select(first, there.c.state, there.c.letters).order_by(there.c.letters.desc()).limit(MOST_CAUSES)
    groups = {letter: (state, float(number)) for letter, state, number in connection.execute(most)}
    kinds = (dead_letter.c.id, dead_letter.c.channel, dead_letter.c.direction, dead_letter.c.error)
    letters: defaultdict[tuple[str, ...], float] = defaultdict(float)
    some = engine.among(connection, dead_letter.c.id, list(groups))
    for letter, channel, direction, error in connection.execute(sa.select(*kinds).where(some)):
        state, number = groups[letter]
        letters[page.channel(channel), direction, error, state] += number
    label = ("channel", "direction", "error", "state")
    yield page.gauge("dead_letters", "Records that did not take effect, by why and by their state.", label, letters)
    waiting = counts.backlog(connection)
    yield page.gauge("dead_letters_parked", "Dead letters that wait for somebody.", (), {(): float(waiting.parked)})
    said = "Since when the oldest dead letter is parked; 0 if none is."
    yield page.gauge("dead_letters_oldest_age_seconds", said, (), {(): _age(waiting.oldest_at)})
    limits = page.site.limits
    yield page.gauge(
        "dead_letters_alarm_letters", "EXCHANGE_ALARM_LETTERS: more are an alarm.", (), {(): limits.alarm_letters}
    )
    said = "EXCHANGE_ALARM_DAYS: one that is parked for longer is an alarm."
    yield page.gauge("dead_letters_alarm_age_seconds", said, (), {(): limits.alarm_days * 86_400})


def _files(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell of files that people dropped: of those that are kept, and of those that are still to be loaded."""
    declared = {one.name: one for one in folders.declared(page.site)}
    files: defaultdict[tuple[str, ...], float] = defaultdict(float)
    rows: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for one in declared:
        files |= {(one, state.value): 0.0 for state in IntakeState}
    for count in standing.count_files(connection):
        name = count.intake if count.intake in declared else OTHER
        files[name, count.state] += count.files
        rows[name, "loaded"] += count.rows_loaded
        rows[name, "parked"] += count.rows_parked
    waiting = standing.open_files(connection)
    left: defaultdict[tuple[str, ...], float] = defaultdict(float, {(one,): 0.0 for one in declared})
    oldest: defaultdict[tuple[str, ...], float] = defaultdict(float, {(one,): 0.0 for one in declared})
    pace: defaultdict[tuple[str, ...], float] = defaultdict(float, {(one,): 0.0 for one in declared})
    for file in waiting:
        key = (file.intake if file.intake in declared else OTHER,)
        left[key] += file.bytes * (1.0 - (file.pace.share or 0.0))
        oldest[key] = max(oldest[key], _age(file.created_at))
        if file.state is IntakeState.LOADING:
            pace[key] += file.pace.rows_per_second or 0.0
    yield page.gauge(
        "intake_files",
        f"The newest {standing.MOST_COUNTED} files that people dropped, by state.",
        ("intake", "state"),
        files,
    )
    said = "Rows of these files, by what became of them."
    yield page.gauge("intake_rows", said, ("intake", "outcome"), rows)
    yield page.gauge("intake_left_bytes", "Bytes of such files that are still to be loaded.", ("intake",), left)
    said = "Since when the oldest of them was dropped; 0 if none is left."
    yield page.gauge("intake_oldest_age_seconds", said, ("intake",), oldest)
    yield page.gauge("intake_rows_per_second", "How fast those at hand are loaded.", ("intake",), pace)


def _work(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell how long steps took, how often somebody else was at work, and what came of retries."""
    took: defaultdict[tuple[str, ...], _Durations] = defaultdict(_Durations)
    places = [(one.name, Direction.OUT.value) for one in page.site.outgoing()]
    places += [(one.name, Direction.IN.value) for one in page.site.incoming()]
    busy: defaultdict[tuple[str, ...], float] = defaultdict(float, dict.fromkeys(places, 0.0))
    retried: defaultdict[tuple[str, ...], float] = defaultdict(float)
    steps = sa.select(work_count).where(work_count.c.what.not_in((tally.ANSWERED, tally.ANSWER)))
    for row in connection.execute(steps):
        channel = page.channel(row.channel)
        if row.what == tally.BUSY:
            busy[channel, row.direction] += row.number
        elif row.what == tally.RETRIED:
            retried[channel, row.direction, row.label] += row.number
        else:
            durations = took[row.what, channel]
            durations.buckets[int(row.label)] += row.number
            durations.seconds += row.microseconds / 1_000_000
    said = (
        "How long steps took: export (a run of a channel), seal, publish, acknowledge (from seal to receipt), apply,"
        " import (with the files moved), cross (from seal there to applied here, by two clocks)."
    )
    yield page.histogram("step_duration_seconds", said, ("step", "channel"), took)
    said = "How often a run found somebody else at work on a channel."
    yield page.counter("busy", said, ("channel", "direction"), busy)
    said = "Dead letters that were tried again, by what came of it."
    yield page.counter("dead_letter_retries", said, ("channel", "direction", "outcome"), retried)


def _door(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell what was asked over HTTP by users of the directory and keys, and how long that took."""
    asked: dict[tuple[str, ...], float] = {}
    took: defaultdict[tuple[str, ...], _Durations] = defaultdict(_Durations)
    counted = sa.select(work_count).where(work_count.c.what.in_((tally.ANSWERED, tally.ANSWER)))
    for row in connection.execute(counted):
        if row.what == tally.ANSWERED:
            asked[row.channel, row.label] = row.number
        else:
            took[row.channel,].buckets[int(row.label)] += row.number
            took[row.channel,].seconds += row.microseconds / 1_000_000
    said = "What users of the directory and programs with a key asked over HTTP, by the status that answered it."
    yield page.counter("door_requests", said, ("endpoint", "status"), asked)
    said = "How long such an answer took, without the time that whoever asked wanted to wait."
    yield page.histogram("door_seconds", said, ("endpoint",), took)


def _link(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell of the other side, by its last sign of life, and of this one's epoch."""
    there = peer_state.read_peer_state(page.site, connection)
    life = there.life
    halted = {(): 1.0 if there.halted else 0.0}
    yield page.gauge("halted", "Whether nothing is exported, as this database was restored.", (), halted)
    heard = {(): _age(life.heard_at)} if life else {}
    said = "Since when nothing was heard of the other side; absent if it never was."
    yield page.gauge("peer_silence_seconds", said, (), heard)
    period = {(): life.period_seconds} if life else {}
    yield page.gauge("peer_period_seconds", "How often the other side gives a sign of life.", (), period)
    ahead = {(): life.clock_ahead_seconds} if life else {}
    said = "By how much its clock is at least ahead of ours (below 0: behind); 0 if that can't be told."
    yield page.gauge("clock_difference_seconds", said, (), ahead)
    published = [one.name for one in page.site.outgoing()] if not page.site.one_way else []
    waits = (batch.c.state == BatchState.PUBLISHED, batch.c.direction == Direction.OUT)
    numbers, ages = {}, {}
    standing = (
        sa.select(batch_count.c.channel, sa.func.sum(batch_count.c.standing))
        .where(batch_count.c.outcome == BatchState.PUBLISHED, batch_count.c.direction == Direction.OUT)
        .group_by(batch_count.c.channel)
    )
    known = {channel: float(number) for channel, number in connection.execute(standing)}
    for name in published:
        numbers[name,] = known.get(name, 0.0)
        first = sa.select(batch.c.created_at).where(*waits, batch.c.channel == name).order_by(batch.c.id).limit(1)
        ages[name,] = _age(connection.scalar(first)) if numbers[name,] else 0.0
    said = "Batches that were published and not acknowledged; absent on a one-way link."
    yield page.gauge("unacknowledged_batches", said, ("channel",), numbers)
    yield page.gauge(
        "unacknowledged_oldest_age_seconds", "Since when the oldest of them is sealed.", ("channel",), ages
    )
    strangers: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for group in recent_strangers(connection):
        strangers[group.cause.value,] += group.batches
    said = "Batches of the last day or two that nobody vouches for, by why."
    yield page.gauge("strangers", said, ("cause",), strangers)


def _processes(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell when beat last ticked and a worker last got something done, on each machine."""
    ages, periods = {}, {}
    for row in connection.execute(sa.select(process)):
        ages[row.kind, row.host] = _age(row.at)
        periods[row.kind, row.host] = float(row.every_seconds)
    label = ("kind", "host")
    said = "Since when beat did not tick and a worker got nothing done, by machine."
    yield page.gauge("process_age_seconds", said, label, ages)
    yield page.gauge("process_period_seconds", "How often each is to give a sign of life.", label, periods)


def _agreement(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell how streams compared the last time."""
    label = ("channel", "direction", "stream")
    differing, ages, rows = {}, {}, {}
    for row in connection.execute(sa.select(agreement)):
        if row.channel not in page.declared:
            continue
        place = (row.channel, row.direction, row.stream)
        differing[place] = float(peer_statements.differing(row.buckets))
        ages[place] = _age(row.compared_at)
        rows[place] = float(row.sent)
    said = "Buckets of a stream's rows in which both sides differed when they were last compared."
    yield page.gauge("agreement_differing_buckets", said, label, differing)
    yield page.gauge("agreement_age_seconds", "Since when a stream was not compared.", label, ages)
    yield page.gauge("agreement_rows", "Rows that its source had then.", label, rows)


def _schemas(page: _Page, connection: Connection) -> Iterator[Metric]:
    """Tell which schema version of each stream was last sent or read here."""
    newest = sa.func.max(schema.c.version)
    place = (schema.c.channel, schema.c.direction, schema.c.stream)
    rows = connection.execute(sa.select(*place, newest).group_by(*place))
    versions = {(page.channel(row[0]), row[1], row[2]): float(row[3]) for row in rows}
    label = ("channel", "direction", "stream")
    yield page.gauge("schema_version", "The newest schema version of a stream that is known here.", label, versions)


_SECTIONS: tuple[Callable[[_Page, Connection], Iterator[Metric]], ...] = (
    _batches,
    _records,
    _runs,
    _gaps,
    _letters,
    _files,
    _work,
    _door,
    _link,
    _processes,
    _agreement,
    _schemas,
)
