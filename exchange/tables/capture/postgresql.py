"""Capture on PostgreSQL: statement-level triggers over transition tables, one function per table.

A statement writes its changes with one INSERT ... SELECT, which costs a bulk load far less than a call per
row. The function fixes its own search path and output settings, so that no session writes a key differently.
"""
# ruff: noqa: S608 - names can't be parameters; sql.py quotes whatever is not ours

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from sqlalchemy import Connection

from exchange.database.whoami import MAX_NAME_BYTES
from exchange.tables.capture.sql import KeyColumn, TableName, identifier, run
from exchange.tables.capture.sql import literal as _plain_literal

_SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    "TimeZone": "'UTC'",
    "DateStyle": "'ISO, YMD'",
    "IntervalStyle": "'postgres'",
    "bytea_output": "'hex'",
    # TRUNCATE names the rows that go: one that a policy hides would stay over there.
    "row_security": "off",
}
"""What the function does not leave to the session that fires it. Keys have no floats, so nobody's digits count."""

_TRIGGERS = {
    "exchange_capture_insert": ("AFTER INSERT", "REFERENCING NEW TABLE AS exchange_new", 4),
    "exchange_capture_update": (
        "AFTER UPDATE",
        "REFERENCING OLD TABLE AS exchange_old NEW TABLE AS exchange_new",
        16,
    ),
    "exchange_capture_delete": ("AFTER DELETE", "REFERENCING OLD TABLE AS exchange_old", 8),
    # Before: the rows must still be there to be named.
    "exchange_capture_truncate": ("BEFORE TRUNCATE", "", 34),
}
"""Name: when it fires, what it sees, and its ``pg_trigger.tgtype``."""


def literal(text: str) -> str:
    """Quote a text, whatever ``standard_conforming_strings`` says."""
    quoted = _plain_literal(text)
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def find(connection: Connection, table: TableName) -> TableName | None:
    """Give the table with its schema, or None if there is no ordinary table of that name."""
    row = run(
        connection,
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE c.oid = to_regclass({literal(str(table))}) AND c.relkind = 'r'",
    ).one_or_none()
    return TableName(row.relname, row.nspname) if row else None


def key_columns(connection: Connection, table: TableName, names: Sequence[str]) -> list[KeyColumn]:
    """Give the named columns with their types; those that don't exist are left out."""
    found = run(
        connection,
        "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute"
        f" WHERE attrelid = to_regclass({literal(str(table))}) AND attnum > 0 AND NOT attisdropped",
    )
    types = {row.attname: row.type for row in found}
    return [KeyColumn(name, types[name]) for name in names if name in types]


def key_text(row: str, key: Sequence[KeyColumn]) -> str:
    """Write the SQL that gives a row's key as JSON text; equal keys give equal texts.

    It is the text of ``json_build_object``, put together for less: every captured row pays for it.
    """
    parts: list[str] = []
    for column in key:
        name, value = _json_text(column.name), f"{row}.{identifier(column.name)}"
        before = f"{', ' if parts else '{'}{name} : "
        if column.type == "uuid":
            parts += [literal(f'{before}"'), f"{value}::text", literal('"')]
        elif column.type in _INTEGERS:
            parts += [literal(before), f"{value}::text"]
        else:  # 1.0 and 1.00 are one key
            exact = f"trim_scale({value})" if column.type.startswith("numeric") else value
            parts += [literal(before), f"to_json({exact})::text"]
    return f"({' || '.join([*parts, literal('}')])})"


