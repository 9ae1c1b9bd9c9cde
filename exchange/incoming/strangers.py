"""Strangers: files that nobody vouches for, put aside a few at a time, and counted by day and cause.

They have no row in the ledger and no sentence beside them: whoever can write into ``incoming/`` brings as many as he
likes, so each must cost next to nothing, genuine batches go before them, and of theirs no more is kept than the
settings allow. What is beyond that stays where it lies. Nothing of them is believed, and nobody is told.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import clock
from exchange.database.engine import now
from exchange.database.locks import Busy, locked, writing
from exchange.database.tables import stranger
from exchange.files.batch_files import AloneData, BatchFiles
from exchange.files.spool import FolderTrouble
from exchange.format.errors import Incomplete, Verdict, printable
from exchange.format.names import manifest_name
from exchange.format.placement import Decision
from exchange.incoming.judge import incomplete_verdict, verdict_on
from exchange.incoming.manifests import Stranger
from exchange.incoming.verdicts import lock_of
from exchange.limits import Limits
from exchange.results import Imported, Strangers
from exchange.site import Site

MOST_TOLD = 10
"""So many are told of one by one in a run; of the others there is the number."""

MOST_SAMPLES = 10
"""So many of a day and cause are kept by name."""


class _Judged(NamedTuple):
    seen: Stranger
    verdict: Decision

    @property
    def outcome(self) -> Imported:
        stem, channel = self.seen.sighting.stem, self.seen.place[0]
        assert self.verdict.verdict is not None  # nobody vouches for it: it is never applied
        changed = self.verdict.verdict is Verdict.QUARANTINED
        return Imported(
            stem, channel, self.verdict.verdict, self.verdict.reason, self.verdict.sentence, changed=changed
        )


class _Picked(NamedTuple):
    judged: _Judged
    bytes: int


# Put aside


def set_aside(site: Site, seen: Sequence[Stranger], alone: Sequence[AloneData] = ()) -> Strangers:
    """Put aside what nobody vouches for: so many as one run may, and as there is room for. May be repeated.

    Also data files ``alone`` whose manifests did not come for as long as incomplete batches are waited for. Where
    somebody else is at it they are left to him. Raises TransientError. Commits the counts before the files move, under
    the lock of strangers.
    """
    judged = [_Judged(one, _verdict(site, one)) for one in seen]
    judged += filter(None, (_forsaken(site, one) for one in alone))
    young = [one for one in judged if one.verdict.verdict is Verdict.INCOMPLETE]
    ripe = [one for one in judged if one.verdict.verdict is not Verdict.INCOMPLETE]
    try:
        picked, full = _put_aside(site, ripe) if ripe else ([], False)
    except FolderTrouble as error:
        return Strangers(tuple(one.outcome for one in young[:MOST_TOLD]), 0, len(ripe), error.sentence)
    put_aside = {one.judged.seen.sighting for one in picked}
    left = [one for one in ripe if one.seen.sighting not in put_aside and site.spool.has(one.seen.sighting.stem)]
    why = _why_left(site.limits, full=full) if left else ""
    told = [*(one.judged for one in picked), *young][:MOST_TOLD]
    if len(judged) == 1 and len(left) == 1:
        stays = f"{left[0].seen.fault}; it stays in incoming: {why}"
        told = [_Judged(left[0].seen, Decision(Verdict.WAITING, left[0].verdict.reason, stays))]
    return Strangers(tuple(one.outcome for one in told), len(picked), len(left), why)


def _forsaken(site: Site, one: AloneData) -> _Judged | None:
    """Judge a data file without its manifest; None if that may still come, or just came."""
    # Not waited for longer for a time in the future: that was written by a clock that was ahead.
    waited = abs(clock.seconds() - one.changed_at)
    if waited < site.limits.grace_seconds or site.spool.sizes(one.batch)[0] != 1:
        return None
    fault = Incomplete(f"{one.file} came without its manifest, expected {manifest_name(one.batch.name)}")
    return _Judged(Stranger(one.batch, fault), incomplete_verdict(site.limits, verdict_on(fault), waited))


def _verdict(site: Site, seen: Stranger) -> Decision:
    verdict = verdict_on(seen.fault)
    if verdict.verdict is Verdict.INCOMPLETE:
        # Nobody vouches for it, so nothing was written down of when it came: its file's age must do.
        return incomplete_verdict(site.limits, verdict, site.spool.seconds_since_written(seen.sighting, None))
    return verdict


def _put_aside(site: Site, ripe: Sequence[_Judged]) -> tuple[list[_Picked], bool]:
    """Count what there is room for, then move it; give that, and whether the room is what kept us from more."""
    picked: list[_Picked] = []
    full = False

    def work() -> None:
        """Pick, count and move: runs once the lock is held."""
        nonlocal full
        full = _pick(site, ripe, picked)
        if picked:
            # Counted before they move, so it must be sure that they will.
            site.spool.see_room(site.spool.folders.strangers, sum(one.bytes for one in picked))
            with writing(site.engine) as connection:
                _count(connection, picked)
            site.spool.put_aside(one.judged.seen.sighting for one in picked)

    with suppress(Busy), locked(site.engine, lock_of(ripe[0].seen), prepare=work):
        pass
    return picked, full


def _pick(site: Site, ripe: Sequence[_Judged], picked: list[_Picked]) -> bool:
    limits = site.limits
    files, size = site.spool.used_by_strangers()
    full = False
    for judged in ripe:
        if len(picked) == limits.strangers_at_once:
            break
        here, more = site.spool.sizes(judged.seen.sighting)
        if not here:
            continue  # gone since the listing
        if not _is_claimed(site, judged.seen.sighting):  # what a person brought back has to go somewhere
            beyond = files + here > limits.stranger_files or size + more > limits.stranger_bytes
            full = full or beyond
            if beyond:
                continue
        files, size = files + here, size + more
        picked.append(_Picked(judged, more))
    return full


def _is_claimed(site: Site, sighting: BatchFiles) -> bool:
    return sighting.folder == site.spool.folders.work


def _why_left(limits: Limits, *, full: bool) -> str:
    if not full:
        return f"the next runs take them, {limits.strangers_at_once} at a time"
    return (
        f"of such {limits.stranger_files} files of {limits.stranger_bytes} bytes are kept at most"
        " (EXCHANGE_STRANGER_FILES, EXCHANGE_STRANGER_BYTES); see who brings them, and remove them there;"
        " `exchange quarantine clear --reason TEXT` makes room here"
    )


# Count


def _count(connection: Connection, picked: Sequence[_Picked]) -> None:
    """Add them to the rows of today. Under the lock of strangers: nobody else writes these rows."""
    moment = now()
    by_cause: dict[str, list[_Picked]] = defaultdict(list)
    for one in picked:
        assert one.judged.verdict.reason is not None  # nobody refuses anything without one
        by_cause[one.judged.verdict.reason].append(one)
    for cause, some in by_cause.items():
        here = (stranger.c.day == moment.date(), stranger.c.cause == cause)
        known = connection.scalar(sa.select(stranger.c.samples).where(*here))
        samples = [*json.loads(known or "[]"), *map(_sample, some[:MOST_SAMPLES])][:MOST_SAMPLES]
        size = sum(one.bytes for one in some)
        values = {"samples": json.dumps(samples), "last_at": moment}
        if known is None:
            first = {"day": moment.date(), "cause": cause, "batches": len(some), "bytes": size, "first_at": moment}
            connection.execute(sa.insert(stranger).values(**first, **values))
        else:
            more = {"batches": stranger.c.batches + len(some), "bytes": stranger.c.bytes + size}
            connection.execute(sa.update(stranger).where(*here).values(**more, **values))


def _sample(one: _Picked) -> dict[str, str]:
    return {"batch": one.judged.seen.sighting.stem, "message": printable(one.judged.verdict.sentence, 500)}


# Let go


def prune_strangers(site: Site, before: datetime) -> int:
    """Let go of files put aside before a moment, and of the rows of days before it; give how many files went.

    Commits in a transaction of its own, before the files go.
    """
    with writing(site.engine) as connection:
        connection.execute(sa.delete(stranger).where(stranger.c.day < before.date()))
    return site.spool.prune(site.spool.folders.strangers, before.timestamp())


def clear_strangers(site: Site) -> int:
    """Remove all files that were put aside, at a person's word; give how many. Their counts stay.

    Raises TransientError. Needs no transaction.
    """
    site.spool.prepare()
    return site.spool.prune(site.spool.folders.strangers, math.inf)
