"""Gaps: incoming sequences that others came before, each a row until it came or somebody goes on without it.

What is missing is worked out from the ledger and from what the other side says it sent, at the end of every import;
no row is written twice. A place that was given up, by a person or because its sender lost it, moves the channel's
position over it; whatever comes there later changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import clock, ledger, pauses, positions
from exchange.database.dialects import dialect_of
from exchange.database.engine import among, in_parts, now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, import_lock, locked, reading
from exchange.database.tables import (
    BatchState,
    Direction,
    GapState,
    batch,
    gap,
    holds_place,
    is_missing,
    position,
)
from exchange.database.whoami import whoami
from exchange.format.as_dict import AsDict
from exchange.format.control import MOST_SENT, SNAPSHOT, Heartbeat, Range, Sent, ranges, shown
from exchange.format.errors import Reason, TransientError
from exchange.format.names import CONTROL, BatchName
from exchange.format.placement import Position
from exchange.limits import Limits
from exchange.link import asked_requests, peer_statements
from exchange.site import Site

GIVEN_UP = (GapState.ACCEPTED, GapState.LOST, GapState.SUPERSEDED)
"""States of a place without which its channel goes on."""


LATE = "it was late, and came by itself"
"""The cause of a gap at whose place the first publication came: its carrier may overtake itself."""

IN_ORDER = 20
"""So many batches of a flow must have come before it is believed that its files come in order."""

LOOK_BACK = 1_000
"""Of so many of its newest batches it is asked how late they came."""

MOST_SOON = 100
"""So many missing batches of a flow are asked for sooner than others: if its carrier only reorders, no more than these
are sent in vain before that is seen."""


class Flow(NamedTuple):
    """A channel, by its name in the files, in one epoch."""

    channel: str
    epoch: str


class GapChanges(NamedTuple):
    """What has become of a flow's sequences that its rows do not say yet."""

    missing: set[int]
    arrived: set[int]
    left: set[int]
    lost: set[int]
    over: bool = False
    """The channel is in this epoch, and what waits in it waits for what nobody sends any more."""


def record_gaps(site: Site, channel: str | None = None) -> None:
    """Write down what is missing and what has come since, of one channel or of all; of a busy or paused one nothing.

    May be repeated; where nothing changed nothing is written. Raises TransientError. Reads without a lock; what changes
    is worked out again under each channel's lock, and committed channel by channel.
    """
    with transient_errors(), reading(site.engine) as connection:
        stale = {flow.channel for flow, _ in _survey(site, connection)}
        stopped = pauses.paused(connection, site.off) if stale else {}
    for name in sorted(stale):
        declared = site.channel(name)
        if declared is None or not declared.called(channel) or _stands_still(site, stopped, name):
            continue
        with transient_errors(), suppress(Busy), locked(site.engine, import_lock(name)) as connection:
            for flow, news in _survey(site, connection):
                if flow.channel == name:
                    _write(connection, flow, news)


def _survey(site: Site, connection: Connection) -> Iterator[tuple[Flow, GapChanges]]:
    """Compare the rows with what lies here, what was applied and what the other side sent; give the differences.

    Nothing is missing of a channel of which nothing waits and the other side does not speak: a shard that is no more.
    """
    current, left = _positions(connection)
    heard = _heard(connection)
    sent = {one.channel: one for one in heard.sent} if heard else {}
    came, whole = _open_sequences(connection)
    rows = _missing(connection)
    for flow in sorted({Flow(one.channel, one.epoch) for one in sent.values()} | came.keys() | rows.keys()):
        channel = site.channel(flow.channel)
        if channel is None or channel.target != site.network:
            continue
        at, said = current.get(flow.channel), sent.get(flow.channel)
        unsaid = heard is not None and said is None and len(sent) < MOST_SENT and not came[flow]
        if unsaid or not _goes_on(flow, at, said, left):
            stuck = at is not None and at.epoch == flow.epoch and at.sequence + 1 not in came[flow]
            news = GapChanges(set(), set(), rows[flow], set(), stuck and channel.ordered and bool(came[flow]))
        else:
            reached = at.sequence if at is not None and at.epoch == flow.epoch else 0
            told = said.through if said is not None and said.epoch == flow.epoch else 0
            furthest = min(max([told, *came[flow]]), reached + site.limits.look_ahead)
            missing = set(range(reached + 1, furthest + 1)) - whole[flow] - rows[flow]
            if missing:
                missing -= _given_up_beyond(connection, flow, reached)
            arrived = rows[flow] & whole[flow]
            if channel.ordered:
                arrived |= {sequence for sequence in rows[flow] if sequence <= reached}
            lost: set[int] = set()
            if said is not None and said.epoch == flow.epoch:
                place = _FlowPlaces(flow, reached, came[flow], whole[flow], rows[flow])
                alone = lost_alone(site, said)
                lost = _lost(connection, place, alone, site.limits.look_ahead) if alone else lost
            news = GapChanges(missing - lost, arrived, set(), lost)
        if any(news):
            yield flow, news


