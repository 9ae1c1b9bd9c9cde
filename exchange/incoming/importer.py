"""Import: from files that arrived to rows, each batch in one transaction, exactly once.

The order of steps is what makes a crash harmless anywhere: lock the channel, count the attempt, claim the
files, verify them, then ledger, rows, dead letters and position in one transaction; the files move to the
archive only after its commit. Whatever a crash leaves, the next run finds and carries on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from typing import TypeGuard

from exchange import tracing
from exchange.channels.channel import Channel
from exchange.database import failed_runs, network, pauses, positions
from exchange.database.batch_fault import Crashed, is_batch_fault
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading
from exchange.database.pauses import Pause
from exchange.database.tables import Direction
from exchange.database.tally import BUSY
from exchange.dead_letters import auto_retry
from exchange.files.batch_files import Listing
from exchange.files.spool import FolderTrouble
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.format.manifest import BatchKind
from exchange.format.placement import NEXT, Decision
from exchange.incoming import arrivals, failures, strangers
from exchange.incoming.held import OpenBatches
from exchange.incoming.judge import judge, judge_stranger
from exchange.incoming.manifests import Arrival, Stranger, Unread, is_foreign, read_manifests
from exchange.incoming.transaction import import_batch
from exchange.incoming.verdicts import record_verdict
from exchange.link import gaps, known_schemas
from exchange.link.home import check_home
from exchange.results import Imported, ImportRun, Retried, Strangers
from exchange.site import Site
from exchange.tables import capture
from exchange.tables.loader import TableFault


def never() -> bool:
    """Go on: nobody asked to stop."""
    return False


def import_batches(
    site: Site,
    *,
    channel: str | None = None,
    stem: str | None = None,
    release: bool = False,
    stopping: Callable[[], bool] = never,
    hand_over: Callable[[str], None] | None = None,
) -> ImportRun:
    """Take in what arrived: all of it, one channel's, or one batch. May be repeated at any time.

    ``release`` is a person's word that a batch may delete what it names, and that its versions are meant. ``stopping``
    is asked between batches. Where batches of more than one channel have come, ``hand_over`` is given their names to
    have each imported beside the others; SQLite has one writer, so there they go one after the other, here. What nobody
    vouches for comes behind all of them. Of a channel that somebody else works on the rest is left to them, and of one
    that is paused all stays where it lies. Bad batches are outcomes; raises TransientError only if the folders can't be
    listed. Commits batch by batch, each under its channel's lock.
    """
    wanted = [one for one in site.incoming() if one.called(channel)]
    stopped: Mapping[str, Pause] = {}
    with failed_runs.noted_failures(site.engine, Direction.IN, [one.name for one in wanted]):
        site.spool.prepare()
        sightings = site.spool.list_arrivals()
    everything = channel is None and stem is None
    work = _Work(site, stopping, release=release)
    handed: set[str] = set()
    retried: tuple[Retried, ...] = ()
    put_aside = Strangers()
    refused: dict[str, str] = {}
    try:
        refused = _check_database(site)
        open_batches, stopped = _read_open_batches(site)
        if everything:
            work.settle_gone(open_batches, sightings, stopped)
        sighted = read_manifests(site, tuple(one for one in sightings.batches if stem is None or one.stem == stem))
        called = [seen for seen in sighted if _is_called(seen, channel)]
        with transient_errors():
            arrived = sorted((seen for seen in called if not is_foreign(seen)), key=open_batches.is_past)
        arrived = [seen for seen in arrived if isinstance(seen, Stranger) or seen.channel.declared not in refused]
        if stem is None:
            arrived = [seen for seen in arrived if _declared(site, seen) not in stopped]
        if hand_over is not None and site.many_writers:
            handed = _hand_over([seen for seen in arrived if _unchanged(open_batches, seen) is None], hand_over)
        site.progress.expect("arrived", sum(seen.manifest.total for seen in arrived if isinstance(seen, Arrival)))
        work.settle(open_batches, arrived, handed)
        if work.trouble is None:
            with transient_errors():
                alone = sightings.alone if everything else ()
                put_aside = strangers.set_aside(site, list(filter(is_foreign, called)), alone)
        work.outcomes += put_aside.first
        retried = _follow_up(site, channel, work.outcomes, work.snapshots_of.values(), stopping)
        if stem is None and work.trouble is None:
            still = refused.keys() | stopped.keys()
            done = {one.name for one in wanted if handed.isdisjoint(one.names) and one.declared not in still}
            positions.note_success(site.engine, Direction.IN, done - work.busy)
    except (TransientError, Crashed) as error:
        work.trouble = error.sentence
        running = [one.name for one in wanted if one.declared not in stopped]
        failed_runs.note_failure(site.engine, Direction.IN, running, work.trouble)
    site.tally.write(site.engine)
    troubles = (work.trouble, *_note_troubles(site, work.outcomes, refused))
    return ImportRun(
        _in_order_of_names(work.outcomes, sightings),
        sightings.ignored,
        sightings.unpaired,
        "; ".join(filter(None, troubles)) or None,
        tuple(sorted(handed)),
        retried,
        put_aside,
        arrivals.left_alone(_but_put_aside(site, sightings, put_aside), site.limits) if everything else (),
        paused=tuple(stopped[name] for name in sorted(stopped.keys() & {one.declared for one in wanted})),
    )


def _but_put_aside(site: Site, sightings: Listing, put_aside: Strangers) -> Listing:
    """Give a listing without the data files that this run put aside."""
    if not put_aside.put_aside:
        return sightings
    gone = {one.file for one in sightings.alone if not site.spool.sizes(one.batch)[0]}
    return replace(sightings, left_alone=tuple(one for one in sightings.left_alone if one.file not in gone))


class _Work:
    """What came of each batch, and what was in the way of the others."""

    def __init__(self, site: Site, stopping: Callable[[], bool], *, release: bool) -> None:
        self._site = site
        self._stopping = stopping
        self._release = release
        self.outcomes: list[Imported] = []
        self.busy: set[str] = set()
        """Channels of which the rest is left: somebody else is at work, or a folder or table is in the way."""
        self.snapshots_of: dict[str, Channel] = {}
        self.trouble: str | None = None

    def settle_gone(self, open_batches: OpenBatches, sightings: Listing, stopped: Collection[str]) -> None:
        """Quarantine batches whose files went away, as long as nobody else is at work. Raises TransientError."""
        with transient_errors(), suppress(Busy):
            self.outcomes.extend(open_batches.quarantine_gone(sightings, stopped))
            failures.forget_attempts_at_gone(self._site, sightings.batches)

    def settle(self, open_batches: OpenBatches, arrived: Sequence[Arrival | Stranger], handed: set[str]) -> None:
        """Bring batches to their verdicts one after the other, but for those of channels that were handed over.

        Raises TransientError.
        """
        for number, seen in enumerate(arrived):
            if self._stopping():
                self.trouble = "stopped between two batches, as asked; the next run goes on"
                return
            if seen.place[0] in self.busy or _side_channel(seen) in handed:
                continue
            outcome = _unchanged(open_batches, seen, islice(arrived, number, None))
            if outcome is None:
                outcome = import_one(self._site, seen, release=self._release)
            open_batches.forget_after(outcome)
            self.outcomes.append(outcome)
            if outcome.verdict is Verdict.BUSY:
                self._site.tally.count(BUSY, Direction.IN, outcome.channel)
            if outcome.verdict is Verdict.BUSY or _holds_up(seen, outcome):
                self.busy.add(seen.place[0])
            elif outcome.verdict is Verdict.APPLIED and _is_snapshot(seen):
                self.snapshots_of[seen.channel.name] = seen.channel


def _read_open_batches(site: Site) -> tuple[OpenBatches, dict[str, Pause]]:
    """See that the database is this network's; read what waits or is held, and what is paused, by its declared name.

    Raises TransientError.
    """
    with transient_errors(), reading(site.engine) as connection:
        network.known_epoch(connection, site.network)
        found = pauses.paused(connection, site.off)
        return OpenBatches(site, connection), {name: one for (way, name), one in found.items() if way is Direction.IN}


def _declared(site: Site, seen: Arrival | Stranger) -> str | None:
    """Name the declared channel that a batch says it is of; None if there is none."""
    if isinstance(seen, Arrival):
        return seen.channel.declared
    channel = site.channel(seen.place[0])
    return None if channel is None else channel.declared


def _note_troubles(site: Site, outcomes: Iterable[Imported], refused: Mapping[str, str]) -> Iterable[str]:
    """Note why batches wait for a folder or a table as the last error of their channels, and give each reason once."""
    troubles = {one.channel: one.trouble for one in outcomes if one.trouble}
    troubles |= {one.name: refused[one.declared] for one in site.incoming() if one.declared in refused}
    for name in troubles.keys() & {one.name for one in site.incoming()}:  # any other one is never done, either
        sentence = troubles[name]
        failed_runs.note_failure(site.engine, Direction.IN, [name], sentence)
    return dict.fromkeys(troubles.values())


def _check_database(site: Site) -> dict[str, str]:
    """See that the database is this home's; give declared channels that can't be taken in, each with the sentence why.

    A table of theirs is another stream's, too, or a model changed and not its version. Raises TransientError.
    """
    check_home(site)
    declared = [stream for channel in site.channels for stream in channel.streams]
    channels = [channel for channel in site.channels if channel.target == site.network]
    with transient_errors(), reading(site.engine) as connection:
        problems = capture.unreceivable(connection, declared, [one for channel in channels for one in channel.streams])
    problems = known_schemas.check_schemas(site, Direction.IN) | problems
    return {
        channel.declared: f"channel {channel.declared}: {problems[stream.name]}; its batches wait"
        for channel in channels
        for stream in channel.streams
        if stream.name in problems
    }


def _holds_up(seen: Arrival | Stranger, outcome: Imported) -> bool:
    """Say whether nothing behind a batch can be taken: of one that can't even be read nobody knows where it belongs."""
    return bool(outcome.trouble) and outcome.verdict is Verdict.WAITING and not _is_unread(seen)


