"""Receipts: how far this side has come in what it receives, in the words in which it tells the sender.

They are cumulative: each says all of its channel anew, so that the newest one counts and none is missed.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import ledger, pauses
from exchange.database.engine import among
from exchange.database.tables import (
    BatchState,
    DeadLetterState,
    Direction,
    agreement,
    batch,
    dead_letter,
    gap,
    holds_place,
    is_missing,
    position,
)
from exchange.dead_letters.counts import groups_in
from exchange.format.control import (
    MAX_LETTERS,
    MAX_MORE_RANGES,
    MAX_RANGES,
    MAX_REFUSED,
    MAX_WORDS,
    Proof,
    Range,
    Receipt,
    RefusedBatch,
    Sample,
    ranges,
)
from exchange.format.errors import Reason, printable, rule_of
from exchange.format.moments import to_rfc3339
from exchange.format.names import CONTROL
from exchange.link import gaps, peer_statements
from exchange.site import Site
from exchange.tables.loader.decode import UNDECLARED

MOST_RECEIPTS = 4096
"""So many channels and epochs are told of, at most."""

MOST_GROUPS = 1000
"""Of so many causes of dead letters, those with the most letters, it is told that letters wait."""

MOST_KEY_CHARACTERS = 1000
"""A longer key is not told."""

_MENDABLE = frozenset({Reason.CORRUPT, Reason.INCOMPLETE, Reason.UNTRUSTED, Reason.FORK})
"""What is wrong with the files that came, not with the batch: the same bytes, sent again, may be good.

