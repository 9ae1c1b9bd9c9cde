"""The temporary tables of a load: rows wait there to be compared with what is in their table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress, repeat
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.engine import in_parts
from exchange.database.errors import first_line, refuses_a_record
from exchange.database.tables import VERSION_COLUMN
from exchange.format.record import ByColumns, Data, Op, RecordRun
from exchange.tables.capture.sql import TableName, identifier, run
from exchange.tables.loader.constraints import Constraints, Unique
from exchange.tables.loader.copy import BoundRow, put
from exchange.tables.loader.traits import TableFault, Traits
from exchange.tables.loader.writing import Writing

LINE, OP, KEY, OUTCOME = "exchange_line", "exchange_op", "exchange_key", "exchange_outcome"
"""A stage's own columns, named so that they can't meet a column of the application's."""

STALE, DUPLICATE, PARKED, ORPHAN = "stale", "duplicate", "parked", "orphan"
"""Outcomes of staged records that are not applied. An orphan is parked, too: it only waits for another row."""

STAGE_COLUMNS: dict[str, str] = {LINE: "bigint", OP: "text", KEY: "text", OUTCOME: "text"}

Key = tuple[Any, ...]
"""A record's key as it is on the wire, in the order of the stream's key."""


class Rows(NamedTuple):
    """Checked records of one stream and one op, member by member. A delete's row has only the key."""

    op: Op
    lines: Sequence[int]
    versions: Sequence[int]
    """None of own rows."""
    keys: Sequence[Key]
    rows: Sequence[BoundRow]
    """The stream's columns in order, then the version if it has one."""
    records: Sequence[bytes] = ()
    """The lines as they came; a loader has them of all rows."""

    def parted(self, lines: Collection[int]) -> tuple[Rows, Rows]:
        """Give those that don't stand on ``lines``, and those that do."""
        there = [line in lines for line in self.lines]
        return self._only([not one for one in there]), self._only(there)

    def on(self, lines: Collection[int]) -> Rows:
        """Give those that stand on ``lines``, of which there are few."""
        return self._only([line in lines for line in self.lines])

    def _only(self, which: Sequence[bool]) -> Rows:
        members: list[Any] = [list(compress(member, which)) for member in self[1:]]
        return Rows(self.op, *members)


def canonical_key(stream: Stream, values: dict[str, Any]) -> str:
    """Write a record's key as one JSON text that is equal exactly when the key is."""
    return key_texts(stream, [tuple(values[name] for name in stream.key_names)])[0]


def key_texts(stream: Stream, keys: Sequence[Key]) -> list[str]:
    """Write keys as ``canonical_key`` does."""
    names = stream.key_names
    return [orjson.dumps(dict(zip(names, key, strict=True))).decode() for key in keys]


def row_maker(
    stream: Stream, dialect: Dialect, writing: Writing = Writing.RECEIVED
) -> Callable[[Sequence[int], RecordRun], Rows]:
    """Make the function from line numbers and checked records of the current schema version to their rows.

    The function raises RecordError for a value that its column's type can't keep, whichever record's it is. It
    needs no connection.
    """
    decode, decode_key = stream.decoder(dialect), stream.key_decoder(dialect)
    places = [stream.names.index(name) for name in stream.key_names]

    def make(lines: Sequence[int], run: RecordRun) -> Rows:
        """Make the rows of records of one operation; a delete's have NULL but for the key."""
        columns: list[Any]
        if run.op is Op.UPSERT:
            columns = list(decode(run.bodies))
        else:
            columns = [repeat(None)] * len(stream.columns)
            for place, values in zip(places, decode_key(run.bodies), strict=True):
                columns[place] = values
        versions = () if writing.is_own else (run.versions,)
        rows = list(zip(*columns, *versions, strict=False))
        return Rows(run.op, lines, run.versions, _keys(run.bodies, stream.key_names) or [()] * len(rows), rows)

    return make


def _keys(bodies: Sequence[Data], names: Sequence[str]) -> list[Key]:
    if isinstance(bodies, ByColumns):
        return list(zip(*(bodies.columns[name] for name in names), strict=True))
    return list(zip(*([body[name] for body in bodies] for name in names), strict=True))


KEPT_TABLES = 1024
"""So many descriptions of tables a process keeps: statements over the same one are compiled once."""


