"""The schema of each stream: as this side remembers it by its version, and as the other side says that it reads it.

A version is a promise: records of it lie in files, and the other side checks and lifts them by it. So a stream whose
model changed under an unchanged version stands still, before rows go or come by it. A version of this program that
writes the schema of a column type in another way has to forget, in its migration, what was remembered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.channels import schemas
from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database.dialects import insert_new, upsert
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import Direction, schema
from exchange.format.control import MAX_READS, ReadStream
from exchange.format.errors import Problem, TransientError
from exchange.link import peer_statements
from exchange.site import Site


class _Declared(NamedTuple):
    """A stream as it is declared now."""

    direction: Direction
    stream: str
    version: int
    digest: str
    channel: str


_Known = Mapping[tuple[str, int], Any]
"""Rows of ``exchange_schema`` of one direction, by stream and version."""

_WELL: WeakKeyDictionary[Engine, set[_Declared]] = WeakKeyDictionary()
"""By database what this process found remembered as it is declared: that is not asked for again."""


# What this side remembers


def check_schemas(site: Site, direction: Direction) -> dict[str, Problem]:
    """Say of the streams of a direction, by their names, that their model changed and their version did not.

    What is new is remembered; what can't be written down, as somebody else writes, is left to the next run. A process
    that found all well asks no more. Commits a transaction of its own if something is new. Raises TransientError.
    """
    declared = _declared(site, direction)
    well = _WELL.setdefault(site.engine, set())
    if well.issuperset(declared):
        return {}
    with transient_errors(), reading(site.engine) as connection:
        known = _remembered(connection, direction)
    new = [one for one in declared if _is_new(one, known)]
    if new:
        with suppress(Busy, TransientError), transient_errors(), writing(site.engine) as connection:
            for one in new:
                _remember(site, connection, one)
            known = _remembered(connection, direction)
    well.update(one for one in declared if not _is_new(one, known) and _is_same(one, known))
    return _changed(site, declared, known)


def changed_schemas(site: Site, connection: Connection, direction: Direction) -> dict[str, Problem]:
    """Say the same, and remember nothing. Reads in the caller's transaction."""
    return _changed(site, _declared(site, direction), _remembered(connection, direction))


def remembered_schemas(connection: Connection, stream: str) -> dict[int, dict[str, Any]]:
    """Give the schemas that a stream had here, by their versions. Reads in the caller's transaction."""
    rows = connection.execute(
        sa.select(schema.c.version, schema.c.schema).where(schema.c.stream == stream).order_by(schema.c.direction)
    )
    return {row.version: json.loads(row.schema) for row in rows}


def accept_schema(site: Site, connection: Connection, stream: str) -> list[str]:
    """Take the present schema of a stream for the one of its version; say what changed, nothing if nothing did.

    A person's word that no record has crossed by the one before. Runs in the caller's transaction.
    """
    said: list[str] = []
    for direction in Direction:
        known = _remembered(connection, direction)
        for one in _declared(site, direction):
            if one.stream == stream and not _is_same(one, known):
                said += _changes(site, one, known)
                _write(site, connection, one)
    return said


def once_declared(connection: Connection, direction: Direction) -> frozenset[str]:
    """Name the streams that were declared in a direction here, now or before. Reads in the caller's transaction."""
    return frozenset(connection.scalars(sa.select(schema.c.stream).where(schema.c.direction == direction)))


def channels_once_read(connection: Connection) -> frozenset[str]:
    """Name the declared channels by which streams came here last. Reads in the caller's transaction."""
    return frozenset(connection.scalars(sa.select(schema.c.channel).where(schema.c.direction == Direction.IN)))


def newest_read(connection: Connection) -> datetime | None:
    """Say when a stream, or a version of it, was first read here. Reads in the caller's transaction."""
    newest = sa.select(sa.func.max(schema.c.since)).where(schema.c.direction == Direction.IN)
    found: datetime | None = connection.scalar(newest)
    return found


def _declared(site: Site, direction: Direction) -> list[_Declared]:
    return [
        _Declared(direction, stream.name, stream.schema_version, site.checkers[stream.name].digest, channel.declared)
        for channel in _channels(site, direction)
        for stream in channel.streams
    ]


def _channels(site: Site, direction: Direction) -> list[Channel]:
    return [one for one in site.channels if (one.source == site.network) == (direction is Direction.OUT)]


def _remembered(connection: Connection, direction: Direction) -> _Known:
    rows = connection.execute(sa.select(schema).where(schema.c.direction == direction))
    return {(row.stream, row.version): row for row in rows}


def _is_new(one: _Declared, known: _Known) -> bool:
    """Whether a version of a stream is new here, or is in another channel than before."""
    row = known.get((one.stream, one.version))
    return row is None or (row.channel != one.channel and row.digest == one.digest)


def _is_same(one: _Declared, known: _Known) -> bool:
    row = known.get((one.stream, one.version))
    return row is None or row.digest == one.digest


