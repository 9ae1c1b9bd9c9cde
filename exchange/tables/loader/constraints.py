"""What a receiving table demands of its rows, as the database itself has it: models may lie, it does not."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from exchange.database.dialects import dialect_of
from exchange.tables.capture import sqlite_catalogue
from exchange.tables.capture.sql import TableName


@dataclass(frozen=True)
class ForeignKey:
    """``table.columns`` refer to ``referred.referred_columns``; ``acts`` if a delete there cascades or sets.

    Tables are named by their ``sa.Table.key``: with the schema, where one is declared.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    referred: str
    referred_columns: tuple[str, ...]
    acts: bool
    child: sa.TableClause
    parent: sa.TableClause
    """The two, of this reference's columns."""


@dataclass(frozen=True)
class Unique:
    """Values that no two rows of a table may share, the primary key apart."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class ConstraintCheck:
    """What each row of a table must satisfy, as an SQL expression over its columns."""

    name: str
    expression: str


@dataclass(frozen=True)
class Constraints:
    """Constraints of the tables of a channel, and every foreign key in the schema that refers to them."""

    foreign_keys: tuple[ForeignKey, ...]
    uniques: dict[str, tuple[Unique, ...]]
    checks: dict[str, tuple[ConstraintCheck, ...]]

    def of(self, table: str) -> list[ForeignKey]:
        """Foreign keys that rows of ``table``, by its ``key``, must satisfy."""
        return [key for key in self.foreign_keys if key.table == table]

    def referring_to(self, table: str) -> list[ForeignKey]:
        """Foreign keys of any table that hold rows of ``table`` in place."""
        return [key for key in self.foreign_keys if key.referred == table and not key.acts]


def reflect(connection: Connection, tables: Iterable[sa.Table]) -> Constraints:
    """Give the constraints of tables as the database's own catalogue has them.

    Of the checks only those that speak of nothing but the columns that ``tables`` name. Reads in the caller's
    transaction, the checks each within a savepoint; where this process asked the same before, only whether the
    catalogue has changed since: to read it takes longer than to load a small batch.
    """
    crossing = {table.key: table for table in tables}
    print_now = _fingerprint(connection)
    asked = tuple((key, *table.columns.keys()) for key, table in crossing.items())
    then, answers = _KNOWN.get(connection.engine, (None, {}))
    if then != print_now:
        answers = {}
    if asked not in answers:
        answers[asked] = _read(connection, crossing)
        _KNOWN[connection.engine] = (print_now, answers)
    return answers[asked]


_KNOWN: WeakKeyDictionary[Engine, tuple[Hashable, dict[Hashable, Constraints]]] = WeakKeyDictionary()
"""By database how the catalogue was when it was read last, and what it said of which tables: each channel asks of its
own, by turns."""


def _fingerprint(connection: Connection) -> Hashable:
    """Give what differs whenever the tables' constraints might: on PostgreSQL which transactions wrote the rows."""
    if dialect_of(connection).is_sqlite:
        return sqlite_catalogue.fingerprint(connection, ())
    return tuple(connection.execute(_CATALOGUE).one())


_CATALOGUE = sa.text("""
WITH n AS MATERIALIZED (
  SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), c AS MATERIALIZED (
  SELECT oid, xmin AS x FROM pg_class WHERE relnamespace IN (SELECT oid FROM n) AND relkind IN ('r', 'p', 'i', 'I')
)
SELECT CAST(current_schemas(true) AS text),
  (SELECT sum(hashtextextended(concat_ws(' ', oid, x), 0)) FROM c),
  (SELECT sum(hashtextextended(concat_ws(' ', oid, xmin), 0)) FROM pg_constraint
   WHERE connamespace IN (SELECT oid FROM n)),
  (SELECT sum(hashtextextended(concat_ws(' ', indexrelid, xmin), 0)) FROM pg_index
   WHERE indexrelid IN (SELECT oid FROM c)),
  (SELECT sum(hashtextextended(concat_ws(' ', attrelid, attnum, xmin), 0)) FROM pg_attribute
   WHERE attnum > 0 AND attrelid IN (SELECT oid FROM c))
""")


def _read(connection: Connection, crossing: Mapping[str, sa.Table]) -> Constraints:
    """Read them: a few queries, or pragmas on SQLite."""
    inspector = sa.inspect(connection)
    if dialect_of(connection).is_postgresql:
        foreign_keys = _foreign_keys_on_postgresql(connection, crossing.values())
    else:
        every = inspector.get_multi_foreign_keys(filter_names=_names_of_others(inspector))
        foreign_keys = [_foreign_key(table, key) for (_, table), keys in every.items() for key in keys]
    return Constraints(
        tuple(foreign_keys),
        {name: tuple(uniques_of(inspector, table)) for name, table in crossing.items()},
        {name: tuple(_checks(connection, inspector, table)) for name, table in crossing.items()},
    )


def _names_of_others(inspector: sa.Inspector) -> list[str]:
    """Name the application's tables: ours refer to none of them."""
    return [name for name in inspector.get_table_names() if not name.startswith("exchange_")]


