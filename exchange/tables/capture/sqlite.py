"""Capture on SQLite: row triggers.

An application's connection may not have ``recursive_triggers`` on, and then a row that REPLACE removes
because of another unique constraint fires no delete trigger. BEFORE triggers therefore note the rows that
share a unique value with the new one.
"""
# ruff: noqa: S608 - names can't be parameters; sql.py quotes whatever is not ours

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Connection

from exchange.tables.capture.sql import KeyColumn, TableName, identifier, literals, run
from exchange.tables.capture.sql import literal as literal  # noqa: PLC0414 - one of those of ``CaptureSql``

PREFIX = "exchange_capture_"


def find(connection: Connection, table: TableName) -> TableName | None:
    """Give the table as it is written in the schema, or None if there is none of that name."""
    row = run(
        connection,
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        f" AND name = {literal(table.name)} COLLATE NOCASE AND sql NOT LIKE 'CREATE VIRTUAL%'",
    ).one_or_none()
    return TableName(row.name) if row else None


def other_kind(connection: Connection, table: TableName) -> str | None:
    """Say what has the name and is no table that rows are written to; None if nothing has it."""
    named = f"SELECT type FROM sqlite_master WHERE name = {literal(table.name)} COLLATE NOCASE"
    kind = run(connection, f"{named} AND type IN ('table', 'view')").scalar()
    return {"view": "a view", "table": "a virtual table"}.get(str(kind))


def key_columns(connection: Connection, table: TableName, names: Sequence[str]) -> list[KeyColumn]:
    """Give the named columns with their declared types; those that don't exist are left out."""
    columns = columns_of(connection, [table.name])[table.name]
    return [columns[name] for name in names if name in columns]


def columns_of(connection: Connection, tables: Sequence[str]) -> dict[str, dict[str, KeyColumn]]:
    """Give the columns of tables, by the tables' names as the schema has them."""
    rows = run(
        connection,
        'SELECT m.name AS "table", c.name, c.type FROM sqlite_master m JOIN pragma_table_info(m.name) c'
        f" WHERE m.type = 'table' AND m.name IN ({literals(tables)})",
    )
    found: dict[str, dict[str, KeyColumn]] = defaultdict(dict)
    for row in rows:
        found[row.table][row.name] = KeyColumn(row.name, row.type.upper(), not _is_text(row.type.upper()))
    return found


def _is_text(kind: str) -> bool:
    """Say whether a column of this type may be compared otherwise than as it is written: without case, for instance."""
    return "INT" not in kind and any(word in kind for word in ("CHAR", "CLOB", "TEXT"))


def key_text(row: str, key: Sequence[KeyColumn]) -> str:
    """Write the SQL that gives a row's key as JSON text; equal keys give equal texts."""
    members = []
    for column in key:
        value = f"{row}.{identifier(column.name)}"
        # JSON holds no bytes, and SQLite writes a real into it with two digits too few.
        exact = (
            f"CASE typeof({value}) WHEN 'blob' THEN 'blob:' || hex({value})"
            f" WHEN 'real' THEN printf('%!.17g', {value}) ELSE {value} END"
        )
        members.append(f"{literal(column.member)}, {exact}")
    return f"json_object({', '.join(members)})"


def key_values(text: str, key: Sequence[KeyColumn]) -> list[str]:
    """Write the SQL that gives the key's values back. Needs ``prepare``."""
    return [_value(text, column) for column in key]


def _value(text: str, column: KeyColumn) -> str:
    if '"' in column.member or "\\" in column.member:  # a JSON path can't name it
        value = f"(SELECT e.value FROM json_each({text}) e WHERE e.key = {literal(column.member)})"
    else:
        path = f'$."{column.member}"'
        value = f"json_extract({text}, {literal(path)})"
    if "BLOB" in column.type or not column.type:
        return f"exchange_key_value({value})"
    if any(word in column.type for word in ("REAL", "FLOA", "DOUB", "NUM", "DEC")):
        return f"CAST({value} AS NUMERIC)"
    return value


def matches(row: str, text: str, key: Sequence[KeyColumn]) -> str:
    """Write the SQL condition that a row has the key in ``text``; IS, for SQLite lets keys be NULL."""
    conditions = []
    for column, value in zip(key, key_values(text, key), strict=True):
        mine = f"{row}.{identifier(column.name)}"
        conditions.append(f"{mine} IS {value}")  # as an index of the column may have it
        if not column.exact:
            conditions.append(f"{mine} COLLATE BINARY IS {value}")
    return " AND ".join(conditions)


def bucket(text: str) -> str:
    """Write the SQL that gives the bucket of a key's text, 0 to 255. Needs ``prepare``."""
    return f"exchange_bucket({text})"


