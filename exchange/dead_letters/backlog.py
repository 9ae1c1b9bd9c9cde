"""How many dead letters wait for somebody, and since when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.tables import DeadLetterState, dead_letter
from exchange.dead_letters.counts import count_parked


@dataclass(frozen=True)
class Backlog:
    """The parked letters: their number, the id of the oldest, and when that one was parked."""

    parked: int
    oldest: int | None
    oldest_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "parked": self.parked,
            "oldest": self.oldest,
            "oldest_at": self.oldest_at.isoformat() if self.oldest_at else None,
        }


def backlog(connection: Connection) -> Backlog:
    """Count the parked letters and find the oldest: two glances, however many there are."""
    oldest = connection.execute(
        sa.select(dead_letter.c.id, dead_letter.c.created_at)
        .where(dead_letter.c.state == DeadLetterState.PARKED)
        .order_by(dead_letter.c.created_at, dead_letter.c.id)
        .limit(1)
    ).one_or_none()
    parked = count_parked(connection) if oldest else 0
    return Backlog(parked, oldest.id if oldest else None, oldest.created_at if oldest else None)
