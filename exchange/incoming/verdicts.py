"""Verdicts other than applied: written down first, then the files move. May be repeated anywhere.

The importer decides; this module keeps what was decided in the ledger, once, and puts the files where it says.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection

from exchange.database import attempts, ledger
from exchange.database.engine import now
from exchange.database.locks import STRANGERS_LOCK, Busy, import_lock, locked, reading, writing
from exchange.database.tables import BatchState, Direction
from exchange.format.errors import Ahead, BatchError, Incomplete, Reason, Unsupported, Verdict
from exchange.format.manifest import BatchKind, Manifest
from exchange.format.placement import Decision
from exchange.incoming.manifests import Arrival, Stranger
from exchange.limits import Limits
from exchange.link import gaps
from exchange.results import Imported
from exchange.site import Site


def settle(site: Site, seen: Arrival | Stranger, verdict: Decision) -> Imported:
    """Record a verdict other than applied, and put the files where it says. May be repeated."""
    if verdict.verdict is Verdict.INCOMPLETE:
        verdict = _out_of_patience(site, seen, verdict)
    changed = True
    match verdict:
        case Decision(verdict=Verdict.DUPLICATE):
            _forget_attempts(site, seen)
            _discard(site, seen, verdict)
            site.spool.archive(seen.sighting)
        case Decision(verdict=Verdict.QUARANTINED):
            verdict = _quarantine(site, seen, verdict)
        case Decision(verdict=Verdict.HELD):
            changed = _remember(site, seen, BatchState.HELD, verdict)
        case Decision(verdict=Verdict.WAITING | Verdict.INCOMPLETE, reason=reason):
            if seen.manifest is not None and not _is_passing(seen.manifest, reason):
                _remember(site, seen, BatchState.WAITING, verdict)
    assert verdict.verdict is not None  # NEXT is applied, never settled
    stem, channel = seen.sighting.stem, seen.place[0]
    return Imported(stem, channel, verdict.verdict, verdict.reason, verdict.sentence, changed=changed)


def _is_passing(manifest: Manifest, reason: Reason | None) -> bool:
    """Say whether nothing is written down of a batch that waits: it is far off, or newer ones will say it all."""
    return reason is Reason.LOOK_AHEAD or (reason is Reason.CRASHED and manifest.kind is BatchKind.CONTROL)


def _forget_attempts(site: Site, seen: Arrival | Stranger) -> None:
    """Clear what was counted of a batch that needs no further attempt; most have nothing."""
    with reading(site.engine) as connection:
        counted = attempts.has_attempts(connection, seen.counted_as)
    if counted:
        with writing(site.engine) as connection:
            attempts.forget_attempts(connection, seen.counted_as)


def _quarantine(site: Site, seen: Arrival | Stranger, verdict: Decision) -> Decision:
    """Refuse a batch, and miss it; give the verdict, which is another one if a person gave the same files up."""
    with locked(site.engine, lock_of(seen)) as connection:
        given_up = _given_up(connection, seen, verdict)
        if given_up is None:
            _write_down(connection, seen, BatchState.QUARANTINED, verdict)
        attempts.forget_attempts(connection, seen.counted_as)
        if isinstance(seen, Arrival) and seen.manifest.kind is not BatchKind.CONTROL:
            gaps.note_refused(connection, seen.place, site.limits.look_ahead)
    if given_up is None:
        site.spool.quarantine(seen.sighting, verdict.sentence)
        return verdict
    site.spool.archive(seen.sighting)
    sentence = f"a person has {given_up.state} this batch, and it is what it was; nothing changed"
    return Decision(Verdict.DUPLICATE, verdict.reason, sentence)


def _discard(site: Site, seen: Arrival | Stranger, verdict: Decision) -> None:
    """Close the row of a batch that waited or was held and comes to say nothing new."""
    if seen.manifest is None:
        return
    with reading(site.engine) as connection:
        known = known_row(connection, seen)
    if known is not None and known.digest == seen.digest and known.state in {BatchState.WAITING, BatchState.HELD}:
        with locked(site.engine, lock_of(seen)) as connection:
            ledger.move(connection, known, BatchState.DISCARDED, verdict.sentence)


def _remember(site: Site, seen: Arrival | Stranger, state: BatchState, verdict: Decision) -> bool:
    """Write down that a batch waits or is held, once, not at every run; say whether that was news."""
    with reading(site.engine) as connection:
        known = known_row(connection, seen)
    if known is not None and (known.state, known.reason) == (state, verdict.reason):
        return False
    with locked(site.engine, lock_of(seen)) as connection:
        _write_down(connection, seen, state, verdict)
    return True


def lock_of(seen: Arrival | Stranger) -> str:
    """Name the lock under which a batch is worked on: its channel's, if we know one."""
    return import_lock(seen.channel.name) if isinstance(seen, Arrival) else STRANGERS_LOCK


