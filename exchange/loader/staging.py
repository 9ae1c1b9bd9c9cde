"""A temporary table per stream: where records wait while the database compares them with its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels import Stream
from exchange.format.record import Op, Record
from exchange.models import VERSION_COLUMN

BUFFERED_ROWS = 2_000

LINE, OP, KEY, OUTCOME = "exchange_line", "exchange_op", "exchange_key", "exchange_outcome"
"""The stage's own columns, named so that they can't meet a column of the application's."""


def canonical_key(stream: Stream, values: dict[str, Any]) -> str:
    """Write a record's key as one JSON text that is equal exactly when the key is."""
    return orjson.dumps({str(column.name): values[column.name] for column in stream.key}).decode()


class Stage:
    """The staged records of one stream. Rows whose outcome is NULL are still to be applied."""

    def __init__(self, connection: Connection, stream: Stream, number: int) -> None:
        self.stream = stream
        self.connection = connection
        self.target = _target(stream)
        self.table = _stage_table(stream, f"exchange_stage_{number}")
        self.rows = 0
        self.deletes = 0
        self._buffer: list[tuple[Any, ...]] = []
        self._decode = stream.decoder(connection.dialect)
        self._decode_key = stream.key_decoder(connection.dialect)
        names = [column.name for column in stream.columns]
        self._key_places = [names.index(column.name) for column in stream.key]
        self._put = _copy_in if connection.dialect.name == "postgresql" else _insert_in
        _create(connection, self.table, self.target)

    def add(self, line: int, record: Record) -> None:
        """Stage one checked record. Raises RecordError for a value that the column's type can't keep."""
        key = canonical_key(self.stream, record.body)
        values = self._decode(record.body) if record.op is Op.UPSERT else self._key_alone(record.body)
        self._buffer.append((line, record.op[0], key, None, record.version, *values))
        self.rows += 1
        self.deletes += record.op is Op.DELETE
        if len(self._buffer) >= BUFFERED_ROWS:
            self.flush()

    def _key_alone(self, key: dict[str, Any]) -> list[Any]:
        values: list[Any] = [None] * len(self.stream.columns)
        for place, value in zip(self._key_places, self._decode_key(key), strict=True):
            values[place] = value
        return values

    def flush(self) -> None:
        """Hand what is buffered to the database."""
        if self._buffer:
            self._put(self.connection, self.table, self._buffer)
            self._buffer.clear()

    def complete(self) -> None:
        """Make ready for comparing: index the key, and let PostgreSQL count."""
        self.flush()
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


def _insert_in(connection: Connection, table: sa.Table, rows: list[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(table.columns))
    connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({marks})", list(rows))


def _copy_in(connection: Connection, table: sa.Table, rows: list[tuple[Any, ...]]) -> None:
    driver = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} FROM STDIN") as copy:  # type: ignore[union-attr]
        for row in rows:
            copy.write_row(row)
