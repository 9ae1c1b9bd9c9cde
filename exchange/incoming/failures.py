"""A batch over which we fell: counted, told, tried again, and quarantined after the set number; the others go on.

The count is in the database, so that it outlives whatever the fall does to the process.
"""

from __future__ import annotations

from collections.abc import Collection

from exchange.database.attempts import count_failure, failed_batches, forget_attempts
from exchange.database.batch_fault import Crashed, is_batch_fault
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.files.batch_files import BatchFiles
from exchange.format.errors import Reason, Verdict
from exchange.format.placement import Decision
from exchange.incoming import verdicts
from exchange.incoming.manifests import Arrival, Stranger
from exchange.results import Imported
from exchange.site import Site


def record_failure(site: Site, seen: Arrival | Stranger, fall: Crashed) -> Imported:
    """Count an attempt that failed as nobody foresaw, and settle the batch by that. Raises Busy and TransientError.

    Commits the count by itself, before the verdict.
    """
    with transient_errors():
        attempts = count_failure(site.engine, seen.counted_as, fall.sentence, fall.attempts)
        verdict = _verdict(fall.sentence, attempts, site.limits.crashes)
        # What it says of itself may be what can't be written down: then it is a file with a name.
        for one in (seen, Stranger(seen.sighting, fall)):
            try:
                return verdicts.record_verdict(site, one, verdict)
            except Exception as further:
                if not is_batch_fault(further):
                    raise
    # The next run finds it where it lies.
    return Imported(
        seen.sighting.stem, seen.place[0], Verdict.WAITING, Reason.CRASHED, verdict.sentence, trace=seen.trace
    )


def _verdict(why: str, attempts: int, most: int) -> Decision:
    what = (
        f"taking it in failed {attempts} times, the last time with {why}" if attempts > 1 else f"it failed with {why}"
    )
    if attempts < most:
        sentence = f"{what}; nothing of it changed a row, and the next import tries again, {most} times in all"
        return Decision(Verdict.WAITING, Reason.CRASHED, sentence)
    sentence = f"{what}; it is quarantined and changed nothing: ask its sender, then `exchange replay` it"
    return Decision(Verdict.QUARANTINED, Reason.CRASHED, sentence)


def forget_attempts_at_gone(site: Site, sightings: Collection[BatchFiles]) -> None:
    """Forget the attempts at batches whose files went away: nobody tries them again.

    Commits in a transaction of its own. Raises Busy and TransientError.
    """
    with transient_errors():
        with reading(site.engine) as connection:
            failed = {one.batch for one in failed_batches(connection)}
        gone = failed - {one.name.place for one in sightings} - {f"unread {one.stem}" for one in sightings}
        if gone:
            with writing(site.engine) as connection:
                for key in sorted(gone):
                    forget_attempts(connection, key)
