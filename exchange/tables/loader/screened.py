"""Own rows of which some are bad, into their table by one statement: it leaves out what something forbids.

PostgreSQL alone: rows go to a temporary table first, and from there all that keep to the constraints on single rows,
refer to something and take nothing that is taken. Which are left is known by their keys. What would be left is not bad
for sure: it is staged for the end of the load, which says why.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.errors import refuses_a_record
from exchange.tables.loader.constraints import Constraints, broken
from exchange.tables.loader.staging import LINE, Rows, TemporaryTable, column_names, equal
from exchange.tables.loader.traits import Traits
from exchange.tables.loader.writing import Writing


class Screened(TemporaryTable):
    """Rows on their way into the table, whose key they have, past those that are forbidden."""

    def __init__(self, connection: Connection, stream: Stream, name: str, constraints: Constraints) -> None:
        """Prepare; the table is made when the first rows come."""
        names = column_names(stream, Writing.INSERT)
        super().__init__(connection, stream, name, {LINE: "bigint"}, names, writing=Writing.INSERT)
        self._insert = self._statement(constraints, names)

    def insert(self, rows: Rows) -> set[int] | None:
        """Insert all that may be, and give the lines of the others; None, and nothing inserted, if that can't be told.

        Within a savepoint of the caller's transaction. Raises DBAPIError for what is not a row's fault.
        """
        later = _repeated(rows)
        some = rows.parted(later)[0] if later else rows
        self.make()
        try:
            with self.connection.begin_nested():
                self.put((line, *row) for line, row in zip(some.lines, some.rows, strict=True))
                left: set[int] = {row[0] for row in self.connection.execute(self._insert)}
                self.clear()
        except DBAPIError as error:
            if not refuses_a_record(error):
                raise
            return None
        return left | later

    def _statement(self, constraints: Constraints, names: list[str]) -> sa.Select[Any]:
        arriving, target = self.table, self.target
        good: list[sa.ColumnElement[bool]] = [
            broken(check).is_not(sa.true()) for check in constraints.checks[target.key]
        ]
        for key in constraints.of(target.key):
            if self.carries(key.columns):
                mine = [arriving.c[name] for name in key.columns]
                parent = key.parent.alias("parent")
                there = sa.exists().where(*equal(parent, key.referred_columns, mine))
                good.append(sa.or_(*(column.is_(None) for column in mine), there))
        rows = sa.select(*(arriving.c[name] for name in names)).where(*good)
        if constraints.uniques[target.key]:  # of rows that share another value than the key the first stays
            rows = rows.order_by(arriving.c[LINE])
        insert = postgresql.insert(target).from_select(names, rows).on_conflict_do_nothing()
        written = insert.returning(*self.key(target)).cte("written")
        inserted = sa.exists().where(*(a == b for a, b in zip(self.key(written), self.key(arriving), strict=True)))
        return sa.select(arriving.c[LINE]).where(~inserted)


def may_screen(connection: Connection, stream: Stream, traits: Traits, constraints: Constraints) -> bool:
    """Say whether own rows that are only inserted can be: nothing but constraints has a say in them.

    What refers to rows of its own table may stand beside them.
    """
    unusual = traits.triggers or traits.deferrable or traits.alike or traits.narrower or traits.row_security
    table = stream.table.key
    beside = any(key.referred == table for key in constraints.of(table))
    return bool(dialect_of(connection).is_postgresql and stream.key and not unusual and not beside)


def _repeated(rows: Rows) -> set[int]:
    """Give the lines of rows before which another one of their key comes."""
    if len(set(rows.keys)) == len(rows.keys):
        return set()
    seen: set[object] = set()
    later = set()
    for line, key in zip(rows.lines, rows.keys, strict=True):
        if key in seen:
            later.add(line)
        seen.add(key)
    return later
