"""The counter that gives every change its version: one drawn beside changes, and what was begun before it.

A record of a drawn version never overwrites newer ones if its row is read behind the barrier: by then every change
with a lower version can be seen, so the row is at least as new as all of them.
"""

# ruff: noqa: S608 - only numbers of ours are written into statements

from __future__ import annotations

from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.tables.capture.sql import run

_SEQUENCE = "pg_get_serial_sequence('exchange_change', 'id')"


def draw_version(connection: Connection) -> int:
    """Draw a version from the counter: greater than those of all changes before, less than those of all after it.

    On SQLite the transaction must write, and so be the only one that does. On PostgreSQL what was drawn stays drawn,
    even if the transaction is rolled back.
    """
    if dialect_of(connection).is_postgresql:
        return int(run(connection, f"SELECT nextval({_SEQUENCE})").scalar_one())
    run(connection, "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'exchange_change'")
    return int(run(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'exchange_change'").scalar_one())


def raise_counter(connection: Connection, least: int) -> None:
    """Have the counter go on from ``least`` if it is not beyond that.

    On PostgreSQL at once, on SQLite when the transaction is committed.
    """
    if not dialect_of(connection).is_postgresql:
        run(connection, f"UPDATE sqlite_sequence SET seq = max(seq, {least:d}) WHERE name = 'exchange_change'")
        return
    drawn = draw_version(connection)
    # Not if it is near: others draw meanwhile, and the counter must never go back.
    if drawn < least - _MARGIN:
        run(connection, f"SELECT setval({_SEQUENCE}, {least:d})")


_MARGIN = 1_000_000


def make_barrier(connection: Connection) -> str:
    """Say what must have ended so that all changes with a version drawn before can be seen.

    Ask in a statement of its own, in a transaction that sees what others commit meanwhile.
    """
    if dialect_of(connection).is_postgresql:
        return str(run(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text").scalar_one())
    return ""


def is_behind_barrier(connection: Connection, barrier: str) -> bool | None:
    """Say whether this transaction sees all of that; None if it never will: the barrier is of another cluster.

    Ask in the transaction that reads the rows, REPEATABLE READ on PostgreSQL.
    """
    if not dialect_of(connection).is_postgresql:
        return True
    if not barrier:
        return None
    oldest, newest = map(
        int,
        run(
            connection,
            "SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text FROM pg_current_snapshot() s",
        ).one(),
    )
    return None if newest < int(barrier) else oldest >= int(barrier)
