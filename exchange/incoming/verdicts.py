"""Verdicts other than applied: written down first, then the files move. May be repeated anywhere.

The importer decides; this module keeps what was decided in the ledger, once, and puts the files where it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from exchange.database import attempts, clock, ledger
from exchange.database.engine import now
from exchange.database.locks import STRANGERS_LOCK, Busy, import_lock, locked, reading, writing
from exchange.database.tables import BatchState, Direction
from exchange.files.spool import FolderTrouble
from exchange.format.carriage import changed_data
from exchange.format.errors import BatchError, Reason, Verdict
from exchange.format.manifest import BatchKind, Manifest
from exchange.format.placement import Decision
from exchange.incoming.judge import incomplete_verdict
from exchange.incoming.manifests import Arrival, Stranger
from exchange.link import gaps
from exchange.results import Imported
from exchange.site import Site


def record_verdict(site: Site, seen: Arrival | Stranger, verdict: Decision) -> Imported:
    """Record a verdict other than applied, and put the files where it says. May be repeated.

    Commits under the channel's lock where it writes; the files move after that. Raises Busy.
    """
    if verdict.verdict is Verdict.INCOMPLETE:
        verdict = _end_patience(site, seen, verdict)
    changed, trouble = True, None
    match verdict:
        case Decision(verdict=Verdict.DUPLICATE):
            _forget_attempts(site, seen)
            _discard(site, seen, verdict)
            _note_late(site, seen)
            trouble = moved(site.spool.archive, seen.sighting)
        case Decision(verdict=Verdict.QUARANTINED):
            verdict, trouble = _quarantine(site, seen, verdict)
        case Decision(verdict=Verdict.HELD):
            changed = _record_waiting(site, seen, BatchState.HELD, verdict)
        case Decision(verdict=Verdict.WAITING | Verdict.INCOMPLETE, reason=reason):
            if seen.manifest is not None and not _is_passing(seen.manifest, reason):
                _record_waiting(site, seen, BatchState.WAITING, verdict)
    assert verdict.verdict is not None  # NEXT is applied, never settled
    stem, channel = seen.sighting.stem, seen.place[0]
    return Imported(
        stem,
        channel,
        verdict.verdict,
        verdict.reason,
        verdict.sentence,
        changed=changed,
        trouble=trouble,
        trace=seen.trace,
    )


def moved(move: Callable[..., None], *files: Any) -> str | None:
    """Move files of a batch that is dealt with; say what kept them where they are, which is no fault of the batch."""
    try:
        move(*files)
    except FolderTrouble as error:
        return error.sentence
    return None


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


def _quarantine(site: Site, seen: Arrival | Stranger, verdict: Decision) -> tuple[Decision, str | None]:
    """Refuse a batch, and miss it; give the verdict, which is another one if a person gave the same files up.

    Beside it, what kept the files from being moved.
    """
    with locked(site.engine, lock_of(seen)) as connection:
        given_up = _given_up(connection, seen, verdict)
        if given_up is None:
            _record(connection, seen, BatchState.QUARANTINED, verdict)
        attempts.forget_attempts(connection, seen.counted_as)
        if isinstance(seen, Arrival) and seen.manifest.kind is not BatchKind.CONTROL:
            gaps.record_refused(connection, seen.place, site.limits.look_ahead)
    if given_up is None:
        return verdict, moved(site.spool.quarantine, seen.sighting, verdict.sentence)
    sentence = f"a person has {given_up.state} this batch, and it is what it was; nothing changed"
    return Decision(Verdict.DUPLICATE, verdict.reason, sentence), moved(site.spool.archive, seen.sighting)


def _discard(site: Site, seen: Arrival | Stranger, verdict: Decision) -> None:
    """Close the row of a batch that waited or was held and comes to say nothing new."""
    if seen.manifest is None:
        return
    with reading(site.engine) as connection:
        known = known_row(connection, seen)
    if known is not None and known.digest == seen.digest and known.state in {BatchState.WAITING, BatchState.HELD}:
        with locked(site.engine, lock_of(seen)) as connection:
            ledger.move(connection, known, BatchState.DISCARDED, verdict.sentence)


def _note_late(site: Site, seen: Arrival | Stranger) -> None:
    """Remember of a first publication that it was late, not lost, if it was asked for and sent again meanwhile.

    One whose data never came was lost.
    """
    if seen.manifest is None or seen.sighting.name.attempt > 1:
        return
    if site.spool.data_arrived(seen.sighting, seen.manifest.encoding) is None:
        return
    with reading(site.engine) as connection:
        was_asked_for = gaps.was_sent_again(connection, seen.place)
    if was_asked_for:
        with writing(site.engine) as connection:
            gaps.note_late(connection, seen.place)


def _record_waiting(site: Site, seen: Arrival | Stranger, state: BatchState, verdict: Decision) -> bool:
    """Write down that a batch waits or is held, once, not at every run; say whether that was news."""
    with reading(site.engine) as connection:
        known = known_row(connection, seen)
    if known is not None and (known.state, known.reason) == (state, verdict.reason):
        # How much of a file is there changes all the time; what keeps all of it from us is news.
        if (verdict.verdict, verdict.reason) != (Verdict.WAITING, Reason.INCOMPLETE):
            return False
        if known.message == verdict.sentence:
            return False
    with locked(site.engine, lock_of(seen)) as connection:
        _record(connection, seen, state, verdict)
    return True


def lock_of(seen: Arrival | Stranger) -> str:
    """Name the lock under which a batch is worked on: its channel's, if we know one."""
    return import_lock(seen.channel.name) if isinstance(seen, Arrival) else STRANGERS_LOCK