def _goes_on(flow: Flow, at: Position | None, said: Sent | None, left: Collection[Flow]) -> bool:
    """Tell whether batches of this epoch are still taken: those of the one adopted, or of the one being sent.

    A channel of which the other side says nothing, such as a shard that is no more, goes on with its control batches;
    what is next is taken beyond that, as long as nothing waits for what is missing.
    """
    if said is None:
        return flow not in left and Flow(CONTROL, flow.epoch) not in left
    return flow not in left and flow.epoch in {said.epoch, at.epoch if at else None}


def _positions(connection: Connection) -> tuple[dict[str, Position], set[Flow]]:
    """Give where each incoming channel stands, and the epochs that were left."""
    current, left = {}, set()
    for row in connection.execute(_INCOMING_POSITIONS):
        if row.current:
            current[row.channel] = Position(row.epoch, row.sequence, row.digest)
        else:
            left.add(Flow(row.channel, row.epoch))
    return current, left


_INCOMING_POSITIONS = sa.select(
    position.c.channel, position.c.epoch, position.c.sequence, position.c.digest, position.c.current
).where(position.c.direction == Direction.IN)


def _heard(connection: Connection) -> Heartbeat | None:
    """Give the other side's last sign of life: how far it has come in what it sends, and more."""
    return peer_statements.heartbeat(connection.scalar(peer_statements.SAID))


def _open_sequences(connection: Connection) -> tuple[dict[Flow, set[int]], dict[Flow, set[int]]]:
    """Give which sequences wait or are held, and which of them are here with all that belongs to them."""
    came: dict[Flow, set[int]] = defaultdict(set)
    whole: dict[Flow, set[int]] = defaultdict(set)
    for channel, epoch, sequence, reason in connection.execute(_OPEN_SEQUENCES):
        came[Flow(channel, epoch)].add(sequence)
        if reason != Reason.INCOMPLETE:
            whole[Flow(channel, epoch)].add(sequence)
    return came, whole


_OPEN_SEQUENCES = sa.select(batch.c.channel, batch.c.epoch, batch.c.sequence, batch.c.reason).where(
    batch.c.direction == Direction.IN,
    batch.c.state.in_([BatchState.WAITING, BatchState.HELD]),
    batch.c.manifest.is_not(None),
    batch.c.reason.is_distinct_from(Reason.UNPROVEN_EPOCH),  # before its epoch is adopted it lacks nothing
)


def _missing(connection: Connection) -> dict[Flow, set[int]]:
    return defaultdict(set, {flow: set(sequences) for flow, sequences in missing_since(connection).items()})


def _given_up_beyond(connection: Connection, flow: Flow, reached: int) -> set[int]:
    return set(connection.scalars(GIVEN_UP_BEYOND, {**flow._asdict(), "reached": reached}))


GIVEN_UP_BEYOND = (
    sa.select(gap.c.sequence)
    .where(
        gap.c.channel == sa.bindparam("channel"),
        gap.c.epoch == sa.bindparam("epoch"),
        gap.c.sequence > sa.bindparam("reached"),
        gap.c.state.in_(GIVEN_UP),
    )
    .order_by(gap.c.sequence)
)
"""The places of a flow beyond one that this side goes on without, in order."""


# Write: under the channel's lock, or where two may write, so that both come to the same


def _write(connection: Connection, flow: Flow, news: GapChanges) -> None:
    _open(connection, flow, news.missing)
    _note_arrived(connection, flow, news.arrived)
    _close(connection, flow, news.left, GapState.LEFT, "its sender has left it")
    _go_on_without(connection, flow, news.lost)
    if news.over:
        positions.end(connection, *flow)


