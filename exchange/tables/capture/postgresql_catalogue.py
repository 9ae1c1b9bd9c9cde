"""What PostgreSQL's catalogue says of tables and their triggers: read for all of them in a few statements."""

# ruff: noqa: S608 - names can't be parameters; literals are quoted

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection

from exchange.format.errors import Problem
from exchange.tables.capture.postgresql import (
    FOR_EACH_ROW,
    LOG,
    NAMES,
    SETTINGS,
    columns_of,
    find,
    function_body,
    literal,
    literals,
    shapes,
    wanted,
)
from exchange.tables.capture.sql import OUT_OF_DATE, KeyColumn, TableName, TableProblem, identifier, noted_stream, run

_FIRST = NAMES[0]
"""The trigger by which it is told whether a table is captured, and as what."""


class Catalogue:
    """Tables as the catalogue had them when this was made, each by the name that it was asked for by."""

    def __init__(self, connection: Connection, tables: Sequence[TableName], columns: Sequence[str]) -> None:
        """Read it, in the caller's transaction. ``columns`` are those that may be asked for."""
        self._shapes = shapes(connection, tables)
        self._log = find(connection, LOG)
        oids = ", ".join(str(shape.oid) for shape in self._shapes.values())
        self._columns = columns_of(connection, oids, columns) if oids and columns else {}
        self._triggers: dict[int, dict[str, Any]] = defaultdict(dict)
        self._of_function: dict[tuple[int, str], list[Any]] = defaultdict(list)
        for trigger in run(connection, _TRIGGERS):
            self._triggers[trigger.tgrelid][trigger.tgname] = trigger
            self._of_function[trigger.tgfoid, trigger.tgname].append(trigger)
        self._functions = {row.oid: row for row in run(connection, _FUNCTIONS)}
        self._noting: dict[str, list[Any]] = defaultdict(list)
        for (function, name), triggers in self._of_function.items():
            if name == _FIRST:
                for stream in _noted(self._functions[function].prosrc):
                    self._noting[stream] += triggers
        self._above = _captured_above(connection, oids) if any(one.partition for one in self._shapes.values()) else {}

    def find(self, table: TableName) -> TableName | None:
        """Give the table with its schema, or None if there is no table of that name, ordinary or partitioned."""
        shape = self._shapes.get(table)
        return shape.place if shape else None

    def key_columns(self, table: TableName, names: Sequence[str]) -> list[KeyColumn]:
        """Give the named columns with their types; those that don't exist are left out."""
        columns = self._columns.get(self._shapes[table].oid, {})
        return [columns[name] for name in names if name in columns]

    def hides_rows(self, table: TableName) -> Problem | None:
        """Say that this role may not read the table, or that row-level security would hide rows of it."""
        shape = self._shapes[table]
        if not shape.readable:
            return Problem(
                f"role {shape.role} may not read table {shape.place}",
                f"GRANT SELECT ON {shape.place} TO {identifier(shape.role)}",
            )
        if not shape.hiding:
            return None
        mine = f"ALTER TABLE {shape.place} NO FORCE ROW LEVEL SECURITY" if shape.owner else "let it own the table"
        return Problem(
            f"row-level security hides rows of table {shape.place} from role {shape.role}, which would be taken for"
            " deleted",
            f"as a superuser: ALTER ROLE {identifier(shape.role)} BYPASSRLS, or {mine}",
        )

    def refusal(self, table: TableName) -> Problem | None:
        """Say why a table can't be captured; None if it can."""
        shape = self._shapes[table]
        if shape.children and not shape.partitioned:
            return Problem(
                f"table {shape.place.name} has children by inheritance ({', '.join(shape.children)}), whose rows are"
                " among its own, but nothing captures what is written to them",
                "make it a partitioned table, or let each of them be a stream of its own and the parent none",
            )
        if shape.oid in self._above:
            return Problem(
                f"table {shape.place.name} is a partition of {self._above[shape.oid]}, which is captured already",
                "its rows cross with that one's",
            )
        return None

    def captured_as(self, table: TableName) -> str | None:
        """Name the stream under which the table's changes are noted; None if they are not."""
        trigger = self._triggers[self._shapes[table].oid].get(_FIRST)
        return noted_stream(self._functions[trigger.tgfoid].prosrc, _NOTED) if trigger is not None else None

    def faults(self, table: TableName, key: Sequence[KeyColumn], stream: str) -> list[str]:
        """Say what is missing of the table's triggers, or differs from what ``install`` would write."""
        shape = self._shapes[table]
        there = {name: one for name, one in self._triggers[shape.oid].items() if not one.tgisinternal}
        if missing := [name for name in shape.triggers if name not in there]:
            return [f"of its triggers {', '.join(missing)} are missing"]
        found = {name: there[name] for name in shape.triggers}
        if any(one.tgenabled not in ("A" if shape.subscribed else "OA") for one in found.values()):
            return [
                f"its triggers are disabled{', at least for what a subscription writes' if shape.subscribed else ''}"
            ]
        clones = (one for name, mine in found.items() for one in self._of_function[mine.tgfoid, name])
        if silent := sorted({one.table for one in clones if one.tgrelid != shape.oid and one.tgenabled not in "OA"}):
            return [f"its triggers are disabled on {', '.join(silent)}"]
        if shape.by_row and {one.tgtype & FOR_EACH_ROW for one in found.values()} == {0}:
            through = shape.written_through
            return [f"what is written to it through {through} fires none of its triggers, which are older than that"]
        body = function_body(self._log, key, stream, by_row=shape.by_row)
        functions = [self._functions[one.tgfoid] for one in found.values()]
        kinds = {name: kind for name, (_, _, kind) in shape.triggers.items()}
        if any(one.tgtype != kinds[name] for name, one in found.items()) or any(
            one.prosrc != body or not one.prosecdef or not _fixed(one.proconfig) for one in functions
        ):
            return [OUT_OF_DATE]
        # ``install`` has them fire always; who disables all triggers of a table and enables them again does not.
        again = any(one.tgenabled != "A" for one in found.values())
        muted = ["its triggers were disabled and enabled again since, and noted nothing meanwhile"] if again else []
        return muted or _cannot_note(self._functions[found[_FIRST].tgfoid])

    def other_tables(self, table: TableName | None, stream: str) -> list[str]:
        """Name other tables whose changes are noted for the stream."""
        shape = self._shapes.get(table) if table is not None else None
        mine = shape.oid if shape is not None else None
        return sorted(one.table for one in self._noting[stream] if not one.tgparentid and one.tgrelid != mine)

    def cautions(self, table: TableName) -> list[TableProblem]:
        """Say what of a captured table's changes its triggers can't have noted."""
        shape = self._shapes[table]
        trigger = self._triggers[shape.oid].get(_FIRST)
        if not shape.partitioned or trigger is None:
            return []
        known = json.loads(self._functions[trigger.tgfoid].known or "[]")
        return [*_moved(shape.place, known, shape.children)]


