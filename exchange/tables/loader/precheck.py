"""The precheck: what may keep rows from being written right now. It looks at values rather than at rows.

Which of the rows take a unique value after another one shows here. Whether a value refers to something, or keeps to a
constraint on single rows, the database is asked, and told no more of a row than conditions name. It is not asked again
for values that were good: of most rows all are, so that a few bad ones cost little more than they are.

The database looks at what is in the tables at this moment, not at what else the batch brings: a suspect row is not bad,
it is staged for the end of the load. What passes is not good for sure either: the insert decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import repeat
from operator import add, itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.errors import refuses_a_record
from exchange.database.tables import VERSION_COLUMN, tombstone
from exchange.tables.loader.constraints import Constraints, Unique, broken
from exchange.tables.loader.copy import BoundRow
from exchange.tables.loader.staging import KEY, LINE, Rows, TemporaryTable, column_names, equal, key_texts
from exchange.tables.loader.writing import Writing

Condition = sa.ColumnElement[bool]
Value = Any
"""What a row has in the columns of one constraint: of several of them a tuple."""

FEW = 2_000
"""PostgreSQL takes a table of which it knows nothing for one of about so many rows, and reads another one whole rather
than look for each of them; where there are fewer it is told."""

MOST_REMEMBERED = 50_000
"""So many good values of a constraint are remembered, and longer texts than this are not."""
LONGEST_REMEMBERED = 100


class Precheck(TemporaryTable):
    """Finds suspects among arriving rows. Of those only the columns that conditions name go to the database for it."""

    def __init__(
        self, connection: Connection, stream: Stream, name: str, constraints: Constraints, writing: Writing
    ) -> None:
        """Prepare; the table is made when the database is asked first."""
        every, wanted = column_names(stream, writing), _looked_at(stream, constraints)
        names = [one for one in every if one in wanted]
        super().__init__(connection, stream, name, {LINE: "bigint", KEY: "text"}, names, writing=writing)
        places = [every.index(one) for one in names]
        self._pick = itemgetter(*places) if len(places) > 1 else lambda row: tuple(row[place] for place in places)
        self._rules = [*self._rules_of(constraints, every)]
        uniques = [one for one in self.uniques(constraints) if self.carries(one.columns)]
        self._uniques = [_Taken(_picker(every, one.columns)) for one in uniques]
        self._takes_a_unique_value = [self._take_a_unique_value(one) for one in uniques]

    def suspects(self, rows: Rows, *, unique_values: bool, versions: bool, tombstones: bool) -> set[int]:
        """Give the lines of rows that break a constraint on single rows, refer to nothing or share a unique value.

        ``unique_values``: also of those whose unique value another row of the table has, which costs most.
        ``versions``: also of those no newer than the row of their key, ``tombstones``: than a delete of it.
        """
        found = {rows.lines[at] for unique in self._uniques for at in unique.again(rows.rows, beyond=not unique_values)}
        more = self._takes_a_unique_value if unique_values else []
        if versions:
            more = [*more, self._no_newer_than_row()]
        if tombstones:
            more = [*more, self._no_newer_than_tombstone()]
        unknown = [rule.unknown(rows.rows) for rule in self._rules]
        asked = rows if more else rows.on({rows.lines[at] for one in unknown for at in one})
        if asked.rows:
            answers = self._ask(asked, [*(rule.condition for rule in self._rules), *more], tombstones=tombstones)
            for rule, at_issue, bad in zip(self._rules, unknown, answers, strict=False):
                if bad is not None:
                    found.update(rows.lines[at] for at in at_issue if rows.lines[at] in bad)
                    rule.remember(rows, at_issue, bad)
            found.update(*filter(None, answers[len(self._rules) :]))
        return found

    def _ask(self, rows: Rows, conditions: Sequence[Condition], *, tombstones: bool) -> list[set[int] | None]:
        """Give for each condition the lines of rows that meet it; None where it fails on one of them."""
        texts = key_texts(self.stream, rows.keys) if tombstones else repeat(None)
        self.make()
        with self.connection.begin_nested():
            self.put(map(add, zip(rows.lines, texts, strict=False), map(self._pick, rows.rows)))
        if len(rows.rows) < FEW and dialect_of(self.connection).is_postgresql:
            self.connection.exec_driver_sql(f"ANALYZE {self.table.name}")
        answers = self._together(conditions) or [self._alone(one) for one in conditions]
        self.clear()
        return answers

    def _together(self, conditions: Sequence[Condition]) -> list[set[int] | None]:
        """Ask all by one statement; nothing if one of them fails."""
        line = self.table.c[LINE]
        asking = sa.union_all(*(sa.select(line, sa.literal(at)).where(one) for at, one in enumerate(conditions)))
        answers: list[set[int] | None] = [set() for _ in conditions]
        try:
            with self.connection.begin_nested():
                for number, at in self.connection.execute(asking):
                    answers[at].add(number)
        except DBAPIError as error:
            if not refuses_a_record(error):
                raise
            return []
        return answers

    def _alone(self, condition: Condition) -> set[int] | None:
        asking = sa.select(self.table.c[LINE]).where(condition)
        try:
            with self.connection.begin_nested():
                return {*self.connection.scalars(asking)}
        except DBAPIError as error:  # a constraint's expression fails on some row; so will the insert
            if not refuses_a_record(error):
                raise
            return None

    def _rules_of(self, constraints: Constraints, every: Sequence[str]) -> Iterator[_Rule]:
        arriving, target = self.table, self.target.key
        for key in constraints.of(target):
            if self.carries(key.columns):
                mine = [arriving.c[name] for name in key.columns]
                parent = key.parent.alias("parent")
                missing = ~sa.exists().where(*equal(parent, key.referred_columns, mine))
                # Of its own table it may stand beside the row.
                beside = _picker(every, key.referred_columns) if key.referred == target else None
                yield _Rule(_picker(every, key.columns), sa.and_(*_not_null(mine), missing), beside)
        for check in constraints.checks[target]:
            yield _Rule(_picker(every, _named_in(check.expression, every)), broken(check))

    def _take_a_unique_value(self, unique: Unique) -> Condition:
        mine = [self.table.c[name] for name in unique.columns]
        same_value = equal(self.target, unique.columns, mine)
        return sa.exists().where(*same_value, ~self.changes(self.table, self.target))

    def _no_newer_than_tombstone(self) -> Condition:
        return sa.exists().where(
            tombstone.c.stream == self.stream.name,
            tombstone.c.key == self.table.c[KEY],
            tombstone.c.version >= self.table.c[VERSION_COLUMN],
        )

    def _no_newer_than_row(self) -> Condition:
        as_new = self.target.c[VERSION_COLUMN] >= self.table.c[VERSION_COLUMN]
        return sa.exists().where(self.same_key(self.target, self.table), as_new)


class _Rule:
    """A constraint that some columns' values keep or break by themselves, and values that are known to keep it."""

    def __init__(self, pick: _Pick, condition: Condition, beside: _Pick | None = None) -> None:
        """``condition`` says of a row that it breaks it; what other rows have as ``beside`` keeps it, too."""
        self.condition = condition
        self._pick, self._beside = pick, beside
        self._good: set[Value] = set()

    def unknown(self, rows: Sequence[BoundRow]) -> Sequence[int]:
        """Give the places of rows whose values are to be asked about."""
        values = [*map(self._pick, rows)]
        unknown = {*values} - self._good
        if unknown and self._beside is not None:
            unknown.difference_update(map(self._beside, rows))
        return [at for at, value in enumerate(values) if value in unknown] if unknown else ()

    def remember(self, rows: Rows, asked: Iterable[int], bad: Collection[int]) -> None:
        """Remember values of rows of which the database was asked, but of those on the lines that are ``bad``."""
        if len(self._good) > MOST_REMEMBERED:
            self._good.clear()
        good = {self._pick(rows.rows[at]) for at in asked if rows.lines[at] not in bad}
        self._good.update(value for value in good if _length(value) <= LONGEST_REMEMBERED)