def _is_unread(seen: Arrival | Stranger) -> bool:
    return isinstance(seen, Stranger) and isinstance(seen.fault, Unread)


def _unchanged(
    open_batches: OpenBatches, seen: Arrival | Stranger, here: Iterable[Arrival | Stranger] = ()
) -> Imported | None:
    """Give the outcome of a batch about which nothing changed; one that can't be told is judged by itself."""
    try:
        with transient_errors():
            return open_batches.unchanged_outcome(seen, here)
    except Exception as error:
        if not is_batch_fault(error):
            raise
        return None


def _follow_up(
    site: Site,
    channel: str | None,
    outcomes: Iterable[Imported],
    snapshots_of: Collection[Channel],
    stopping: Callable[[], bool],
) -> tuple[Retried, ...]:
    """Note gaps, and retry letters that waited for a row which may have come just now: the batches are done.

    Raises Crashed.
    """
    try:
        gaps.record_gaps(site, channel)
        with transient_errors():
            retried = auto_retry.retry_rivals(site, snapshots_of, stopping)
            retried += auto_retry.retry_due(site, stopping) if channel is None else []
            if retried or any(one.records.applied for one in outcomes):
                everything = bool(snapshots_of)
                channels = auto_retry.channels_with_letters(site)
                retried += auto_retry.retry_orphans(site, channels, stopping, everything=everything)
            return tuple(retried)
    except Exception as error:
        if not is_batch_fault(error):
            raise
        what = f"{Crashed.of(error)} while gaps and dead letters were looked after; the batches are done"
        raise Crashed(f"{what}, and the next run tries the rest again") from error


