"""Rows to the database: straight into their table, or into a temporary one to be compared with what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from exchange.channels import Stream
from exchange.format.record import Op, Record
from exchange.models import VERSION_COLUMN, tombstone

BUFFERED_ROWS = 5_000
"""Rows that go to the database at once."""

FIRST_ROWS = 500
"""The first of them: it costs little to learn from so few that rows can't go straight into the table."""

LINE, OP, KEY, OUTCOME = "exchange_line", "exchange_op", "exchange_key", "exchange_outcome"
"""The stage's own columns, named so that they can't meet a column of the application's."""

Row = tuple[Any, ...]
"""A record's values in the order of the stream's columns, as the driver binds them."""


def canonical_key(stream: Stream, values: dict[str, Any]) -> str:
    """Write a record's key as one JSON text that is equal exactly when the key is."""
    return orjson.dumps({str(column.name): values[column.name] for column in stream.key}).decode()


def row_maker(stream: Stream, dialect: Dialect) -> Callable[[Record], Row]:
    """Make the function from a checked record to its row; a delete's has only the key.

    The function raises RecordError for a value that the column's type can't keep. It needs no connection.
    """
    decode, decode_key = stream.decoder(dialect), stream.key_decoder(dialect)
    names = [column.name for column in stream.columns]
    places = [names.index(column.name) for column in stream.key]

    def row(record: Record) -> Row:
        if record.op is Op.UPSERT:
            return decode(record.body)
        values: list[Any] = [None] * len(names)
        for place, value in zip(places, decode_key(record.body), strict=True):
            values[place] = value
        return tuple(values)

    return row


class Stage:
    """The records of one stream on their way into its table.

    As long as all of them are new rows they go straight into it: nothing is compared, the table's own
    constraints say whether that was right. From the first conflict on, what is left waits in a temporary
    table. Rows there whose outcome is NULL are still to be applied.
    """

    def __init__(self, connection: Connection, stream: Stream, number: int) -> None:
        self.stream = stream
        self.connection = connection
        self.target = _target(stream)
        self.table = _stage_table(stream, f"exchange_stage_{number}")
        self.straight = 0
        """Rows that went straight into the table."""
        self.rows = 0
        """Rows in the temporary table, and how many of them are deletes."""
        self.deletes = 0
        self._buffer: list[tuple[int, Record, Row]] = []
        # A constraint that is checked late would let a straight row pass and refuse the whole batch at its end.
        late = any(key.deferrable or key.initially for key in stream.table.foreign_key_constraints)
        self._newest_tombstone = None if late else self._find_newest_tombstone()
        self._bound = FIRST_ROWS

    def add(self, line: int, record: Record, row: Row) -> None:
        """Take one checked record and the row made of it."""
        self._buffer.append((line, record, row))
        if len(self._buffer) >= self._bound:
            self.flush()

    def flush(self) -> None:
        """Hand what is buffered to the database."""
        rows, self._buffer = self._buffer, []
        if rows and not self._goes_straight(rows):
            self._keep(rows)
        self._bound = BUFFERED_ROWS

    def _goes_straight(self, rows: list[tuple[int, Record, Row]]) -> bool:
        """Insert the rows into the table, or none of them: then they and all later ones are staged."""
        if self._newest_tombstone is None:
            return False
        if any(record.op is Op.DELETE or record.version <= self._newest_tombstone for _, record, _ in rows):
            return False
        names = [*(column.name for column in self.stream.columns), VERSION_COLUMN]
        try:
            with self.connection.begin_nested():
                _put(self.connection, self.target, names, ((*row, record.version) for _, record, row in rows))
        except DBAPIError as error:
            if not refuses_the_row(error):
                raise
            self._newest_tombstone = None
            return False
        self.straight += len(rows)
        return True

    def _find_newest_tombstone(self) -> int:
        """Find the version that a record must exceed so that no tombstone can forbid it."""
        newest = sa.select(sa.func.max(tombstone.c.version)).where(tombstone.c.stream == self.stream.name)
        return self.connection.scalar(newest) or 0

    def _keep(self, rows: list[tuple[int, Record, Row]]) -> None:
        if not self.rows:
            _create(self.connection, self.table, self.target)
        staged = (
            (line, record.op[0], canonical_key(self.stream, record.body), None, record.version, *row)
            for line, record, row in rows
        )
        _put(self.connection, self.table, [column.name for column in self.table.columns], staged)
        self.rows += len(rows)
        self.deletes += sum(record.op is Op.DELETE for _, record, _ in rows)

    def complete(self) -> None:
        """Make what is staged ready for comparing: index the key, and let PostgreSQL count."""
        sa.Index(f"ix_{self.table.name}", *self.key(self.table)).create(self.connection)
        if self.connection.dialect.name == "postgresql":
            self.connection.exec_driver_sql(f"ANALYZE {self.table.name}")

    def key(self, table: sa.FromClause) -> list[sa.ColumnElement[Any]]:
        """The key columns of the stage, the target or an alias of either."""
        return [table.c[column.name] for column in self.stream.key]

    def same_key(self, one: sa.FromClause, other: sa.FromClause) -> sa.ColumnElement[bool]:
        """Say that two rows have one key."""
        return sa.and_(*(a == b for a, b in zip(self.key(one), self.key(other), strict=True)))

    def settle(self, lines: Sequence[int], outcome: str) -> None:
        """Give some lines their outcome, so that they are not applied."""
        for start in range(0, len(lines), 500):
            some = lines[start : start + 500]
            self.connection.execute(
                sa.update(self.table).where(self.table.c[LINE].in_(some)).values({OUTCOME: outcome})
            )