def _record(connection: Connection, seen: Arrival | Stranger, state: BatchState, verdict: Decision) -> None:
    latest = ledger.by_stem(connection, Direction.IN, seen.sighting.stem)
    if (
        latest is not None
        and state is BatchState.QUARANTINED
        and latest.state is BatchState.QUARANTINED
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
    """Find the row that speaks of a batch; what nobody vouches for never meets the row of one that we believe.

    Only reads, in the caller's transaction.
    """
    at_place = ledger.at_place(connection, Direction.IN, *seen.place) if seen.manifest else None
    latest = ledger.by_stem(connection, Direction.IN, seen.sighting.stem)
    return at_place or (latest if latest is not None and latest.manifest is None else None)


def _end_patience(site: Site, seen: Arrival | Stranger, verdict: Decision) -> Decision:
    """Quarantine what stayed incomplete beyond the grace period."""
    with reading(site.engine) as connection:
        known = known_row(connection, seen)
    waited = 0.0
    if known is not None and (known.state, known.reason) == (BatchState.WAITING, Reason.INCOMPLETE):
        ago = clock.since(known.updated_at)
        if ago == timedelta.max:  # nobody knows for how long: it begins now
            with writing(site.engine) as connection:
                ledger.move(connection, known, BatchState.WAITING, verdict.sentence, reason=verdict.reason)
        else:
            waited = ago / timedelta(seconds=1)
    ended = incomplete_verdict(site.limits, verdict, waited)
    if ended is verdict or not isinstance(seen, Arrival):
        return ended
    what = what_was_done(site, seen)
    return replace(ended, sentence=f"{what}: {ended.sentence}") if what else ended


def what_was_done(site: Site, arrival: Arrival) -> str | None:
    """Say what a carrier did to a batch's data file, where that can be told. Reads the file, outside of any lock."""
    try:
        there = site.spool.data_arrived(arrival.sighting, arrival.manifest.encoding)
        if there is None or there[1] is not None:
            return None
        with site.spool.open_arrived(arrival.sighting, arrival.manifest.encoding) as data:
            return changed_data(data, there[0], arrival.manifest)
    except (OSError, BatchError):
        return None
