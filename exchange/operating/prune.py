"""Prune: let go of files and settled dead letters whose retention has ended, and fold the ledger's rows of them.

Parked dead letters stay. What nobody vouches for goes with its files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from exchange.database import pauses
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import writing
from exchange.database.tables import BatchState, Direction, batch, is_kept
from exchange.dead_letters import auto_retry, background, counts, retention
from exchange.format.as_dict import AsDict
from exchange.format.errors import Reason, TransientError
from exchange.format.manifest import Manifest
from exchange.format.names import CONTROL
from exchange.incoming import strangers
from exchange.intake import folders as drop_folders
from exchange.intake import standing
from exchange.operating import folding, strays
from exchange.operating.retention_clock import RetentionClock
from exchange.people import sweep
from exchange.requesters import sweep as requesters
from exchange.site import Site

MAX_BATCHES = 1_000
"""How many sealed batches are let go of in one transaction."""

CONTROL_DAYS = 1.0
"""For so many days control batches are kept: what they say, the newest one says, too."""


@dataclass(frozen=True)
class Pruned(AsDict):
    """How many files of each kind were removed, how many settled dead letters, how many rows were folded.

    ``people`` are sessions, tokens, attempts to sign in and proposals whose time is over, ``files``
    those that people dropped and that were dealt with.
    """

    sealed: int
    archived: int
    quarantined: int
    stray: int
    letters: int
    strangers: int
    folded: int
    people: int
    files: int


def prune_expired(site: Site) -> Pruned:
    """Remove what is older than the retention settings, by time that this side lived through, and strays.

    May be repeated. A folder that can't be written keeps nothing else from being pruned. Raises TransientError at the
    end.
    """
    site.spool.prepare()
    folders = site.spool.folders
    with transient_errors():
        clock = RetentionClock(folders)
    before = clock.before(site.limits.retention_days)
    oldest = before.timestamp()
    steps: dict[str, Callable[[], int]] = {
        "sealed": lambda: _prune_sealed(site, clock),
        "archived": lambda: site.spool.prune(folders.archive, oldest),
        "quarantined": lambda: site.spool.prune(folders.quarantine, oldest),
        "stray": lambda: strays.remove_strays(site, before),
        "letters": lambda: _prune_letters(site, clock),
        "strangers": lambda: strangers.prune_strangers(site, before),
        "files": lambda: _prune_files(site, before),
        "people": lambda: sweep.sweep(site.engine, site.limits, before) + requesters.sweep(site.engine, before),
        "folded": lambda: folding.fold_settled(site, clock, CONTROL_DAYS),
    }
    done: dict[str, int] = {}
    troubles = []
    for what, step in steps.items():
        try:
            with transient_errors():
                done[what] = step()
        except TransientError as error:
            troubles.append(error.sentence)
    if troubles:
        raise TransientError("; ".join(dict.fromkeys(troubles)))
    with transient_errors():
        clock.note()
    return Pruned(**done)


def _prune_files(site: Site, before: datetime) -> int:
    """Let go of files that people dropped: those put away, then the ledger's rows that no parked letter speaks of."""
    removed, troubles = 0, []
    for drop in drop_folders.drops(site):
        try:
            removed += drop_folders.prune(drop, before.timestamp())
        except TransientError as error:
            troubles.append(error.sentence)
    with writing(site.engine) as connection:
        standing.forget(connection, before)
    if troubles:
        raise TransientError("; ".join(troubles))
    return removed


def _prune_letters(site: Site, clock: RetentionClock) -> int:
    """Let go of dead letters by the state that they came to."""
    removed = 0
    for state, days in site.limits.letter_days.items():
        cause, before, most = (
            f"removed, as it has been {state} for {days:g} days",
            clock.before(days),
            site.limits.pruned_letters,
        )
        if site.progress.is_watched:
            site.progress.expect(state, min(retention.count_due(site.engine, state, before), most))
        removed += retention.retire(site.engine, state, before, cause, most, note=site.progress.add)
    retention.forget_selections(site.engine)
    with writing(site.engine) as connection:
        auto_retry.bring_near(connection)
        background.forget(connection, clock.before(site.limits.retention_days))
        counts.fold(connection, now())
    return removed


def _prune_sealed(site: Site, clock: RetentionClock) -> int:
    """Let go of batches that nobody needs again: the ledger first says so, then the files go.

    The other side must have said that it has a batch, or nothing ever comes back from there. Control batches are not
    acknowledged: a day later newer ones have said it all. Of a channel that is paused all stays, as copies of it may be
    due yet.
    """
    kept, told = clock.before(site.limits.retention_days), clock.before(CONTROL_DAYS)
    pruned = 0
    while some := _prune_some(site, kept, told):
        pruned += some
        site.progress.add(some)
    return pruned


def _prune_some(site: Site, kept: datetime, told: datetime) -> int:
    done = [BatchState.ACKNOWLEDGED, BatchState.DISCARDED]
    if site.one_way:
        done.append(BatchState.PUBLISHED)
    with writing(site.engine) as connection:
        stopped = pauses.paused(connection, site.off)
        waiting = [one.name for one in site.outgoing() if (Direction.OUT, one.declared) in stopped]
        rows = connection.execute(
            sa.select(batch.c.id, batch.c.manifest, batch.c.attempt)
            .where(
                batch.c.direction == Direction.OUT,
                batch.c.channel.not_in(waiting),
                sa.or_(
                    sa.and_(
                        sa.or_(batch.c.state.in_(done), batch.c.reason == Reason.GIVEN_UP),
                        batch.c.updated_at < kept,
                    ),
                    sa.and_(
                        batch.c.channel == CONTROL,
                        batch.c.state != BatchState.SEALED,
                        batch.c.updated_at < told,
                    ),
                ),
                batch.c.updated_at < max(told, kept),
                is_kept(batch),
            )
            .order_by(batch.c.updated_at)
            .limit(MAX_BATCHES)
        ).all()
        gone = [row.id for row in rows]
        connection.execute(sa.update(batch).where(batch.c.id.in_(gone)).values(pruned_at=now()))
    for row in rows:
        manifest = Manifest.parse(row.manifest.encode())
        site.spool.forget_sealed(manifest.name, manifest.encoding, row.attempt)
    return len(rows)