def _open(connection: Connection, flow: Flow, sequences: Collection[int]) -> None:
    """Make rows of what is missing, also of what had come and went away again; leave those there are."""
    key = [gap.c.channel, gap.c.epoch, gap.c.sequence]
    fresh = {"state": GapState.MISSING, "noticed_at": now(), "closed_at": None, "cause": None, "who": None}
    went_again = sa.or_(gap.c.state == GapState.ARRIVED, gap.c.state == GapState.LEFT)
    if sequences:
        connection.execute(
            dialect_of(connection).insert(gap).on_conflict_do_update(index_elements=key, set_=fresh, where=went_again),
            [{**flow._asdict(), "sequence": sequence, **fresh} for sequence in sorted(sequences)],
        )


def _close(
    connection: Connection, flow: Flow, sequences: Collection[int], state: GapState, cause: str | None = None
) -> None:
    if sequences:
        connection.execute(
            sa.update(gap)
            .where(*_of(flow), among(connection, gap.c.sequence, sequences), is_missing(gap))
            .values(state=state, closed_at=now(), cause=cause, who=whoami()[:255])
        )


def _note_arrived(connection: Connection, flow: Flow, sequences: Collection[int]) -> None:
    """Close gaps at whose places a batch is now, and note of which it was the first publication: late, not lost."""
    if not sequences:
        return
    here = (batch.c.direction == Direction.IN, batch.c.channel == flow.channel, batch.c.epoch == flow.epoch)
    rows = connection.execute(
        sa.select(batch.c.sequence, batch.c.stem).where(
            *here, among(connection, batch.c.sequence, sequences), holds_place(batch)
        )
    )
    late = {row.sequence for row in rows if BatchName.parse(row.stem).attempt == 1}
    _close(connection, flow, late, GapState.ARRIVED, LATE)
    _close(connection, flow, set(sequences) - late, GapState.ARRIVED)


def note_late(connection: Connection, place: tuple[str, str, int]) -> None:
    """Note that a first publication came after the one that was sent again because it was missing.

    Runs in the caller's transaction.
    """
    connection.execute(sa.update(gap).where(*_sent_again(place)).values(cause=LATE, closed_at=now()))


def was_sent_again(connection: Connection, place: tuple[str, str, int]) -> bool:
    """Say whether a batch was missing until it was sent again. Only reads, in the caller's transaction."""
    return bool(connection.scalar(sa.select(sa.exists().where(*_sent_again(place)))))


def _sent_again(place: tuple[str, str, int]) -> tuple[sa.ColumnElement[bool], ...]:
    here = (*_of(Flow(*place[:2])), gap.c.sequence == place[2])
    return (*here, gap.c.state == GapState.ARRIVED, gap.c.cause.is_(None))


# Asking for what is missing


def missing_since(connection: Connection) -> dict[Flow, dict[int, datetime]]:
    """Give what each flow misses, in order, and since when that is known. Only reads, in the caller's transaction."""
    rows: dict[Flow, dict[int, datetime]] = defaultdict(dict)
    for channel, epoch, sequence, noticed_at in connection.execute(_MISSING_SINCE):
        rows[Flow(channel, epoch)][sequence] = noticed_at
    return rows


# Every channel has a name: said only so that both databases go by the index, however few rows there are.
_MISSING_SINCE = (
    sa.select(gap.c.channel, gap.c.epoch, gap.c.sequence, gap.c.noticed_at)
    .where(is_missing(gap), gap.c.channel > "")
    .order_by(gap.c.channel, gap.c.epoch, gap.c.sequence)
)


def due(
    connection: Connection, flow: Flow, missing: Mapping[int, datetime], limits: Limits, moment: datetime
) -> list[int]:
    """Give those of a flow's missing sequences that are to be asked for at a moment.

    After ``gap_seconds``; the first ``MOST_SOON`` sooner, where the flow's files have come in order: once they had the
    time to settle, and twice the longest time that one of its newest batches was late. No clock makes it later. Only
    reads, in the caller's transaction.
    """
    if not missing:
        return []
    last = timedelta(seconds=limits.gap_seconds)
    soon = patience(connection, flow, limits)
    return [
        sequence
        for number, (sequence, noticed) in enumerate(missing.items())
        if clock.since(noticed, moment) >= (soon if number < MOST_SOON else last)
    ]


