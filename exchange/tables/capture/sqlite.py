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
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection

from exchange.format.errors import Problem
from exchange.tables.capture.sql import OUT_OF_DATE, KeyColumn, TableName, TableProblem, identifier, noted_stream, run
from exchange.tables.capture.sql import literal as literal  # noqa: PLC0414 - one of those of ``CaptureSql``

_PREFIX = "exchange_capture_"


def find(connection: Connection, table: TableName) -> TableName | None:
    """Give the table as it is written in the schema, or None if there is none of that name."""
    row = run(
        connection,
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        f" AND name = {literal(table.name)} COLLATE NOCASE AND sql NOT LIKE 'CREATE VIRTUAL%'",
    ).one_or_none()
    return TableName(row.name) if row else None


def key_columns(connection: Connection, table: TableName, names: Sequence[str]) -> list[KeyColumn]:
    """Give the named columns with their declared types; those that don't exist are left out."""
    found = run(connection, f"SELECT name, type FROM pragma_table_info({literal(table.name)})")
    columns = {row.name: KeyColumn(row.name, row.type.upper(), not _is_text(row.type.upper())) for row in found}
    return [columns[name] for name in names if name in columns]


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
        members.append(f"{literal(column.name)}, {exact}")
    return f"json_object({', '.join(members)})"


def key_values(text: str, key: Sequence[KeyColumn]) -> list[str]:
    """Write the SQL that gives the key's values back. Needs ``prepare``."""
    return [_value(text, column) for column in key]


def _value(text: str, column: KeyColumn) -> str:
    if '"' in column.name or "\\" in column.name:  # a JSON path can't name it
        value = f"(SELECT e.value FROM json_each({text}) e WHERE e.key = {literal(column.name)})"
    else:
        path = f'$."{column.name}"'
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
    for statement in _definitions(connection, table, key, stream).values():
        run(connection, statement)


def drop(connection: Connection, table: TableName) -> None:
    """Remove the triggers, if they are there."""
    for name in _installed(connection, table):
        run(connection, f"DROP TRIGGER {identifier(name)}")


def faults(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> list[str]:
    """Say what is missing of the table's triggers, or differs from what ``install`` would write."""
    expected = _definitions(connection, table, key, stream)
    found = _installed(connection, table)
    if missing := [name for name in expected if name not in found]:
        return [f"of its triggers {', '.join(missing)} are missing"]
    return [] if found == expected else [OUT_OF_DATE]


def other_tables(connection: Connection, table: TableName, stream: str) -> list[str]:
    """Name other tables whose changes are noted for the stream."""
    noting = literal(f"WHERE stream = {literal(stream)})")
    found = run(
        connection,
        f"SELECT DISTINCT tbl_name FROM sqlite_master WHERE type = 'trigger' AND tbl_name <> {literal(table.name)}"
        f" COLLATE NOCASE AND substr(name, 1, {len(_PREFIX)}) = {literal(_PREFIX)} AND instr(sql, {noting}) > 0",
    )
    return sorted(str(row.tbl_name) for row in found)


def refusal(_connection: Connection, _table: TableName) -> Problem | None:
    """Say why a table can't be captured: any can."""
    return None


def take_in_partitions(_connection: Connection, _table: TableName, _key: Sequence[KeyColumn], _stream: str) -> None:
    """Do nothing: SQLite has no partitions."""


def cautions(_connection: Connection, _table: TableName) -> list[TableProblem]:
    """Say what triggers can't have noted: what is not in ``faults`` they note."""
    return []


def hides_rows(_connection: Connection, _table: TableName) -> Problem | None:
    """Say that rows are hidden: none are."""
    return None


def captured_as(connection: Connection, table: TableName) -> str | None:
    """Name the stream under which the table's changes are noted; None if they are not."""
    names = (noted_stream(body, _NOTED) for body in _installed(connection, table).values())
    return next((name for name in names if name is not None), None)


_NOTED = re.compile(r"WHERE stream = '((?:[^']|'')*)'\)")


def captured(connection: Connection) -> list[str]:
    """Name the tables with triggers of ours, in whatever state."""
    found = run(
        connection,
        "SELECT DISTINCT tbl_name FROM sqlite_master WHERE type = 'trigger'"
        f" AND substr(name, 1, {len(_PREFIX)}) = {literal(_PREFIX)} ORDER BY 1",
    )
    return [str(row.tbl_name) for row in found]


def _installed(connection: Connection, table: TableName) -> dict[str, str]:
    found = run(
        connection,
        f"SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = {literal(table.name)}"
        f" COLLATE NOCASE AND substr(name, 1, {len(_PREFIX)}) = {literal(_PREFIX)}",
    )
    return {row.name: row.sql for row in found}


def _definitions(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> dict[str, str]:
    """Write every trigger of the table, by name."""
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
    rivals = list(_rivals(connection, table))
    if rivals:
        noted = (
            f"SELECT {literal(stream)}, 'D', {key_text('r', key)} FROM {table} r"
            f" WHERE ({' OR '.join(rivals)}) AND ({_differs('r', key)});"
        )
        bodies["replace", "BEFORE INSERT"] = noted
        bodies["replace_update", "BEFORE UPDATE"] = noted
    definitions = {}
    for (kind, when), body in bodies.items():
        name = f"{_PREFIX}{kind}_{table.name}"
        definitions[name] = (
            f"CREATE TRIGGER {identifier(name)} {when} ON {table}"
            f" WHEN NOT EXISTS (SELECT 1 FROM exchange_importing WHERE stream = {literal(stream)})"
            f" BEGIN INSERT INTO exchange_change (stream, op, key) {body} END"
        )
    return definitions


def _differs(row: str, key: Sequence[KeyColumn]) -> str:
    """Say that a row has another key than the new one, or the same in other letters."""
    pairs = ((f"{row}.{identifier(c.name)}" + ("" if c.exact else " COLLATE BINARY"), c) for c in key)
    return " OR ".join(f"{mine} IS NOT NEW.{identifier(c.name)}" for mine, c in pairs)


def _rivals(connection: Connection, table: TableName) -> Iterator[str]:
    """Give, per unique constraint, the condition that row ``r`` stands in the new row's way.

    Of the key's own only if it takes unlike texts for equal. A partial index is taken as a whole one: a change too many
    is harmless. An index over an expression can't be told this way; there ``recursive_triggers`` is needed.
    """
    indexes = run(
        connection,
        f'SELECT name, origin FROM pragma_index_list({literal(table.name)}) WHERE "unique" ORDER BY name',
    ).all()
    for index in indexes:
        columns = run(
            connection,
            f"SELECT name, coll FROM pragma_index_xinfo({literal(index.name)}) WHERE key ORDER BY seqno",
        ).all()
        if index.origin == "pk" and all(column.coll == "BINARY" for column in columns):
            continue
        if all(column.name is not None for column in columns):
            same = (f"r.{identifier(c.name)} = NEW.{identifier(c.name)} COLLATE {identifier(c.coll)}" for c in columns)
            yield f"({' AND '.join(same)})"
