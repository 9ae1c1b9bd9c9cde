"""One batch applied: its files claimed, its rows, ledger entry and position in one transaction."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from exchange import tracing
from exchange.database import attempts, ledger, pauses, positions
from exchange.database.batch_fault import Crashed
from exchange.database.engine import now
from exchange.database.ledger import Counts
from exchange.database.locks import Busy, import_lock, join
from exchange.database.tables import BatchState, Direction
from exchange.files.ended_attempts import EndedAttempts
from exchange.files.folder import NotPlain
from exchange.format import errors
from exchange.format.batch import check_data
from exchange.format.control import Digest
from exchange.format.errors import BatchError, Corrupt, Fault, Incomplete, Reason, Verdict, printable
from exchange.format.lineage import left_by
from exchange.format.manifest import BatchKind
from exchange.format.placement import NEXT, Decision
from exchange.incoming import apply, checkpoint, control_batch, row_diff, snapshot, superseding
from exchange.incoming.judge import compare_with_ledger, verdict_on
from exchange.incoming.manifests import Arrival, Stranger, verify_manifest
from exchange.incoming.verdicts import known_row, lock_of, moved, record_verdict, what_was_done
from exchange.link import gaps
from exchange.results import Imported
from exchange.site import Site
from exchange.tables.loader.hooks import calling_hooks


def import_batch(site: Site, arrival: Arrival) -> Imported:
    """Try to apply a batch; one that crashed us too often is quarantined unopened.

    Commits under the channel's lock; the files move after that, and then the application's hooks are called that wait
    for it. Raises Busy, Crashed, and what the database raises.
    """
    with calling_hooks() as applied:
        done = _import_batch(site, arrival)
        failed = applied.call_after_commit() if done.verdict is Verdict.APPLIED else ""
    return replace(done, trouble="; ".join(filter(None, (done.trouble, failed)))) if failed else done


def _import_batch(site: Site, arrival: Arrival) -> Imported:
    began = time.monotonic()
    unwritten_seconds = site.spool.seconds_since_written(arrival.sighting, arrival.manifest.encoding)
    try:
        done = apply_batch(site, arrival)
    except Crashed:
        raise
    except BatchError as fault:
        if unwritten_seconds < site.limits.settle_seconds and _may_be_unfinished(fault):
            site.spool.give_back(arrival.sighting, arrival.manifest.encoding)
            fault = Incomplete(f"{fault}, and it was written to just now")
        elif isinstance(fault, Corrupt) and fault.reason is Reason.CORRUPT and (what := what_was_done(site, arrival)):
            fault = Corrupt(f"{fault.sentence}: {what}", fault.fault)
        return record_verdict(site, arrival, verdict_on(fault))
    if isinstance(done, Decision):
        return record_verdict(site, arrival, done)
    stem, name = arrival.sighting.stem, arrival.channel.name
    site.tally.took("apply", Direction.IN, name, time.monotonic() - began)
    site.tally.took("cross", Direction.IN, name, (now() - arrival.manifest.created_at).total_seconds())
    trouble = moved(site.spool.archive, arrival.sighting)
    superseding.retire_superseded(site, arrival)
    site.tally.took("import", Direction.IN, name, time.monotonic() - began)
    return Imported(
        stem,
        name,
        Verdict.APPLIED,
        message=done.told,
        records=done,
        trouble=trouble,
        trace=arrival.trace,
        settled=done.settled,
    )


def apply_batch(site: Site, arrival: Arrival) -> Counts | Decision:
    """Claim, verify and apply a batch in one transaction under its channel's lock, counted before the work.

    Gives a Decision if somebody settled it since it was judged, or if it crashed us too often. Raises BatchError
    for what is wrong with it, Busy and Paused.
    """
    lock, key = import_lock(arrival.channel.name), str(arrival.manifest.name)
    ours: list[Digest] = []

    def digest_own_rows(crashes: int) -> None:
        if arrival.manifest.kind is BatchKind.CHECKPOINT and crashes < site.limits.crashes:
            ours.extend(checkpoint.own_digests(site, arrival.channel))

    ended = EndedAttempts(site.spool.folders.home / "markers")
    attempted = partial(attempts.attempted, site.engine, lock, key, ended)
    with _late_refusals(), attempted(digest_own_rows) as (connection, crashes):
        pauses.refuse_paused(connection, site.off, Direction.IN, arrival.channel.declared)
        join(connection, import_lock(arrival.channel.declared), alone=not arrival.channel.beside_others)
        standing = compare_with_ledger(site, connection, arrival)
        if standing is not NEXT:
            return standing
        if crashes >= site.limits.crashes:
            sentence = f"taking it in crashed {crashes} times; see the log of those times"
            return Decision(Verdict.QUARANTINED, Reason.CRASHED, sentence)
        with tracing.span("claim"):
            arrival = claim_files(site, arrival)
        with _open_data(site, arrival) as data:
            with tracing.span("verify", bytes=arrival.manifest.bytes):
                check_data(data, arrival.manifest)
            data.seek(0)
            with _as_it_was_signed():
                batch_id = _record_applied(connection, arrival)
                with tracing.span("apply", records=arrival.manifest.total) as applying:
                    counts = _apply_by_kind(site, connection, arrival, data, ours)
                    applying.note(parked=counts.parked)
        positions.leave(connection, arrival.place[0], left_by(arrival.manifest), adopted=arrival.manifest.epoch)
        told = "; ".join(filter(None, (_advance(site, connection, arrival, counts.newest), counts.told)))
        counts = replace(counts, told=told)
        ledger.count(connection, batch_id, counts)
        attempts.forget_attempts(connection, key)
    return counts


_FAULTS_OF_A_FILE = frozenset(
    {errno.EACCES, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENXIO, errno.EPERM}
)


def _open_data(site: Site, arrival: Arrival) -> BinaryIO:
    """Open the claimed data file; what its carrier made of it is no fault of the disk. Raises Incomplete, OSError."""
    try:
        return site.spool.open_data(arrival.sighting, arrival.manifest.encoding)
    except OSError as error:
        if error.errno not in _FAULTS_OF_A_FILE:
            raise
        msg = f"its data file can't be opened ({error.strerror}), expected a plain file with one name that we may read"
        raise Incomplete(msg) from error


def _advance(site: Site, connection: Connection, arrival: Arrival, newest: int | None) -> str:
    """Move the channel's position to a batch, over what it supersedes and what is behind it and was given up.

    Gives a sentence if it supersedes any.
    """
    channel, epoch, sequence = arrival.place
    has_gaps = arrival.manifest.kind is not BatchKind.CONTROL
    told = superseding.pass_over(site, connection, arrival)
    if has_gaps and not arrival.channel.ordered:
        gaps.record_skipped(connection, arrival.place)
    positions.advance(connection, Direction.IN, channel, epoch, sequence, arrival.digest)
    if newest is not None:
        positions.note_newest_version(connection, channel, epoch, newest)
    if has_gaps:
        gaps.pass_over(connection, gaps.Flow(channel, epoch), sequence)
    return told


def _apply_by_kind(
    site: Site, connection: Connection, arrival: Arrival, data: BinaryIO, ours: Sequence[Digest]
) -> Counts:
    """Do what the records of a verified batch say, by its kind."""
    match arrival.manifest.kind:
        case BatchKind.CONTROL:
            return control_batch.apply_control_batch(site, connection, arrival, data)
        case BatchKind.CHECKPOINT:
            return checkpoint.compare_checkpoint(site, connection, arrival, data, ours)
        case BatchKind.SNAPSHOT:
            row_diff.record_row_diff(site, connection, arrival, data)
            counts = apply.apply_records(site, connection, arrival, data)
            snapshot.note_progress(connection, arrival)
            return snapshot.finish_snapshot(site, connection, arrival, counts)
        case BatchKind.CHANGES:
            return apply.apply_records(site, connection, arrival, data)


@contextmanager
def _as_it_was_signed() -> Iterator[None]:
    """Let what is corrupt in a file that is as its manifest says be its sender's own fault: nobody else made it so."""
    try:
        yield
    except Corrupt as fault:
        if isinstance(fault, errors.TooLarge) or fault.fault in {Fault.LENGTH, Fault.DIGEST}:  # it changed since
            raise
        raise errors.Malformed(fault.sentence, fault.fault) from fault


