"""Prune: let go of files whose retention has ended. Rows of the ledger stay: they are small, and they are the proof."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from exchange.database import now, world_errors, writing
from exchange.format.manifest import Manifest
from exchange.models import BatchState, Direction, batch
from exchange.site import Site

MAX_BATCHES = 1_000
"""How many sealed batches one run lets go: the next run goes on."""


@dataclass(frozen=True)
class Pruned:
    """How many files of each kind were removed."""

    sealed: int
    archived: int
    quarantined: int
    stray: int

    def as_dict(self) -> dict[str, int]:
        """Give the fields that scripts rely on."""
        return {
            "sealed": self.sealed,
            "archived": self.archived,
            "quarantined": self.quarantined,
            "stray": self.stray,
        }


def run(site: Site) -> Pruned:
    """Remove what is older than the retention setting. May be repeated. Raises WorldError."""
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
        )


def _prune_sealed(site: Site) -> int:
    """Let go of batches published long ago: the ledger first says so, then the files go."""
    before = now() - timedelta(days=site.limits.retention_days)
    with writing(site.engine) as connection:
        rows = connection.execute(
            sa.select(batch.c.id, batch.c.manifest)
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
        site.spool.forget_sealed(manifest.name, manifest.encoding)
    return len(rows)
