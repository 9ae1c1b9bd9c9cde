"""Many rows into a table as fast as the database takes them: COPY on PostgreSQL, one prepared INSERT on SQLite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.database.errors import driver_errors
from exchange.tables.capture.sql import TableName, identifier

BoundRow = tuple[Any, ...]
"""Values in the order of a table's columns, as the driver binds them; for PostgreSQL only what JSON can say."""

ROWS_AT_ONCE = 1_000
"""How many rows become one piece of text for COPY."""

_ESCAPE = re.compile(rb"\\(?:u00([0-9a-f]{2})|(.))")
_PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


def put(connection: Connection, table: sa.Table, names: Sequence[str], rows: Iterable[BoundRow]) -> int:
    """Insert rows, and say how many there are: a trigger may drop some.

    Raises SQLAlchemy's DBAPIError, as any statement does. Runs in the caller's transaction.
    """
    # Not as SQLAlchemy quotes: it doubles what stands for a parameter, and here are none.
    into = f"{TableName(table.name, table.schema)} ({', '.join(map(identifier, names))})"
    driver: Any = connection.connection.driver_connection
    with driver_errors(connection, into):
        if dialect_of(connection).is_postgresql:
            return _copy(driver, into, rows)
        marks = ", ".join("?" * len(names))
        done: int = driver.executemany(f"INSERT INTO {into} VALUES ({marks})", rows).rowcount  # noqa: S608 - all names are quoted
        return done


def goes_on(connection: Connection) -> bool:
    """Say whether the transaction goes on after an error: on SQLite a trigger can have ended it (RAISE(ROLLBACK))."""
    driver: Any = connection.connection.driver_connection
    return not dialect_of(connection).is_sqlite or bool(driver.in_transaction)


def _copy(driver: Any, into: str, rows: Iterable[BoundRow]) -> int:
    """Write the rows as JSON arrays, which are nearly CSV: that costs a tenth of a row written value by value."""
    statement = f"COPY {into} FROM STDIN (FORMAT csv, QUOTE '\"', ESCAPE '\\', NULL 'null')"
    with driver.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for piece in _pieces(rows):
                copy.write(csv(piece))
        done: int = cursor.rowcount
        return done


def _pieces(rows: Iterable[BoundRow]) -> Iterator[list[BoundRow]]:
    rest = iter(rows)
    while piece := list(islice(rest, ROWS_AT_ONCE)):
        yield piece


def csv(rows: Sequence[BoundRow]) -> bytes:
    r"""Write rows as CSV whose quote is ``"``, whose escape is ``\`` and whose NULL is ``null``."""
    dumps = orjson.dumps
    text = b"\n".join([dumps(row)[1:-1] for row in rows]) + b"\n"
    if b"\\" in text:
        # Escaped quotes and backslashes mean the same in both; an escaped control character does not.
        others = text.replace(b"\\\\", b"")
        if others.count(b"\\") != others.count(b'\\"'):
            return _ESCAPE.sub(_as_csv, text)
    return text


def _as_csv(escape: re.Match[bytes]) -> bytes:
    code, letter = escape.groups()
    return bytes.fromhex(code.decode()) if code else _PLAIN.get(letter, escape[0])