_TRIGGERS = (
    "SELECT tgrelid, tgrelid::regclass::text AS table, tgname, tgtype, tgenabled, tgfoid, tgparentid, tgisinternal"
    f" FROM pg_trigger WHERE tgname IN ({literals(NAMES)})"
)

# Whoever owns the function must be able to write the log: else no statement can write the table.
_FUNCTIONS = (
    "SELECT p.oid, p.prosrc, p.prosecdef, p.proconfig, obj_description(p.oid, 'pg_proc') AS known, r.rolname,"
    " c.relrowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls"
    " AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')) AS barred,"
    " has_schema_privilege(r.oid, c.relnamespace, 'USAGE') AND has_table_privilege(r.oid, c.oid, 'INSERT') AS may"
    " FROM pg_proc p LEFT JOIN pg_roles r ON r.oid = p.proowner"
    f" LEFT JOIN pg_class c ON c.oid = to_regclass({literal(str(LOG))})"
    f" WHERE p.oid IN (SELECT tgfoid FROM pg_trigger WHERE tgname IN ({literals(NAMES)}))"
)


def fingerprint(connection: Connection, tables: Sequence[TableName]) -> Hashable:
    """Give what differs whenever a ``Catalogue`` of these tables might: it costs one row, however many they are.

    Of each row of the catalogue that is read for one, which transaction wrote it; and what roles may do, which follows
    from rows that nobody may read. Reads in the caller's transaction.
    """
    hashed = "sum(hashtextextended(concat_ws(' ', {}), 0))"
    look = (
        f"WITH t AS MATERIALIZED (SELECT c.*, c.xmin AS x FROM ({wanted(tables)}) w"
        " JOIN pg_class c ON c.oid = to_regclass(w.name)),"
        f" g AS MATERIALIZED (SELECT *, xmin AS x FROM pg_trigger WHERE tgname IN ({literals(NAMES)})),"
        " p AS MATERIALIZED (SELECT *, xmin AS x FROM pg_proc WHERE oid IN (SELECT tgfoid FROM g)),"
        f" l AS MATERIALIZED (SELECT *, xmin AS x FROM pg_class WHERE oid = to_regclass({literal(str(LOG))}))"
        " SELECT current_user, current_schemas(true)::text,"
    )
    role = (
        "r.oid, r.rolname, r.rolsuper, r.rolbypassrls, pg_has_role(r.oid, l.relowner, 'USAGE'),"
        " has_schema_privilege(r.oid, l.relnamespace, 'USAGE'), has_table_privilege(r.oid, l.oid, 'INSERT')"
    )
    mine = "pg_has_role(relowner, 'USAGE'), has_any_column_privilege(oid, 'SELECT'), row_security_active(oid)"
    parts = [
        (f"oid, x, {mine}", "t"),
        ("attrelid, attnum, xmin", "pg_attribute WHERE attnum > 0 AND attrelid IN (SELECT oid FROM t)"),
        ("oid, x", "g"),
        ("oid, x", "p"),
        ("objoid, xmin", "pg_description WHERE classoid = 'pg_proc'::regclass AND objoid IN (SELECT oid FROM p)"),
        ("inhrelid, inhparent, c.xmin", "pg_inherits JOIN pg_class c ON c.oid = inhrelid"),
        ("srrelid", "pg_subscription_rel"),
        ("oid, xmin", "pg_namespace WHERE nspname !~ '^pg_'"),
        ("oid, x", "l"),
        (role, "l, pg_roles r WHERE r.oid IN (SELECT proowner FROM p)"),
    ]
    sums = ", ".join(f"(SELECT {hashed.format(what)} FROM {where})" for what, where in parts)
    return tuple(run(connection, f"{look} {sums}").one())