One that follows another history may be of an epoch's forgotten end, carried late: what its sender has at the place now
follows what is here, or its next sign of life shows that it was restored.
"""


class _ChannelEpoch(NamedTuple):
    """One epoch of a channel."""

    channel: str
    epoch: str


@dataclass(frozen=True)
class _ParkedLetters:
    """The letters of a channel that wait: how many, and the fingerprints that they have."""

    letters: int
    fingerprints: tuple[str, ...]


class _OfAll(NamedTuple):
    """What is read at once for all epochs of channels that come in."""

    positions: Mapping[_ChannelEpoch, Any]
    missing: Mapping[gaps.Flow, Mapping[int, datetime]]
    agreements: Mapping[_ChannelEpoch, Sequence[Mapping[str, Any]]]
    paused: Collection[str]
    """Channels, by their declared names, of which what came is not looked at now: what is missing may be here."""


def build_receipts(site: Site, connection: Connection, moment: datetime) -> list[Receipt]:
    """Write the receipts of all channels that come in. The transaction should see one moment of the database.

    Only reads.
    """
    parked = _parked(connection)
    sent = _sent(connection)
    lanes = _channel_epochs(site, connection, sent)[:MOST_RECEIPTS]
    stopped = {name for way, name in pauses.paused(connection, site.off) if way is Direction.IN}
    all_of = _OfAll(_positions(connection), gaps.missing_since(connection), _agreements(connection), stopped)
    return [
        _receipt(site, connection, lane, moment, all_of, parked.get(lane.channel), sent.get(lane, 0)) for lane in lanes
    ]


def _channel_epochs(site: Site, connection: Connection, sent: Collection[_ChannelEpoch]) -> list[_ChannelEpoch]:
    """Find the epochs of channels of which there is something to say: all that was not left for a newer one."""
    positions = connection.execute(_INCOMING).all()
    left = {_ChannelEpoch(row.channel, row.epoch) for row in positions if not row.current}
    known = {_ChannelEpoch(row.channel, row.epoch) for row in positions if row.current}
    known |= {_ChannelEpoch(*row) for row in connection.execute(_MISSED)}
    received = site.incoming_names()
    known |= {lane for lane in sent if lane.channel in received}
    known |= _arrived(connection, received - {lane.channel for lane in known | left})
    return sorted(lane for lane in known - left if lane.channel != CONTROL)


_INCOMING = sa.select(position.c.channel, position.c.epoch, position.c.current).where(
    position.c.direction == Direction.IN
)
_MISSED = sa.select(gap.c.channel, gap.c.epoch).where(is_missing(gap)).distinct()


def _arrived(connection: Connection, channels: Collection[str]) -> set[_ChannelEpoch]:
    """Find the epochs of channels of which nothing was applied yet and something is here."""
    some = (
        sa.select(batch.c.channel, batch.c.epoch)
        .where(
            batch.c.state.in_([BatchState.WAITING, BatchState.HELD, BatchState.QUARANTINED, BatchState.REJECTED]),
            batch.c.direction == Direction.IN,
            among(connection, batch.c.channel, channels),
            ledger.speaks_for_its_place,
        )
        .distinct()
    )
    return {_ChannelEpoch(*row) for row in connection.execute(some)} if channels else set()


def _sent(connection: Connection) -> dict[_ChannelEpoch, int]:
    """Say how much the other side says that it sealed, by its last sign of life."""
    said = peer_statements.heartbeat(connection.scalar(peer_statements.SAID))
    return {_ChannelEpoch(one.channel, one.epoch): one.through for one in said.sent} if said else {}


def _receipt(
    site: Site,
    connection: Connection,
    lane: _ChannelEpoch,
    moment: datetime,
    all_of: _OfAll,
    parked: _ParkedLetters | None,
    sealed: int,
) -> Receipt:
    at = all_of.positions.get(lane)
    channel = site.channel(lane.channel)
    through = at.sequence if at else 0
    lacking = all_of.missing.get(gaps.Flow(*lane), {})
    ordered = channel is None or channel.ordered
    refused = _refused(connection, lane, through, None if ordered else lacking.keys())
    told = {one.sequence for one in refused}
    looked = {} if channel is not None and channel.declared in all_of.paused else lacking
    asked = [one for one in gaps.due(connection, gaps.Flow(*lane), looked, site.limits, moment) if one not in told]
    missing = ranges(asked, MAX_RANGES + MAX_MORE_RANGES)
    # What is neither told of nor there must not be taken for applied: only an unordered channel leaves it behind. A
    # reader of an earlier version is told of the first ranges alone.
    last_told = missing[:MAX_RANGES][-1][1] if missing else 0
    told.update(one for one in asked if one <= last_told)
    untold = [one for one in lacking if one <= through and one not in told]
    through = min([through, *(one - 1 for one in untold)])
    furthest = _believed(connection, lane, None)
    here = furthest is None or furthest.sequence <= through
    newest = furthest if here else _believed(connection, lane, through)
    beyond = furthest is not None and furthest.sequence > max(through, sealed)
    shown = furthest if beyond else newest
    receipt = Receipt(
        channel=lane.channel,
        epoch=lane.epoch,
        through=through,
        digest=newest.digest if newest is not None and newest.sequence == through else None,
        missing=missing,
        refused=refused,
        given_up=_given_up(connection, lane, through, site.limits.look_ahead),
        agreement=tuple(all_of.agreements.get(lane, ())[:MAX_RANGES]),
        proof=Proof(shown.manifest, shown.signature) if shown is not None else None,
    )
    if at is not None:
        counts = {name: getattr(at, name) for name in ("applied", "duplicate", "stale", "parked")}
        receipt = replace(receipt, **counts)
    if parked is not None:
        letters = _samples(connection, channel, parked)
        receipt = replace(receipt, parked_now=parked.letters, letters=letters)
    return receipt


# Places


def _positions(connection: Connection) -> dict[_ChannelEpoch, Any]:
    return {_ChannelEpoch(row.channel, row.epoch): row for row in connection.execute(_POSITIONS)}


_POSITIONS = sa.select(position).where(position.c.direction == Direction.IN)


def _refused(
    connection: Connection, lane: _ChannelEpoch, through: int, among: Collection[int] | None
) -> tuple[RefusedBatch, ...]:
    """Give the batches in the way, behind ``through`` or ``among`` some, that only a person can let in."""
    behind = {**lane._asdict(), "through": through if among is None else -1}
    rows = connection.execute(_REFUSED_BEHIND, behind)
    latest = {row.sequence: row for row in rows if among is None or row.sequence in among}
    if not latest:
        return ()
    taken = set(connection.scalars(_COMING, lane._asdict()))
    found = [row for row in latest.values() if row.sequence not in taken and is_final_refusal(row.state, row.reason)]
    return tuple(
        RefusedBatch(row.sequence, _told_reason(row), printable(row.message or "", MAX_WORDS))
        for row in found[:MAX_REFUSED]
    )


def is_final_refusal(state: str, reason: str | None) -> bool:
    """Say whether the same bytes, sent again, would be refused again: what is wrong is not what carriage did."""
    return state in REFUSED and (state != BatchState.QUARANTINED or reason not in _MENDABLE)


REFUSED = (BatchState.QUARANTINED, BatchState.REJECTED, BatchState.HELD)

_HERE = (
    batch.c.direction == Direction.IN,
    batch.c.channel == sa.bindparam("channel"),
    batch.c.epoch == sa.bindparam("epoch"),
)
_REFUSED_BEHIND = (
    sa.select(batch.c.sequence, batch.c.state, batch.c.reason, batch.c.message)
    .where(*_HERE, batch.c.state.in_(REFUSED), ledger.speaks_for_its_place, batch.c.sequence > sa.bindparam("through"))
    .order_by(batch.c.sequence, batch.c.id)
)
_COMING = sa.select(batch.c.sequence).where(*_HERE, batch.c.state == BatchState.WAITING, holds_place(batch))


def _told_reason(row: Any) -> str:
    """Name why a batch was not taken: of one that a person gave up, that it was a person."""
    return Reason.BY_HAND if row.state == BatchState.REJECTED else row.reason or row.state


def _given_up(connection: Connection, lane: _ChannelEpoch, through: int, look_back: int) -> tuple[Range, ...]:
    """Give the places without which this side went on; those far back have been told long ago."""
    rows = connection.scalars(gaps.GIVEN_UP_BEYOND, {**lane._asdict(), "reached": through - look_back})
    return ranges(rows, look_back)[-MAX_RANGES:]


def _believed(connection: Connection, lane: _ChannelEpoch, through: int | None) -> Any:
    """Give the furthest batch that is here and that we believe, up to a sequence or at all."""
    if through is None:
        return connection.execute(_BELIEVED, lane._asdict()).one_or_none()
    return connection.execute(_BELIEVED_THROUGH, {**lane._asdict(), "through": through}).one_or_none()


_BELIEVED = (
    sa.select(batch.c.sequence, batch.c.digest, batch.c.manifest, batch.c.signature)
    .where(*_HERE, holds_place(batch))
    .order_by(batch.c.sequence.desc())
    .limit(1)
)
_BELIEVED_THROUGH = _BELIEVED.where(batch.c.sequence <= sa.bindparam("through"))


# Records


def _parked(connection: Connection) -> dict[str, _ParkedLetters]:
    """Count the letters that wait by channel, from the counts by cause: a million are counted at a glance."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(_parked_groups()):
        found[row.channel].append(row)
    return {
        channel: _ParkedLetters(sum(int(row.letters) for row in some), tuple(row.fingerprint for row in some))
        for channel, some in found.items()
    }


