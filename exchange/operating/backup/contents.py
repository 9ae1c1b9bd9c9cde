"""What a database has, in few words: compared when a copy of it was restored somewhere."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database.dialects import dialect_of
from exchange.database.tables import audit, network, position
from exchange.format.backup_file import ChannelAt, Contents, StreamRows
from exchange.operating import migrate
from exchange.site import Site
from exchange.tables import capture
from exchange.tables.bucket_digests import digest

_COUNTED_LAST = frozenset({audit.name})
"""What a look at a restored database may itself add to."""

_POSTGRESQL_TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
    )
    ORDER BY 1, 2"""


def read_contents(site: Site, connection: Connection) -> Contents:
    """Read what a database has: every table is counted, and every stream's rows are digested.

    Reads in the caller's transaction, which sees one moment. Raises SQLAlchemy's DBAPIError.
    """
    at = connection.execute(
        sa.select(position).where(position.c.current == 1).order_by(position.c.direction, position.c.channel)
    )
    return Contents(
        epoch=connection.scalar(sa.select(network.c.epoch)),
        revisions=tuple(sorted(migrate.applied_revisions(connection))),
        positions=tuple(ChannelAt(row.direction, row.channel, row.epoch, row.sequence, row.digest) for row in at),
        tables=_count_tables(connection),
        streams=tuple(_digests(site.channels, connection)),
    )


def table_names(connection: Connection) -> list[tuple[str | None, str]]:
    """Give the schema and name of every table of the database's owner, in the caller's transaction."""
    if dialect_of(connection).is_postgresql:
        return [(row[0], row[1]) for row in connection.exec_driver_sql(_POSTGRESQL_TABLES)]
    return [(None, name) for name in sorted(sa.inspect(connection).get_table_names())]


def _count_tables(connection: Connection) -> dict[str, int]:
    counted = {}
    for schema, name in table_names(connection):
        rows = connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name, schema=schema)))
        counted[name if schema in (None, "public") else f"{schema}.{name}"] = int(rows or 0)
    return counted


def _digests(channels: tuple[Channel, ...], connection: Connection) -> Iterator[StreamRows]:
    for channel in channels:
        for stream in channel.streams:
            if capture.is_readable(connection, stream):
                found = digest(connection, stream, of=1)
                yield StreamRows(stream.name, found.rows, found.digests[0], stream.schema_version)


def differences(wanted: Contents, found: Contents) -> list[str]:
    """Say in what a restored database is not what was backed up, a sentence for each.

    A stream that is declared in another schema version now is counted, and its digest is not compared.
    """
    said = []
    for what, one, other in (
        ("the epoch", wanted.epoch, found.epoch),
        ("the revisions", wanted.revisions, found.revisions),
        ("the position of the ledger", wanted.positions, found.positions),
    ):
        if one != other:
            said.append(f"{what}: expected {_shown(one)}, found {_shown(other)}")
    for name in sorted(wanted.tables.keys() | found.tables.keys()):
        rows, there = wanted.tables.get(name), found.tables.get(name)
        if rows != there and name not in _COUNTED_LAST:
            said.append(f"table {name}: expected {_rows(rows)}, found {_rows(there)}")
    here = {one.stream: one for one in found.streams}
    for stream in wanted.streams:
        now = here.get(stream.stream)
        if now is not None and now.schema_version == stream.schema_version and now != stream:
            said.append(f"stream {stream.stream}: its rows are not those that were backed up")
    return said


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return (
            ", ".join(
                f"{one.direction} {one.channel} {one.epoch} {one.sequence}" if isinstance(one, ChannelAt) else str(one)
                for one in value
            )
            or "none"
        )
    return str(value)


def _rows(number: int | None) -> str:
    return "no such table" if number is None else f"{number} rows"