def _captured_above(connection: Connection, oids: str) -> dict[int, str]:
    """Name, of each of some partitions, a captured table that it is a part of."""
    rows = run(
        connection,
        "SELECT c.oid, t.tgrelid::regclass::text AS above FROM pg_class c"
        " CROSS JOIN LATERAL pg_partition_ancestors(c.oid) a JOIN pg_trigger t ON t.tgrelid = a.relid"
        f" WHERE c.oid IN ({oids}) AND c.relispartition AND t.tgname = {literal(_FIRST)} AND t.tgrelid <> c.oid",
    )
    return {row.oid: row.above for row in rows}


def _cannot_note(function: Any) -> list[str]:
    """Say that the trigger function can't write the log: then no statement can write the table."""
    if function.may is None or (function.may and not function.barred):
        return []
    why = (
        "is subject to row-level security on exchange_change" if function.may else "may not insert into exchange_change"
    )
    return [f"its function is role {function.rolname}'s, which {why}: whoever writes the table fails"]


def _fixed(settings: Sequence[str] | None) -> bool:
    return {one.partition("=")[0] for one in settings or ()} >= SETTINGS.keys()


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


_NOTED = re.compile(r"IF E?'((?:[^']|'')*)' = ANY")
_NOTING = re.compile(r"\(stream, op, key\) SELECT (E?)'((?:[^']|'')*)',")


def _noted(body: str) -> set[str]:
    """Give the streams for which a function of ours notes changes, as it says where it does so."""
    return {
        text.replace("''", "'").replace("\\\\", "\\") if escaped else text.replace("''", "'")
        for escaped, text in _NOTING.findall(body)
    }