def prepare(connection: Connection) -> None:
    """Teach the connection to read bytes out of a key and to put keys into buckets; may be repeated."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.create_function("exchange_key_value", 1, _key_value, deterministic=True)
    driver.create_function("exchange_bucket", 1, _bucket, deterministic=True)


def _bucket(text: str) -> int:
    """Hash a key as PostgreSQL would write it, so that a database which moves there keeps its shards.

    It writes other blanks, and a UUID with dashes. A key of which that is not all (a moment, a text that
    looks like JSON) may move to another shard with the database, as it does when their number changes.
    """
    theirs = _UUID.sub(r'"\1-\2-\3-\4-\5"', text.replace('":', '" : ').replace(',"', ', "'))
    return hashlib.sha256(theirs.encode()).digest()[0]


_UUID = re.compile('"([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})"')


def _key_value(value: str | float | None) -> str | bytes | float | None:
    if isinstance(value, str) and value.startswith("blob:"):
        return bytes.fromhex(value.removeprefix("blob:"))
    return value


def install(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> None:
    """Put the triggers on the table, in place of older ones."""
    drop(connection, table)
    uniques = unique_indexes(connection, [table.name])[table.name]
    for statement in definitions(table, key, stream, uniques).values():
        run(connection, statement)


def drop(connection: Connection, table: TableName) -> None:
    """Remove the triggers, if they are there."""
    for name in _installed(connection, table):
        run(connection, f"DROP TRIGGER {identifier(name)}")


def take_in_partitions(_connection: Connection, _table: TableName, _key: Sequence[KeyColumn], _stream: str) -> None:
    """Do nothing: SQLite has no partitions."""


def captured(connection: Connection) -> list[str]:
    """Name the tables with triggers of ours, in whatever state."""
    found = run(
        connection,
        "SELECT DISTINCT tbl_name FROM sqlite_master WHERE type = 'trigger'"
        f" AND substr(name, 1, {len(PREFIX)}) = {literal(PREFIX)} ORDER BY 1",
    )
    return [str(row.tbl_name) for row in found]


def _installed(connection: Connection, table: TableName) -> list[str]:
    found = run(
        connection,
        f"SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = {literal(table.name)}"
        f" COLLATE NOCASE AND substr(name, 1, {len(PREFIX)}) = {literal(PREFIX)}",
    )
    return [str(row.name) for row in found]


def definitions(
    table: TableName, key: Sequence[KeyColumn], stream: str, uniques: Iterable[UniqueIndex]
) -> dict[str, str]:
    """Write every trigger of a table with these unique indexes, by name."""
    old, new = key_text("OLD", key), key_text("NEW", key)
    bodies = {
        ("insert", "AFTER INSERT"): f"VALUES ({literal(stream)}, 'I', {new});",
        ("delete", "AFTER DELETE"): f"VALUES ({literal(stream)}, 'D', {old});",
        ("update", "AFTER UPDATE"): (
            # A key that was changed is one row gone and another one come.
            f"SELECT {literal(stream)}, 'D', {old} WHERE {_differs('OLD', key)}"
            f" UNION ALL SELECT {literal(stream)},"
            f" CASE WHEN {_differs('OLD', key)} THEN 'I' ELSE 'U' END, {new};"
        ),
    }
    rivals = list(_rivals(uniques))
    if rivals:
        noted = (
            f"SELECT {literal(stream)}, 'D', {key_text('r', key)} FROM {table} r"
            f" WHERE ({' OR '.join(rivals)}) AND ({_differs('r', key)});"
        )
        bodies["replace", "BEFORE INSERT"] = noted
        bodies["replace_update", "BEFORE UPDATE"] = noted
    written = {}
    for (kind, when), body in bodies.items():
        name = f"{PREFIX}{kind}_{table.name}"
        written[name] = (
            f"CREATE TRIGGER {identifier(name)} {when} ON {table}"
            f" WHEN NOT EXISTS (SELECT 1 FROM exchange_importing WHERE stream = {literal(stream)})"
            f" BEGIN INSERT INTO exchange_change (stream, op, key) {body} END"
        )
    return written


def _differs(row: str, key: Sequence[KeyColumn]) -> str:
    """Say that a row has another key than the new one, or the same in other letters."""
    pairs = ((f"{row}.{identifier(c.name)}" + ("" if c.exact else " COLLATE BINARY"), c) for c in key)
    return " OR ".join(f"{mine} IS NOT NEW.{identifier(c.name)}" for mine, c in pairs)


def _rivals(uniques: Iterable[UniqueIndex]) -> Iterator[str]:
    """Give, per unique index, the condition that row ``r`` stands in the new row's way.

    Of the key's own only if it takes unlike texts for equal. A partial index is taken as a whole one: a change too many
    is harmless. An index over an expression can't be told this way; there ``recursive_triggers`` is needed.
    """
    for index in uniques:
        if index.of_key and all(collation == "BINARY" for _, collation in index.columns):
            continue
        if all(name is not None for name, _ in index.columns):
            same = (
                f"r.{identifier(name)} = NEW.{identifier(name)} COLLATE {identifier(collation)}"
                for name, collation in index.columns
                if name is not None
            )
            yield f"({' AND '.join(same)})"


class UniqueIndex(NamedTuple):
    """An index that holds no two equal entries: its columns with their collations; None for an expression."""

    of_key: bool
    columns: tuple[tuple[str | None, str], ...]


def unique_indexes(connection: Connection, tables: Sequence[str]) -> dict[str, list[UniqueIndex]]:
    """Give the unique indexes of tables by the tables' names, each table's in the order of theirs."""
    rows = run(
        connection,
        'SELECT m.name AS "table", l.name AS "index", l.origin, x.name, x.coll FROM sqlite_master m'
        ' JOIN pragma_index_list(m.name) l ON l."unique" JOIN pragma_index_xinfo(l.name) x ON x.key'
        f" WHERE m.type = 'table' AND m.name IN ({literals(tables)}) ORDER BY m.name, l.name, x.seqno",
    )
    found: dict[str, list[UniqueIndex]] = defaultdict(list)
    for (table, _, origin), columns in groupby(rows, key=lambda row: (row.table, row.index, row.origin)):
        found[table].append(UniqueIndex(origin == "pk", tuple((one.name, one.coll) for one in columns)))
    return found
