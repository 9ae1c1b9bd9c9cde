"""Rows of what was claimed, read as the driver gives them, some at a time; and single rows by their key."""

# ruff: noqa: S608 - names can't be parameters; sql.py quotes whatever is not ours

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.codecs import codec_for
from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.errors import driver_errors
from exchange.format import strict_json
from exchange.format.errors import RecordError
from exchange.tables.capture import sqlite
from exchange.tables.capture.sql import TableName, identifier, literal, run
from exchange.tables.capture.stream_table import (
    CLAIMED,
    MANY_KEYS,
    WORK_MEMORY_KIB,
    StreamTable,
    self_references,
)

FETCH_ROWS = 50
"""How many rows are in memory at once: few, for they may be large, and few are all in the processor's cache."""


FETCH_LONG_ROWS = 4
"""And of rows that may be long."""

LONG_BYTES = 256 * 1024
"""A value above it makes a row long."""

LONG_VALUES_BYTES = 1024 * 1024
"""A table of PostgreSQL that has put so many bytes of its values apart may have long rows."""

MOST_COUNTED = 2_000_000
"""So many rows are counted in about a quarter of a second."""

Row = tuple[Any, ...]
"""What the driver gives, untouched."""


def rows(connection: Connection, stream: Stream, keys: int = 0) -> Iterator[Sequence[Row]]:
    """Read the claimed rows that exist now: key text, version, then the selected value of each stream column.

    ``keys`` says how many were claimed, where that is known: a good part of a table is read another way. Parents come
    before children, else by version. Streamed, some rows at a time: read it to its end or close it before anything else
    is done with the connection. Raises SQLAlchemy's DBAPIError. Runs in the transaction of ``claim`` or ``next_page``.
    """
    has_key: sa.ColumnElement[bool] = sa.literal_column(StreamTable.of(connection, stream).row_has_key())
    columns = [stream.codecs[column.name].selected(connection.dialect) for column in stream.columns]
    order = (CLAIMED.c.level, CLAIMED.c.version) if self_references(stream) else (CLAIMED.c.version,)
    if dialect_of(connection).is_postgresql and not _are_most(connection, stream, keys):
        # Key by key in their order, through the table's own index: the first row comes at once, where a join
        # of sets would put all of them into order first, and we would wait.
        claimed = (
            sa.select(CLAIMED.c.key, CLAIMED.c.version)
            .where(CLAIMED.c.stream == stream.name)
            .order_by(*order)
            .offset(0)
            .subquery(CLAIMED.name)
        )
        row = sa.select(*columns).select_from(stream.table).where(has_key).offset(0).lateral("exchange_row")
        select = sa.select(claimed.c.key, claimed.c.version, *row.c).select_from(claimed.join(row, sa.true()))
    else:
        select = (
            sa.select(CLAIMED.c.key, CLAIMED.c.version, *columns)
            .select_from(CLAIMED.join(stream.table, has_key))
            .where(CLAIMED.c.stream == stream.name)
            .order_by(*order)
        )
    yield from streamed(connection, select, fetch_rows(connection, stream))


