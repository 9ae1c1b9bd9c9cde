"""The peer, by its own words: its last sign of life, and what became there of what this side sends.

Ages are by this side's clock alone. How far the two clocks are apart is known only within bounds, as nobody knows
how long a batch is on its way: it was written after the one of ours that its writer had heard, and before it came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import clock, ledger, network, positions, tables
from exchange.database.tables import Direction, peer, receipt
from exchange.format.as_dict import AsDict
from exchange.format.control import Heartbeat, Range, RefusedBatch, Sample, within
from exchange.format.errors import Problem, printable
from exchange.format.moments import in_words, lasting
from exchange.link import epoch_adoption, known_schemas, peer_statements
from exchange.site import Site

SILENT_PERIODS = 3
"""So many periods without a sign of life are silence."""

MAX_DIFFERENCE_SECONDS = 60.0
"""How far apart the two sides' clocks may be."""

FURTHEST = timedelta(days=10_000)
"""So far ahead a next sign of life may be announced, at most."""

MOST_SAID = 3
"""So many refused batches and parked records of a channel are put into sentences; of the others there is the number."""


def within_its_limits(site: Site, connection: Connection) -> Site:
    """Give the site with batches no larger than the peer takes, as far as it has said that.

    Only reads, in the caller's transaction.
    """
    said = peer_statements.heartbeat(connection.scalar(sa.select(peer.c.said)))
    if said is None or said.takes is None:
        return site
    mine, takes = site.limits, said.takes
    records, size = min(mine.batch_records, takes.records), min(mine.batch_bytes, takes.content_bytes)
    return replace(site, limits=replace(mine, batch_records=records, batch_bytes=size))


@dataclass(frozen=True)
class LastHeartbeat(AsDict):
    """The other side's last sign of life. ``sent_at`` is by its clock, the rest by ours.

    ``clock_ahead_seconds``: by how much its clock is at least ahead of ours, below 0 if it is behind, 0 if it can't be
    told from the time that batches take.
    """

    sent_at: datetime
    heard_at: datetime
    expected_by: datetime
    period_seconds: float
    clock_ahead_seconds: float


@dataclass(frozen=True)
class PeerChannel(AsDict):
    """What the peer says of a channel that this side sends, in its current epoch."""

    through: int
    heard_at: datetime
    missing: tuple[Range, ...]
    refused: tuple[RefusedBatch, ...]
    given_up: tuple[Range, ...]
    applied: int
    duplicate: int
    stale: int
    parked: int
    parked_now: int
    letters: tuple[Sample, ...]


@dataclass(frozen=True)
class PausedThere(AsDict):
    """A channel that the peer says it has paused: it sends nothing of it, or takes nothing in, which is ``receives``.

    ``since`` is by its clock, None if it does not say.
    """

    channel: str
    receives: bool
    since: datetime | None

    def told(self, name: str) -> Problem:
        """Say it for people."""
        when = f" since {in_words(self.since)}" if self.since else ""
        what = "takes nothing in of it" if self.receives else "sends nothing of it"
        return Problem(
            f"channel {self.channel} is paused by {name}{when}",
            f"{name} {what} until somebody over there lets it go on",
            "exchange channels",
            self.since,
        )


