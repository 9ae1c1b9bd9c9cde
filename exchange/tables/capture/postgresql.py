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
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from exchange.database.whoami import MAX_NAME_BYTES
from exchange.format.errors import Problem
from exchange.tables.capture.sql import OUT_OF_DATE, KeyColumn, TableName, TableProblem, identifier, noted_stream, run
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

_FOR_EACH_ROW = 1
"""The bit of ``tgtype``."""


@dataclass(frozen=True)
class _Shape:
    """How a table is made up of others. Tables are written as SQL names them."""

    partitioned: bool
    partition: bool
    parents: Sequence[str]
    """Those that it is a partition or a child of."""
    children: Sequence[str]
    """Those that inherit from it, or all of its partitions, theirs too."""
    subscribed: bool
    """A subscription writes it, row by row."""

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


def _shape(connection: Connection, table: TableName) -> _Shape:
    named = "format('%I.%I', n.nspname, k.relname) FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace"
    row = run(
        connection,
        f"SELECT c.relkind = 'p' AS partitioned, c.relispartition AS partition, ARRAY(SELECT {named}"
        " WHERE k.oid IN (SELECT inhparent FROM pg_inherits WHERE inhrelid = c.oid) ORDER BY 1) AS parents,"
        f" ARRAY(SELECT {named} WHERE CASE WHEN c.relkind = 'p'"
        " THEN k.oid IN (SELECT relid FROM pg_partition_tree(c.oid) WHERE level > 0)"
        " ELSE k.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid) END ORDER BY 1) AS children,"
        " EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = c.oid) AS subscribed"
        f" FROM pg_class c WHERE c.oid = to_regclass({literal(str(table))})",
    ).one()
    return _Shape(row.partitioned, row.partition, row.parents, row.children, row.subscribed)


def literal(text: str) -> str:
    """Quote a text, whatever ``standard_conforming_strings`` says."""
    quoted = _plain_literal(text)
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def literals(texts: Iterable[str]) -> str:
    """Quote texts for an IN list."""
    return ", ".join(map(literal, texts))


def find(connection: Connection, table: TableName) -> TableName | None:
    """Give the table with its schema, or None if there is no table of that name, ordinary or partitioned."""
    row = run(
        connection,
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE c.oid = to_regclass({literal(str(table))}) AND c.relkind IN ('r', 'p')",
    ).one_or_none()
    return TableName(row.relname, row.nspname) if row else None


def key_columns(connection: Connection, table: TableName, names: Sequence[str]) -> list[KeyColumn]:
    """Give the named columns with their types; those that don't exist are left out."""
    found = run(
        connection,
        # Not exact: a type whose equal values may be written differently.
        "SELECT attname, format_type(atttypid, atttypmod) AS type,"
        " coalesce(c.collisdeterministic, true)"
        " AND coalesce(b.typname, t.typname) NOT IN ('citext', 'float4', 'float8', 'interval') AS exact"
        " FROM pg_attribute JOIN pg_type t ON t.oid = atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype"
        " LEFT JOIN pg_collation c ON c.oid = attcollation"
        f" WHERE attrelid = to_regclass({literal(str(table))}) AND attnum > 0 AND NOT attisdropped",
    )
    columns = {row.attname: KeyColumn(row.attname, row.type, row.exact) for row in found}
    return [columns[name] for name in names if name in columns]


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
    """Write the SQL condition that a row has the key in ``text``, as it is written there."""
    pairs = zip(key, key_values(text, key), strict=True)
    equal = " AND ".join(f"{row}.{identifier(column.name)} = {value}" for column, value in pairs)
    return equal if all(column.exact for column in key) else f"({equal} AND {key_text(row, key)} = {text})"


def bucket(text: str) -> str:
    """Write the SQL that gives the bucket of a key's text, 0 to 255.

    Of the hashes that stay the same over versions the quickest: MD5 is not there where FIPS 140 rules.
    """
    return f"get_byte(sha256(convert_to({text}, 'UTF8')), 0)"


def refusal(connection: Connection, table: TableName) -> Problem | None:
    """Say why a table can't be captured; None if it can."""
    shape = _shape(connection, table)
    if shape.children and not shape.partitioned:
        return Problem(
            f"table {table.name} has children by inheritance ({', '.join(shape.children)}), whose rows are among its"
            " own, but nothing captures what is written to them",
            "make it a partitioned table, or let each of them be a stream of its own and the parent none",
        )
    if shape.partition and (above := _captured_above(connection, table)):
        return Problem(
            f"table {table.name} is a partition of {above}, which is captured already",
            "its rows cross with that one's",
        )
    return None


