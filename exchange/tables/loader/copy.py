"""Many rows into a table as fast as the database takes them: COPY on PostgreSQL, INSERTs of many rows on SQLite."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
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
_MAYBE_CONTROL = re.compile(rb'\\[^"\\]')
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
        return _insert(driver, into, len(names), rows)


def goes_on(connection: Connection) -> bool:
    """Say whether the transaction goes on after an error: on SQLite a trigger can have ended it (RAISE(ROLLBACK))."""
    driver: Any = connection.connection.driver_connection
    return not dialect_of(connection).is_sqlite or bool(driver.in_transaction)


ROWS_OF_AN_INSERT = 500
"""How many rows one INSERT has on SQLite."""


def _insert(driver: sqlite3.Connection, into: str, width: int, rows: Iterable[BoundRow]) -> int:
    """Write many rows by each statement: within a savepoint SQLite copies what each one touches.

    Row by row that took three times as long.
    """
    marks = f"({', '.join('?' * width)})"
    most = max(1, min(ROWS_OF_AN_INSERT, driver.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // width))
    sizes = dict.fromkeys((most, max(1, most // 10), 1))  # few, as the driver keeps the statement of each
    done = 0
    for piece in _pieces(rows, most):
        at = 0
        for size in sizes:
            statement = f"INSERT INTO {into} VALUES {', '.join([marks] * size)}"  # noqa: S608 - all names are quoted
            while at + size <= len(piece):
                done += driver.execute(statement, [*chain.from_iterable(piece[at : at + size])]).rowcount
                at += size
    return done


def _copy(driver: Any, into: str, rows: Iterable[BoundRow]) -> int:
    """Write the rows as JSON arrays, which are nearly CSV: that costs a tenth of a row written value by value."""
    statement = f"COPY {into} FROM STDIN (FORMAT csv, QUOTE '\"', ESCAPE '\\', NULL 'null')"
    with driver.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for piece in _pieces(rows):
                copy.write(csv(piece))
        done: int = cursor.rowcount
        return done


def _pieces(rows: Iterable[BoundRow], size: int = ROWS_AT_ONCE) -> Iterator[list[BoundRow]]:
    rest = iter(rows)
    while piece := list(islice(rest, size)):
        yield piece


def csv(rows: Sequence[BoundRow]) -> bytes:
    r"""Write rows as CSV whose quote is ``"``, whose escape is ``\`` and whose NULL is ``null``."""
    dumps = orjson.dumps
    text = b"\n".join([dumps(row)[1:-1] for row in rows]) + b"\n"
    # Escaped quotes and backslashes mean the same in both; an escaped control character, if it is one, does not.
    return _ESCAPE.sub(_as_csv, text) if _MAYBE_CONTROL.search(text) else text


def _as_csv(escape: re.Match[bytes]) -> bytes:
    code, letter = escape.groups()
    return bytes.fromhex(code.decode()) if code else _PLAIN.get(letter, escape[0])
