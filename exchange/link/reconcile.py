"""Reconcile: have both sides compare their rows, and say how they agreed the last time.

What this side sends it sees itself: the next export puts a checkpoint into the channel. For what it reads it asks the
other side for one, which its next control batch tells. The receiver compares, and tells the sender in its receipts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database import pauses
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.pauses import Pause
from exchange.database.tables import Direction, agreement
from exchange.database.whoami import whoami
from exchange.format.as_dict import AsDict
from exchange.format.buckets import key_text
from exchange.format.control import CHECKPOINT
from exchange.format.errors import RecordError
from exchange.link import asked_requests, differences, peer_statements
from exchange.link.send_requests import add_request
from exchange.link.vain_repairs import VainRepairs
from exchange.site import Site
from exchange.tables.bucket_digests import streams_of

NOT_YET, EQUAL, DIFFERENT, REPAIRED = "not compared yet", "equal", "different", "repaired"
"""How a stream stands. It is repaired when what differed came anew, and nobody has compared since."""


@dataclass(frozen=True)
class Asked(AsDict):
    """A channel that is to be compared, and what happens next."""

    channel: str
    direction: Direction
    message: str


@dataclass(frozen=True)
class StreamAgreement(AsDict):
    """How a stream agreed at its last checkpoint, in rows: None where nobody knows.

    ``rows`` are those of its source. ``keys`` are some of the rows that differed when they were last looked at, which
    was at ``looked_at``; before that only ``buckets`` that differ are known. ``unexplained`` counts those of them that
    no dead letter explains, ``letter`` of a row in ``left`` whether one waits for it.
    """

    channel: str
    direction: Direction
    stream: str
    state: str
    rows: int | None = None
    equal: int | None = None
    missing: int | None = None
    extra: int | None = None
    different: int | None = None
    buckets: int | None = None
    unexplained: int | None = None
    since: datetime | None = None
    compared_at: datetime | None = None
    looked_at: datetime | None = None
    keys: tuple[dict[str, Any], ...] = ()
    left: tuple[dict[str, Any], ...] = ()


def request_checkpoints(
    site: Site, channel: str | None = None, *, incoming: bool = True, reason: str | None = None
) -> list[Asked]:
    """Have channels compared: one, or all; with ``incoming`` also those that the other side has to begin with.

    Of what comes in, what repairs did not help is repaired anew. Who asks again before that happened asks once; a
    channel of which as much is asked for as may be is left as it is. Commits all of it in one transaction of its own.
    Raises Busy and TransientError.
    """
    why = reason or "to see that both sides agree"
    with transient_errors(), writing(site.engine) as connection:
        still = pauses.paused(connection, site.off)
        asked = [_send(connection, one, why) for one in site.outgoing() if one.called(channel)]
        if incoming:
            asked += [_request(site, connection, one, why) for one in site.incoming() if one.called(channel)]
    ways = {one.name: one.declared for one in (*site.outgoing(), *site.incoming())}
    return [_waiting(one, still.get((one.direction, ways[one.channel]))) for one in asked]


def _waiting(asked: Asked, pause: Pause | None) -> Asked:
    """Say of a channel that is paused that its comparison waits for it."""
    return asked if pause is None else replace(asked, message=f"{asked.message}, once it goes on: {pause.fact}")


def _send(connection: Connection, channel: Channel, reason: str) -> Asked:
    try:
        add_request(connection, channel=channel.name, want=CHECKPOINT, reason=reason)
    except RecordError as too_much:
        return Asked(channel.name, Direction.OUT, too_much.sentence)
    return Asked(channel.name, Direction.OUT, "the next export puts a checkpoint into it")


def _request(site: Site, connection: Connection, channel: Channel, reason: str) -> Asked:
    if site.one_way:
        sentence = f"nothing goes back to {site.peer}, who sends it: `exchange reconcile` over there begins it"
        return Asked(channel.name, Direction.IN, sentence)
    mine = sa.and_(agreement.c.direction == Direction.IN, agreement.c.channel == channel.name)
    connection.execute(sa.update(agreement).where(mine).values(in_vain=None, repairs=0))
    asked_requests.ask_peer(site, connection, channel=channel.name, want=CHECKPOINT, reason=reason, who=whoami())
    return Asked(channel.name, Direction.IN, f"{site.peer}, who sends it, is asked with the next control batch")


def report_agreement(site: Site, channel: str | None = None) -> list[StreamAgreement]:
    """Say how every stream of one channel, or of all, agreed the last time. Raises TransientError.

    Only reads, in a transaction of its own.
    """
    with transient_errors(), reading(site.engine) as connection:
        known = {(row.direction, row.channel, row.stream): row for row in connection.execute(sa.select(agreement))}
        found = [
            _standing(direction, one.name, stream, known.get((direction, one.name, stream.name)))
            for direction, one, stream in _streams(site)
            if one.called(channel)
        ]
        return [_explained(site, connection, one, known) if one.buckets else one for one in found]


@dataclass(frozen=True)
class LeftRows(AsDict):
    """How many rows of a stream that is received were repaired in vain and are left as they are."""

    channel: str
    stream: str
    rows: int

    def __str__(self) -> str:
        """Say it, and what names them."""
        return (
            f"{self.channel}: {self.rows} rows of stream {self.stream} were repaired in vain and are left;"
            f" `exchange reconcile {self.channel} --report` says what differs"
        )


def left_rows(connection: Connection) -> list[LeftRows]:
    """Give the streams of which rows were repaired in vain and are left. Only reads, in the caller's transaction."""
    mine = (agreement.c.direction == Direction.IN, agreement.c.in_vain.is_not(None))
    columns = (agreement.c.channel, agreement.c.stream, agreement.c.in_vain)
    found = connection.execute(sa.select(*columns).where(*mine).order_by(agreement.c.channel, agreement.c.stream))
    counted = [LeftRows(row.channel, row.stream, len(VainRepairs(row.in_vain).left())) for row in found]
    return [one for one in counted if one.rows]


