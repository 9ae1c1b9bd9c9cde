"""A database with the exchange's tables, and what capture noted in it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Executable

from exchange.channels import Stream
from exchange.database import tables as database_tables
from exchange.tables import capture


@dataclass(frozen=True)
class Lab:
    """An engine on a database with the exchange's tables."""

    engine: Engine

    def create(self, *tables: sa.Table) -> tuple[Stream, ...]:
        """Create tables, capture them, and declare a stream for each: ``s0``, ``s1`` ..."""
        streams = tuple(Stream(table, name=f"s{number}") for number, table in enumerate(tables))
        with self.engine.begin() as connection:
            tables[0].metadata.create_all(connection)
            for stream in streams:
                capture.add_version_column(connection, stream.table.name)
                capture.install(connection, stream.table.name, stream=stream.name)
        return streams

    def run(self, *statements: Executable | str) -> None:
        """Run statements in one transaction, as the application would."""
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement) if isinstance(statement, str) else statement)

    def noted(self) -> list[tuple[str, str, str]]:
        """Give stream, op and key of what is pending, oldest first, keys without blanks."""
        log = database_tables.change.c
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(log.stream, log.op, log.key).order_by(log.id))
            return [(stream, op, key.replace(" ", "")) for stream, op, key in found]

    def keys(self, stream: str = "s0") -> set[str]:
        """Give the keys noted for a stream."""
        return {key for name, _, key in self.noted() if name == stream}

    def forget(self) -> None:
        """Empty the log."""
        self.run(sa.delete(database_tables.change))

    def exporting(self) -> AbstractContextManager[Connection]:
        """Begin a transaction that sees one moment of the database, as the exporter does."""
        isolation = {"isolation_level": "REPEATABLE READ"} if self.engine.dialect.name == "postgresql" else {}
        return self.engine.execution_options(**isolation).begin()


def upserts(connection: Connection, stream: Stream) -> list[dict[str, Any]]:
    """Read the data of every upsert of a stream."""
    encode = stream.encoder(connection.dialect)
    return [encode(row[2:]) for some in capture.rows(connection, stream) for row in some]


def deletes(connection: Connection, stream: Stream) -> list[dict[str, Any]]:
    """Read the key of every delete of a stream."""
    encode = stream.key_encoder(connection.dialect)
    return [encode(row[2:]) for some in capture.deleted_keys(connection, stream) for row in some]


def items(*more: sa.Column[Any] | sa.schema.SchemaItem) -> sa.Table:
    """Declare a table of items with an integer key."""
    return sa.Table(
        "item",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text),
        *more,
    )