@cache
def _parked_groups() -> sa.Select[Any]:
    there = groups_in(DeadLetterState.PARKED)
    example = (
        sa.select(sa.func.min(dead_letter.c.id))
        .where(dead_letter.c.fingerprint == there.c.fingerprint, dead_letter.c.state == there.c.state)
        .correlate(there)
        .scalar_subquery()
    )
    groups = sa.select(there, example.label("example")).cte("groups_with_examples").prefix_with("MATERIALIZED")
    return (
        sa.select(groups.c.fingerprint, groups.c.letters, dead_letter.c.channel)
        .join_from(groups, dead_letter, dead_letter.c.id == groups.c.example)
        .where(dead_letter.c.direction == Direction.IN)
        .order_by(groups.c.letters.desc(), groups.c.fingerprint)
        .limit(MOST_GROUPS)
    )


def _samples(connection: Connection, channel: Channel | None, parked: _ParkedLetters) -> tuple[Sample, ...]:
    """Give the newest letters of each cause, as many of each as there is room for."""
    causes = parked.fingerprints[:MAX_LETTERS]
    each = math.ceil(MAX_LETTERS / len(causes))
    letters: list[Any] = []
    for fingerprint in causes:
        letters += connection.execute(_NEWEST_OF_CAUSE, {"fingerprint": fingerprint, "each": each})
    return tuple(_sample(channel, row) for row in letters[:MAX_LETTERS])


_NEWEST_OF_CAUSE = (
    sa.select(*(dead_letter.c[name] for name in ("stream", "key", "error", "pointer", "cause", "created_at", "id")))
    .where(dead_letter.c.fingerprint == sa.bindparam("fingerprint"), dead_letter.c.state == DeadLetterState.PARKED)
    .order_by(dead_letter.c.created_at.desc(), dead_letter.c.id.desc())
    .limit(sa.bindparam("each"))
)


def _sample(channel: Channel | None, row: Any) -> Sample:
    """Tell of a letter without any value of its record: its own sentence may quote one."""
    streams = {stream.name: stream for stream in channel.streams} if channel else {}
    stream = streams.get(row.stream)
    key = None
    if stream is not None and row.key is not None and len(row.key) <= MOST_KEY_CHARACTERS:
        names = set(stream.key_names)
        values = {name: value for name, value in json.loads(row.key).items() if name in names}
        # What is no key's value may be nested as deep as a line may be, and would be deeper here.
        if not any(isinstance(value, (dict, list)) for value in values.values()):
            key = stream.shown(values)
    said = printable(rule_of(row.error, row.pointer, row.cause), MAX_WORDS)
    return Sample(row.stream if stream or row.error == UNDECLARED else None, key, row.error, said)


def _agreements(connection: Connection) -> dict[_ChannelEpoch, list[Mapping[str, Any]]]:
    """Say how streams compared, by their channels' epochs."""
    rows: Iterable[Any] = connection.execute(_AGREEMENTS)
    found: dict[_ChannelEpoch, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[_ChannelEpoch(row.channel, row.epoch)].append(
            {
                "stream": row.stream,
                "sequence": row.sequence,
                "sent": row.sent,
                "received": row.received,
                "differing": peer_statements.differing(row.buckets),
                "since": row.since and to_rfc3339(row.since),
            }
        )
    return found


_AGREEMENTS = sa.select(agreement).where(agreement.c.direction == Direction.IN).order_by(agreement.c.stream)
