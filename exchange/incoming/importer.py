"""Import: from files that arrived to rows, each batch in one transaction, exactly once.

The order of steps is what makes a crash harmless anywhere: lock the channel, count the attempt, claim the
files, verify them, then ledger, rows, dead letters and position in one transaction; the files move to the
archive only after its commit. Whatever a crash leaves, the next run finds and carries on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from typing import Any, BinaryIO, TypeGuard

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from exchange.channels.channel import Channel
from exchange.database import ledger
from exchange.database.batch_fault import Stumbled, is_its_own, stumbled
from exchange.database.engine import Busy, join, now, reading, world_errors
from exchange.database.ledger import Counts, Entry
from exchange.database.tables import BatchState, Direction
from exchange.dead_letters import auto_retry
from exchange.files.folder import NotPlain
from exchange.files.spool import Sightings
from exchange.format import errors
from exchange.format.batch import check_data
from exchange.format.control import Digest
from exchange.format.errors import (
    BatchError,
    Corrupt,
    Fault,
    Incomplete,
    Reason,
    Unsupported,
    Verdict,
    WorldError,
    printable,
)
from exchange.format.lineage import left_by
from exchange.format.manifest import Kind
from exchange.format.placement import NEXT, Place, place
from exchange.incoming import apply as applying
from exchange.incoming import checkpoint, consent, control_batch, failures, row_diff, snapshot, strangers
from exchange.incoming.held import Waiting
from exchange.incoming.manifests import Arrival, Stranger, believe, is_nobodys, look
from exchange.incoming.verdicts import known_row, lock_of, settle, unfinished, verdict_on
from exchange.link import epoch_adoption, gaps
from exchange.results import Imported, ImportRun, Retried, Strangers
from exchange.site import Site


def never() -> bool:
    """Go on: nobody asked to stop."""
    return False


def run(
    site: Site,
    *,
    channel: str | None = None,
    stem: str | None = None,
    release: bool = False,
    stopping: Callable[[], bool] = never,
    hand_over: Callable[[str], None] | None = None,
) -> ImportRun:
    """Take in what arrived: all of it, one channel's, or one batch. May be repeated at any time.

    ``release`` is a person's word that a batch may delete what it names, and that its versions are meant.
    ``stopping`` is asked between batches. Where batches of more than one channel have come, ``hand_over`` is given
    their names to have each imported beside the others; SQLite has one writer, so there they go one after the other,
    here. What nobody vouches for comes behind all of them.
    Of a channel that somebody else works on the rest is left to them. Bad batches are outcomes; raises
    WorldError only if the folders can't be listed.
    """
    site.spool.prepare()
    sightings = site.spool.sight()
    outcomes: list[Imported] = []
    busy: set[str] = set()
    handed: set[str] = set()
    snapshots_of: dict[str, Channel] = {}
    reunited: tuple[Retried, ...] = ()
    nobodys = Strangers()
    trouble = None
    try:
        with world_errors(), reading(site.engine) as connection:
            ledger.known_epoch(connection, site.network)
            waiting = Waiting(site, connection)
        if channel is stem is None:
            with world_errors(), suppress(Busy):
                outcomes.extend(waiting.miss(sightings))
                failures.forget_gone(site, sightings.found)
        sighted = look(site, tuple(s for s in sightings.found if stem in (None, s.stem)))
        called = [seen for seen in sighted if _is_called(seen, channel)]
        arrived = sorted((seen for seen in called if not is_nobodys(seen)), key=waiting.is_past)
        if hand_over is not None and site.many_writers:
            handed = _hand_over([seen for seen in arrived if _still(waiting, seen) is None], hand_over)
        for number, seen in enumerate(arrived):
            if stopping():
                trouble = "stopped between two batches, as asked; the next run goes on"
                break
            if seen.place[0] not in busy and _lane(seen) not in handed:
                outcomes.append(
                    _still(waiting, seen, islice(arrived, number, None)) or take_in(site, seen, release=release)
                )
                waiting.look_again_after(outcomes[-1])
                if outcomes[-1].verdict is Verdict.BUSY:
                    busy.add(seen.place[0])
                if outcomes[-1].verdict is Verdict.APPLIED and _is_snapshot(seen):
                    snapshots_of[seen.channel.name] = seen.channel
        nobodys = Strangers() if trouble else strangers.receive(site, list(filter(is_nobodys, called)))
        outcomes.extend(nobodys.told)
        if stem is None and trouble is None:
            wanted = [one for one in site.incoming() if one.called(channel) and handed.isdisjoint(one.names)]
            ledger.note_success(site.engine, Direction.IN, {one.name for one in wanted} - busy)
        reunited = _follow_up(site, channel, outcomes, snapshots_of.values(), stopping)
    except (WorldError, Stumbled) as error:
        trouble = error.sentence
    lanes = tuple(sorted(handed))
    return ImportRun(
        _told(outcomes, sightings), sightings.ignored, sightings.unpaired, trouble, lanes, reunited, nobodys
    )


def _still(waiting: Waiting, seen: Arrival | Stranger, here: Iterable[Arrival | Stranger] = ()) -> Imported | None:
    """Give the outcome of a batch about which nothing changed; one that can't be told is judged by itself."""
    try:
        return waiting.still(seen, here)
    except Exception as error:
        if not is_its_own(error):
            raise
        return None