@dataclass(frozen=True)
class PeerState:
    """All that is known of it. ``life`` is None if it was never heard of; ``channels`` is what became there of ours."""

    name: str
    one_way: bool
    life: LastHeartbeat | None
    channels: Mapping[str, PeerChannel]
    halted: str | None
    behind: tuple[Problem, ...]
    """Where the other side says that it sent less than came here: it was restored; or that it does not know ours."""
    decisions: tuple[Problem, ...] = ()
    """Which of its epochs wait for a person's decision here."""
    unread: tuple[Problem, ...] = ()
    """Which streams of ours it does not read as they are sent: their changes wait here."""
    paused: tuple[PausedThere, ...] = ()
    """Which channels that are declared here it has paused, by its last sign of life."""

    def takes_nothing_in(self, channel: str) -> bool:
        """Say whether it has paused a channel that this side sends, by its declared name."""
        return any(one.receives and one.channel == channel for one in self.paused)

    def sends_nothing(self, channel: str) -> bool:
        """Say whether it has paused a channel that this side receives, by its declared name."""
        return any(not one.receives and one.channel == channel for one in self.paused)

    def silence(self, moment: datetime) -> Problem | None:
        """Say that it has been silent for too long, if so."""
        if self.life is not None and moment - self.life.heard_at < -clock.SKEW:
            return Problem(
                f"the last sign of life of {self.name} was heard {in_words(self.life.heard_at)}, ahead of this clock,"
                " which was ahead then or is behind now",
                "set the clock, and have NTP keep it",
            )
        if self.life is None or moment - self.life.heard_at <= self.life.period_seconds * timedelta(
            seconds=SILENT_PERIODS
        ):
            return None
        return Problem(
            f"nothing was heard of {self.name} for {lasting(moment - self.life.heard_at)}, and it gives a sign of life"
            f" every {lasting(timedelta(seconds=self.life.period_seconds))}",
            "see whether it runs, and the carrier",
            since=self.life.heard_at,
        )

    def clocks(self) -> Problem | None:
        """Say that the two clocks are too far apart, if so."""
        ahead = self.life.clock_ahead_seconds if self.life else 0.0
        if abs(ahead) <= MAX_DIFFERENCE_SECONDS:
            return None
        way = "ahead of" if ahead > 0 else "behind"
        return Problem(
            f"the clock of {self.name} is at least {lasting(timedelta(seconds=abs(ahead)))} {way} this one",
            "set both, and have NTP keep them",
        )

    def alarms(self, moment: datetime) -> Iterator[Problem]:
        """Say what needs a person, the worst first."""
        halted = None if self.halted is None else replace(Problem.stored(self.halted), command="exchange epoch list")
        yield from filter(None, (halted, *self.decisions, *self.behind, self.silence(moment), self.clocks()))

    def troubles(self) -> Iterator[str]:
        """Say what the peer could not take, and why."""
        for channel, there in self.channels.items():
            yield from _troubles(self.name, channel, there)


def read_peer_state(site: Site, connection: Connection) -> PeerState:
    """Read what the other side said last. Only reads, in the caller's transaction."""
    row = connection.execute(sa.select(peer)).one_or_none()
    halted = network.halted(connection)
    said = peer_statements.heartbeat(row.said) if row else None
    behind = (
        (*_behind(site, connection, row.sent_at, said), *_held_there(site, connection, said)) if row and said else ()
    )
    there = {} if site.one_way else _there(site, connection)
    life = _life(row, said, site.limits.period_seconds) if row else None
    decisions = tuple(epoch_adoption.problems(site.peer, epoch_adoption.list_undecided(connection)))
    unread = tuple(known_schemas.unread_streams(site, connection).values())
    return PeerState(
        site.peer, site.one_way, life, there, halted, behind, decisions, unread, tuple(_paused_there(site, said))
    )


def _paused_there(site: Site, said: Heartbeat | None) -> Iterator[PausedThere]:
    """Read which of the channels between the two sides the other one has paused."""
    sent = {one.name: one.source == site.network for one in site.channels}
    for one in said.paused if said else ():
        receives = one.direction == Direction.IN
        if sent.get(one.channel) is receives:
            yield PausedThere(one.channel, receives, one.since)


def _life(row: Any, said: Heartbeat | None, period_seconds: float) -> LastHeartbeat:
    """Describe the last sign of life; where it can't be read here, as if it had this side's own period."""
    period = said.period_seconds if said else period_seconds
    due = said.next_expected_by - row.sent_at if said else timedelta(seconds=period)
    return LastHeartbeat(
        sent_at=row.sent_at,
        heard_at=row.heard_at,
        expected_by=row.heard_at + min(max(due, timedelta()), FURTHEST),
        period_seconds=period,
        clock_ahead_seconds=_ahead(row, said),
    )


def _ahead(row: Any, said: Heartbeat | None) -> float:
    """Bound the difference of the clocks: the batch was written after the one it had heard, and before it came."""
    least: float = (row.sent_at - row.heard_at).total_seconds()
    if least > 0:
        return least
    proof = said.heard.proof if said and said.heard else None
    written = peer_statements.manifest(proof.manifest) if proof else None
    if written is None:
        return 0.0
    most: float = (row.sent_at - written.created_at).total_seconds()
    return min(most, 0.0)


def _behind(site: Site, connection: Connection, sent_at: datetime, said: Heartbeat) -> Iterator[Problem]:
    """Say of which channels the other side has sealed less than was applied here before it said so."""
    received = site.incoming_names()
    for sent in (one for one in said.sent if one.channel in received):
        at = positions.current_position(connection, Direction.IN, sent.channel)
        if at is None or at.epoch != sent.epoch or at.sequence <= sent.through:
            continue
        applied = ledger.at_place(connection, Direction.IN, sent.channel, at.epoch, at.sequence)
        # By its own clock both: what it sealed after it spoke is no wonder.
        claim = peer_statements.manifest(applied.manifest) if applied else None
        if claim and claim.created_at < sent_at:
            yield Problem(
                f"{site.peer} says that it has sealed {sent.through} batches of channel {sent.channel}, but"
                f" {at.sequence} were applied here: its database was restored from an earlier copy",
                "its operator runs `exchange epoch new --reason TEXT` there",
            )


