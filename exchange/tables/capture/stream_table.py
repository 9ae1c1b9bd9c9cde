"""A stream's table in SQL, and the keys of it that were claimed: their table, their order, which shard has them."""

# ruff: noqa: S608 - names can't be parameters; sql.py quotes whatever is not ours

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Shard
from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.tables.capture import postgresql, sqlite
from exchange.tables.capture.sql import CaptureSql, KeyColumn, TableName, identifier, in_files, literal, run
from exchange.tables.capture.triggers import CaptureFault, capture_sql

WORK_MEMORY_KIB = 64 * 1024
"""How much PostgreSQL may use to sort or hash what was claimed before it turns to its disk, unless set higher."""


MANY_KEYS = 1_000
"""From how many keys on a wrong plan hurts more than a scan of the whole table."""


MAX_LEVELS = 64
"""How deep rows are ordered in a table that refers to itself in more than one way, where loops can hide."""


CLAIMED = sa.table(
    "exchange_taken",
    *(sa.column(name) for name in ("stream", "key", "version", "id", "op", "late", "round", "level")),
)
"""What ``claim`` or ``next_page`` put there and was not given back, by stream and key, until the transaction ends."""


@dataclass(frozen=True)
class StreamTable:
    """A stream's table as the database has it now."""

    stream: Stream
    place: TableName
    key: tuple[KeyColumn, ...]
    sql: CaptureSql

    @classmethod
    def of(cls, connection: Connection, stream: Stream) -> StreamTable:
        """Find it. Raises CaptureFault if the table or a column of its key is missing."""
        sql = capture_sql(connection)
        place = sql.find(connection, TableName(stream.table.name, stream.table.schema))
        if place is None:
            raise CaptureFault(f"table {stream.table.name} of stream {stream.name} does not exist")
        found = sql.key_columns(connection, place, [column.name for column in stream.key])
        key = tuple(in_files(found, stream.in_files))
        if len(key) != len(stream.key):
            raise CaptureFault(f"table {place.name} lacks a key column of stream {stream.name}; migrate it")
        return cls(stream, place, key, sql)

    def row_has_key(self) -> str:
        """Say that a row of the table, as SQLAlchemy names it, has the key of a row of ``exchange_taken``."""
        name = TableName(self.stream.table.name, self.stream.table.schema)
        return self.sql.matches(str(name), "exchange_taken.key", self.key)

    def exists(self, text: str) -> str:
        """Say that a row with this key exists."""
        return f"EXISTS (SELECT 1 FROM {self.place} t WHERE {self.sql.matches('t', text, self.key)})"


_SAMPLE = "10"
"""The statistics target: a sample of thousands says enough of a table of keys."""


def and_in_shard(connection: Connection, stream: Stream, shard: Shard | None, text: str = "key") -> str:
    """Say, after a condition, that the key in ``text`` falls to the shard; nothing where all of the stream's do."""
    if shard is None or stream.name not in shard.split:
        return ""
    return f" AND {capture_sql(connection).bucket(text)} % {shard.of} = {shard.number}"


def carried(streams: Sequence[Stream], shard: Shard | None) -> Sequence[Stream]:
    """Give the streams of which a shard may carry something: all, or those that are split."""
    if shard is None or shard.number == 0:
        return streams
    return [stream for stream in streams if stream.name in shard.split]


def _work_memory_kib(connection: Connection) -> int:
    return int(run(connection, "SELECT setting FROM pg_settings WHERE name = 'work_mem'").scalar_one())


def make_claimed_table(connection: Connection) -> None:
    """Make ``exchange_taken`` anew. On SQLite the version is the row's place, so reading by version needs no sort.

    On PostgreSQL it goes with the transaction.
    """
    run(connection, "DROP TABLE IF EXISTS exchange_taken")
    if dialect_of(connection).is_postgresql:
        kind, version, end = "TEMPORARY", "bigint", " ON COMMIT DROP"
        work_memory = f"{max(_work_memory_kib(connection), WORK_MEMORY_KIB)}kB"
        settings = {"default_statistics_target": _SAMPLE, "work_mem": work_memory}
        named = (f"set_config({literal(name)}, {literal(value)}, true)" for name, value in settings.items())
        run(connection, f"SELECT {', '.join(named)}")
    else:
        kind, version, end = "TEMPORARY", "INTEGER PRIMARY KEY", ""
        sqlite.prepare(connection)
    run(
        connection,
        f"CREATE {kind} TABLE exchange_taken (version {version}, id bigint, stream text NOT NULL,"
        " key text NOT NULL, op text NOT NULL, late bigint, round integer NOT NULL DEFAULT 0,"
        f" level integer NOT NULL DEFAULT 0){end}",
    )