def patience(connection: Connection, flow: Flow, limits: Limits) -> timedelta:
    """Say for how long the first missing batches of a flow are waited for. Only reads, in the caller's transaction."""
    return min(_soon(connection, flow, limits), timedelta(seconds=limits.gap_seconds))


def _soon(connection: Connection, flow: Flow, limits: Limits) -> timedelta:
    current, _ = _positions(connection)
    at = current.get(flow.channel)
    if at is None or at.epoch != flow.epoch or at.sequence < IN_ORDER:
        return timedelta(seconds=limits.gap_seconds)
    late = connection.execute(
        sa.select(gap.c.noticed_at, gap.c.closed_at).where(
            *_of(flow), gap.c.sequence > at.sequence - LOOK_BACK, gap.c.state == GapState.ARRIVED, gap.c.cause == LATE
        )
    )
    longest = max((row.closed_at - row.noticed_at for row in late), default=timedelta())
    return timedelta(seconds=limits.settle_seconds) + 2 * max(longest, timedelta())


def became_due(site: Site, connection: Connection, since: datetime, moment: datetime) -> bool:
    """Say whether anything that is missing at ``moment`` is to be asked for, and was not at ``since``.

    Only reads, in the caller's transaction.
    """
    lacking = missing_since(connection)
    stopped = pauses.paused(connection, site.off) if lacking else {}
    return any(
        set(due(connection, flow, missing, site.limits, moment))
        - set(due(connection, flow, missing, site.limits, since))
        for flow, missing in lacking.items()
        if not _stands_still(site, stopped, flow.channel)
    )


def _stands_still(site: Site, stopped: Collection[pauses.Place], name: str) -> bool:
    """Say whether an incoming channel is paused: what is missing of it may lie here and not be looked at."""
    channel = site.channel(name)
    return channel is not None and (Direction.IN, channel.declared) in stopped


def _of(flow: Flow) -> tuple[sa.ColumnElement[bool], ...]:
    return (gap.c.channel == flow.channel, gap.c.epoch == flow.epoch)


def record_refused(connection: Connection, place: tuple[str, str, int], look_ahead: int) -> None:
    """Miss a batch whose place nobody holds any more: it was refused, given up, or its files went away.

    ``place`` is channel, epoch and sequence. May be repeated. Runs in the caller's transaction, under the channel's
    lock.
    """
    flow, sequence = Flow(*place[:2]), place[2]
    at = positions.current_position(connection, Direction.IN, flow.channel)
    reached = at.sequence if at is not None and at.epoch == flow.epoch else 0
    if not reached < sequence <= reached + look_ahead or flow.epoch in positions.left_epochs(connection, flow.channel):
        return
    if ledger.at_place(connection, Direction.IN, *place) is None:
        _open(connection, flow, [sequence])


def record_skipped(connection: Connection, place: tuple[str, str, int]) -> None:
    """Note what an unordered channel leaps over, or fills, with the batch that is just being applied at ``place``.

    Call it before the position moves: a hole behind the position is found nowhere else. Runs in the transaction that
    applies the batch, under the channel's lock.
    """
    flow, sequence = Flow(*place[:2]), place[2]
    at = positions.current_position(connection, Direction.IN, flow.channel)
    reached = at.sequence if at is not None and at.epoch == flow.epoch else 0
    _note_arrived(connection, flow, [sequence])
    _open(connection, flow, range(reached + 1, sequence))


# Going on without what is missing


def given_up(connection: Connection, place: tuple[str, str, int]) -> GapState | None:
    """Tell whether a place was given up, and how. Only reads, in the caller's transaction."""
    state = connection.scalar(_GIVEN_UP_AT, {"channel": place[0], "epoch": place[1], "sequence": place[2]})
    return GapState(state) if state else None


_GIVEN_UP_AT = sa.select(gap.c.state).where(
    gap.c.channel == sa.bindparam("channel"),
    gap.c.epoch == sa.bindparam("epoch"),
    gap.c.sequence == sa.bindparam("sequence"),
    gap.c.state.in_(GIVEN_UP),
)


