"""Pending changes by the name under which they are noted, whether a stream has it or not."""

# ruff: noqa: S608 - names can't be parameters; literals are quoted

from __future__ import annotations

from sqlalchemy import Connection

from exchange.tables.capture.sql import run
from exchange.tables.capture.triggers import capture_sql, read_catalogue

MOST_COUNTED = 1_000_000


def pending_streams(connection: Connection) -> list[str]:
    """Name the streams of which changes are pending, by a look at the index for each.

    Reads in the caller's transaction.
    """
    found = run(
        connection,
        "WITH RECURSIVE s (stream) AS (SELECT min(stream) FROM exchange_change WHERE stream > '' UNION ALL"
        " SELECT (SELECT min(c.stream) FROM exchange_change c WHERE c.stream > s.stream) FROM s"
        " WHERE s.stream IS NOT NULL) SELECT stream FROM s WHERE stream IS NOT NULL",
    )
    return [str(row.stream) for row in found]


def count_of(connection: Connection, name: str, most: int = MOST_COUNTED) -> int:
    """Count the changes noted under a name, up to ``most``. Reads in the caller's transaction."""
    some = f"SELECT 1 FROM exchange_change WHERE {_named(connection, name)} LIMIT {most:d}"
    return int(run(connection, f"SELECT count(*) FROM ({some}) s").scalar_one())


def some_key(connection: Connection, name: str) -> str:
    """Give the key of one of the changes noted under a name. Reads in the caller's transaction."""
    return str(
        run(connection, f"SELECT key FROM exchange_change WHERE {_named(connection, name)} LIMIT 1").scalar_one()
    )


def noting(connection: Connection, name: str) -> list[str]:
    """Name the tables whose changes are noted under a name. Reads the catalogue, in the caller's transaction."""
    return read_catalogue(connection, []).other_tables(None, name)


def discard_pending(connection: Connection, name: str) -> int:
    """Remove the changes noted under a name. Runs in the caller's transaction."""
    return run(connection, f"DELETE FROM exchange_change WHERE {_named(connection, name)}").rowcount


def move_pending(connection: Connection, name: str, to: str) -> int:
    """Note the changes that are noted under a name for another stream. Runs in the caller's transaction."""
    quoted = capture_sql(connection).literal(to)
    return run(connection, f"UPDATE exchange_change SET stream = {quoted} WHERE {_named(connection, name)}").rowcount


def _named(connection: Connection, name: str) -> str:
    return f"stream = {capture_sql(connection).literal(name)}"
