"""What differs between PostgreSQL and SQLite: the only module that asks which of them a database is.

A statement that only one of them knows stands where it is used, and asks here whether it may be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import postgresql, sqlite


@dataclass(frozen=True)
class Dialect:
    """One of the two databases."""

    name: str
    many_writers: bool
    """Whether transactions write side by side; on SQLite the one that writes keeps all others from it."""
    insert: Callable[[Any], Any]
    """SQLAlchemy's INSERT that knows ON CONFLICT."""

    @property
    def is_postgresql(self) -> bool:
        """Whether it is PostgreSQL, a server with statements of its own."""
        return self is POSTGRESQL

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite, a file of this machine that this process reads and writes."""
        return self is SQLITE


POSTGRESQL = Dialect("postgresql", many_writers=True, insert=postgresql.insert)
SQLITE = Dialect("sqlite", many_writers=False, insert=sqlite.insert)

_BY_NAME = {one.name: one for one in (POSTGRESQL, SQLITE)}


def dialect_of(database: Connection | Engine | sa.Dialect) -> Dialect:
    """Say which of the two a database is; nothing is asked of it. Raises ValueError if it is neither."""
    name = database.name if isinstance(database, sa.Dialect) else database.dialect.name
    if name not in _BY_NAME:
        raise ValueError(f"the exchange works on SQLite and PostgreSQL, not on {name}")
    return _BY_NAME[name]


def upsert(connection: Connection, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Write the one row of a key: insert it, or set ``values`` in the one that is there.

    Runs in the caller's transaction. Raises DBAPIError.
    """
    connection.execute(_upserting(dialect_of(connection), table, tuple(key), tuple(values)), {**values, **key})


@functools.cache
def _upserting(dialect: Dialect, table: sa.Table, key: tuple[str, ...], values: tuple[str, ...]) -> sa.Executable:
    """Build such a statement once: to put one together takes longer than to run it."""
    inserting = dialect.insert(table)
    replaced = {name: inserting.excluded[name] for name in values}
    statement: sa.Executable = inserting.on_conflict_do_update(index_elements=key, set_=replaced)
    return statement


def by_bytes(database: Connection | Engine, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Give a column of text compared by its bytes, whatever order the database has for texts."""
    return sa.collate(column, "C") if dialect_of(database).is_postgresql else column


def begins_with(
    database: Connection | Engine, column: sa.ColumnElement[str], text: str
) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    """Say that a column of text begins with this one, in a way that an index on its bytes leads to it.

    ``text`` is printable and not empty.
    """
    compared = by_bytes(database, column)
    return compared >= text, compared < text[:-1] + chr(ord(text[-1]) + 1)


def insert_new(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
    """Insert a row, or leave the one that is there as it is; tell which.

    Runs in the caller's transaction. Raises DBAPIError, with SQLSTATE 40001 where a REPEATABLE READ transaction does
    not see the row that is there: to look first and then insert would end there in a broken constraint.
    """
    inserting = _inserting_new(dialect_of(connection), table)
    return connection.execute(inserting, row, execution_options={"preserve_rowcount": True}).rowcount == 1


@functools.cache
def _inserting_new(dialect: Dialect, table: sa.Table) -> sa.Executable:
    statement: sa.Executable = dialect.insert(table).on_conflict_do_nothing()
    return statement


def insert_together(connection: Connection, inserts: Sequence[sa.Insert], row: Mapping[str, Any]) -> None:
    """Insert a row into each of some tables, whose values ``row`` has by the names that they are bound to.

    On PostgreSQL by one statement. Runs in the caller's transaction. Raises DBAPIError.
    """
    if dialect_of(connection).is_postgresql:
        connection.execute(_together(tuple(inserts)), row)
        return
    for one in inserts:
        connection.execute(one, {name: row[name] for name in _bound(one)})


@functools.cache
def _together(inserts: tuple[sa.Insert, ...]) -> sa.Insert:
    *before, last = inserts
    return last.add_cte(*(one.cte(f"inserted_{number}") for number, one in enumerate(before)))


@functools.cache
def _bound(insert: sa.Insert) -> tuple[str, ...]:
    return tuple(insert.compile().params)
