"""A received table's own counter kept ahead of the keys that come, so that this side can give numbers from one day on.

On PostgreSQL: a sequence that belongs to the key (``serial``, or an identity by default or always). That it is asked
for is a comment on the table's column ``exchange_version``. SQLite's counters follow every row by themselves.
"""

# ruff: noqa: S608 - names can't be parameters; sql.py quotes them

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.database.dialects import dialect_of
from exchange.database.errors import first_line
from exchange.database.tables import VERSION_COLUMN
from exchange.tables.capture.sql import TableName, identifier, literal, run

MARK = "exchange: advance_identity"
"""The comment."""

DRAWN = 10_000
"""So many numbers are drawn one by one. Beyond them the counter is set: others draw no more than so many meanwhile."""


def keep_ahead(
    connection: Connection, name: str, schema: str | None, key: Sequence[str] | None, *, wanted: bool
) -> str | None:
    """Have the counter of a received table kept ahead from now on, or no more; say why it can't be, if so.

    The table has the column ``exchange_version``; ``key`` is its primary key unless given. Runs in the caller's
    transaction, as who owns the table.
    """
    if not dialect_of(connection).is_postgresql:
        return None
    table = TableName(name, schema)
    key = key or sa.inspect(connection).get_pk_constraint(name, schema)["constrained_columns"]
    sequence = _sequence(connection, table, key) if wanted else None
    if wanted and sequence is None:
        return (
            f"advance_identity: the key of table {name!r} is no single column with a counter of its own; leave it out"
        )
    comment = literal(MARK) if wanted else "NULL"
    run(connection, f"COMMENT ON COLUMN {table}.{identifier(VERSION_COLUMN)} IS {comment}")
    if sequence is None:
        return None
    newest = run(connection, f"SELECT max({identifier(key[0])}) FROM {table}").scalar_one()
    return None if newest is None else advance(connection, sequence, int(newest))


def _sequence(connection: Connection, table: TableName, key: Sequence[str]) -> str | None:
    if len(key) != 1:
        return None
    return connection.scalar(sa.select(sa.func.pg_get_serial_sequence(str(table), key[0])))


def advance(connection: Connection, sequence: str, least: int) -> str | None:
    """Have a counter give no number up to ``least`` any more; it never goes back. Say why it can't be, if so.

    Runs in the caller's transaction, within a savepoint. What was drawn stays so, even if that is rolled back.
    """
    counter = {"counter": sequence}
    try:
        with connection.begin_nested():
            last, step = connection.execute(_STANDS, counter).one()
            if step < 0 or (last is not None and last >= least):
                return None
            drawn = connection.scalar(_DRAW, counter)  # where it stands, if it was set and never drawn from
            missing = -((drawn - least) // step)
            if missing > DRAWN:
                connection.execute(_SET, counter | {"least": least})
            elif missing > 0:
                connection.execute(_DRAW_MANY, counter | {"missing": missing})
    except DBAPIError as error:
        return f"sequence {sequence} stays behind the keys that came: {first_line(error)}"
    return None


_STANDS = sa.text(
    "SELECT pg_sequence_last_value(seqrelid), seqincrement FROM pg_sequence WHERE seqrelid = CAST(:counter AS regclass)"
)
_DRAW = sa.text("SELECT nextval(CAST(:counter AS regclass))")
_DRAW_MANY = sa.text("SELECT count(nextval(CAST(:counter AS regclass))) FROM generate_series(1, :missing)")
_SET = sa.text("SELECT setval(CAST(:counter AS regclass), :least)")
