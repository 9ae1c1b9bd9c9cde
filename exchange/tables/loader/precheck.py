"""What may speak against writing a row right now: one condition for each reason, asked of many rows at once.

They look at what is in the tables at this moment, not at what else the batch brings: a row in doubt is not bad, it
waits for the end of the load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import add, itemgetter

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.tables import VERSION_COLUMN, tombstone
from exchange.tables.loader.constraints import Constraints, broken
from exchange.tables.loader.copy import refuses_the_row
from exchange.tables.loader.staging import KEY, LINE, Arrivals, Rows, column_names, key_texts

Condition = sa.ColumnElement[bool]

FEW = 2_000
"""PostgreSQL takes a table of which it knows nothing for one of about so many rows, and reads another one whole rather
than look for each of them; where there are fewer it is told."""


class Sieve(Arrivals):
    """Finds the doubtful among arriving rows. Of those only what conditions look at goes to the database for it."""

    def __init__(self, connection: Connection, stream: Stream, name: str, constraints: Constraints) -> None:
        """Prepare; the table is made when the first rows come."""
        self.constraints = constraints
        every, wanted = column_names(stream), _looked_at(stream, constraints)
        names = [one for one in every if one in wanted]
        super().__init__(connection, stream, name, {LINE: "bigint", KEY: "text"}, names)
        self._values = itemgetter(*map(every.index, names))

    def doubtful(self, rows: Rows, conditions: Iterable[Condition], *, with_keys: bool) -> set[int]:
        """Give the lines of those rows of which a condition is true; say if any looks at the key's text."""
        texts = key_texts(self.stream, rows.keys) if with_keys else repeat(None)
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
            if not refuses_the_row(error):
                raise
            return []


def _looked_at(stream: Stream, constraints: Constraints) -> set[str]:
    """Name the columns that any condition may look at."""
    table = stream.table.name
    checks = " ".join(check.expression for check in constraints.checks[table])
    looked_at = {VERSION_COLUMN, *(column.name for column in stream.key)}
    # An expression has each of its columns in it by name, and a few more columns do no harm.
    looked_at |= {column.name for column in stream.columns if column.name.replace('"', '""') in checks}
    looked_at.update(*(unique.columns for unique in constraints.uniques[table]))
    for key in constraints.of(table):
        looked_at.update(key.columns, key.referred_columns if key.referred == table else ())
    return looked_at


def lacking(sieve: Sieve) -> Iterator[Condition]:
    """Say that a row breaks a constraint on single rows, refers to nothing, or takes what one beside it takes."""
    arriving, target = sieve.table, sieve.target.name
    for key in sieve.constraints.of(target):
        if _crosses(sieve, key.columns):
            mine = [arriving.c[name] for name in key.columns]
            parent = sa.table(key.referred, *map(sa.column, key.referred_columns)).alias("parent")
            missing: Condition = ~sa.exists().where(*_equal(parent, key.referred_columns, mine))
            if key.referred == target:  # it may stand beside the row
                others = [arriving.alias("beside").c[name] for name in key.referred_columns]
                missing &= sa.tuple_(*mine).not_in(sa.select(*others).where(*_given(others)))
            yield sa.and_(*_given(mine), missing)
    for unique in sieve.constraints.uniques[target]:
        if _crosses(sieve, unique.columns):
            beside = arriving.alias("beside")
            first = sa.select(sa.func.min(beside.c[LINE])).group_by(*(beside.c[name] for name in unique.columns))
            yield sa.and_(*_given([arriving.c[name] for name in unique.columns]), arriving.c[LINE].not_in(first))
    for check in sieve.constraints.checks[target]:
        yield broken(check)


def taking(sieve: Sieve) -> Iterator[Condition]:
    """Say that another row of the table has a unique value of a row: to look for that costs most."""
    arriving, target = sieve.table, sieve.target
    for unique in sieve.constraints.uniques[target.name]:
        if _crosses(sieve, unique.columns):
            mine = [arriving.c[name] for name in unique.columns]
            yield sa.exists().where(*_equal(target, unique.columns, mine), ~sieve.same_key(target, arriving))


def buried(sieve: Sieve) -> Condition:
    """Say that a row meets a tombstone that is as new; this looks at the key's text."""
    return sa.exists().where(
        tombstone.c.stream == sieve.stream.name,
        tombstone.c.key == sieve.table.c[KEY],
        tombstone.c.version >= sieve.table.c[VERSION_COLUMN],
    )


def not_newer(sieve: Sieve) -> Condition:
    """Say that a row meets one that is as new."""
    arriving, target = sieve.table, sieve.target
    return sa.exists().where(sieve.same_key(target, arriving), target.c[VERSION_COLUMN] >= arriving.c[VERSION_COLUMN])


def _crosses(sieve: Sieve, names: tuple[str, ...]) -> bool:
    return {column.name for column in sieve.stream.columns}.issuperset(names)


def _given(columns: Iterable[sa.Column[object]]) -> Iterator[Condition]:
    return (column.is_not(None) for column in columns)


def _equal(table: sa.FromClause, names: tuple[str, ...], values: list[sa.Column[object]]) -> list[Condition]:
    return [table.c[name] == value for name, value in zip(names, values, strict=True)]