def _captured_above(connection: Connection, table: TableName) -> str | None:
    found: str | None = run(
        connection,
        "SELECT t.tgrelid::regclass FROM pg_trigger t JOIN pg_partition_ancestors"
        f"(to_regclass({literal(str(table))})) a ON a.relid = t.tgrelid"
        f" WHERE t.tgname = 'exchange_capture_insert' AND t.tgrelid <> to_regclass({literal(str(table))})",
    ).scalar()
    return found


def install(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> None:
    """Put the function and its triggers on the table, in place of older ones."""
    drop(connection, table)
    shape, function = _shape(connection, table), _function(table)
    settings = " ".join(f"SET {name} = {value}" for name, value in _SETTINGS.items())
    body = _body(connection, key, stream, by_row=shape.by_row)
    run(
        connection,
        # Definer: whoever may write the table may be captured, without rights on the exchange's own tables.
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS {literal(body)}",
    )
    for name, (when, sees, kind) in shape.triggers.items():
        each = "ROW" if kind & _FOR_EACH_ROW else "STATEMENT"
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
    shape = _shape(connection, table)
    captured = _captured_partitions(connection, table)
    if captured is None:
        return  # somebody took the triggers away since they were looked at
    function, known = captured
    came = sorted(set(shape.children) - set(known))
    for one in came:
        _capture_truncate(connection, one, function)
        into = f"INSERT INTO {find(connection, TableName('exchange_change'))} {_noting(stream)}"
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
            f" AND t.tgrelid = to_regclass({literal(str(table))}) AND t.tgname IN ({literals(_OF_STATEMENTS)})"
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


def faults(connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> list[str]:
    """Say what is missing of the table's triggers, or differs from what ``install`` would write."""
    shape = _shape(connection, table)
    found = {
        row.tgname: row
        for row in run(
            connection,
            "SELECT t.tgname, t.tgtype, t.tgenabled, p.prosrc, p.prosecdef, p.proconfig,"
            " ARRAY(SELECT c.tgrelid::regclass::text FROM pg_trigger c WHERE c.tgfoid = t.tgfoid"
            "  AND c.tgname = t.tgname AND c.tgrelid <> t.tgrelid AND c.tgenabled NOT IN ('O', 'A')) AS silent"
            " FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
            f" WHERE t.tgrelid = to_regclass({literal(str(table))}) AND NOT t.tgisinternal",
        )
    }
    body = _body(connection, key, stream, by_row=shape.by_row)
    missing = [name for name in shape.triggers if name not in found]
    if missing:
        return [f"of its triggers {', '.join(missing)} are missing"]
    if any(found[name].tgenabled not in ("A" if shape.subscribed else "OA") for name in shape.triggers):
        return [f"its triggers are disabled{', at least for what a subscription writes' if shape.subscribed else ''}"]
    if silent := sorted({one for name in shape.triggers for one in found[name].silent}):
        return [f"its triggers are disabled on {', '.join(silent)}"]
    kinds = {found[name].tgtype & _FOR_EACH_ROW for name in shape.triggers}
    if shape.by_row and kinds == {0}:
        through = shape.written_through
        return [f"what is written to it through {through} fires none of its triggers, which are older than that"]
    if any(
        row.tgtype != kind or row.prosrc != body or not row.prosecdef or not _fixed(row.proconfig)
        for row, kind in ((found[name], kind) for name, (_, _, kind) in shape.triggers.items())
    ):
        return [OUT_OF_DATE]
    # ``install`` has them fire always; who disables all triggers of a table and enables them again does not.
    again = any(found[name].tgenabled != "A" for name in shape.triggers)
    muted = ["its triggers were disabled and enabled again since, and noted nothing meanwhile"] if again else []
    return muted or _cannot_note(connection, table)


def _cannot_note(connection: Connection, table: TableName) -> list[str]:
    """Say that the trigger function can't write the log: then no statement can write the table."""
    row = run(
        connection,
        "SELECT r.rolname, c.relrowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls"
        " AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')) AS barred,"
        " has_schema_privilege(r.oid, c.relnamespace, 'USAGE') AND has_table_privilege(r.oid, c.oid, 'INSERT') AS may"
        " FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_roles r ON r.oid = p.proowner, pg_class c"
        f" WHERE t.tgrelid = to_regclass({literal(str(table))}) AND t.tgname = 'exchange_capture_insert'"
        " AND c.oid = to_regclass('exchange_change')",
    ).one_or_none()
    if row is None or (row.may and not row.barred):
        return []
    why = "is subject to row-level security on exchange_change" if row.may else "may not insert into exchange_change"
    return [f"its function is role {row.rolname}'s, which {why}: whoever writes the table fails"]


def _fixed(settings: Sequence[str] | None) -> bool:
    return {one.partition("=")[0] for one in settings or ()} >= _SETTINGS.keys()


def other_tables(connection: Connection, table: TableName, stream: str) -> list[str]:
    """Name other tables whose changes are noted for the stream."""
    rows = run(
        connection,
        "SELECT t.tgrelid::regclass::text AS name FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE t.tgname = 'exchange_capture_insert' AND t.tgparentid = 0"
        f" AND t.tgrelid <> to_regclass({literal(str(table))}) AND strpos(p.prosrc, {literal(_noting(stream))}) > 0"
        " ORDER BY 1",
    )
    return [str(row.name) for row in rows]


def cautions(connection: Connection, table: TableName) -> list[TableProblem]:
    """Say what of a captured table's changes its triggers can't have noted."""
    shape = _shape(connection, table)
    if not shape.partitioned:
        return []
    captured = _captured_partitions(connection, table)
    return [] if captured is None else [*_moved(table, captured[1], shape.children)]


def _moved(table: TableName, known: Sequence[str], there: Sequence[str]) -> Iterator[TableProblem]:
    if came := sorted(set(there) - set(known)):
        yield TableProblem(
            f"table {table.name}: {', '.join(came)} became partitions of it; rows that they had then are not captured",
            "the next export notes them if this role owns the table; else call op.install_capture again, then"
            " `exchange resync`",
            minor=True,
            attached=True,
        )
    if went := sorted(set(known) - set(there)):
        yield TableProblem(
            f"table {table.name}: {', '.join(went)} are its partitions no more; that their rows are gone"
            " was not captured",
            "the next comparison finds it; `exchange resync --prune-missing` sends the whole table at once, and"
            " op.install_capture says that it is known",
            minor=True,
        )


def hides_rows(connection: Connection, table: TableName) -> Problem | None:
    """Say that this role may not read the table, or that row-level security would hide rows; None if all are seen."""
    row = run(
        connection,
        "SELECT current_user AS role, pg_has_role(c.relowner, 'USAGE') AS owner, row_security_active(c.oid) AS active,"
        " has_any_column_privilege(c.oid, 'SELECT') AS readable"
        f" FROM pg_class c WHERE c.oid = to_regclass({literal(str(table))})",
    ).one()
    if not row.readable:
        return Problem(
            f"role {row.role} may not read table {table}", f"GRANT SELECT ON {table} TO {identifier(row.role)}"
        )
    if not row.active:
        return None
    mine = f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY" if row.owner else "let it own the table"
    return Problem(
        f"row-level security hides rows of table {table} from role {row.role}, which would be taken for deleted",
        f"as a superuser: ALTER ROLE {identifier(row.role)} BYPASSRLS, or {mine}",
    )


def captured_as(connection: Connection, table: TableName) -> str | None:
    """Name the stream under which the table's changes are noted; None if they are not."""
    body = run(
        connection,
        "SELECT p.prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        f" WHERE t.tgrelid = to_regclass({literal(str(table))}) AND t.tgname = 'exchange_capture_insert'",
    ).scalar()
    return noted_stream(str(body), _NOTED) if body else None


_NOTED = re.compile(r"IF E?'((?:[^']|'')*)' = ANY")


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


def _noting(stream: str) -> str:
    return f"(stream, op, key) SELECT {literal(stream)},"


def _body(connection: Connection, key: Sequence[KeyColumn], stream: str, *, by_row: bool) -> str:
    """Write the function. The log is named with its schema: the function has no other search path."""
    log = find(connection, TableName("exchange_change"))
    into = f"INSERT INTO {log or TableName('exchange_change')} {_noting(stream)}"
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