def _in_order_of_names(outcomes: Iterable[Imported], sightings: Listing) -> tuple[Imported, ...]:
    """Order outcomes by the batches' names, whichever was settled first."""
    order = {sighting.stem: number for number, sighting in enumerate(sightings.batches)}
    return tuple(sorted(outcomes, key=lambda one: order.get(one.batch, -1)))


def _is_snapshot(seen: Arrival | Stranger) -> TypeGuard[Arrival]:
    return isinstance(seen, Arrival) and seen.manifest.kind is BatchKind.SNAPSHOT


def _is_called(seen: Arrival | Stranger, channel: str | None) -> bool:
    if isinstance(seen, Arrival):
        return seen.channel.called(channel)
    return channel is None or channel == seen.place[0]


def _hand_over(arrived: list[Arrival | Stranger], hand_over: Callable[[str], None]) -> set[str]:
    """Hand over each channel that has batches, if more than one has; give their names."""
    names = {name for name in map(_side_channel, arrived) if name is not None}
    if len(names) < 2:  # noqa: PLR2004 - alone it has nobody to be beside
        return set()
    for name in sorted(names):
        hand_over(name)
    return names


def _side_channel(seen: Arrival | Stranger) -> str | None:
    """Name the channel or shard that can be imported beside the others; None if there is nothing to apply."""
    if isinstance(seen, Stranger) or seen.manifest.kind is BatchKind.CONTROL:
        return None
    return seen.channel.name if seen.channel.beside_others else seen.channel.declared