def _explained(
    site: Site, connection: Connection, one: StreamAgreement, known: Mapping[tuple[str, str, str], Any]
) -> StreamAgreement:
    """Say how many of the buckets that differ no dead letter explains."""
    if one.direction is Direction.IN:
        row = known[one.direction, one.channel, one.stream]
        texts = [key_text(repaired.key).decode() for repaired in VainRepairs(row.in_vain).left()]
        letters = differences.with_letters(connection, one.stream, texts)
        left = tuple({**row, "letter": text in letters} for row, text in zip(one.left, texts, strict=True))
        unexplained = differences.unexplained_here(connection, one.stream, peer_statements.buckets(row.buckets))
        return replace(one, left=left, unexplained=unexplained)
    channel = site.channel(one.channel)
    streams = [stream.name for stream in channel.streams] if channel is not None else []
    unexplained = min(differences.unexplained_there(connection, one.channel, streams), one.buckets or 0)
    return replace(one, unexplained=unexplained)


def _streams(site: Site) -> Iterator[tuple[Direction, Channel, Stream]]:
    for direction, channels in ((Direction.OUT, site.outgoing()), (Direction.IN, site.incoming())):
        for one in channels:
            for stream in streams_of(one):
                yield direction, one, stream


def _standing(direction: Direction, channel: str, declared: Stream, row: Any) -> StreamAgreement:
    stream = declared.name
    if row is None:
        return StreamAgreement(channel, direction, stream, NOT_YET)
    buckets, found = peer_statements.differing(row.buckets), peer_statements.differing_rows(row.found)
    looked = {
        "rows": row.sent,
        "buckets": buckets,
        "since": row.since,
        "compared_at": row.compared_at,
        "looked_at": found.at if found else None,
        "keys": found.keys if found else (),
        "left": tuple(one.shown(declared) for one in VainRepairs(row.in_vain).left()),
    }
    if not buckets:
        counts = {"equal": row.received, "missing": 0, "extra": 0, "different": 0}
        return StreamAgreement(channel, direction, stream, EQUAL, **counts, **looked)
    if found is None:
        return StreamAgreement(channel, direction, stream, DIFFERENT, **looked)
    counts = {"missing": found.missing, "extra": found.extra, "different": found.different}
    counts["equal"] = row.received - found.extra - found.different
    state = REPAIRED if found.sequence > row.sequence else DIFFERENT
    return StreamAgreement(channel, direction, stream, state, **counts, **looked)