def _follow_up(
    site: Site,
    channel: str | None,
    outcomes: Iterable[Imported],
    snapshots_of: Iterable[Channel],
    stopping: Callable[[], bool],
) -> tuple[Retried, ...]:
    """Do what follows on the batches, which are done whatever becomes of it. Raises Stumbled."""
    try:
        gaps.note(site, channel)
        return _reunite(site, outcomes, snapshots_of, stopping)
    except Exception as error:
        if not is_its_own(error):
            raise
        what = f"{stumbled(error)} while gaps and dead letters were looked after; the batches are done"
        raise Stumbled(f"{what}, and the next run tries the rest again") from error


def _reunite(
    site: Site,
    outcomes: Iterable[Imported],
    snapshots_of: Iterable[Channel],
    stopping: Callable[[], bool],
) -> tuple[Retried, ...]:
    """Retry letters that waited for a row which may have come just now."""
    with world_errors():
        traded = auto_retry.trade(site, snapshots_of, stopping)
        if not traded and not any(one.records.applied for one in outcomes):
            return ()
        return (*traded, *auto_retry.run(site, site.incoming(), stopping))


def _told(outcomes: Iterable[Imported], sightings: Sightings) -> tuple[Imported, ...]:
    """Give outcomes in the order of the batches' names, whichever was dealt with first."""
    order = {sighting.stem: number for number, sighting in enumerate(sightings.found)}
    return tuple(sorted(outcomes, key=lambda one: order.get(one.batch, -1)))


def _is_snapshot(seen: Arrival | Stranger) -> TypeGuard[Arrival]:
    return isinstance(seen, Arrival) and seen.manifest.kind is Kind.SNAPSHOT


def _is_called(seen: Arrival | Stranger, channel: str | None) -> bool:
    return seen.channel.called(channel) if isinstance(seen, Arrival) else channel in (None, seen.place[0])


def _hand_over(arrived: list[Arrival | Stranger], hand_over: Callable[[str], None]) -> set[str]:
    """Hand over each channel that has batches, if more than one has; give their names."""
    lanes = {lane for lane in map(_lane, arrived) if lane is not None}
    if len(lanes) < 2:  # noqa: PLR2004 - alone it has nobody to be beside
        return set()
    for lane in sorted(lanes):
        hand_over(lane)
    return lanes


def _lane(seen: Arrival | Stranger) -> str | None:
    """Name what can be applied beside the rest; None if there is nothing to apply."""
    if isinstance(seen, Stranger) or seen.manifest.kind is Kind.CONTROL:
        return None
    return seen.channel.name if seen.channel.beside_others else seen.channel.declared


def take_in(site: Site, seen: Arrival | Stranger, *, release: bool = False) -> Imported:
    """Bring one arrival to its verdict, whatever goes wrong with it. Raises WorldError if database or disk fails."""
    try:
        with world_errors():
            return _take_in(site, seen, release=release)
    except Busy as busy:
        return Imported(seen.sighting.stem, seen.place[0], Verdict.BUSY, None, str(busy), busy=busy)
    except Exception as error:
        if not is_its_own(error):
            raise
        fall = stumbled(error)
    return _stumble(site, seen, fall)  # what the error held in memory is free again


def _take_in(site: Site, seen: Arrival | Stranger, *, release: bool) -> Imported:
    if isinstance(seen, Stranger):
        if isinstance(seen.fault, Stumbled):
            raise seen.fault
        return settle(site, seen, judge_stranger(site, seen))
    seen = replace(seen, released=release)
    standing = judge(site, seen)
    return attempt(site, seen) if standing is NEXT else settle(site, seen, standing)


def _stumble(site: Site, seen: Arrival | Stranger, fall: Stumbled) -> Imported:
    try:
        return failures.settle(site, seen, fall)
    except Busy as busy:
        return Imported(seen.sighting.stem, seen.place[0], Verdict.BUSY, None, str(busy), busy=busy)


# Judge: from the manifest, the ledger and the data file's size; nothing is claimed or changed


