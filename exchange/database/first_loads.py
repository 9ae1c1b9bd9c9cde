"""Which streams were sent whole once: noted when their changes begin to be captured (``outgoing.first_load``)."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.engine import now
from exchange.database.tables import first_load, resync


def note(connection: Connection, stream: str, *, empty: bool) -> None:
    """Note that a stream's changes are captured from now on, and whether its table is ``empty``, so that all is done.

    One that is known stays as it is. Runs in the caller's transaction.
    """
    if connection.scalar(sa.select(sa.exists().where(first_load.c.stream == stream))):
        return
    done_at = now() if empty else None
    row = {"stream": stream, "after": newest_request(connection), "done_at": done_at}
    connection.execute(sa.insert(first_load).values(row))


def forget(connection: Connection, stream: str) -> None:
    """Forget a stream whose changes are captured no more. Runs in the caller's transaction."""
    connection.execute(sa.delete(first_load).where(first_load.c.stream == stream))


def newest_request(connection: Connection) -> int:
    """Give the number of the newest request of ``exchange_resync``. Reads in the caller's transaction."""
    return connection.scalar(sa.select(sa.func.max(resync.c.id))) or 0
