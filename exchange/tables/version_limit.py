"""Versions ahead: how far beyond our clock those of a channel may be, and what frees a row that one has frozen.

An honest version is no greater than the time in microseconds when its sender's counter drew it. One that is far ahead
of any clock would win over every later change of its row, for ever: so it is not taken until a person says that the
sender's clock really is so far ahead. That word holds from then on, and moves with the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database.dialects import upsert
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import import_lock, join, locked
from exchange.database.tables import VERSION_COLUMN, ahead, event, network, tombstone
from exchange.database.whoami import whoami
from exchange.format import strict_json as values
from exchange.format.as_dict import AsDict
from exchange.format.errors import RecordError, TransientError, described, printable
from exchange.site import Site
from exchange.tables.loader.staging import canonical_key, target_of

ERROR = "version"
"""The error class of a record whose version is too far ahead."""

_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1) // _MICROSECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class AllowedAhead(AsDict):
    """How far ahead a person lets an incoming channel's versions be: the version believed, when, by whom and why."""

    channel: str
    version: int
    at: datetime
    who: str
    reason: str


@dataclass(frozen=True)
class Freed(AsDict):
    """A key whose row takes the next record again, whatever its version: what it had, and whether it was a delete's."""

    stream: str
    key: str
    version: int | None
    deleted: bool


# How far


def most(site: Site, connection: Connection, channel: Channel) -> int:
    """Give the greatest version that is taken of an incoming channel now. Reads in the caller's transaction."""
    # A clock that fell back is behind what it once said itself.
    known = connection.execute(_KNOWN, {"channel": channel.declared}).one()
    reached = _microseconds(max(now(), *filter(None, (known.said, known.created_at))))
    if known.version is not None:
        reached = max(reached, known.version + max(reached - _microseconds(known.at), 0))
    return reached + round(site.limits.ahead_days * _DAY)


_OF_CHANNEL = ahead.c.channel == sa.bindparam("channel")
_KNOWN = sa.select(
    sa.select(event.c.at).order_by(event.c.id.desc()).limit(1).scalar_subquery().label("said"),
    sa.select(network.c.created_at).limit(1).scalar_subquery().label("created_at"),
    sa.select(ahead.c.version).where(_OF_CHANNEL).scalar_subquery().label("version"),
    sa.select(ahead.c.at).where(_OF_CHANNEL).scalar_subquery().label("at"),
)


def fault(version: int, most: int, peer: str) -> RecordError:
    """Say that a version is too far ahead."""
    day = _day(version)
    sentence = (
        f"its version {version}{day} is further ahead than EXCHANGE_AHEAD_DAYS lets it be ({most} at most):"
        f" it would win over every later change of its row; see the clocks of both sides, and ask {peer}"
    )
    return RecordError(ERROR, "/version", sentence)


def _day(version: int) -> str:
    """Say of which day a version is, in brackets; nothing if it is of none."""
    try:
        return f" ({_EPOCH + timedelta(microseconds=version):%Y-%m-%d})"
    except OverflowError:
        return ""


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


# A person's word


def allow_ahead(connection: Connection, channel: Channel, version: int, reason: str) -> None:
    """Believe a version of an incoming channel, and what is as far ahead from now on. May be repeated.

    In the caller's transaction, under the channel's lock.
    """
    values = {"version": version, "at": now(), "who": whoami()[:255], "reason": printable(reason, 1000)}
    upsert(connection, ahead, {"channel": channel.declared}, values)


def allow_ahead_by_hand(site: Site, name: str, version: int, reason: str) -> AllowedAhead:
    """Believe a version at a person's word. ``name`` is an incoming channel's, as declared.

    Raises Busy, TransientError. Commits a transaction of its own, under the channel's import lock.
    """
    channel = site.channel(name)
    assert channel is not None  # the doors check it
    with transient_errors(), locked(site.engine, import_lock(channel.name)) as connection:
        allow_ahead(connection, channel, version, reason)
        return next(one for one in listed(connection) if one.channel == channel.declared)


def listed(connection: Connection) -> list[AllowedAhead]:
    """Give what people let in, by channel. Reads in the caller's transaction."""
    return [AllowedAhead(*row) for row in connection.execute(sa.select(ahead).order_by(ahead.c.channel))]


def free(site: Site, stream_name: str, key: str) -> Freed:
    """Let a row, or a key that was deleted, take the next record again, whatever its version. May be repeated.

    ``key`` is the record's key as JSON. Raises Busy, and TransientError if there is no such key. Commits a transaction
    of its own, under the channel's import lock and alone among its shards.
    """
    channel, stream = _receiving(site, stream_name)
    body = _key(site, stream, key)
    text = canonical_key(stream, body)
    with transient_errors(), locked(site.engine, import_lock(channel.name)) as connection:
        join(connection, import_lock(channel.name), alone=True)
        target = target_of(stream)
        parts = zip(stream.key, stream.key_decoder(connection.dialect)([body]), strict=True)
        mine = [
            target.c[column.name] == sa.bindparam(None, next(iter(part)), type_=sa.types.NullType())
            for column, part in parts
        ]
        row = connection.execute(sa.select(target.c[VERSION_COLUMN]).where(*mine)).one_or_none()
        its_tombstone = (tombstone.c.stream == stream.name, tombstone.c.key == text)
        version = connection.scalar(sa.select(tombstone.c.version).where(*its_tombstone))
        if row is None and version is None:
            msg = f"stream {stream.name} has neither a row nor a delete of key {printable(text)}; nothing was done"
            raise TransientError(msg)
        connection.execute(sa.update(target).where(*mine).values({VERSION_COLUMN: None}))
        connection.execute(sa.delete(tombstone).where(*its_tombstone))
    return Freed(stream.name, text, version if row is None else row[0], deleted=row is None)


def _receiving(site: Site, name: str) -> tuple[Channel, Stream]:
    for channel in site.channels:
        for stream in channel.streams:
            if channel.target == site.network and stream.name == name:
                return channel, stream
    known = ", ".join(
        one.name for channel in site.channels if channel.target == site.network for one in channel.streams
    )
    raise TransientError(f"this side receives no stream {printable(name)}, but {known or 'none'}; nothing was done")


def _key(site: Site, stream: Stream, text: str) -> dict[str, Any]:
    try:
        body = values.loads(text.encode())
        if isinstance(body, dict):
            site.checkers[stream.name].check_key(body)
            return body
        said = f"found {described(body)}"
    except RecordError as error:
        said = printable(error.sentence, 200)
    columns = ", ".join(f'"{name}": ...' for name in stream.key_names)
    raise TransientError(f"the key: expected {{{columns}}} as JSON, but {said}; nothing was done")