def _remember(site: Site, connection: Connection, one: _Declared) -> None:
    """Write down a version that is new, unless another process did: what it wrote is compared with."""
    key = {"direction": one.direction, "stream": one.stream, "version": one.version}
    if not insert_new(connection, schema, key | _values(site, one)):
        mine = (*(schema.c[name] == value for name, value in key.items()), schema.c.digest == one.digest)
        connection.execute(sa.update(schema).where(*mine).values(channel=one.channel, since=now()))


def _write(site: Site, connection: Connection, one: _Declared) -> None:
    key = {"direction": one.direction, "stream": one.stream, "version": one.version}
    upsert(connection, schema, key, _values(site, one))


def _values(site: Site, one: _Declared) -> dict[str, Any]:
    text = json.dumps(site.checkers[one.stream].schema)
    return {"digest": one.digest, "schema": text, "channel": one.channel, "since": now()}


def _changed(site: Site, declared: Iterable[_Declared], known: _Known) -> dict[str, Problem]:
    return {
        one.stream: Problem(
            f"stream {one.stream}: its model changed, and its schema version is still {one.version}:"
            f" {'; '.join(_changes(site, one, known))}",
            f"`exchange schema --raise {one.stream}` raises it; if no record has crossed yet,"
            f" `exchange schema --accept {one.stream}` takes the model as it is",
            f"exchange schema --raise {one.stream}",
            known[one.stream, one.version].since,
        )
        for one in declared
        if not _is_same(one, known)
    }


def _changes(site: Site, one: _Declared, known: _Known) -> Sequence[str]:
    before = json.loads(known[one.stream, one.version].schema)
    return schemas.schema_changes(before, site.checkers[one.stream].schema)


# What the other side reads


def read_streams(site: Site) -> tuple[ReadStream, ...] | None:
    """Say which streams this side reads, and in which versions; None if those are too many to be told."""
    found = tuple(
        ReadStream(
            stream.name,
            stream.oldest_version,
            stream.schema_version,
            site.checkers[stream.name].digest,
        )
        for channel in _channels(site, Direction.IN)
        for stream in channel.streams
    )
    return found if len(found) <= MAX_READS else None


def unread_streams(site: Site, connection: Connection) -> dict[str, Problem]:
    """Say of streams that are sent from here, by their names, that the other side does not read them as they are.

    By its last sign of life: nothing if there was none, it says nothing of that, or no newer one would ever come. Reads
    in the caller's transaction.
    """
    reads = None if site.one_way else _reads(connection.scalar(peer_statements.SAID))
    if reads is None:
        return {}
    return {
        stream.name: problem
        for channel in _channels(site, Direction.OUT)
        for stream in channel.streams
        if (problem := _unread(site, channel, stream, reads)) is not None
    }


@lru_cache(maxsize=8)
def _reads(said: str | None) -> Mapping[str, ReadStream] | None:
    heard = peer_statements.heartbeat(said)
    if heard is None or heard.reads is None:
        return None
    return {one.stream: one for one in heard.reads}


def _unread(site: Site, channel: Channel, stream: Stream, reads: Mapping[str, ReadStream]) -> Problem | None:
    there = reads.get(stream.name)
    waits = "its changes wait here"
    if there is None:
        return Problem(
            f"stream {stream.name} of channel {channel.declared}: {site.peer} reads no such stream; {waits}",
            f"upgrade {site.peer}: they go out once it says that it does; or take the stream out of the channel here",
        )
    if stream.schema_version > there.version:
        return Problem(
            f"stream {stream.name} is sent in schema version {stream.schema_version}, and {site.peer} reads it up to"
            f" {there.version}; {waits}",
            f"upgrade {site.peer}: they go out once it says that it reads this version",
        )
    if stream.schema_version < there.oldest:
        return Problem(
            f"stream {stream.name} is sent in schema version {stream.schema_version}, and {site.peer} reads it from"
            f" {there.oldest} on; {waits}",
            f"declare the upgrade steps there, or upgrade this side to version {there.version}",
        )
    return None


def unlike_streams(site: Site, connection: Connection) -> list[Problem]:
    """Say which streams have one version on both sides and unlike models: records of one may be refused by the other.

    Reads in the caller's transaction.
    """
    reads = {} if site.one_way else _reads(connection.scalar(peer_statements.SAID)) or {}
    return [
        Problem(
            f"stream {stream.name} is of schema version {stream.schema_version} on both sides, with unlike columns or"
            f" types: what {site.peer} would not take is parked there",
            "compare `exchange schema` of both sides, and raise the version on the one that changed"
            f" (`exchange schema --raise {stream.name}`)",
            f"exchange schema {stream.name}",
        )
        for channel in _channels(site, Direction.OUT)
        for stream in channel.streams
        if (there := reads.get(stream.name)) is not None
        and there.version == stream.schema_version
        and there.digest != site.checkers[stream.name].digest
    ]
