"""Export: from committed rows to published files, each batch sealed in one transaction.

The order of steps is what loses nothing: under the channel's lock take the changes, write and sync the
files, enter the batch in the ledger, commit; only then publish. A crash before the commit leaves the changes
where they were, one after it a sealed batch that the next run publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import Connection

from exchange import tracing
from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database import failed_runs, ledger, network, pauses, positions
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, export_lock, locked, reading, writing
from exchange.database.pauses import Pause, Paused, Place
from exchange.database.tables import BatchState, Direction
from exchange.database.tally import BUSY
from exchange.files.spool import FolderTrouble
from exchange.format.control import SNAPSHOT
from exchange.format.errors import Problem, RecordError, TransientError
from exchange.link import known_schemas, peer_state, send_requests
from exchange.link.home import check_home
from exchange.outgoing import answers, checkpoint, compose, first_load, resend, rollout, snapshot
from exchange.outgoing.seal import Sealed, check_room, publish_sealed
from exchange.results import Exported, ExportRun, Resent
from exchange.site import Site
from exchange.tables import capture


def export(
    site: Site,
    *,
    channel: str | None = None,
    stopping: Callable[[], bool],
    hand_over: Callable[[str], None] | None = None,
) -> ExportRun:
    """Export what is pending, of one channel or all, and publish what a crash left sealed.

    May be repeated at any time. ``stopping`` is asked between batches. Where more than one channel has something
    pending, ``hand_over`` is given their names to have each exported beside the others; SQLite has one writer, so there
    they go one after the other, here. Commits batch by batch, each under its channel's lock: sealed, and published.
    What the world does to it is ``trouble`` of the result, who works on a channel is among its ``busy``, and of a
    channel that is ``paused`` nothing goes out, from its next batch on. Raises TransientError only if the folders can't
    be made ready.
    """
    called = [one for one in site.outgoing() if one.called(channel)]
    unfinished = {one.name for one in called}
    with failed_runs.noted_failures(site.engine, Direction.OUT, unfinished):
        site.spool.prepare()
    handed: list[str] = []
    resent: tuple[Resent, ...] = ()
    first_loads = first_load.FirstLoads()
    tables, work, left = _Tables(site), _Work(site, stopping), _Left([], [], {}, [])
    try:
        stopped = _check_network(site)
        work.paused += [one for (_, name), one in stopped.items() if name in {two.declared for two in called}]
        unfinished -= {one.name for one in called if (Direction.OUT, one.declared) in stopped}
        _queue_due_snapshots(site)
        answers.ask_for_answers(site)
        left = _publish_left(site, channel, stopped)
        work.busy += left.busy
        tables.faults += left.lost
        work.trouble = "; ".join(dict.fromkeys(left.stuck.values())) or None
        still = {name for _, name in stopped}
        channels = [one for one in called if one.name not in left.stuck and one.declared not in still]
        tables.look(channels)
        tables.stop(rollout.settle_rollouts(site, channels), channels)
        first_loads = first_load.ask_for_first_loads(site, channels, tables.faulty_streams)
        tables.cautions += first_loads.waiting
        for one in first_loads.begun:
            site.progress.say(str(one))
        pending, undeclared = _what_is_due(site, channels, tables.standing)
        tables.cautions += _cancel_requests(site, undeclared)
        work.done += [one.name for one in channels if one not in pending]
        if site.progress.is_watched:
            site.progress.expect("changes", _count_pending(site, pending))
        if hand_over is not None and site.many_writers and len(pending) > 1:
            handed, pending = [one.name for one in pending], []
            for name in handed:
                hand_over(name)
        work.export(pending, tables.standing)
        resent = resend.resend_due(site, stopping) if channel is None else ()
        well = [name for name in work.done if name not in tables.faulty]
        positions.note_success(site.engine, Direction.OUT, well)
        unfinished -= {*well, *handed, *work.stopped}
    except TransientError as error:
        work.trouble = work.trouble or error.sentence
    if work.trouble is not None:
        failed_runs.note_failure(site.engine, Direction.OUT, unfinished - tables.faulty, work.trouble)
    if tables.faults:
        failed_runs.note_failure(site.engine, Direction.OUT, tables.faulty, tables.faults[0])
    site.tally.write(site.engine)
    whom = tuple({one.lock: one for one in work.busy}.values())
    return ExportRun(
        tuple(work.batches),
        work.parked,
        whom,
        work.trouble,
        tuple(handed),
        resent,
        tuple(tables.faults),
        tuple(tables.cautions),
        first_loads=first_loads.begun,
        left=tuple(left.batches),
        paused=tuple(dict.fromkeys(work.paused)),
    )


class _Work:
    """What was done, and what was in the way of it."""

    def __init__(self, site: Site, stopping: Callable[[], bool]) -> None:
        self._site = site
        self._stopping = stopping
        self.batches: list[Exported] = []
        self.parked = 0
        self.busy: list[Busy] = []
        self.paused: list[Pause] = []
        self.stopped: list[str] = []
        """Channels, as their files call them, that were paused while they were worked on."""
        self.done: list[str] = []
        self.trouble: str | None = None

    def export(self, channels: Sequence[Channel], standing: AbstractSet[str]) -> None:
        """Export channels one after the other; what one of them meets, such as a locked table, is no other one's.

        Raises TransientError if the database can't be read.
        """
        if not channels:
            return
        with transient_errors(), reading(self._site.engine) as connection:
            site = peer_state.within_its_limits(self._site, connection)
        for channel in channels:
            try:
                with (
                    site.tally.timing("export", Direction.OUT, channel.name),
                    tracing.on_lines(channel=channel.name),
                    tracing.span("export", channel=channel.name) as exporting,
                ):
                    for sealed in _export_channel(site, channel, standing, self._stopping):
                        self.parked += sealed.parked
                        self.batches += sealed.before
                        if sealed.batch is not None:
                            self.batches.append(sealed.batch)
                    exporting.note(outcome="done")
                self.done.append(channel.name)
            except Paused as held:
                self.paused.append(held.pause)
                self.stopped.append(channel.name)
            except Busy as held:
                self.busy.append(held)
                site.tally.count(BUSY, Direction.OUT, channel.name)
            except TransientError as error:
                self.trouble = self.trouble or error.sentence
                if isinstance(error, FolderTrouble):
                    return  # the other channels need the same folders; what is sealed can still go out again


class _Tables:
    """What the catalogue says of the tables that channels are read from: asked once a run, before anything is read."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.faults: list[str] = []
        self.cautions: list[str] = []
        self.standing: set[str] = set()
        """Streams that stand still, for their rows can't be read as they are."""
        self.faulty: set[str] = set()
        """Channels with faults, as their files call them."""
        self.faulty_streams: set[str] = set()

    def look(self, channels: Sequence[Channel]) -> None:
        """Look at the tables of channels, and at what the other side reads. Raises TransientError."""
        streams_of = {one.name: {stream.name for stream in one.streams} for one in channels}
        for name, changed in known_schemas.check_schemas(self._site, Direction.OUT).items():
            of = {channel for channel, names in streams_of.items() if name in names}
            if of:
                self.faults.append(f"{changed.message}; its changes wait; {changed.remedy}")
                self.standing.add(name)
                self.faulty |= of
        declared = [stream for channel in self._site.channels for stream in channel.streams]
        streams = {one.name: one for channel in channels for one in channel.streams}
        with transient_errors(), reading(self._site.engine) as connection:
            found = capture.check_sent(connection, list(streams.values()), declared)
            unread = known_schemas.unread_streams(self._site, connection)
        for name in sorted((unread.keys() & streams.keys()) - self.standing):
            self.cautions.append(str(unread[name]))
            self.standing.add(name)
        for name, problems in found.items():
            stream = streams[name]
            for problem in problems:
                if problem.attached and self._take_in_partitions(stream):
                    continue
                minor = problem.minor and not problem.attached
                (self.cautions if minor else self.faults).append(str(problem))
                if problem.stops:
                    self.standing.add(stream.name)
                if not minor:
                    self.faulty_streams.add(stream.name)
                    self.faulty |= {one.name for one in channels if stream in one.streams}

    def stop(self, streams: Mapping[str, Problem], channels: Sequence[Channel]) -> None:
        """Have streams stand still, each for its reason."""
        for name, problem in streams.items():
            self.faults.append(str(problem))
            self.standing.add(name)
            self.faulty_streams.add(name)
            self.faulty |= {one.name for one in channels if any(stream.name == name for stream in one.streams)}

    def _take_in_partitions(self, stream: Stream) -> bool:
        """Note the rows that partitions had when they were attached; say whether that could be done."""
        with transient_errors(), self._site.engine.begin() as connection:
            return capture.take_in_partitions(connection, stream)


