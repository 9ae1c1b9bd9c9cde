"""The precheck: what may keep rows from being written right now, one query for each reason, asked of many at once.

It looks at what is in the tables at this moment, not at what else the batch brings: a suspect row is not bad, it is
staged for the end of the load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from operator import add, itemgetter

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.errors import refuses_a_record
from exchange.database.tables import VERSION_COLUMN, tombstone
from exchange.tables.loader.constraints import Constraints, broken
from exchange.tables.loader.copy import BoundRow
from exchange.tables.loader.staging import KEY, LINE, Rows, TemporaryTable, column_names, equal, key_texts
from exchange.tables.loader.writing import Writing

Condition = sa.ColumnElement[bool]

FEW = 2_000
"""PostgreSQL takes a table of which it knows nothing for one of about so many rows, and reads another one whole rather
than look for each of them; where there are fewer it is told."""


class Precheck(TemporaryTable):
    """Finds suspects among arriving rows. Of those only the columns that conditions name go to the database for it."""

    def __init__(
        self, connection: Connection, stream: Stream, name: str, constraints: Constraints, writing: Writing
    ) -> None:
        """Prepare; the table is made when the first rows come."""
        self._constraints = constraints
        every, wanted = column_names(stream, writing), _looked_at(stream, constraints)
        names = [one for one in every if one in wanted]
        super().__init__(connection, stream, name, {LINE: "bigint", KEY: "text"}, names, writing=writing)
        self._values = _picker([every.index(one) for one in names])
        self._uniques = self.uniques(constraints)

    def suspects(self, rows: Rows, *, unique_values: bool, versions: bool, tombstones: bool) -> set[int]:
        """Give the lines of rows that break a constraint on single rows, refer to nothing or share a unique value.

        ``unique_values``: also of those whose unique value another row of the table has, which costs most.
        ``versions``: also of those no newer than the row of their key, ``tombstones``: than a delete of it.
        """
        conditions = [*self._break_a_constraint()]
        if unique_values or self.writing is not Writing.INSERT:  # there a row that is taken is met by the next strategy
            conditions += self._repeat_a_unique_value()
        if unique_values:
            conditions += self._take_a_unique_value()
        if versions:
            conditions.append(self._no_newer_than_row())
        if tombstones:
            conditions.append(self._no_newer_than_tombstone())
        texts = key_texts(self.stream, rows.keys) if tombstones else repeat(None)
        self.make()
        with self.connection.begin_nested():
            self.put(map(add, zip(rows.lines, texts, strict=False), map(self._values, rows.rows)))
        if len(rows.rows) < FEW and dialect_of(self.connection).is_postgresql:
            self.connection.exec_driver_sql(f"ANALYZE {self.table.name}")
        found: set[int] = set()
        for condition in conditions:
            found.update(self._lines(condition))
        self.clear()
        return found

    def _lines(self, condition: Condition) -> Sequence[int]:
        asking = sa.select(self.table.c[LINE]).where(condition)
        try:
            with self.connection.begin_nested():
                return self.connection.scalars(asking).all()
        except DBAPIError as error:  # a constraint's expression fails on some row; so will the insert
            if not refuses_a_record(error):
                raise
            return []

    def _break_a_constraint(self) -> Iterator[Condition]:
        arriving, target = self.table, self.target.key
        for key in self._constraints.of(target):
            if self.carries(key.columns):
                mine = [arriving.c[name] for name in key.columns]
                parent = key.parent.alias("parent")
                missing: Condition = ~sa.exists().where(*equal(parent, key.referred_columns, mine))
                if key.referred == target:  # it may stand beside the row
                    others = [arriving.alias("beside").c[name] for name in key.referred_columns]
                    missing &= sa.tuple_(*mine).not_in(sa.select(*others).where(*_not_null(others)))
                yield sa.and_(*_not_null(mine), missing)
        for check in self._constraints.checks[target]:
            yield broken(check)

    def _repeat_a_unique_value(self) -> Iterator[Condition]:
        arriving = self.table
        for unique in self._uniques:
            if self.carries(unique.columns):
                beside = arriving.alias("beside")
                first = sa.select(sa.func.min(beside.c[LINE])).group_by(*(beside.c[name] for name in unique.columns))
                yield sa.and_(*_not_null([arriving.c[name] for name in unique.columns]), arriving.c[LINE].not_in(first))

    def _take_a_unique_value(self) -> Iterator[Condition]:
        for unique in self._uniques:
            if self.carries(unique.columns):
                mine = [self.table.c[name] for name in unique.columns]
                same_value = equal(self.target, unique.columns, mine)
                yield sa.exists().where(*same_value, ~self.changes(self.table, self.target))

    def _no_newer_than_tombstone(self) -> Condition:
        return sa.exists().where(
            tombstone.c.stream == self.stream.name,
            tombstone.c.key == self.table.c[KEY],
            tombstone.c.version >= self.table.c[VERSION_COLUMN],
        )

    def _no_newer_than_row(self) -> Condition:
        as_new = self.target.c[VERSION_COLUMN] >= self.table.c[VERSION_COLUMN]
        return sa.exists().where(self.same_key(self.target, self.table), as_new)


def _picker(places: Sequence[int]) -> Callable[[BoundRow], BoundRow]:
    """Make the function that takes some values out of a row."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: tuple(row[place] for place in places)


def _looked_at(stream: Stream, constraints: Constraints) -> set[str]:
    """Name the columns that any condition may look at."""
    table = stream.table.key
    checks = " ".join(check.expression for check in constraints.checks[table])
    looked_at = {VERSION_COLUMN, *(column.name for column in stream.key)}
    # An expression has each of its columns in it by name, and a few more columns do no harm.
    looked_at |= {column.name for column in stream.columns if column.name.replace('"', '""') in checks}
    looked_at.update(*(unique.columns for unique in constraints.uniques[table]))
    for key in constraints.of(table):
        looked_at.update(key.columns, key.referred_columns if key.referred == table else ())
    return looked_at


def _not_null(columns: Iterable[sa.Column[object]]) -> Iterator[Condition]:
    return (column.is_not(None) for column in columns)
