"""What is kept of those who ask over HTTP ends: sessions, what limits count, answers under a key, old passwords."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database.locks import writing
from exchange.database.tables import requester
from exchange.reference.models import User
from exchange.requesters import asking, sessions

LONGEST_WINDOW_SECONDS = 86_400.0
"""No window of limits is longer."""


def sweep(engine: Engine, before: datetime) -> int:
    """Remove what is over, and passwords that were set ``before`` a moment of who is a user no more; give how many.

    Raises Busy. Commits a transaction of its own.
    """
    with writing(engine) as connection:
        return (
            sessions.sweep(connection)
            + asking.sweep_asked(connection, LONGEST_WINDOW_SECONDS)
            + _sweep_passwords(connection, before)
        )


def _sweep_passwords(connection: Connection, before: datetime) -> int:
    if connection.scalar(sa.select(sa.literal(1)).select_from(requester).limit(1)) is None:
        return 0  # the directory may be no table here
    nobodys = (requester.c.changed_at < before, requester.c.user_id.not_in(sa.select(User.id)))
    return len(connection.execute(sa.delete(requester).where(*nobodys).returning(requester.c.user_id)).all())
