"""Prune: let go of files and settled dead letters whose retention has ended.

Rows of the ledger and events stay: they are small, and they are the proof. Parked dead letters stay, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from exchange import dead_letters
from exchange.database import now, world_errors, writing
from exchange.format.manifest import Manifest
from exchange.models import BatchState, Direction, batch
from exchange.site import Site

MAX_BATCHES = 1_000
"""How many sealed batches one run lets go: the next run goes on."""


MAX_LETTERS = 100_000
"""How many dead letters of each state one run lets go."""


@dataclass(frozen=True)
class Pruned:
    """How many files of each kind were removed, and how many settled dead letters."""

    sealed: int
    archived: int
    quarantined: int
    stray: int
    letters: int

    def as_dict(self) -> dict[str, int]:
        """Give the fields that scripts rely on."""
        return {
            "sealed": self.sealed,
            "archived": self.archived,
            "quarantined": self.quarantined,
            "stray": self.stray,
            "letters": self.letters,
        }


def run(site: Site) -> Pruned:
    """Remove what is older than the retention settings. May be repeated. Raises WorldError."""
    site.spool.prepare()
    folders = site.spool.folders
    before = now() - timedelta(days=site.limits.retention_days)
    oldest = before.timestamp()
    with world_errors():
        return Pruned(
            sealed=_prune_sealed(site),
            archived=site.spool.prune(folders.archive, oldest),
            quarantined=site.spool.prune(folders.quarantine, oldest),
            stray=site.spool.prune(folders.tmp, oldest),
            letters=_prune_letters(site),
        )


def _prune_letters(site: Site) -> int:
    """Let go of dead letters by the state that they came to."""
    removed = 0
    for state, days in site.limits.letter_days.items():
        cause = f"removed, as it has been {state} for {days:g} days"
        removed += dead_letters.retire(site.engine, state, now() - timedelta(days=days), cause, MAX_LETTERS)
    dead_letters.forget_selections(site.engine)
    with writing(site.engine) as connection:
        dead_letters.fold(connection, now())
    return removed


def _prune_sealed(site: Site) -> int:
    """Let go of batches published long ago: the ledger first says so, then the files go."""
    before = now() - timedelta(days=site.limits.retention_days)
    with writing(site.engine) as connection:
        rows = connection.execute(
            sa.select(batch.c.id, batch.c.manifest, batch.c.attempt)
            .where(
                batch.c.direction == Direction.OUT,
                batch.c.state.in_([BatchState.PUBLISHED, BatchState.ACKNOWLEDGED]),
                batch.c.updated_at < before,
                batch.c.pruned_at.is_(None),
            )
            .order_by(batch.c.updated_at)
            .limit(MAX_BATCHES)
        ).all()
        for row in rows:
            connection.execute(sa.update(batch).where(batch.c.id == row.id).values(pruned_at=now()))
    for row in rows:
        manifest = Manifest.parse(row.manifest.encode())
        site.spool.forget_sealed(manifest.name, manifest.encoding, row.attempt)
    return len(rows)