def _check_network(site: Site) -> Mapping[Place, Pause]:
    """See that this database is this network's, and may export; give what is paused. Raises TransientError."""
    check_home(site)
    with transient_errors(), reading(site.engine) as connection:
        network.known_epoch(connection, site.network)
        halted = network.halted(connection)
        stopped = pauses.paused(connection, site.off)
    if halted is not None:
        raise TransientError(halted)
    return {place: one for place, one in stopped.items() if place[0] is Direction.OUT}


def _queue_due_snapshots(site: Site) -> None:
    """Where nothing ever comes back, have everything sent anew from time to time: what was lost is made good."""
    if site.one_way:
        with transient_errors(), suppress(Busy, RecordError):  # too many are open: one of them is due itself
            send_requests.add_due_snapshots(site)


class _Left(NamedTuple):
    """What came of batches that lay sealed: who holds which, what is lost, what keeps a channel's, what went out."""

    busy: list[Busy]
    lost: list[str]
    stuck: dict[str, str]
    batches: list[Exported]


def _publish_left(site: Site, wanted: str | None, stopped: Mapping[Place, Pause]) -> _Left:
    """Publish what lies sealed, also of a channel or shard that is declared no more; not of one that is paused."""
    with transient_errors(), reading(site.engine) as connection:
        left = {entry.channel for entry in ledger.in_state(connection, Direction.OUT, [BatchState.SEALED])}
    if left:
        with transient_errors():
            site.spool.sweep()  # whoever left it sealed may have left files half written, too
    found = _Left([], [], {}, [])
    for name in sorted(left):
        channel = site.channel(name)
        if channel is not None and (Direction.OUT, channel.declared) in stopped:
            continue
        if wanted == name or (channel.called(wanted) if channel else wanted is None):
            try:
                with transient_errors():
                    published = publish_sealed(site, name)
                found.batches.extend(published.batches)
                found.lost.extend(published.lost)
            except Busy as held:
                found.busy.append(held)
                site.tally.count(BUSY, Direction.OUT, name)
            except FolderTrouble as error:
                found.stuck[name] = error.sentence
    return found