def given_up_among(connection: Connection, flow: Flow, sequences: Collection[int]) -> set[int]:
    """Give those of some sequences that were given up. Only reads, in the caller's transaction."""
    some = among(connection, gap.c.sequence, sequences)
    return set(connection.scalars(sa.select(gap.c.sequence).where(*_of(flow), some, gap.c.state.in_(GIVEN_UP))))


def lost_alone(site: Site, said: Sent) -> list[Range]:
    """Give what the other side can't send again and no snapshot will come in the place of, by its own word.

    Only an ordered channel waits for one, and for none that would come further ahead than it looks.
    """
    channel = site.channel(said.channel)
    if said.contained_from is None or channel is None or not channel.ordered:
        return list(said.lost)
    end = max(said.contained_from, said.through + 1 - site.limits.look_ahead)
    return [(first, min(last, end - 1)) for first, last in said.lost if first < end]


def lost_places(connection: Connection) -> dict[Flow, tuple[Range, ...]]:
    """Give what the other side says that it can't send again. Only reads, in the caller's transaction."""
    heard = _heard(connection)
    return {Flow(one.channel, one.epoch): one.lost for one in (heard.sent if heard else ()) if one.lost}


def close_lost(
    connection: Connection, channel: str, epoch: str, ranges: Iterable[Range], *, look_ahead: int = Limits.look_ahead
) -> None:
    """Go on without what the other side says it can't send again, but for what is here. May be repeated.

    That it was ever sealed only a batch behind it proves that is here: of anything else, of an epoch that was left, and
    further than ``look_ahead`` beyond the position, nothing is believed. What proves it later ``record_gaps`` finds.
    Runs in the importer's transaction, under the lock of ``control`` alone: who writes beside it comes to the same.
    """
    flow = Flow(channel, epoch)
    current, left = _positions(connection)
    if flow in left:
        return
    at = current.get(channel)
    reached = at.sequence if at is not None and at.epoch == epoch else 0
    came, whole = _open_sequences(connection)
    place = _FlowPlaces(flow, reached, came[flow], whole[flow], _missing(connection)[flow])
    _go_on_without(connection, flow, _lost(connection, place, ranges, look_ahead))


class _FlowPlaces(NamedTuple):
    """How far a flow has come, what is here of it behind that, whole or not, and what is missing."""

    flow: Flow
    reached: int
    came: set[int]
    whole: set[int]
    missing: set[int]


def _lost(connection: Connection, at: _FlowPlaces, ranges: Iterable[Range], look_ahead: int) -> set[int]:
    """Give the places that are believed to be lost, and are not given up yet."""
    proven = max([at.reached, *at.came])
    furthest = min(proven, at.reached + look_ahead)
    lost: set[int] = set()
    for first, last in ranges:
        lost |= set(range(max(first, at.reached + 1), min(last, furthest) + 1))
        lost |= {sequence for sequence in at.missing if first <= sequence <= min(last, proven)}
    return lost - at.whole - _given_up_beyond(connection, at.flow, at.reached) if lost else lost


def _go_on_without(connection: Connection, flow: Flow, lost: set[int]) -> None:
    if lost:
        _open(connection, flow, lost)
        _close(connection, flow, lost, GapState.LOST, "its sender can't send it again")
        _pass_over(connection, flow)


def supersede(connection: Connection, flow: Flow, sequences: Sequence[int], cause: str) -> None:
    """Go on without some places, as a snapshot that is being applied contains what they held.

    Runs in the transaction that applies it, under the channel's lock; who calls it moves the position.
    """
    for some in in_parts(sequences):
        _open(connection, flow, some)
        _close(connection, flow, some, GapState.SUPERSEDED, cause)


def missing_among(connection: Connection, flow: Flow, first: int, last: int) -> list[int]:
    """Give the sequences from ``first`` through ``last`` that are missing. Only reads, in the caller's transaction."""
    return sorted(one for one in _missing(connection)[flow] if first <= one <= last)


def accept_missing(connection: Connection, flow: Flow, first: int, last: int, reason: str) -> list[int]:
    """Go on without what is missing from ``first`` through ``last``; give those sequences.

    Runs in the caller's transaction, under the channel's lock.
    """
    missing = missing_among(connection, flow, first, last)
    _close(connection, flow, missing, GapState.ACCEPTED, reason)
    _pass_over(connection, flow)
    return missing


