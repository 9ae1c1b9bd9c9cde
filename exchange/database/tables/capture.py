"""What was changed here and is not sent yet, and what is known of received rows that are gone."""

from __future__ import annotations

from sqlalchemy import DDL, BigInteger, Column, Index, String, Table, Text
from sqlalchemy.event import listen

from exchange.database.tables.base import UtcDateTime, metadata, row_id

change = Table(
    "exchange_change",
    metadata,
    row_id(),
    Column("stream", String(63), nullable=False),
    Column("op", String(1), nullable=False),
    Column("key", Text, nullable=False),
    Index("ix_exchange_change_stream_id", "stream", "id"),
    sqlite_autoincrement=True,
)
"""What triggers captured and no batch carries yet. ``id`` is the order of changes; ``op`` is I, U or D;
``key`` is a JSON object of the key columns as this database writes them (see ``capture``).

On PostgreSQL ``id`` is where the write-ahead log stood: a number drawn from a sequence would be what the application's
``lastval()`` gives. Two changes of two sessions may have the same, so there is no key. The sequence of the column gives
versions to records when they are claimed."""
listen(
    change,
    "after_create",
    DDL(
        "ALTER TABLE exchange_change DROP CONSTRAINT pk_exchange_change,"
        " ALTER id SET DEFAULT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,"
        # Without a key, what is deleted could not be published where an application publishes all its tables.
        " REPLICA IDENTITY FULL"
    ).execute_if(dialect="postgresql"),  # type: ignore[no-untyped-call]
)

importing = Table(
    "exchange_importing",
    metadata,
    Column("stream", String(63), primary_key=True),
)
"""The streams that the running import writes, so that triggers skip them. Only SQLite uses it, and only
inside the importer's transaction: it is empty in every committed state."""

tombstone = Table(
    "exchange_tombstone",
    metadata,
    Column("stream", String(63), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Index("ix_exchange_tombstone_stream_version", "stream", "version"),
)
"""Received deletes: an older upsert must not bring the row back. ``key`` is the record's key, canonical JSON."""

tombstone_mark = Table(
    "exchange_tombstone_mark",
    metadata,
    Column("stream", String(63), primary_key=True),
    Column("at", UtcDateTime, primary_key=True),
    Column("version", BigInteger, nullable=False),
)
"""How far the versions of a stream's tombstones reached at a moment: by that it is known how old they are."""