def _foreign_key(table: str, key: Any) -> ForeignKey:
    """Make one of what SQLAlchemy found on SQLite, where there are no schemas."""
    columns, referred = tuple(key["constrained_columns"]), tuple(key["referred_columns"])
    return ForeignKey(
        name=key.get("name") or f"{table}({', '.join(columns)})",
        table=table,
        columns=columns,
        referred=key["referred_table"],
        referred_columns=referred,
        acts=(key.get("options") or {}).get("ondelete", "NO ACTION").upper() in {"CASCADE", "SET NULL", "SET DEFAULT"},
        child=sa.table(table, *map(sa.column, columns)),
        parent=sa.table(key["referred_table"], *map(sa.column, referred)),
    )


_FOREIGN_KEYS = sa.text("""
SELECT o.conname AS name, o.confdeltype IN ('c', 'n', 'd') AS acts,
  o.conrelid, c.relname AS child, cn.nspname AS child_schema, pg_table_is_visible(c.oid) AS child_visible,
  o.confrelid, p.relname AS parent, pn.nspname AS parent_schema, pg_table_is_visible(p.oid) AS parent_visible,
  ARRAY(SELECT CAST(a.attname AS text) FROM unnest(o.conkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.number ORDER BY k.place) AS columns,
  ARRAY(SELECT CAST(a.attname AS text) FROM unnest(o.confkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.number ORDER BY k.place) AS referred
FROM pg_constraint o
JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_class p ON p.oid = o.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE o.contype = 'f' AND o.conparentid = 0 AND (o.conrelid = ANY (:tables) OR o.confrelid = ANY (:tables))
ORDER BY cn.nspname, c.relname, o.conname
""").bindparams(sa.bindparam("tables", type_=postgresql.ARRAY(sa.BigInteger)))
"""Whatever schema the other table is in; those of partitions, which their table has too, are left out."""


def _foreign_keys_on_postgresql(connection: Connection, tables: Iterable[sa.Table]) -> list[ForeignKey]:
    """Read what refers to tables or is referred to by them, in all schemas, in two statements."""
    names = {str(TableName(table.name, table.schema)): table.key for table in tables}
    asking = sa.text("SELECT name, CAST(to_regclass(name) AS oid) FROM unnest(CAST(:names AS text[])) AS u (name)")
    found = connection.execute(asking, {"names": [*names]})
    keys = {oid: names[name] for name, oid in found if oid is not None}

    def known_as(oid: int, schema: str, name: str, *, visible: bool) -> str:
        return keys.get(oid) or (name if visible else f"{schema}.{name}")

    return [
        ForeignKey(
            name=row.name,
            table=known_as(row.conrelid, row.child_schema, row.child, visible=row.child_visible),
            columns=tuple(row.columns),
            referred=known_as(row.confrelid, row.parent_schema, row.parent, visible=row.parent_visible),
            referred_columns=tuple(row.referred),
            acts=row.acts,
            child=sa.table(row.child, *map(sa.column, row.columns), schema=row.child_schema),
            parent=sa.table(row.parent, *map(sa.column, row.referred), schema=row.parent_schema),
        )
        for row in connection.execute(_FOREIGN_KEYS, {"tables": [*keys]})
    ]


def uniques_of(inspector: sa.Inspector, table: sa.Table) -> list[Unique]:
    """Read which values no two rows share, the primary key apart. Raises NoSuchTableError."""
    found: dict[tuple[str, ...], str] = {}
    for constraint in inspector.get_unique_constraints(table.name, table.schema):
        columns = tuple(constraint["column_names"])
        found[columns] = constraint["name"] or f"{table.name}({', '.join(columns)})"
    key = set(inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"])
    # On SQLite constraints are read out of the table's text, and some names overlooked there; their indexes are not.
    for index in inspector.get_indexes(table.name, table.schema, include_auto_indexes=True):
        columns = tuple(column for column in index["column_names"] if column is not None)
        if index["unique"] and not _partial_or_expression(index) and set(columns) != key:
            by_hand = index["name"] and not index["name"].startswith("sqlite_autoindex_")
            found.setdefault(columns, str(index["name"]) if by_hand else f"{table.name}({', '.join(columns)})")
    return [Unique(name, columns) for columns, name in found.items()]


def _checks(connection: Connection, inspector: sa.Inspector, table: sa.Table) -> Iterator[ConstraintCheck]:
    for found in inspector.get_check_constraints(table.name, table.schema):
        check = ConstraintCheck(found["name"] or f"CHECK ({found['sqltext']})", found["sqltext"])
        # What SQLAlchemy cuts out of a table's definition on SQLite is not always an expression.
        columns = sa.select(*table.columns).where(sa.false()).subquery("crossing")
        try:
            with connection.begin_nested():
                connection.execute(sa.select(sa.literal(1)).select_from(columns).where(broken(check)))
        except DBAPIError:
            continue
        yield check


def broken(check: ConstraintCheck) -> sa.ColumnElement[bool]:
    """Say that a row breaks a constraint; one whose expression is NULL does not."""
    return sa.literal_column(f"NOT ({check.expression})", sa.Boolean)


def _partial_or_expression(index: Any) -> bool:
    """Such an index is left to the database: what breaks it is found by bisection."""
    where = any(option.endswith("_where") for option in index.get("dialect_options", {}))
    return where or None in index["column_names"] or bool(index.get("expressions"))