def _export_channel(
    site: Site, whole: Channel, standing: AbstractSet[str], stopping: Callable[[], bool]
) -> Iterator[Sealed]:
    channel = whole.without(standing)
    with transient_errors():
        # Before the changes, for what they refer to may never have been sent. Where the other side parks nothing it
        # refuses such changes, and takes the snapshot in their place; what frees a unique value must come first there.
        # Of a first load it has nothing yet.
        first = None if whole.on_invalid == "park" else send_requests.FIRST_LOAD
        yield from _export_requested(site, whole, standing, stopping, whole_snapshots=True, who=first)
        more = bool(channel.streams)
        while more and not stopping():
            check_room(site)
            running = pauses.refusing(site.engine, site.off, Direction.OUT, channel.declared)
            lock = export_lock(channel.name)
            with (
                site.tally.timing("seal", Direction.OUT, channel.name),
                locked(site.engine, lock, prepare=running, isolation_level="REPEATABLE READ") as connection,
            ):
                sealed = compose.seal_changes(site, connection, channel)
            publish_sealed(site, channel.name)
            more = sealed.more
            yield sealed
        yield from _export_requested(site, whole, standing, stopping)


def _export_requested(
    site: Site,
    whole: Channel,
    standing: AbstractSet[str],
    stopping: Callable[[], bool],
    *,
    whole_snapshots: bool = False,
    who: str | None = None,
) -> Iterator[Sealed]:
    """Send the snapshots and checkpoints that were asked for, one after the other; what can't go on yet waits.

    With ``whole_snapshots`` those of all rows of the channel, and nothing else; with ``who`` those that this one asked
    for.
    """
    channel = whole.without(standing)
    waiting: list[int] = []
    while not stopping():
        with reading(site.engine) as connection:
            request = send_requests.next_open_request(
                connection, channel.name, but=waiting, whole=whole_snapshots, who=who
            )
        if request is None:
            return
        if not standing.isdisjoint(send_requests.streams_of(request, whole)):
            waiting.append(request.id)
            continue
        wants_snapshot = request.want == SNAPSHOT
        with site.tally.timing("seal", Direction.OUT, channel.name):
            sealed = (
                snapshot.seal_part(site, channel, request)
                if wants_snapshot
                else checkpoint.seal_checkpoint(site, channel, request)
            )
        if sealed is None:
            waiting.append(request.id)
            continue
        publish_sealed(site, channel.name)
        yield sealed


def _what_is_due(
    site: Site, channels: Sequence[Channel], standing: AbstractSet[str]
) -> tuple[list[Channel], list[str]]:
    """Give the channels that have changes to send or requests to meet, and the names of those asked of but undeclared.

    Changes of streams that stand still do not count. A shard is asked for by itself only if changes of a stream of its
    channel are pending.
    """
    with transient_errors(), reading(site.engine) as connection:
        asked_of = send_requests.channels_asked_of(connection)
        changed = set(capture.pending_streams(connection)) - standing
        due = [one for one in channels if one.name in asked_of or _is_changed(connection, one, changed)]
    due.sort(key=lambda one: one.name in asked_of)  # a snapshot may be long, and holds up none of the others
    return due, sorted(asked_of - {one.name for one in site.outgoing()})


def _count_pending(site: Site, channels: Sequence[Channel]) -> int:
    """Count the changes that wait. Raises TransientError."""
    with transient_errors(), reading(site.engine) as connection:
        return sum(capture.pending(connection, one.streams, shard=one.shard) for one in channels)


def _cancel_requests(site: Site, undeclared: Sequence[str]) -> list[str]:
    """Call off what was asked of channels or shards that are declared no more, as nobody would send it; say of which.

    Left to the next run where somebody else writes. Raises TransientError. Commits all of them in one transaction.
    """
    if not undeclared:
        return []
    try:
        with transient_errors(), writing(site.engine) as connection:
            for name in undeclared:
                send_requests.cancel_requests(connection, name)
    except Busy:
        return []
    return [f"channel {name} is declared no more: what was asked of it is called off" for name in undeclared]


def _is_changed(connection: Connection, channel: Channel, changed: AbstractSet[str]) -> bool:
    streams = [stream for stream in channel.streams if stream.name in changed]
    if channel.shard is None or not streams:
        return bool(streams)
    return capture.pending(connection, streams, 1, channel.shard) > 0
