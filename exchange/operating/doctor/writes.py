"""Whether the database takes a write, which is tried and taken back, and new rows by their numbers."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import engine, locks
from exchange.database.dialects import dialect_of
from exchange.database.tables import Direction, change, failed_run, metadata
from exchange.operating.doctor.finding import Findings, fault, ok, warning
from exchange.settings import Settings
from exchange.site import Site
from exchange.tables import capture
from exchange.tables.loader.traits import traits_of

PATIENCE_SECONDS = 1.0
"""So long another writer of SQLite's file is waited for."""


def check_writes(_settings: Settings, site: Site) -> Findings:
    """Write a row and roll it back. Raises what the database says against it."""
    if dialect_of(site.engine).is_postgresql:
        with site.engine.connect() as connection:
            if connection.scalar(sa.select(sa.func.pg_is_in_recovery())):
                remedy = "name the primary in EXCHANGE_DATABASE_URL, or promote this server"
                yield fault("writes", "the server is a standby: it takes no writes", remedy)
                return
    row = {"direction": Direction.IN, "channel": "?doctor", "runs": 0, "since": engine.now(), "at": engine.now()}
    try:
        with locks.writing(site.engine, patience_seconds=PATIENCE_SECONDS) as connection:
            tried = connection.begin_nested()
            connection.execute(sa.insert(failed_run).values(**row, message=""))
            tried.rollback()
    except locks.Busy as busy:
        remedy = "see which program holds the database; nothing is exported or imported then"
        yield warning("writes", str(busy), remedy)
        return
    yield ok("writes", "the database takes a write, which was rolled back")


def check_sequences(_settings: Settings, site: Site) -> Findings:
    """Look whether a sequence has yet to give numbers that rows have, on PostgreSQL."""
    if not dialect_of(site.engine).is_postgresql:
        return
    behind = 0
    with locks.reading(site.engine) as connection:
        for table in _numbered(site, connection):
            found = _behind(connection, table)
            if found is None:
                continue
            behind += 1
            said, command = found
            # An application may well give the numbers itself, and then nobody draws from the sequence.
            say = fault if table.metadata is metadata else warning
            yield say("sequences", said, f"`{command}` sets it right", command=f'psql -c "{command}"')
    if not behind:
        yield ok("sequences", "every sequence is ahead of its rows")


def _numbered(site: Site, connection: Connection) -> list[sa.Table]:
    """Give our tables, those that are sent, and received ones whose counters are kept ahead.

    Of what comes else the source gives the numbers, and of changes the log.
    """
    streams = {stream.name: stream for channel in site.outgoing() for stream in channel.streams}.values()
    sent = (stream.table for stream in streams if capture.is_readable(connection, stream))
    received = {stream.name: stream for channel in site.incoming() for stream in channel.streams}.values()
    kept = (stream.table for stream in received if traits_of(connection, stream).counter is not None)
    return [*(one for one in metadata.sorted_tables if one is not change), *sent, *kept]


def _behind(connection: Connection, table: sa.Table) -> tuple[str, str] | None:
    """Say that the sequence of a table's key has yet to give a number that a row has, and how it is set right."""
    if len(table.primary_key.columns) != 1:
        return None
    (column,) = table.primary_key.columns
    if not isinstance(column.type, sa.Integer):
        return None
    quoted = connection.dialect.identifier_preparer.format_table(table)
    sequence = connection.scalar(sa.select(sa.func.pg_get_serial_sequence(quoted, column.name)))
    if sequence is None:
        return None
    last = connection.scalar(sa.text("SELECT pg_sequence_last_value(CAST(:name AS regclass))"), {"name": sequence}) or 0
    newest = connection.scalar(sa.select(sa.func.max(column))) or 0
    if newest <= last:
        return None
    said = (
        f"sequence {sequence} is at {last}, and a row of {quoted} has {newest}: an insert that leaves the"
        " number to the database fails until it is beyond"
    )
    return said, f"SELECT setval('{sequence}', {newest})"