def _held_there(site: Site, connection: Connection, said: Heartbeat) -> Iterator[Problem]:
    """Say that the other side holds what this one sends, as nothing proves there which epoch came before."""
    ours = network.known_epoch(connection, site.network)
    for proof in said.undecided:
        held = peer_statements.manifest(proof.manifest)
        if held is not None and held.epoch == ours:
            yield Problem(
                f"{site.peer} holds what this side sends for a decision: nothing proves there that epoch {ours} comes"
                " after the one that it is in",
                "read that out there (`exchange epoch list --received`) and run `exchange epoch new --continues EPOCH"
                " --reason TEXT` here",
            )


def _there(site: Site, connection: Connection) -> dict[str, PeerChannel]:
    """Read the last receipts of the epoch that is ours now, but of channels that are declared no more."""
    rows = connection.execute(
        sa.select(receipt.c.channel, receipt.c.said, receipt.c.heard_at)
        .join_from(receipt, tables.network, tables.network.c.epoch == receipt.c.epoch)
        .order_by(receipt.c.channel)
    )
    found = {}
    for row in rows:
        said = peer_statements.receipt(row.said) if site.channel(row.channel) is not None else None
        if said is None:
            continue
        same = {one.name: getattr(said, one.name) for one in fields(PeerChannel) if one.name != "heard_at"}
        found[row.channel] = PeerChannel(**same, heard_at=row.heard_at)
    return found


@dataclass(frozen=True)
class SaidOfBatch(AsDict):
    """What the peer said last of a batch that this side sent, and when that was heard.

    ``said`` is ``applied``, ``missing``, ``refused`` or ``given up``, and ``nothing`` as long as it does not reach that
    far; ``reason`` and ``message`` are of what it refused.
    """

    said: str
    heard_at: datetime | None
    reason: str | None = None
    message: str | None = None


def said_of(connection: Connection, channel: str, epoch: str, sequence: int) -> SaidOfBatch:
    """Give what the peer's last receipt of a channel says of one batch. Reads in the caller's transaction."""
    row = connection.execute(
        sa.select(receipt.c.said, receipt.c.heard_at).where(receipt.c.channel == channel, receipt.c.epoch == epoch)
    ).one_or_none()
    said = peer_statements.receipt(row.said) if row else None
    if row is None or said is None:
        return SaidOfBatch("nothing", None)
    for one in said.refused:
        if one.sequence == sequence:
            return SaidOfBatch("refused", row.heard_at, printable(one.reason, 40), printable(one.message, 500))
    if within(sequence, said.given_up):
        return SaidOfBatch("given up", row.heard_at)
    if within(sequence, said.missing):
        return SaidOfBatch("missing", row.heard_at)
    return SaidOfBatch("applied" if sequence <= said.through else "nothing", row.heard_at)


def _troubles(name: str, channel: str, there: PeerChannel) -> Iterator[str]:
    if there.missing:
        yield f"{channel}: {name} misses {_listed(there.missing)}; they are sent again by themselves"
    for one in there.refused[:MOST_SAID]:
        why = f"({printable(one.reason, 40)}): {printable(one.message, 500)}"
        yield f"{channel}: {name} refused batch {one.sequence} {why}"
    if len(there.refused) > MOST_SAID:
        yield f"{channel}: {name} refused {len(there.refused)} batches in all; `exchange batches --state rejected`"
    if there.given_up:
        yield f"{channel}: {name} goes on without {_listed(there.given_up)}"
    if there.parked_now:
        yield f"{channel}: {name} has parked {there.parked_now} records that it could not take, among them"
    for letter in there.letters[:MOST_SAID]:
        key = "a record" if letter.key is None else printable(json.dumps(dict(letter.key), ensure_ascii=False), 200)
        stream = printable(letter.stream or "of no known stream", 80)
        yield f"{channel}: {stream} {key}: {printable(letter.message, 500)}"


def _listed(ranges: tuple[Range, ...]) -> str:
    """Word ranges of sequences."""
    some = [str(first) if first == last else f"{first} to {last}" for first, last in ranges[:MOST_SAID]]
    more = " and more" if len(ranges) > MOST_SAID else ""
    return f"batch{'es' if len(ranges) > 1 or ranges[0][0] < ranges[0][1] else ''} {', '.join(some)}{more}"