def _pass_over(connection: Connection, flow: Flow) -> None:
    at = positions.current_position(connection, Direction.IN, flow.channel)
    if at is not None and at.epoch == flow.epoch:
        pass_over(connection, flow, at.sequence)
    elif _may_begin(connection, flow):
        pass_over(connection, flow, 0)


def _may_begin(connection: Connection, flow: Flow) -> bool:
    """Tell whether an epoch may be adopted: something applied says so, or the manifest of what waits for its turn."""
    waits = (batch.c.direction == Direction.IN, batch.c.channel == flow.channel, batch.c.epoch == flow.epoch)
    proven = sa.exists().where(*waits, batch.c.state == BatchState.WAITING, batch.c.manifest.is_not(None))
    return not positions.still_before(connection, *flow) or bool(connection.scalar(sa.select(proven)))


def pass_over(connection: Connection, flow: Flow, reached: int) -> None:
    """Move the position from ``reached`` over places that were given up and come next.

    Runs in the caller's transaction, under the channel's lock.
    """
    over, given = reached, _given_up_beyond(connection, flow, reached)
    while over + 1 in given:
        over += 1
    if over > reached:
        positions.advance(connection, Direction.IN, *flow, over, None)


@dataclass(frozen=True)
class AcceptedGap(AsDict):
    """The sequences that a channel goes on without, and the name of the request for a snapshot, if one was made."""

    channel: str
    epoch: str
    sequences: tuple[int, ...]
    request: str | None
    message: str

    @property
    def shown(self) -> str:
        """The sequences as people write them."""
        return shown(ranges(self.sequences))


def accept_by_hand(
    site: Site, channel: str, first: int, last: int, reason: str, *, snapshot: bool = True
) -> AcceptedGap:
    """Go on without what a channel misses from ``first`` through ``last``, and ask for a snapshot of it if told to.

    ``channel`` is as its files call it. On a one-way link nothing can be asked. Raises Busy, and TransientError if
    nothing is missing there. Commits in one transaction, under the channel's lock.
    """
    with transient_errors(), locked(site.engine, import_lock(channel)) as connection:
        epoch = _epoch(connection, channel, first, last)
        if epoch is None:
            raise TransientError(_nothing_missing(connection, channel, first, last))
        accepted = accept_missing(connection, Flow(channel, epoch), first, last, reason)
        request = None
        if snapshot:
            why = f"batch {shown(ranges(accepted))} was given up: {reason}"
            request = asked_requests.ask_peer(
                site, connection, channel=channel, want=SNAPSHOT, prune=True, reason=why, who=whoami()[:255]
            )
    return AcceptedGap(channel, epoch, tuple(accepted), request, _said(site, channel, request, snapshot=snapshot))


def _epoch(connection: Connection, channel: str, first: int, last: int) -> str | None:
    """Find the epoch in which something is missing there: the one adopted before one that is still to come.

    Of several to come it is the one that none of the others comes before, as far as anything applied shows.
    """
    found = connection.scalars(
        sa.select(gap.c.epoch)
        .where(is_missing(gap), gap.c.channel == channel, gap.c.sequence.between(first, last))
        .group_by(gap.c.epoch)
        .order_by(gap.c.epoch)
    ).all()
    at = positions.current_position(connection, Direction.IN, channel)
    if at is not None and at.epoch in found:
        return at.epoch
    return min(found, key=lambda one: bool(positions.still_before(connection, channel, one)), default=None)


def _nothing_missing(connection: Connection, channel: str, first: int, last: int) -> str:
    what = shown([(first, last)])
    at = positions.current_position(connection, Direction.IN, channel)
    known = at and ledger.at_place(connection, Direction.IN, channel, at.epoch, first)
    found = f"batch {known.stem} is {known.state}; " if known else ""
    return f"channel {channel} does not miss {what}; {found}nothing was done; `exchange gaps` lists what it misses"


def _said(site: Site, channel: str, request: str | None, *, snapshot: bool) -> str:
    if request is not None:
        return "its sender is told so and asked for a snapshot with the next receipt"
    if not site.one_way:
        return "its sender is told so with the next receipt; no snapshot is asked for"
    remedy = f": have `exchange resync {channel} --prune-missing` run on {site.peer}" if snapshot else ""
    return f"nothing goes back on a one-way link{remedy}"
