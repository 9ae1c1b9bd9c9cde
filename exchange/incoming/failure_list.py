"""The batches that could not be taken in, whatever it was about them. Only looks."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.attempts import failed_batches
from exchange.database.tables import BatchState, Direction, batch
from exchange.format.errors import Problem, Reason
from exchange.site import Site

MOST_TOLD = 20
"""So many batches are told one by one."""


def list_failures(site: Site, connection: Connection) -> list[Problem]:
    """Say which batches could not be taken in, whatever it was about them, and what a person can do.

    Only reads, in the caller's transaction.
    """
    refused = [
        Problem(
            f"batch {stem} is quarantined, as it could not be taken in",
            f"ask {site.peer} about it: `exchange quarantine show {stem}` looks at it, `exchange replay {stem}` tries"
            " it again",
        )
        for stem in _quarantined(connection)
    ]
    return list_tried(site, connection) + refused


def list_tried(site: Site, connection: Connection) -> list[Problem]:
    """Say the same of those that are tried again by themselves. Only reads, in the caller's transaction."""
    return [
        Problem(
            f"batch {one.batch} could not be taken in, {one.attempts} of {site.limits.crashes} attempts failed"
            f" ({one.why or 'the process died'})",
            "the next import tries again, and quarantines it in the end",
            "exchange import",
        )
        for one in failed_batches(connection, MOST_TOLD)
    ]


def _quarantined(connection: Connection) -> list[str]:
    """Give those that lie in quarantine for it and were not applied since, the newest first."""
    later = batch.alias("later")
    applied = sa.exists().where(
        later.c.direction == Direction.IN,
        later.c.channel == batch.c.channel,
        later.c.epoch == batch.c.epoch,
        later.c.sequence == batch.c.sequence,
        later.c.state == BatchState.APPLIED,
    )
    query = sa.select(batch.c.stem).where(
        batch.c.state == BatchState.QUARANTINED,
        batch.c.direction == Direction.IN,
        batch.c.reason == Reason.CRASHED,
        ~applied,
    )
    return list(dict.fromkeys(connection.scalars(query.order_by(batch.c.id.desc()).limit(MOST_TOLD))))