def _write_down(connection: Connection, seen: Arrival | Stranger, state: BatchState, verdict: Decision) -> None:
    latest = ledger.by_stem(connection, Direction.IN, seen.sighting.stem)
    if (
        latest is not None
        and latest.state is state is BatchState.QUARANTINED
        and (latest.reason, latest.digest) == (verdict.reason, seen.digest)
    ):
        return  # written down before a crash, or the same bad file once more
    known = known_row(connection, seen)
    if known is not None and known.digest == seen.digest and known.state is BatchState.APPLIED:
        # Judged before somebody applied it: the next run finds a duplicate.
        raise Busy(lock_of(seen), "another process applied it meanwhile", now())
    if known is not None and known.digest == seen.digest and known.state in {BatchState.WAITING, BatchState.HELD}:
        ledger.move(connection, known, state, verdict.sentence, reason=verdict.reason)
        return
    ledger.record(
        connection,
        Direction.IN,
        state,
        stem=seen.sighting.stem,
        place=seen.place,
        cause=verdict.sentence,
        reason=verdict.reason,
        manifest=seen.manifest,
        line=seen.line,
        digest=seen.digest,
        signature=seen.signature if isinstance(seen, Arrival) else None,
    )


def _given_up(connection: Connection, seen: Arrival | Stranger, verdict: Decision) -> ledger.Entry | None:
    """Find the row by which a person gave up the same files for the same fault: carried again, they are no news."""
    latest = ledger.by_stem(connection, Direction.IN, seen.sighting.stem)
    if latest is None or latest.state not in {BatchState.REJECTED, BatchState.DISCARDED}:
        return None
    return latest if (latest.reason, latest.digest) == (verdict.reason, seen.digest) else None


def known_row(connection: Connection, seen: Arrival | Stranger) -> ledger.Entry | None:
    """Find the row that speaks of a batch; what nobody vouches for never meets the row of one that we believe."""
    at_place = ledger.at_place(connection, Direction.IN, *seen.place) if seen.manifest else None
    latest = ledger.by_stem(connection, Direction.IN, seen.sighting.stem)
    return at_place or (latest if latest is not None and latest.manifest is None else None)


def _out_of_patience(site: Site, seen: Arrival | Stranger, verdict: Decision) -> Decision:
    """Quarantine what stayed incomplete beyond the grace period."""
    with reading(site.engine) as connection:
        known = known_row(connection, seen)
    waited = 0.0
    if known is not None and (known.state, known.reason) == (BatchState.WAITING, Reason.INCOMPLETE):
        waited = (now() - known.updated_at) / timedelta(seconds=1)
    return worn_out(site.limits, verdict, waited)


def worn_out(limits: Limits, verdict: Decision, waited: float) -> Decision:
    """Give the verdict on what has been incomplete for so many seconds: that it is, or that this took too long."""
    if waited < limits.grace_seconds:
        return verdict
    sentence = f"{verdict.sentence}; it stayed so for {waited:.0f} seconds: have it sent again"
    return Decision(Verdict.QUARANTINED, Reason.INCOMPLETE, sentence)


def unfinished(site: Site, arrival: Arrival) -> Decision | None:
    """Give the verdict on a batch whose data file is not there, or not all of it; None if it may be."""
    size = site.spool.data_size(arrival.sighting, arrival.manifest.encoding)
    if size is not None and size >= arrival.manifest.bytes:
        return None
    found = "not there yet" if size is None else f"{size} bytes long so far"
    return verdict_on(Incomplete(f"its data file is {found}, expected {arrival.manifest.bytes} bytes"))


def verdict_on(fault: BatchError) -> Decision:
    """Give the verdict on a batch that is bad in itself, with the sentence that ends in what to do."""
    match fault:
        case Incomplete():
            return Decision(Verdict.INCOMPLETE, Reason.INCOMPLETE, f"{fault}; it waits for the carrier")
        case Ahead():
            return Decision(Verdict.HELD, Reason.VERSIONS, fault.sentence)
        case Unsupported():
            return Decision(Verdict.HELD, Reason.UNSUPPORTED, f"{fault}; it is held until this side knows it")
        case _:
            return Decision(
                Verdict.QUARANTINED,
                fault.reason,
                f"{fault}; it is quarantined and changed nothing: {_NEXT_STEPS[fault.reason]}",
            )


_NEXT_STEPS = {
    Reason.UNTRUSTED: "if its sender is yours, trust the key (`exchange keys trust`) and `exchange replay` the batch",
    Reason.CORRUPT: "have it carried or sent again",
    Reason.MISDIRECTED: "ask the carrier",
    Reason.REJECTED: "`exchange batches show` lists every bad record; then `exchange batches release` it with those"
    " parked, or `exchange batches reject` it back to its sender",
}
"""What a person does about a batch that is bad in itself."""
