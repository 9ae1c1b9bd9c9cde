"""The counter that gives records their versions, drawn when a batch claims what it carries, under the export lock.

So of two records of one row the one that was claimed later has the greater version, whenever the changes were
committed. The application's own sessions draw nothing from it: their ``lastval()`` stays theirs.
"""

# ruff: noqa: S608 - only numbers of ours are written into statements

from __future__ import annotations

from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.tables.capture.sql import run

_SEQUENCE = "pg_get_serial_sequence('exchange_change', 'id')"


def draw_version(connection: Connection) -> int:
    """Draw a version from the counter: greater than all that were drawn before, less than all that will be.

    On SQLite the transaction must write, and so be the only one that does. On PostgreSQL what was drawn stays drawn,
    even if the transaction is rolled back.
    """
    if dialect_of(connection).is_postgresql:
        return int(run(connection, f"SELECT nextval({_SEQUENCE})").scalar_one())
    run(connection, "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'exchange_change'")
    return int(run(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'exchange_change'").scalar_one())


def drawing(connection: Connection, order: str) -> str:
    """Write the SQL that draws a version for each row of a query, in this order; ``note_drawn`` must follow it.

    On PostgreSQL the query itself must be in this order.
    """
    if dialect_of(connection).is_postgresql:
        sequence = run(connection, f"SELECT {_SEQUENCE}::regclass::oid").scalar_one()
        return f"nextval({int(sequence)}::regclass)"
    last = run(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'exchange_change'").scalar_one_or_none() or 0
    return f"{int(last)} + row_number() OVER (ORDER BY {order})"


def note_drawn(connection: Connection, count: int) -> None:
    """Have the counter go on behind so many that ``drawing`` drew; on PostgreSQL it does so by itself."""
    if not dialect_of(connection).is_postgresql:
        run(connection, f"UPDATE sqlite_sequence SET seq = seq + {count:d} WHERE name = 'exchange_change'")


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


def raise_above(connection: Connection, version: int) -> bool:
    """Have the counter go on above a version that was drawn from it once, if it fell behind; say whether it had.

    On PostgreSQL at once, on SQLite when the transaction, which must write, is committed.
    """
    if draw_version(connection) > version:
        return False
    raise_counter(connection, version + 2 * _MARGIN)
    return True


_MARGIN = 1_000_000
