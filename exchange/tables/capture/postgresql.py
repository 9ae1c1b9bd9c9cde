"""Capture on PostgreSQL: statement-level triggers over transition tables, one function per table.

A statement writes its changes with one INSERT ... SELECT, which costs a bulk load far less than a call per
row. The function fixes its own search path and output settings, so that no session writes a key differently.

A statement fires only the triggers of the table that it names. Partitioned tables, partitions and children by
inheritance therefore have row triggers: PostgreSQL clones them to every partition, also to one that comes later.
"""
# ruff: noqa: S608 - names can't be parameters; sql.py quotes whatever is not ours

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from exchange.database.whoami import MAX_NAME_BYTES
from exchange.tables.capture.sql import KeyColumn, TableName, identifier, run
from exchange.tables.capture.sql import literal as _plain_literal

SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    "TimeZone": "'UTC'",
    "DateStyle": "'ISO, YMD'",
    "IntervalStyle": "'postgres'",
    "bytea_output": "'hex'",
    # TRUNCATE names the rows that go: one that a policy hides would stay over there.
    "row_security": "off",
}
"""What the function does not leave to the session that fires it. Keys have no floats, so nobody's digits count."""

_OF_STATEMENTS = {
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

_OF_ROWS = {
    "exchange_capture_insert": ("AFTER INSERT", "", 5),
    "exchange_capture_update": ("AFTER UPDATE", "", 17),
    "exchange_capture_delete": ("AFTER DELETE", "", 9),
    "exchange_capture_truncate": ("BEFORE TRUNCATE", "", 34),
}

NAMES = tuple(_OF_STATEMENTS)
"""Of the triggers of a table."""

FOR_EACH_ROW = 1
"""The bit of ``tgtype``."""

LOG = TableName("exchange_change")


@dataclass(frozen=True)
class Shape:
    """A table, how it is made up of others, and what this role may see of it. Tables are written as SQL names them."""

    place: TableName
    oid: int
    partitioned: bool
    partition: bool
    parents: Sequence[str]
    """Those that it is a partition or a child of."""
    children: Sequence[str]
    """Those that inherit from it, or all of its partitions, theirs too."""
    subscribed: bool
    """A subscription writes it, row by row."""
    role: str
    """Who looks."""
    owner: bool
    readable: bool
    hiding: bool
    """Row-level security hides rows of it from this role."""

    @property
    def by_row(self) -> bool:
        """Whether its rows are written otherwise than by statements that name it."""
        return self.partitioned or bool(self.parents) or self.subscribed

    @property
    def written_through(self) -> str:
        """What writes them."""
        if self.subscribed:
            return "a subscription"
        return self.parents[0] if self.parents else "its partitions"

    @property
    def triggers(self) -> Mapping[str, tuple[str, str, int]]:
        """The triggers that capture it."""
        return _OF_ROWS if self.by_row else _OF_STATEMENTS


def shapes(connection: Connection, tables: Sequence[TableName]) -> dict[TableName, Shape]:
    """Look at tables, ordinary or partitioned, all at once; what is not there is left out."""
    if not tables:
        return {}
    named = "format('%I.%I', n.nspname, k.relname) FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace"
    rows = run(
        connection,
        "SELECT w.number, c.oid, s.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned,"
        f" c.relispartition AS partition, ARRAY(SELECT {named}"
        " WHERE k.oid IN (SELECT inhparent FROM pg_inherits WHERE inhrelid = c.oid) ORDER BY 1) AS parents,"
        " CASE WHEN c.relhassubclass THEN"
        f" ARRAY(SELECT {named} WHERE CASE WHEN c.relkind = 'p'"
        " THEN k.oid IN (SELECT relid FROM pg_partition_tree(c.oid) WHERE level > 0)"
        " ELSE k.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid) END ORDER BY 1)"
        " ELSE '{}' END AS children,"
        " EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = c.oid) AS subscribed,"
        " current_user AS role, pg_has_role(c.relowner, 'USAGE') AS owner,"
        " has_any_column_privilege(c.oid, 'SELECT') AS readable, row_security_active(c.oid) AS hiding"
        f" FROM ({wanted(tables)}) w JOIN pg_class c ON c.oid = to_regclass(w.name) AND c.relkind IN ('r', 'p')"
        " JOIN pg_namespace s ON s.oid = c.relnamespace",
    )
    return {
        tables[row.number - 1]: Shape(
            place=TableName(row.name, row.schema),
            oid=row.oid,
            partitioned=row.partitioned,
            partition=row.partition,
            parents=row.parents,
            children=row.children,
            subscribed=row.subscribed,
            role=row.role,
            owner=row.owner,
            readable=row.readable,
            hiding=row.hiding,
        )
        for row in rows
    }


def wanted(tables: Sequence[TableName]) -> str:
    """Write the SELECT that gives tables as SQL names them: their ``name`` and, from 1 on, their ``number``."""
    names = literals(map(str, tables))
    return f"SELECT name, number FROM unnest(ARRAY[{names}]::text[]) WITH ORDINALITY AS u (name, number)"


def literal(text: str) -> str:
    """Quote a text, whatever ``standard_conforming_strings`` says."""
    quoted = _plain_literal(text)
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def literals(texts: Iterable[str]) -> str:
    """Quote texts for an IN list."""
    return ", ".join(map(literal, texts))


def find(connection: Connection, table: TableName) -> TableName | None:
    """Give the table with its schema, or None if there is no table of that name, ordinary or partitioned."""
    found = shapes(connection, [table])
    return found[table].place if found else None


_OTHER_KINDS = {"v": "a view", "m": "a materialised view", "f": "a foreign table"}


def other_kind(connection: Connection, table: TableName) -> str | None:
    """Say what has the name and is no table that rows are written to; None if nothing has it."""
    kind = run(
        connection, f"SELECT relkind::text FROM pg_class WHERE oid = to_regclass({literal(str(table))})"
    ).scalar()
    return _OTHER_KINDS.get(str(kind))


def key_columns(connection: Connection, table: TableName, names: Sequence[str]) -> list[KeyColumn]:
    """Give the named columns with their types; those that don't exist are left out."""
    found = columns_of(connection, f"to_regclass({literal(str(table))})", names)
    columns = next(iter(found.values()), {})
    return [columns[name] for name in names if name in columns]


def columns_of(connection: Connection, oids: str, names: Collection[str]) -> dict[int, dict[str, KeyColumn]]:
    """Give, of each of some tables, those of some columns that it has. ``oids`` is SQL that names the tables."""
    rows = run(
        connection,
        # Not exact: a type whose equal values may be written differently.
        "SELECT attrelid, attname, format_type(atttypid, atttypmod) AS type,"
        " coalesce(c.collisdeterministic, true)"
        " AND coalesce(b.typname, t.typname) NOT IN ('citext', 'float4', 'float8', 'interval') AS exact"
        " FROM pg_attribute JOIN pg_type t ON t.oid = atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype"
        " LEFT JOIN pg_collation c ON c.oid = attcollation"
        f" WHERE attrelid IN ({oids}) AND attname IN ({literals(names)}) AND attnum > 0 AND NOT attisdropped",
    )
    found: dict[int, dict[str, KeyColumn]] = defaultdict(dict)
    for row in rows:
        found[row.attrelid][row.attname] = KeyColumn(row.attname, row.type, row.exact)
    return found


def key_text(row: str, key: Sequence[KeyColumn]) -> str:
    """Write the SQL that gives a row's key as JSON text; equal keys give equal texts.

    It is the text of ``json_build_object``, put together for less: every captured row pays for it.
    """
    parts: list[str] = []
    for column in key:
        name, value = _json_text(column.member), f"{row}.{identifier(column.name)}"
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
    return [f"({text}::json ->> {literal(column.member)})::{column.type}" for column in key]


def matches(row: str, text: str, key: Sequence[KeyColumn]) -> str:
    """Write the SQL condition that a row has the key in ``text``, as it is written there."""
    pairs = zip(key, key_values(text, key), strict=True)
    equal = " AND ".join(f"{row}.{identifier(column.name)} = {value}" for column, value in pairs)
    return equal if all(column.exact for column in key) else f"({equal} AND {key_text(row, key)} = {text})"


def bucket(text: str) -> str:
    """Write the SQL that gives the bucket of a key's text, 0 to 255.

    Of the hashes that stay the same over versions the quickest: MD5 is not there where FIPS 140 rules.
    """
    return f"get_byte(sha256(convert_to({text}, 'UTF8')), 0)"


def install(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> None:
    """Put the function and its triggers on the table, in place of older ones."""
    drop(connection, table)
    shape, function = shapes(connection, [table])[table], _function(table)
    settings = " ".join(f"SET {name} = {value}" for name, value in SETTINGS.items())
    body = function_body(find(connection, LOG), key, stream, by_row=shape.by_row)
    run(
        connection,
        # Definer: whoever may write the table may be captured, without rights on the exchange's own tables.
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS {literal(body)}",
    )
    for name, (when, sees, kind) in shape.triggers.items():
        each = "ROW" if kind & FOR_EACH_ROW else "STATEMENT"
        run(connection, f"CREATE TRIGGER {name} {when} ON {table} {sees} FOR EACH {each} EXECUTE FUNCTION {function}()")
        _fire_always(connection, str(table), name)
    if shape.partitioned:
        for one in shape.children:
            _capture_truncate(connection, one, f"{function}()")
        # What is attached or detached later comes and goes without a trigger that fires.
        _remember_partitions(connection, f"{function}()", shape.children)


def take_in_partitions(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> None:
    """Note the rows of partitions that were attached since ``install``, and capture TRUNCATE of those, too.

    Their other triggers came with the attaching, so whatever is written meanwhile is noted in any case.
    """
    shape = shapes(connection, [table])[table]
    captured = _captured_partitions(connection, table)
    if captured is None:
        return  # somebody took the triggers away since they were looked at
    function, known = captured
    came = sorted(set(shape.children) - set(known))
    for one in came:
        _capture_truncate(connection, one, function)
        into = f"INSERT INTO {find(connection, LOG)} {noting(stream)}"
        run(connection, f"{into} 'I', {key_text('n', key)} FROM ONLY {one} n")
    _remember_partitions(connection, function, [*known, *came])


def _capture_truncate(connection: Connection, partition: str, function: str) -> None:
    """Put the trigger on a partition that has no clones."""
    run(
        connection,
        f"CREATE TRIGGER exchange_capture_truncate BEFORE TRUNCATE ON {partition} EXECUTE FUNCTION {function}",
    )
    _fire_always(connection, partition, "exchange_capture_truncate")


def _remember_partitions(connection: Connection, function: str, partitions: Sequence[str]) -> None:
    run(connection, f"COMMENT ON FUNCTION {function} IS {literal(json.dumps(list(partitions)))}")


def _captured_partitions(connection: Connection, table: TableName) -> tuple[str, list[str]] | None:
    """Give a captured table's function, and the partitions that it had when they were last looked at."""
    row = run(
        connection,
        "SELECT t.tgfoid::regprocedure::text AS function, obj_description(t.tgfoid, 'pg_proc') AS known"
        f" FROM pg_trigger t WHERE t.tgrelid = to_regclass({literal(str(table))})"
        " AND t.tgname = 'exchange_capture_insert'",
    ).one_or_none()
    return None if row is None else (row.function, json.loads(row.known or "[]"))


def _fire_always(connection: Connection, table: str, trigger: str) -> None:
    """Have a trigger fire for sessions that replicate, too: what they write has changed here like anything else."""
    run(connection, f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def drop(connection: Connection, table: TableName) -> None:
    """Remove triggers and functions, if they are there, also those that stand on a table that had this one's name."""
    functions = [
        str(row.name)
        for row in run(
            connection,
            "SELECT DISTINCT p.oid::regprocedure::text AS name"
            " FROM pg_proc p LEFT JOIN pg_trigger t ON t.tgfoid = p.oid"
            f" AND t.tgrelid = to_regclass({literal(str(table))}) AND t.tgname IN ({literals(NAMES)})"
            f" WHERE t.oid IS NOT NULL OR p.oid = to_regprocedure({literal(_function(table) + '()')})",
        )
    ]
    for function in functions:
        placed = run(
            connection,
            "SELECT format('%I ON %s', tgname, tgrelid::regclass) AS trigger FROM pg_trigger"
            f" WHERE tgfoid = to_regprocedure({literal(function)}) AND tgparentid = 0",
        ).all()
        for row in placed:
            run(connection, f"DROP TRIGGER {row.trigger}")
        run(connection, f"DROP FUNCTION {function}")


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


def noting(stream: str) -> str:
    """Write what a trigger function notes a change with, whatever it is a change of."""
    return f"(stream, op, key) SELECT {literal(stream)},"


def function_body(log: TableName | None, key: Sequence[KeyColumn], stream: str, *, by_row: bool) -> str:
    """Write the function. The log is named with its schema: the function has no other search path."""
    into = f"INSERT INTO {log or LOG} {noting(stream)}"
    old, new = ("OLD", "NEW") if by_row else ("o", "n")
    old_key, new_key = key_text(old, key), key_text(new, key)
    all_old = f"{into} 'D', {key_text('o', key)} FROM ".replace("%", "%%") + "%I.%I o"
    if by_row:
        inserted, deleted = f"{into} 'I', {new_key}", f"{into} 'D', {old_key}"
        updated = f"""IF {same_key(old, new, key)} THEN
      {into} 'U', {new_key};
    ELSE
      {deleted};
      {inserted};
    END IF"""
    else:
        inserted = f"{into} 'I', {new_key} FROM exchange_new n"
        deleted = f"{into} 'D', {old_key} FROM exchange_old o"
        first = identifier(key[0].name)
        updated = f"""{into} CASE WHEN o.{first} IS NULL THEN 'I' WHEN n.{first} IS NULL THEN 'D' ELSE 'U' END,
      CASE WHEN n.{first} IS NULL THEN {old_key} ELSE {new_key} END
      FROM exchange_old o FULL JOIN exchange_new n ON {same_key(old, new, key)}"""
    return f"""
BEGIN
  IF {literal(stream)} = ANY (string_to_array(current_setting('exchange.importing', true), ',')) THEN
    RETURN NULL;
  END IF;
  IF TG_OP = 'INSERT' THEN
    {inserted};
  ELSIF TG_OP = 'DELETE' THEN
    {deleted};
  ELSIF TG_OP = 'TRUNCATE' THEN
    EXECUTE format({literal(all_old)}, TG_TABLE_SCHEMA, TG_TABLE_NAME);
  ELSE
    -- A key that was changed is one row gone and another one come.
    {updated};
  END IF;
  RETURN NULL;
END
"""


def same_key(one: str, other: str, key: Sequence[KeyColumn]) -> str:
    """Write the SQL condition that two rows have the same key, as it is written."""
    if not all(column.exact for column in key):
        return f"{key_text(one, key)} = {key_text(other, key)}"
    return " AND ".join(f"{one}.{identifier(c.name)} = {other}.{identifier(c.name)}" for c in key)
