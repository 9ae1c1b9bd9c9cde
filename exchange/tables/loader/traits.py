"""What a receiving table does to what is written into it, beside its constraints: asked once for a load.

Its triggers may change or drop a row, a narrower type keeps less of a value than the model says, keys that are unlike
may be one to it, and ON CONFLICT may find no index. Such a table is written from the stage, and compared after that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, types
from sqlalchemy.dialects import postgresql

from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.tables import VERSION_COLUMN
from exchange.format.errors import TransientError
from exchange.tables.capture.sql import TableName, identifier
from exchange.tables.counters import MARK


class TableFault(TransientError):  # noqa: N818 - reads as what it is
    """A receiving table can't be written to as it is: its channel waits until somebody mends it."""


@dataclass(frozen=True)
class Traits:
    """What is unusual about a table; the usual one has nothing of it, and one index on the stream's key."""

    triggers: tuple[str, ...] = ()
    """Triggers of the application that may change or drop a row that is written."""
    deferred: tuple[str, ...] = ()
    """Constraints that are checked when the transaction ends unless it says otherwise, as SQL names them."""
    deferrable: tuple[str, ...] = ()
    """All that can be checked then, but for foreign keys."""
    narrower: tuple[str, ...] = ()
    """Columns that keep less of a value than the model says, without a word."""
    domains: Mapping[str, str] = field(default_factory=dict)
    """Columns of a domain, each with the type that it is of: a domain may refuse NULL even where there is no row."""
    alike: Mapping[str, str] = field(default_factory=dict)
    """Columns of the key in which unlike texts are equal, each with the collation or type that says so."""
    partitioned: bool = False
    row_security: bool = False
    """Whether rows are hidden from our role, or kept from it."""
    has_arbiter: bool = True
    """Whether ON CONFLICT can name the key."""
    counter: str | None = None
    """The sequence of the key, if it is to be kept ahead of the keys that come."""

    @property
    def compared(self) -> bool:
        """Whether rows may be other ones than were written."""
        return bool(self.triggers or self.narrower)

    @property
    def staged(self) -> bool:
        """Whether rows must not go straight into the table."""
        return self.compared or bool(self.deferred or self.alike) or not self.has_arbiter


def traits_of(connection: Connection, stream: Stream) -> Traits:
    """Ask the database's catalogue about a stream's table. Reads in the caller's transaction.

    Raises DBAPIError, and TableFault for what is no table.
    """
    return (
        _on_postgresql(connection, stream) if dialect_of(connection).is_postgresql else _on_sqlite(connection, stream)
    )


def _not_written_to(stream: Stream) -> TableFault:
    return TableFault(
        f"{stream.table.fullname} of stream {stream.name} is a view, or no table that rows are written to for another"
        " reason; nothing of the batch was applied: name a table by Stream(..., table=...), and the next import goes on"
    )


_CATALOGUE = sa.text("""
SELECT
  ARRAY(SELECT DISTINCT CAST(t.tgname AS text) FROM pg_trigger t
        WHERE (t.tgrelid = c.oid
               OR c.relkind = 'p' AND t.tgrelid IN (SELECT CAST(relid AS oid) FROM pg_partition_tree(c.oid)))
          AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 3 = 3
          AND t.tgname NOT LIKE 'exchange\\_%' ORDER BY 1) AS triggers,
  ARRAY(SELECT quote_ident(n.nspname) || '.' || quote_ident(o.conname) FROM pg_constraint o
        JOIN pg_namespace n ON n.oid = o.connamespace
        WHERE o.conrelid = c.oid AND o.condeferrable AND o.condeferred ORDER BY o.conname) AS deferred,
  ARRAY(SELECT quote_ident(n.nspname) || '.' || quote_ident(o.conname) FROM pg_constraint o
        JOIN pg_namespace n ON n.oid = o.connamespace
        WHERE o.conrelid = c.oid AND o.condeferrable AND o.contype <> 'f' ORDER BY o.conname) AS deferrable,
  ARRAY(SELECT a.attname || ' ' || COALESCE(l.collname, y.typname) FROM pg_attribute a
        JOIN pg_type y ON y.oid = a.atttypid
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND (y.typname = 'citext' OR NOT COALESCE(l.collisdeterministic, true))) AS alike,
  ARRAY(SELECT a.attname || ' ' || y.typname || ' ' || a.atttypmod FROM pg_attribute a
        JOIN pg_type x ON x.oid = a.atttypid
        JOIN pg_type y ON y.oid = CASE x.typcategory WHEN 'A' THEN x.typelem ELSE x.oid END
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND (y.typname = 'float4' OR (a.atttypmod >= 0 AND y.typname IN
               ('numeric', 'timestamp', 'timestamptz', 'time', 'timetz', 'interval', 'varchar')))) AS bounded,
  ARRAY(SELECT a.attname || '=' || format_type(y.typbasetype, y.typtypmod) FROM pg_attribute a
        JOIN pg_type y ON y.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND y.typtype = 'd') AS domains,
  EXISTS (SELECT FROM pg_index i
          WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL
            AND (SELECT array_agg(CAST(a.attname AS text) ORDER BY a.attname) FROM pg_attribute a
                 WHERE a.attrelid = c.oid
                   AND a.attnum = ANY ((CAST(i.indkey AS int2[]))[0 : i.indnkeyatts - 1]))
              = CAST(:key AS text[]))
    AND NOT EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type IN ('2', '3')) AS has_arbiter,
  (SELECT pg_get_serial_sequence(:name, k.attname) FROM pg_attribute k, pg_attribute v
   WHERE k.attrelid = c.oid AND k.attname = (CAST(:key AS text[]))[1] AND cardinality(CAST(:key AS text[])) = 1
     AND v.attrelid = c.oid AND v.attname = :version AND col_description(c.oid, v.attnum) = :mark) AS counter,
  row_security_active(c.oid) AS row_security, c.relkind IN ('r', 'p') AS is_table, c.relkind = 'p' AS partitioned
FROM pg_class c WHERE c.oid = to_regclass(:name)
""")


