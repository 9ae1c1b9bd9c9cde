"""Placeholder: replaced by its owner."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import now
from exchange.format.control import BUCKETS
from exchange.models import ResyncState, resync


def ask(
    connection: Connection,
    *,
    channel: str,
    want: str,
    streams: Sequence[str] | None = None,
    buckets: Sequence[int] | None = None,
    of: int = BUCKETS,
    prune: bool = False,
    reason: str,
    who: str,
    answers: str | None = None,
) -> bool:
    """Note what is to be sent."""
    if connection.scalar(sa.select(sa.exists().where(resync.c.answers == answers))):
        return False
    connection.execute(
        sa.insert(resync).values(
            channel=channel,
            want=want,
            streams=None if streams is None else json.dumps(streams),
            buckets=None if buckets is None else json.dumps(buckets),
            prune=int(prune),
            reason=reason,
            who=who,
            answers=answers,
            state=ResyncState.ASKED,
            created_at=now(),
            updated_at=now(),
        )
    )
    return of == BUCKETS