class TemporaryTable:
    """A temporary table of rows that are to be compared with those of their table."""

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        name: str,
        own: Mapping[str, str],
        names: Sequence[str],
        wide: Mapping[str, str] | None = None,
        writing: Writing = Writing.RECEIVED,
    ) -> None:
        """Prepare: of a row its columns ``names`` are kept, behind ``own`` ones of these kinds.

        They have the types that the target's have, but for those of ``wide``, which says theirs.
        """
        self.stream = stream
        self.connection = connection
        self.writing = writing
        self.target = target_of(stream, writing)
        self.table = _table(self.target, name, tuple(own.items()), tuple(names))
        self._own = own
        self._wide = wide or {}
        self.alike: Mapping[str, str] = {}
        self._made = False

    def put(self, rows: Iterable[BoundRow]) -> None:
        """Put rows into it, each with its own columns first.

        Makes it in the caller's transaction when the first ones come. Raises DBAPIError.
        """
        self.make()
        put(self.connection, self.table, [column.name for column in self.table.columns], rows)

    def make(self) -> None:
        """Make it in the caller's transaction, if that was not done: before a savepoint that may be rolled back."""
        if self._made:
            return
        try:
            _create(self.connection, self.table, self.target, self._own, self._wide)
        except DBAPIError as error:
            if not refuses_a_record(error):
                raise
            what = f"a copy of table {self.target.fullname}, as this load needs it, can't be made: {first_line(error)}"
            raise TableFault(f"{what}; nothing of the batch was applied, and the next import tries again") from error
        self._made = True

    def clear(self) -> None:
        """Empty it."""
        verb = "TRUNCATE" if dialect_of(self.connection).is_postgresql else "DELETE FROM"
        self.connection.exec_driver_sql(f"{verb} {self.table.name}")

    def key(self, table: sa.FromClause) -> list[sa.ColumnElement[Any]]:
        """The key columns of the table, the target or an alias of either."""
        return [table.c[column.name] for column in self.stream.key]

    def carries(self, names: tuple[str, ...]) -> bool:
        """Say whether the stream has all these columns."""
        return {column.name for column in self.stream.columns}.issuperset(names)

    def same_key(self, one: sa.FromClause, other: sa.FromClause) -> sa.ColumnElement[bool]:
        """Say that two rows have one key, to the letter even where the database finds unlike texts equal."""
        pairs = list(zip(self.key(one), self.key(other), strict=True))
        exact = [self._spelled(a) == self._spelled(b) for a, b in pairs if a.name in self.alike]
        return sa.and_(*(a == b for a, b in pairs), *exact)

    def changes(self, one: sa.FromClause, target: sa.FromClause) -> sa.ColumnElement[bool]:
        """Say that a row is to change a row of the target: the one of its key, or none if it is only inserted."""
        return sa.false() if self.writing is Writing.INSERT else self.same_key(one, target)

    def uniques(self, constraints: Constraints) -> list[Unique]:
        """Give which values no two rows share: the key, too, where two may be one here or none is changed."""
        uniques = list(constraints.uniques[self.target.key])
        if self.alike or (self.writing is Writing.INSERT and self.stream.key):
            uniques.append(Unique(f"the key of {self.target.name}", tuple(str(one.name) for one in self.stream.key)))
        return uniques

    def as_in_target(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Give a staged column so that texts are compared as the target does: SQLite keeps no collation of a copy."""
        name = self.alike.get(column.name)
        return sa.collate(column, name) if name and dialect_of(self.connection).is_sqlite else column

    def _spelled(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.collate(sa.cast(column, sa.Text), "C" if dialect_of(self.connection).is_postgresql else "BINARY")


class Stage(TemporaryTable):
    """One stream's records, whole. Those whose outcome is NULL are still to be applied."""

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        name: str,
        traits: Traits | None = None,
        writing: Writing = Writing.RECEIVED,
    ) -> None:
        """Prepare; the table is made when the first rows come."""
        self.traits = traits or Traits()
        model = {column.name: _plain(column).type for column in stream.columns if column.name in self.traits.narrower}
        wide = {**self.traits.domains, **{one: kind.compile(connection.dialect) for one, kind in model.items()}}
        self.names = column_names(stream, writing)
        """The columns of rows."""
        super().__init__(connection, stream, name, STAGE_COLUMNS, self.names, wide, writing)
        self.alike = self.traits.alike
        self.rows = 0
        """How many rows are in it, and how many of them are deletes."""
        self.deletes = 0
        self.deleted = 0
        """How many rows of the target those deleted, once they are written."""

    def add(self, rows: Rows) -> None:
        """Put rows into it."""
        self.put(self._staged(rows))
        self.rows += len(rows.rows)
        if rows.op is Op.DELETE:
            self.deletes += len(rows.rows)

    def add_refused(self, rows: Rows) -> None:
        """Keep of rows that can't be staged what they are: their line and key, and that they are parked."""
        width = len(self.names)
        texts = key_texts(self.stream, rows.keys)
        self.put(
            (line, rows.op[0], text, PARKED, *[None] * width) for line, text in zip(rows.lines, texts, strict=True)
        )
        self.rows += len(rows.rows)

    def _staged(self, rows: Rows) -> Iterator[BoundRow]:
        op, texts = rows.op[0], key_texts(self.stream, rows.keys)
        for line, text, row in zip(rows.lines, texts, rows.rows, strict=True):
            yield (line, op, text, None, *row)

    def clear(self) -> None:
        """Empty it."""
        super().clear()
        self.rows = self.deletes = 0

    def complete(self) -> None:
        """Make what is staged ready for comparing: index the key, and let PostgreSQL count."""
        if self.stream.key:
            sa.Index(f"ix_{self.table.name}", *self.key(self.table)).create(self.connection)
        if dialect_of(self.connection).is_postgresql:
            self.connection.exec_driver_sql(f"ANALYZE {self.table.name}")

    def settle(self, lines: Sequence[int], outcome: str) -> None:
        """Give some lines their outcome, so that they are not applied. Runs in the load's transaction."""
        for some in in_parts(lines, 500):
            self.connection.execute(
                sa.update(self.table).where(self.table.c[LINE].in_(some)).values({OUTCOME: outcome})
            )