def import_one(site: Site, seen: Arrival | Stranger, *, release: bool = False) -> Imported:
    """Bring one arrival to its verdict, whatever goes wrong with it. Raises TransientError if database or disk fails.

    A table that can't be written to, and a file that the disk doesn't give, hold up their own channel alone.
    """
    if isinstance(seen, Stranger):
        return _import_one(site, seen, release=release)
    with tracing.on_lines(**seen.manifest.named), tracing.span("import", **seen.manifest.measures) as importing:
        done = _import_one(site, seen, release=release)
        importing.note(outcome=done.verdict.value)
    return done


def _import_one(site: Site, seen: Arrival | Stranger, *, release: bool) -> Imported:
    fall, refused = None, ""
    try:
        with transient_errors(), _files_of(seen):
            return _judge_and_import(site, seen, release=release)
    except Busy as busy:
        return _busy(seen, busy)
    except FolderTrouble as error:
        return _in_trouble(seen, error.sentence)
    except TableFault as error:
        refused = error.sentence
    except Exception as error:
        if not is_batch_fault(error):
            raise
        fall = Crashed.of(error)
    try:  # what the error held in memory is free again
        if fall is not None:
            return failures.record_failure(site, seen, fall)
        waiting = Decision(Verdict.WAITING, Reason.TABLE, refused)
        with transient_errors():
            return replace(record_verdict(site, seen, waiting), trouble=refused)
    except Busy as busy:
        return _busy(seen, busy)


def _judge_and_import(site: Site, seen: Arrival | Stranger, *, release: bool) -> Imported:
    if isinstance(seen, Stranger):
        if isinstance(seen.fault, Unread):
            return _in_trouble(seen, seen.fault.sentence)
        if isinstance(seen.fault, Crashed):
            raise seen.fault
        return record_verdict(site, seen, judge_stranger(site, seen))
    arrival = replace(seen, released=release)
    standing = judge(site, arrival)
    return import_batch(site, arrival) if standing is NEXT else record_verdict(site, arrival, standing)


@contextmanager
def _files_of(seen: Arrival | Stranger) -> Iterator[None]:
    """Let what the disk says of a batch's files be FolderTrouble: the others may well be read and moved."""
    try:
        yield
    except OSError as error:
        folder = seen.sighting.folder
        raise FolderTrouble.of(folder, error, "nothing of its batch was applied; the next run takes it") from error


def _in_trouble(seen: Arrival | Stranger, why: str) -> Imported:
    return Imported(seen.sighting.stem, seen.place[0], Verdict.WAITING, None, why, changed=False, trouble=why)


def _busy(seen: Arrival | Stranger, busy: Busy) -> Imported:
    return Imported(seen.sighting.stem, seen.place[0], Verdict.BUSY, None, str(busy), busy=busy)