def _are_most(connection: Connection, stream: Stream, keys: int) -> bool:
    """Say whether so many keys are a good part of a table, and their rows so few that they are sorted in memory.

    Then to read the whole table costs less than to look for each key. Asks PostgreSQL's catalogue.
    """
    if keys < MANY_KEYS:
        return False
    name = str(TableName(stream.table.name, stream.table.schema))
    asked = {"name": name, "keys": keys, "of": keys * GOOD_PART, "bytes": WORK_MEMORY_KIB * 1024 // 2}
    return connection.scalar(_MOST, asked) is True


GOOD_PART = 8
"""One of so many rows of a table is a good part of it."""

_MOST = sa.text(
    "SELECT :of >= n AND :keys * pg_table_size(oid) <= :bytes * n FROM (SELECT oid,"
    " reltuples / relpages * pg_relation_size(oid) / current_setting('block_size')::integer AS n"
    " FROM pg_class WHERE oid = to_regclass(:name) AND relpages > 0 AND reltuples > 0) c"
)


def fetch_rows(connection: Connection, stream: Stream, usual: int = FETCH_ROWS) -> int:
    """Say how many rows of a stream's table may be in memory at once: few where some may be long.

    Of SQLite's that shows as they are read. Asks PostgreSQL's catalogue, in the caller's transaction.
    """
    if not dialect_of(connection).is_postgresql:
        return usual
    name = str(TableName(stream.table.name, stream.table.schema))
    apart: int = connection.scalar(_LONG_VALUES, {"name": name}) or 0
    return usual if apart < LONG_VALUES_BYTES else FETCH_LONG_ROWS


_LONG_VALUES = sa.text(
    "SELECT sum(pg_relation_size(reltoastrelid)) FROM pg_class WHERE oid = to_regclass(:name)"
    " OR oid IN (SELECT relid FROM pg_partition_tree(to_regclass(:name)))"
)


def has_rows(connection: Connection, stream: Stream) -> bool:
    """Say whether a stream's table has rows. Reads in the caller's transaction."""
    return connection.scalar(sa.select(sa.literal(1)).select_from(stream.table).limit(1)) is not None


def estimate_rows(connection: Connection, stream: Stream) -> int:
    """Say how many rows a stream's table has; on PostgreSQL, beyond ``MOST_COUNTED``, as its planner guesses.

    Reads in the caller's transaction.
    """
    rows = sa.select(sa.literal(1)).select_from(stream.table)
    if not dialect_of(connection).is_postgresql:
        return connection.scalar(sa.select(sa.func.count()).select_from(stream.table)) or 0
    counted = connection.scalar(sa.select(sa.func.count()).select_from(rows.limit(MOST_COUNTED).subquery())) or 0
    if counted < MOST_COUNTED:
        return counted
    name = TableName(stream.table.name, stream.table.schema)
    (plan,) = run(connection, f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {name}").scalar_one()
    return max(counted, int(plan["Plan"]["Plan Rows"]))


def row_of_key(connection: Connection, stream: Stream, key: str) -> Row | None:
    """Read the row that has the key of a change: the selected value of each stream column; None if it is gone.

    Reads in the caller's transaction. Raises CaptureFault as ``claim`` does, and DBAPIError.
    """
    table = StreamTable.of(connection, stream)
    if not dialect_of(connection).is_postgresql:
        sqlite.prepare(connection)
    quoted = table.sql.literal(key)
    name = TableName(stream.table.name, stream.table.schema)
    selected = (stream.codecs[column.name].selected(connection.dialect) for column in stream.columns)
    found = sa.select(*selected).where(sa.literal_column(table.sql.matches(str(name), quoted, table.key)))
    return connection.execute(found.select_from(stream.table)).one_or_none()


def deleted_keys(connection: Connection, stream: Stream) -> Iterator[Sequence[Row]]:
    """Read the claimed keys that no row has now: key text, version, then the values for ``stream.key_encoder``.

    By version; streamed as ``rows``.
    """
    table = StreamTable.of(connection, stream)
    dialect = connection.dialect
    members = (
        f"{value} AS {identifier(column.name)}"
        for column, value in zip(table.key, table.sql.key_values("k.key", table.key), strict=True)
    )
    gone = _gone_table(stream)
    statement = (
        f"SELECT k.key AS exchange_text, k.version AS exchange_id, {', '.join(members)} FROM exchange_taken k"
        f" WHERE k.stream = {literal(stream.name)} AND NOT {table.exists('k.key')}"
    )
    cte = sa.text(statement.replace(":", "\\:")).columns().cte("exchange_gone")
    select = (
        sa.select(
            gone.c.exchange_text,
            gone.c.exchange_id,
            *(codec_for(gone.c[column.name]).selected(dialect) for column in stream.key),
        )
        .add_cte(cte)
        .order_by(gone.c.exchange_id)
    )
    yield from streamed(connection, select)


@functools.lru_cache(1024)
def _gone_table(stream: Stream) -> sa.Table:
    """Describe what ``deleted_keys`` selects from, once: what is kept of its columns would grow with each export."""
    return sa.Table(
        "exchange_gone",
        sa.MetaData(),
        sa.Column("exchange_text", sa.Text),
        sa.Column("exchange_id", sa.BigInteger),
        *(sa.Column(column.name, column.type) for column in stream.key),
    )


def key_text(connection: Connection, stream: Stream, values: Sequence[Any]) -> str | None:
    """Give the key of the row with these values of its key, as a change notes it; None if there is no such row.

    ``values`` as ``Stream.key_decoder`` gives them, in ``key`` order. Raises CaptureFault as ``claim`` does. Reads in
    the caller's transaction.
    """
    table = StreamTable.of(connection, stream)
    name = TableName(stream.table.name, stream.table.schema)
    has_key = (
        sa.literal_column(f"{name}.{identifier(column.name)}") == sa.bindparam(None, value, type_=sa.types.NullType())
        for column, value in zip(table.key, values, strict=True)
    )
    text: sa.ColumnElement[str] = sa.literal_column(table.sql.key_text(str(name), table.key))
    found: str | None = connection.scalar(sa.select(text).select_from(stream.table).where(*has_key))
    return found


def is_key(connection: Connection, stream: Stream, text: str) -> bool:
    """Tell if a text could be the key of a change: the database can compare it with its rows.

    Asks within a savepoint of the caller's transaction. Raises CaptureFault as ``claim`` does.
    """
    table = StreamTable.of(connection, stream)
    if not dialect_of(connection).is_postgresql:
        sqlite.prepare(connection)
    try:
        members = strict_json.loads(text.encode())
    except RecordError:
        return False
    if not isinstance(members, dict) or members.keys() != {column.member for column in table.key}:
        return False
    if any(isinstance(value, (dict, list)) for value in members.values()):
        return False
    quoted = table.sql.literal(text)
    try:
        with connection.begin_nested():
            run(connection, f"SELECT {table.exists(quoted)}")
    except DBAPIError:
        return False
    return True


def streamed(connection: Connection, select: sa.Select[Any], rows_at_once: int = FETCH_ROWS) -> Iterator[Sequence[Row]]:
    """Read what a query finds, some rows at a time: read it to its end or close it before anything else is done.

    Raises SQLAlchemy's DBAPIError. On PostgreSQL within a savepoint.
    """
    with driver_errors(connection, "reading rows"):
        read = _from_postgresql if dialect_of(connection).is_postgresql else _from_sqlite
        yield from read(connection, select, rows_at_once)


COPIED_BYTES = 256 * 1024
"""So much of what PostgreSQL copies is in memory at once, unless a row is longer."""


def copied(connection: Connection, select: sa.Select[Any]) -> tuple[list[int], Iterator[list[bytes]]] | None:
    """Read what a query finds as PostgreSQL's COPY writes rows: lines of text, some at a time.

    Gives the types (oids) of the columns, and the lines, to be read to the end or closed before anything else is done.
    None where rows can't be had so: on SQLite, and where texts are in no encoding. Raises SQLAlchemy's DBAPIError.
    """
    if not dialect_of(connection).is_postgresql:
        return None
    driver: Any = connection.connection.driver_connection
    if driver.info.encoding != "utf-8":
        return None
    with driver_errors(connection, "reading rows"), connection.execute(select.limit(0)) as none:
        types = [int(column[1]) for column in none.cursor.description or ()]  # type: ignore[call-overload]
    compiled = select.compile(dialect=connection.dialect)
    return types, _copied(connection, f"COPY ({compiled}) TO STDOUT", compiled.params)


def _copied(connection: Connection, statement: str, parameters: Any) -> Iterator[list[bytes]]:
    driver: Any = connection.connection.driver_connection
    # As below: whoever closes this before its end cancels the query.
    with (
        driver_errors(connection, "reading rows"),
        connection.begin_nested(),
        driver.cursor() as cursor,
        cursor.copy(statement, parameters) as copy,
    ):
        lines: list[bytes] = []
        length = 0
        for line in copy:
            lines.append(bytes(line))
            length += len(line)
            if length >= COPIED_BYTES:
                yield lines
                lines, length = [], 0
        if lines:
            yield lines


def _from_postgresql(connection: Connection, select: sa.Select[Any], rows_at_once: int) -> Iterator[Sequence[Row]]:
    """Read rows while the server goes on making them: a cursor would make it wait for each next call."""
    compiled = select.compile(dialect=connection.dialect)
    driver = connection.connection.driver_connection
    # Whoever closes this before its end cancels the query, and that undoes everything up to here.
    with (
        connection.begin_nested(),
        driver.cursor() as cursor,  # type: ignore[union-attr]
        closing(cursor.stream(str(compiled), compiled.params, size=rows_at_once)) as found,
    ):
        while piece := [*islice(found, rows_at_once)]:
            yield piece


def _from_sqlite(connection: Connection, select: sa.Select[Any], rows_at_once: int) -> Iterator[Sequence[Row]]:
    """Read the driver's own tuples: SQLAlchemy's rows cost as much as the query."""
    with connection.execute(select) as result:
        size = 1
        while piece := result.cursor.fetchmany(size):
            yield piece
            is_long = any(isinstance(value, (bytes, str)) and len(value) > LONG_BYTES for value in piece[-1])
            size = min(rows_at_once, FETCH_LONG_ROWS) if is_long else rows_at_once