def equal(
    table: sa.FromClause, names: tuple[str, ...], values: Sequence[sa.ColumnElement[Any]]
) -> list[sa.ColumnElement[bool]]:
    """Say that a row has these values in the columns of these names."""
    return [table.c[name] == value for name, value in zip(names, values, strict=True)]


def applying(table: sa.FromClause, op: Op | None = None) -> sa.ColumnElement[bool]:
    """Say that a staged row is still to be applied, and is an upsert or a delete if ``op`` says so."""
    undecided: sa.ColumnElement[bool] = table.c[OUTCOME].is_(None)
    return undecided if op is None else sa.and_(undecided, table.c[OP] == op[0])


def _plain(column: sa.Column[Any]) -> sa.Column[Any]:
    kind = column.type
    return sa.Column(column.name, kind.impl_instance if isinstance(kind, sa.types.TypeDecorator) else kind)


@functools.lru_cache(KEPT_TABLES)
def target_of(stream: Stream, writing: Writing = Writing.RECEIVED) -> sa.Table:
    """The receiving table, with the column that the model does not have where that is written."""
    columns = [_plain(column) for column in stream.columns]
    version = [] if writing.is_own else [sa.Column(VERSION_COLUMN, sa.BigInteger)]
    return sa.Table(stream.table.name, sa.MetaData(schema=stream.table.schema), *columns, *version)


def column_names(stream: Stream, writing: Writing = Writing.RECEIVED) -> list[str]:
    """Name the columns of a stream's rows, in the order in which ``Rows`` has them."""
    names = [str(column.name) for column in stream.columns]
    return names if writing.is_own else [*names, VERSION_COLUMN]


@functools.lru_cache(KEPT_TABLES)
def _table(target: sa.Table, name: str, own: tuple[tuple[str, str], ...], names: tuple[str, ...]) -> sa.Table:
    kinds = {"bigint": sa.BigInteger, "text": sa.Text}
    return sa.Table(
        name,
        sa.MetaData(),
        *(sa.Column(one, kinds[kind]) for one, kind in own),
        *(sa.Column(one, target.c[one].type) for one in names),
    )


def _create(
    connection: Connection, table: sa.Table, target: sa.Table, own: Mapping[str, str], wide: Mapping[str, str]
) -> None:
    """Create it with the types that the target has in this very database, and none of its constraints."""
    casts = [f"CAST(NULL AS {kind}) AS {name}" for name, kind in own.items()]
    columns = [
        f"CAST({name} AS {wide[column.name]}) AS {name}" if column.name in wide else name
        for column in [*table.columns][len(casts) :]
        for name in [identifier(column.name)]
    ]
    lifetime, schema = ("ON COMMIT DROP", "pg_temp") if dialect_of(connection).is_postgresql else ("", "temp")
    # Of another load: SQLite keeps it as long as the connection, and a transaction may have more than one.
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {schema}.{table.name}")
    run(
        connection,
        f"CREATE TEMPORARY TABLE {table.name} {lifetime} AS SELECT {', '.join([*casts, *columns])}"
        f" FROM {TableName(target.name, target.schema)} WHERE 1 = 0",
    )