def _on_postgresql(connection: Connection, stream: Stream) -> Traits:
    name = str(TableName(stream.table.name, stream.table.schema))
    key = sorted(str(column.name) for column in stream.key)
    row = connection.execute(
        _CATALOGUE, {"name": name, "key": key, "version": VERSION_COLUMN, "mark": MARK}
    ).one_or_none()
    if row is None:  # whoever writes to it will hear that it is missing
        return Traits()
    if not row.is_table:
        raise _not_written_to(stream)
    bounds: dict[str, tuple[str, int]] = {}
    for one in row.bounded:
        column, kind, bound = one.rsplit(" ", 2)
        bounds[column] = (kind, int(bound))
    return Traits(
        triggers=tuple(row.triggers),
        deferred=tuple(row.deferred),
        deferrable=tuple(row.deferrable),
        narrower=tuple(c.name for c in stream.columns if c.name in bounds and _keeps_less(c.type, *bounds[c.name])),
        alike={name: why for name, why in (one.rsplit(" ", 1) for one in row.alike) if name in key},
        domains=dict(one.rsplit("=", 1) for one in row.domains),
        row_security=row.row_security,
        has_arbiter=row.has_arbiter,
        counter=row.counter,
        partitioned=row.partitioned,
    )


_POSTGRESQL: sa.Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]

_HEADER = 4
"""PostgreSQL counts it into a type's bound."""

_MICROSECONDS = 6
_SINGLE, _DOUBLE = 24, 53
"""Bits."""


def _keeps_less(model: types.TypeEngine[Any], kind: str, bound: int) -> bool:
    """Say whether a column of this type rounds or cuts values of the model's type without a word.

    Of an array it is the elements' type that counts.
    """
    model = model.dialect_impl(_POSTGRESQL)
    while isinstance(model, (types.TypeDecorator, sa.ARRAY)):
        model = model.item_type.dialect_impl(_POSTGRESQL) if isinstance(model, sa.ARRAY) else model.impl_instance
    match kind:
        case "float4":
            return isinstance(model, sa.Double) or (
                isinstance(model, sa.Float)
                and not isinstance(model, sa.REAL)
                and (model.precision or _DOUBLE) > _SINGLE
            )
        case "numeric":
            if isinstance(model, sa.Float) or not isinstance(model, sa.Numeric):
                return isinstance(model, sa.Float)
            scale = ((bound - _HEADER) & 0x7FF ^ 1024) - 1024  # 11 bits, signed
            return model.precision is None or (model.scale or 0) > scale
        case "varchar":  # blanks at the end are cut
            return isinstance(model, sa.String) and (model.length or bound) > bound - _HEADER
        case "interval":
            return bound & 0xFFFF < _MICROSECONDS
        case _:
            digits = getattr(model, "precision", None)
            return bound < (_MICROSECONDS if digits is None else digits)


_WRITES_IT = re.compile(r"\b(?:update|replace|raise\s*\(\s*ignore)\b", re.IGNORECASE)
_DEFERRED = re.compile(r"\bDEFERRABLE\s+INITIALLY\s+DEFERRED\b", re.IGNORECASE)


def _on_sqlite(connection: Connection, stream: Stream) -> Traits:
    master = sa.table("sqlite_master", sa.column("type"), sa.column("name"), sa.column("tbl_name"), sa.column("sql"))
    of_the_table = sa.func.lower(master.c.tbl_name) == stream.table.name.lower()
    found = connection.execute(sa.select(master.c.type, master.c.name, master.c.sql).where(of_the_table)).all()
    if any(kind == "view" for kind, _, _ in found):
        raise _not_written_to(stream)
    triggers = [(name, sql) for kind, name, sql in found if kind == "trigger" and not name.startswith("exchange_")]
    table = next((sql for kind, _, sql in found if kind == "table"), "")
    keys = {str(column.name) for column in stream.key}
    indexes = _indexes_on(connection, stream)
    late = ("foreign keys",) if _DEFERRED.search(table) else ()
    return Traits(
        triggers=tuple(sorted(name for name, sql in triggers if _WRITES_IT.search(sql.partition("BEGIN")[2] or sql))),
        deferred=late,
        alike={name: collation for one in indexes for name, collation in one.items() if collation != "BINARY"},
        has_arbiter=bool(indexes) or _is_rowid(stream, keys, connection),
    )


def _indexes_on(connection: Connection, stream: Stream) -> list[dict[str, str]]:
    """Give the columns of each unique index on the stream's key, and how it compares their texts."""
    keys = {str(column.name) for column in stream.key}
    found = []
    for row in connection.exec_driver_sql(f"PRAGMA index_list({identifier(stream.table.name)})").mappings():
        if not row["unique"] or row["partial"]:
            continue
        parts = connection.exec_driver_sql(f"PRAGMA index_xinfo({identifier(row['name'])})").mappings()
        columns = {part["name"]: part["coll"].upper() for part in parts if part["key"]}
        if set(columns) == keys:
            found.append(columns)
    return found


def _is_rowid(stream: Stream, keys: set[str], connection: Connection) -> bool:
    """Say whether the key is the row's own number, which needs no index."""
    columns = connection.exec_driver_sql(f"PRAGMA table_info({identifier(stream.table.name)})").mappings()
    return {row["name"] for row in columns if row["pk"]} == keys
