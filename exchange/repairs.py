"""Placeholder: replaced by its owner."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import now
from exchange.models import RepairState, repair


def answered(connection: Connection, name: str) -> None:
    """Note that what was asked for has come."""
    connection.execute(
        sa.update(repair)
        .where(repair.c.name == name, repair.c.state == RepairState.OPEN)
        .values(state=RepairState.ANSWERED, closed_at=now())
    )