class _Taken:
    """A unique value: which rows take one after another row did."""

    def __init__(self, pick: _Pick) -> None:
        self._pick = pick
        self._before: set[Value] = set()

    def again(self, rows: Sequence[BoundRow], *, beyond: bool) -> list[int]:
        """Give their places; ``beyond``: of those, too, that take one after a row of those that came just before."""
        values = [*map(self._pick, rows)]
        seen = {*values}
        places: list[int] = []
        if len(seen) < len(values) or (beyond and not seen.isdisjoint(self._before)):
            seen = {*self._before} if beyond else set()
            for at, value in enumerate(values):
                if value in seen and not _is_null(value):
                    places.append(at)
                seen.add(value)
        self._before = {*values} if beyond else set()
        return places


_Pick = Callable[[BoundRow], Any]


def _picker(every: Sequence[str], names: Sequence[str]) -> _Pick:
    """Make the function that takes some values out of a row: one as it is, else a tuple."""
    places = [every.index(name) for name in names]
    return itemgetter(*places) if places else lambda _: ()


def _is_null(value: Value) -> bool:
    """Say whether two rows may have it, as it is NULL or NULL is in it."""
    return value is None or (type(value) is tuple and None in value)


def _length(value: Value) -> int:
    """Say how much memory a value takes, as a number of characters: of what is no text next to nothing."""
    if type(value) is tuple:
        return sum(map(_length, value))
    return len(value) if type(value) is str else 0


def _named_in(expression: str, names: Iterable[str]) -> list[str]:
    """Give the columns that an expression may look at: it has each of them by name, and a few more do no harm."""
    return [name for name in names if name.replace('"', '""') in expression]


def _looked_at(stream: Stream, constraints: Constraints) -> set[str]:
    """Name the columns that any condition may look at."""
    table = stream.table.key
    looked_at = {VERSION_COLUMN, *(str(column.name) for column in stream.key)}
    for check in constraints.checks[table]:
        looked_at.update(_named_in(check.expression, (str(column.name) for column in stream.columns)))
    looked_at.update(*(unique.columns for unique in constraints.uniques[table]))
    for key in constraints.of(table):
        looked_at.update(key.columns)
    return looked_at


def _not_null(columns: Iterable[sa.Column[object]]) -> Iterator[Condition]:
    return (column.is_not(None) for column in columns)
