"""How many batches stand in each state, at a glance: triggers count them in ``exchange_batch_count`` as they move."""

from __future__ import annotations

from collections import Counter

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.tables import BatchState, Direction, batch_count, folded

RESENT = "resent"
"""What is counted there and is no state: batches that were published once more."""

Standing = tuple[Direction, str, BatchState]
"""A direction, a channel by its name in files, and a state."""

_STANDING = (
    sa.select(
        batch_count.c.direction, batch_count.c.channel, batch_count.c.outcome, sa.func.sum(batch_count.c.standing)
    )
    .where(batch_count.c.outcome != RESENT)
    .group_by(batch_count.c.direction, batch_count.c.channel, batch_count.c.outcome)
    .having(sa.func.sum(batch_count.c.standing) > 0)
)
_RESENT = (
    sa.select(batch_count.c.channel, sa.func.sum(batch_count.c.batches))
    .where(batch_count.c.outcome == RESENT, batch_count.c.direction == Direction.OUT)
    .group_by(batch_count.c.channel)
)
_FOLDED = sa.select(folded.c.direction, folded.c.channel, sa.func.sum(folded.c.batches)).group_by(
    folded.c.direction, folded.c.channel
)


def count_resent(connection: Connection) -> dict[str, int]:
    """Count by channel how often batches were published once more. Reads in the caller's transaction."""
    return {channel: int(number) for channel, number in connection.execute(_RESENT)}


def count_standing(connection: Connection) -> Counter[Standing]:
    """Count the ledger's batches by direction, channel and state; those that were folded are in their last one.

    Reads in the caller's transaction.
    """
    counts: Counter[Standing] = Counter()
    for direction, channel, state, number in connection.execute(_STANDING):
        counts[Direction(direction), channel, BatchState(state)] = int(number)
    for direction, channel, number in connection.execute(_FOLDED):
        end = BatchState.APPLIED if direction == Direction.IN else BatchState.ACKNOWLEDGED
        counts[Direction(direction), channel, end] += int(number)
    return counts