def _may_be_unfinished(fault: BatchError) -> bool:
    return isinstance(fault, Incomplete) or (isinstance(fault, Corrupt) and fault.fault is Fault.DIGEST)


def claim_files(site: Site, arrival: Arrival) -> Arrival:
    """Take the files out of the other side's reach and believe the manifest only as it is there.

    Runs in the transaction that imports, under the channel's lock; the attempt was counted and committed before. Raises
    Busy and BatchError.
    """
    try:
        sighting = site.spool.claim(arrival.sighting, arrival.manifest.encoding)
        content = site.spool.read_manifest(sighting)
    except FileNotFoundError as error:
        raise Busy(lock_of(arrival), "another process settled it meanwhile", now()) from error
    except NotPlain as error:  # who opened it before we claimed it can still give it another name
        raise Incomplete(f"its manifest: {error.strerror}") from error
    # Whom we trust may have changed since the run began: a person's word counts from the next batch on.
    again = verify_manifest(site.with_present_trust(), sighting, content)
    if isinstance(again, Stranger):
        raise again.fault
    if again.digest != arrival.digest:
        msg = "its manifest changed while it was being claimed; files are never changed once published"
        raise Corrupt(msg)
    return replace(arrival, sighting=sighting)


def _record_applied(connection: Connection, arrival: Arrival) -> int:
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
def _late_refusals() -> Iterator[None]:
    """Constraints that are checked late refuse a batch as a whole, when it is committed."""
    try:
        yield
    except IntegrityError as error:
        words = printable(str(error.orig).strip().splitlines()[0])
        msg = f"the database refused the batch as a whole at its end: {words}"
        raise errors.Rejected(msg) from error
