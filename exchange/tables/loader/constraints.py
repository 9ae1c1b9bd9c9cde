"""What a receiving table demands of its rows, as the database itself has it: models may lie, it does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


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
    """Read the constraints of tables from the database's own catalogue: a few queries, or pragmas on SQLite.

    Of the checks only those that speak of nothing but the columns that ``tables`` name. Reads in the caller's
    transaction, the checks each within a savepoint.
    """
    inspector = sa.inspect(connection)
    crossing = {table.key: table for table in tables}
    foreign_keys = [
        _foreign_key(schema, table, key)
        for asked in {table.schema for table in crossing.values()}
        for (schema, table), keys in _all_foreign_keys(inspector, asked).items()
        for key in keys
    ]
    return Constraints(
        tuple(foreign_keys),
        {name: tuple(_uniques(inspector, table)) for name, table in crossing.items()},
        {name: tuple(_checks(connection, inspector, table)) for name, table in crossing.items()},
    )


def _all_foreign_keys(inspector: sa.Inspector, schema: str | None) -> dict[Any, Any]:
    """Read the foreign keys of a schema's tables but our own, which refer to none of the application's."""
    names = [name for name in inspector.get_table_names(schema) if not name.startswith("exchange_")]
    return inspector.get_multi_foreign_keys(schema=schema, filter_names=names)


def _foreign_key(schema: str | None, table: str, key: Any) -> ForeignKey:
    columns, referred = tuple(key["constrained_columns"]), tuple(key["referred_columns"])
    parent_schema, parent = key["referred_schema"], key["referred_table"]
    return ForeignKey(
        name=key.get("name") or f"{table}({', '.join(columns)})",
        table=_key(schema, table),
        columns=columns,
        referred=_key(parent_schema, parent),
        referred_columns=referred,
        acts=(key.get("options") or {}).get("ondelete", "NO ACTION").upper() in {"CASCADE", "SET NULL", "SET DEFAULT"},
        child=sa.table(table, *map(sa.column, columns), schema=schema),
        parent=sa.table(parent, *map(sa.column, referred), schema=parent_schema),
    )


def _key(schema: str | None, table: str) -> str:
    return f"{schema}.{table}" if schema else table


def _uniques(inspector: sa.Inspector, table: sa.Table) -> list[Unique]:
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