def help_planner(connection: Connection, tables: Sequence[StreamTable]) -> None:
    """Keep PostgreSQL from comparing every row with every key.

    A table that was vacuumed while nearly empty, as the log often is, is believed to be so until the next time, however
    much has come since; a nested loop over "one row" may then be one over a million. What it sets holds until the
    transaction ends.
    """
    if not dialect_of(connection).is_postgresql:
        return
    run(connection, "ANALYZE exchange_taken")
    names = ", ".join(
        f"to_regclass({postgresql.literal(str(place))})"
        for place in (TableName("exchange_change"), *(table.place for table in tables))
    )
    mistaken = run(
        connection,
        f"SELECT count(*) FROM pg_class WHERE oid IN ({names}) AND reltuples >= 0"
        f" AND reltuples < relpages AND (SELECT count(*) FROM exchange_taken) > {MANY_KEYS}",
    ).scalar_one()
    if mistaken:
        run(connection, "SET LOCAL enable_nestloop = off")


def refers(constraint: sa.ForeignKeyConstraint) -> str:
    """Say that row ``c`` refers to row ``p``."""
    return " AND ".join(
        f"p.{identifier(element.column.name)} = c.{identifier(element.parent.name)}" for element in constraint.elements
    )


def self_references(stream: Stream) -> list[sa.ForeignKeyConstraint]:
    """Give the references of a stream's table to itself."""
    return [one for one in stream.table.foreign_key_constraints if one.elements[0].target_table_key == stream.table.key]


def order_self_references(connection: Connection, table: StreamTable) -> None:
    """Give claimed rows whose table refers to itself their level below the topmost claimed one.

    Runs in the transaction of ``claim`` or ``next_page``.
    """
    constraints = self_references(table.stream)
    if not constraints:
        return
    # Along one reference a loop can't be entered from outside. Along two it can: there the depth is bounded.
    bound = f" WHERE l.level < {MAX_LEVELS}" if len(constraints) > 1 else ""
    sql, key, name = table.sql, table.key, literal(table.stream.name)
    differs = " OR ".join(f"p.{identifier(c.name)} <> c.{identifier(c.name)}" for c in key)
    edges = " UNION ".join(
        f"SELECT k.version AS child, u.version AS parent FROM exchange_taken k"
        f" JOIN {table.place} c ON {sql.matches('c', 'k.key', key)}"
        f" JOIN {table.place} p ON {refers(constraint)} AND ({differs})"
        f" JOIN exchange_taken u ON u.key = {sql.key_text('p', key)} AND u.stream = {name}"
        f" WHERE k.stream = {name}"
        for constraint in constraints
    )
    run(connection, "DROP TABLE IF EXISTS exchange_edge")
    drop = " ON COMMIT DROP" if dialect_of(connection).is_postgresql else ""
    run(connection, "CREATE INDEX IF NOT EXISTS exchange_taken_key ON exchange_taken (stream, key)")
    help_planner(connection, [table])
    run(connection, f"CREATE TEMPORARY TABLE exchange_edge{drop} AS {edges}")
    run(connection, "CREATE INDEX exchange_edge_parent ON exchange_edge (parent)")
    run(
        connection,
        "WITH RECURSIVE lies (version, level) AS ("
        " SELECT DISTINCT parent, 0 FROM exchange_edge"
        "  WHERE parent NOT IN (SELECT child FROM exchange_edge)"
        f" UNION SELECT e.child, l.level + 1 FROM lies l JOIN exchange_edge e ON e.parent = l.version{bound})"
        " UPDATE exchange_taken SET level = x.level FROM"
        " (SELECT version, max(level) AS level FROM lies GROUP BY version) x"
        " WHERE exchange_taken.version = x.version",
    )
    run(connection, "DROP TABLE exchange_edge")