def judge(site: Site, arrival: Arrival) -> Place:
    """Say whether a batch is to be applied now."""
    with reading(site.engine) as connection:
        standing = stand(site, connection, arrival)
        if standing.reason is Reason.GAP:
            return unfinished(site, arrival) or standing
        if standing is not NEXT:
            return standing
        lacking = consent.lacking(site, connection, arrival)
    return lacking or unfinished(site, arrival) or NEXT


def judge_stranger(site: Site, stranger: Stranger) -> Place:
    """Say what becomes of a batch that can't be acted on: one that is signed may still not take another's place."""
    if stranger.manifest is not None and isinstance(stranger.fault, Unsupported):
        with reading(site.engine) as connection:
            known = ledger.at_place(connection, Direction.IN, *stranger.place)
        if known is not None and known.digest != stranger.digest:
            return _conflict(known)
        if known is not None and known.state is BatchState.APPLIED:
            return Place(Verdict.DUPLICATE, None, "this batch is applied already; nothing changed")
    return verdict_on(stranger.fault)


def _conflict(known: Entry) -> Place:
    return Place(
        Verdict.QUARANTINED,
        Reason.CONFLICT,
        f"another batch, {known.stem}, is {known.state} at this place; two batches claim one place: ask the sender why",
    )


def stand(site: Site, connection: Connection, arrival: Arrival) -> Place:
    """Compare a batch with what its channel has applied and what already claims its place."""
    channel, epoch, sequence = arrival.place
    known = ledger.at_place(connection, Direction.IN, channel, epoch, sequence)
    if known is not None and known.digest != arrival.digest and known.state is not BatchState.APPLIED:
        return _conflict(known)
    at = ledger.current_position(connection, Direction.IN, channel)
    standing = place(
        arrival.manifest,
        arrival.digest,
        position=at,
        left_epochs=ledger.left_epochs(connection, channel),
        known_digest=known.digest if known and known.state is BatchState.APPLIED else None,
        ordered=arrival.channel.ordered,
        look_ahead=site.limits.look_ahead,
        undecided=epoch_adoption.undecided(connection, arrival.manifest, at),
    )
    # Where an ordered channel goes on there is no place that was given up.
    if known is None and (standing is not NEXT or not arrival.channel.ordered):
        state = gaps.given_up(connection, arrival.place)
        if state is not None:
            sentence = f"this side went on without it ({state}); it comes too late and changes nothing"
            return Place(Verdict.DUPLICATE, None, sentence)
    return standing


# Apply: under the channel's lock


def attempt(site: Site, arrival: Arrival) -> Imported:
    """Try to apply a batch; one that crashed us too often is quarantined unopened."""
    unwritten_seconds = site.spool.seconds_since_written(arrival.sighting, arrival.manifest.encoding)
    try:
        done = apply(site, arrival)
    except Stumbled:
        raise
    except BatchError as fault:
        if unwritten_seconds < site.limits.settle_seconds and _may_be_unfinished(fault):
            site.spool.give_back(arrival.sighting, arrival.manifest.encoding)
            fault = Incomplete(f"{fault}, and it was written to just now")
        return settle(site, arrival, verdict_on(fault))
    if isinstance(done, Place):
        return settle(site, arrival, done)
    site.spool.shelve(arrival.sighting)
    return Imported(arrival.sighting.stem, arrival.channel.name, Verdict.APPLIED, records=done)


def apply(site: Site, arrival: Arrival) -> Counts | Place:
    """Claim, verify and apply a batch in one transaction under its channel's lock, counted before the work.

    Gives a Place if somebody settled it since it was judged, or if it crashed us too often. Raises BatchError
    for what is wrong with it, Busy.
    """
    lock, key = f"import {arrival.channel.name}", str(arrival.manifest.name)
    ours: list[Digest] = []

    def look_at_ourselves(crashes: int) -> None:
        if arrival.manifest.kind is Kind.CHECKPOINT and crashes < site.limits.crashes:
            ours.extend(checkpoint.own_digests(site, arrival.channel))

    with _refused_at_the_end(), ledger.attempted(site.engine, lock, key, look_at_ourselves) as (connection, crashes):
        join(connection, f"import {arrival.channel.declared}", alone=not arrival.channel.beside_others)
        standing = stand(site, connection, arrival)
        if standing is not NEXT:
            return standing
        if crashes >= site.limits.crashes:
            sentence = f"taking it in crashed {crashes} times; see the log of those times"
            return Place(Verdict.QUARANTINED, Reason.CRASHED, sentence)
        arrival = claim(site, arrival)
        with _opened(site, arrival) as data:
            check_data(data, arrival.manifest)
            data.seek(0)
            batch_id = _enter(connection, arrival)
            counts = _take_effect(site, connection, arrival, data, ours)
        ledger.leave(connection, arrival.place[0], left_by(arrival.manifest), adopted=arrival.manifest.epoch)
        _advance(connection, arrival)
        ledger.count(connection, batch_id, counts)
        ledger.forget_attempts(connection, key)
    return counts