def applying(table: sa.FromClause, op: Op | None = None) -> sa.ColumnElement[bool]:
    """Say that a staged row is still to be applied, and is an upsert or a delete if ``op`` says so."""
    undecided: sa.ColumnElement[bool] = table.c[OUTCOME].is_(None)
    return undecided if op is None else sa.and_(undecided, table.c[OP] == op[0])


def _plain(column: sa.Column[Any]) -> sa.Column[Any]:
    kind = column.type
    return sa.Column(column.name, kind.impl_instance if isinstance(kind, sa.types.TypeDecorator) else kind)


def _target(stream: Stream) -> sa.Table:
    """The receiving table, with the column that the model does not have."""
    columns = [_plain(column) for column in stream.columns]
    return sa.Table(
        stream.table.name,
        sa.MetaData(schema=stream.table.schema),
        *columns,
        sa.Column(VERSION_COLUMN, sa.BigInteger),
    )


def _stage_table(stream: Stream, name: str) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column(LINE, sa.BigInteger),
        sa.Column(OP, sa.String),
        sa.Column(KEY, sa.Text),
        sa.Column(OUTCOME, sa.String),
        sa.Column(VERSION_COLUMN, sa.BigInteger),
        *(_plain(column) for column in stream.columns),
    )


def _create(connection: Connection, stage: sa.Table, target: sa.Table) -> None:
    """Create the stage with the types that the target has in this very database, and none of its constraints."""
    casts = [
        f"CAST(NULL AS {kind}) AS {name}"
        for name, kind in ((LINE, "bigint"), (OP, "text"), (KEY, "text"), (OUTCOME, "text"))
    ]
    quote = connection.dialect.identifier_preparer
    columns = [quote.quote(column.name) for column in stage.columns][len(casts) :]
    lifetime = "ON COMMIT DROP" if connection.dialect.name == "postgresql" else ""
    if not lifetime:  # SQLite keeps it as long as the connection
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS temp.{stage.name}")
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE {stage.name} {lifetime} AS SELECT {', '.join([*casts, *columns])}"
        f" FROM {quote.format_table(target)} WHERE 1 = 0"
    )


def refuses_the_row(error: DBAPIError) -> bool:
    """Say whether a row is at fault: a constraint, a value out of range, or a trigger of the application's."""
    raised = getattr(error.orig, "sqlstate", None) == "P0001"
    return raised or isinstance(error, IntegrityError | DataError)


def _put(connection: Connection, table: sa.Table, names: Sequence[str], rows: Iterable[Row]) -> None:
    """Put rows into a table as fast as the driver can. Raises SQLAlchemy's DBAPIError, as any statement does."""
    quote = connection.dialect.identifier_preparer
    into = f"{quote.format_table(table)} ({', '.join(quote.quote(name) for name in names)})"
    dbapi = connection.dialect.loaded_dbapi
    try:
        if connection.dialect.name == "postgresql":
            _copy(connection, f"COPY {into} FROM STDIN", rows)
        else:
            marks = ", ".join("?" * len(names))
            driver = connection.connection.driver_connection
            driver.executemany(f"INSERT INTO {into} VALUES ({marks})", rows)  # type: ignore[union-attr]
    except dbapi.Error as error:
        raise DBAPIError.instance(into, None, error, dbapi.Error, dialect=connection.dialect) from error


def _copy(connection: Connection, statement: str, rows: Iterable[Row]) -> None:
    driver = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(statement) as copy:  # type: ignore[union-attr]
        write = copy.write_row
        for row in rows:
            write(row)