def _json_text(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


_INTEGERS = ("smallint", "integer", "bigint")


def key_values(text: str, key: Sequence[KeyColumn]) -> list[str]:
    """Write the SQL that gives the key's values back, each in its column's own type."""
    return [f"({text}::json ->> {literal(column.name)})::{column.type}" for column in key]


def matches(row: str, text: str, key: Sequence[KeyColumn]) -> str:
    """Write the SQL condition that a row has the key in ``text``."""
    pairs = zip(key, key_values(text, key), strict=True)
    return " AND ".join(f"{row}.{identifier(column.name)} = {value}" for column, value in pairs)


def bucket(text: str) -> str:
    """Write the SQL that gives the bucket of a key's text, 0 to 255.

    Of the hashes that stay the same over versions the quickest: MD5 is not there where FIPS 140 rules.
    """
    return f"get_byte(sha256(convert_to({text}, 'UTF8')), 0)"


def install(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> None:
    """Put the function and its triggers on the table, in place of older ones."""
    drop(connection, table)
    settings = " ".join(f"SET {name} = {value}" for name, value in _SETTINGS.items())
    body = _body(connection, table, key, stream)
    run(
        connection,
        # Definer: whoever may write the table may be captured, without rights on the exchange's own tables.
        f"CREATE FUNCTION {_function(table)}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings}"
        f" AS {literal(body)}",
    )
    for name, (when, sees, _) in _TRIGGERS.items():
        run(
            connection,
            f"CREATE TRIGGER {name} {when} ON {table} {sees} FOR EACH STATEMENT EXECUTE FUNCTION {_function(table)}()",
        )


def drop(connection: Connection, table: TableName) -> None:
    """Remove triggers and function, if they are there."""
    for name in _TRIGGERS:
        run(connection, f"DROP TRIGGER IF EXISTS {name} ON {table}")
    run(connection, f"DROP FUNCTION IF EXISTS {_function(table)}()")


def faults(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> list[str]:
    """Say what is missing of the table's triggers, or differs from what ``install`` would write."""
    found = {
        row.tgname: row
        for row in run(
            connection,
            "SELECT t.tgname, t.tgtype, t.tgenabled, p.prosrc, p.prosecdef, p.proconfig,"
            f" t.tgfoid = to_regprocedure({literal(_function(table) + '()')}) AS ours"
            " FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
            f" WHERE t.tgrelid = to_regclass({literal(str(table))}) AND NOT t.tgisinternal",
        )
    }
    body = _body(connection, table, key, stream)
    missing = [name for name in _TRIGGERS if name not in found]
    if missing:
        return [f"of its triggers {', '.join(missing)} are missing"]
    if any(found[name].tgenabled not in ("O", "A") for name in _TRIGGERS):
        return ["its triggers are disabled"]
    if any(
        not row.ours or row.tgtype != kind or row.prosrc != body or not row.prosecdef or not _fixed(row.proconfig)
        for row, kind in ((found[name], kind) for name, (_, _, kind) in _TRIGGERS.items())
    ):
        return ["its triggers are out of date"]
    return []


def _fixed(config: Sequence[str] | None) -> bool:
    """Say whether a function fixes every setting that ``install`` has it fix."""
    return {setting.partition("=")[0] for setting in config or ()} >= set(_SETTINGS)


def captured(connection: Connection) -> list[str]:
    """Name the tables with triggers of ours, in whatever state."""
    found = run(
        connection,
        "SELECT DISTINCT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE t.tgname = 'exchange_capture_insert' ORDER BY 1",
    )
    return [str(row.relname) for row in found]


def _function(table: TableName) -> str:
    name = f"exchange_capture_{table.name}"
    if len(name.encode()) > MAX_NAME_BYTES:
        name = f"exchange_capture_{hashlib.sha256(table.name.encode()).hexdigest()[:32]}"
    return str(TableName(name, table.schema))


def _body(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> str:
    """Write the function. The log is named with its schema: the function has no other search path."""
    log = find(connection, TableName("exchange_change"))
    into = f"INSERT INTO {log or TableName('exchange_change')} (stream, op, key) SELECT {literal(stream)}"
    first = identifier(key[0].name)
    same = " AND ".join(f"o.{identifier(c.name)} = n.{identifier(c.name)}" for c in key)
    old, new = key_text("o", key), key_text("n", key)
    return f"""
BEGIN
  IF {literal(stream)} = ANY (string_to_array(current_setting('exchange.importing', true), ',')) THEN
    RETURN NULL;
  END IF;
  IF TG_OP = 'INSERT' THEN
    {into}, 'I', {new} FROM exchange_new n;
  ELSIF TG_OP = 'DELETE' THEN
    {into}, 'D', {old} FROM exchange_old o;
  ELSIF TG_OP = 'TRUNCATE' THEN
    {into}, 'D', {old} FROM {table} o;
  ELSE
    -- A key that was changed is one row gone and another one come.
    {into}, CASE WHEN o.{first} IS NULL THEN 'I' WHEN n.{first} IS NULL THEN 'D' ELSE 'U' END,
      CASE WHEN n.{first} IS NULL THEN {old} ELSE {new} END
      FROM exchange_old o FULL JOIN exchange_new n ON {same};
  END IF;
  RETURN NULL;
END
"""