_OF_ITS_OWN = frozenset({errno.EACCES, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENXIO, errno.EPERM})


def _opened(site: Site, arrival: Arrival) -> BinaryIO:
    """Open the claimed data file; what its carrier made of it is no fault of the disk. Raises Incomplete, OSError."""
    try:
        return site.spool.open_data(arrival.sighting, arrival.manifest.encoding)
    except OSError as error:
        if error.errno not in _OF_ITS_OWN:
            raise
        msg = f"its data file can't be opened ({error.strerror}), expected a plain file with one name that we may read"
        raise Incomplete(msg) from error


def _advance(connection: Connection, arrival: Arrival) -> None:
    """Move the channel's position to a batch, and over what is behind it and was given up."""
    channel, epoch, sequence = arrival.place
    heeds_gaps = arrival.manifest.kind is not Kind.CONTROL
    if heeds_gaps and not arrival.channel.ordered:
        gaps.note_leap(connection, arrival.place)
    ledger.advance(connection, Direction.IN, channel, epoch, sequence, arrival.digest)
    if heeds_gaps:
        gaps.pass_over(connection, gaps.Flow(channel, epoch), sequence)


def _take_effect(
    site: Site, connection: Connection, arrival: Arrival, data: BinaryIO, ours: Sequence[Digest]
) -> Counts:
    """Do what the records of a verified batch say, by its kind."""
    match arrival.manifest.kind:
        case Kind.CONTROL:
            return control_batch.hear(site, connection, arrival, data)
        case Kind.CHECKPOINT:
            return checkpoint.compare(site, connection, arrival, data, ours)
        case Kind.SNAPSHOT:
            row_diff.find(site, connection, arrival, data)
            counts = applying.apply_records(site, connection, arrival, data)
            return snapshot.conclude(site, connection, arrival, counts)
        case Kind.CHANGES:
            return applying.apply_records(site, connection, arrival, data)


def _may_be_unfinished(fault: BatchError) -> bool:
    return isinstance(fault, Incomplete) or (isinstance(fault, Corrupt) and fault.fault is Fault.DIGEST)


def claim(site: Site, arrival: Arrival) -> Arrival:
    """Take the files out of the other side's reach and believe the manifest only as it is there."""
    try:
        sighting = site.spool.claim(arrival.sighting, arrival.manifest.encoding)
        content = site.spool.read_manifest(sighting)
    except FileNotFoundError as error:
        raise Busy(lock_of(arrival), "another process settled it meanwhile", now()) from error
    except NotPlain as error:  # who opened it before we claimed it can still give it another name
        raise Incomplete(f"its manifest: {error.strerror}") from error
    # Whom we trust may have changed since the run began: a person's word counts from the next batch on.
    again = believe(site.with_present_trust(), sighting, content)
    if isinstance(again, Stranger):
        raise again.fault
    if again.digest != arrival.digest:
        msg = "its manifest changed while it was being claimed; files are never changed once published"
        raise Corrupt(msg)
    return replace(arrival, sighting=sighting)


def _enter(connection: Connection, arrival: Arrival) -> int:
    """Write the ledger first: two importers can't both pass its unique constraint."""
    known = known_row(connection, arrival)
    stem = arrival.sighting.stem
    if known is not None and known.digest == arrival.digest and known.state in {BatchState.WAITING, BatchState.HELD}:
        claim: dict[str, Any] = {
            "manifest": arrival.line.decode(),
            "records": arrival.manifest.total,
            "bytes": arrival.manifest.bytes,
            "signature": arrival.signature,
        }
        ledger.move(connection, known, BatchState.APPLIED, "applied", stem=stem, **claim)
        return known.id
    return ledger.record(
        connection,
        Direction.IN,
        BatchState.APPLIED,
        stem=stem,
        place=arrival.place,
        cause="applied",
        manifest=arrival.manifest,
        line=arrival.line,
        digest=arrival.digest,
        signature=arrival.signature,
    )


@contextmanager
def _refused_at_the_end() -> Iterator[None]:
    """Constraints that are checked late refuse a batch as a whole, when it is committed."""
    try:
        yield
    except IntegrityError as error:
        words = printable(str(error.orig).strip().splitlines()[0])
        msg = f"the database refused the batch as a whole at its end: {words}"
        raise errors.Rejected(msg) from error
