"""Which epoch of the other side comes after which: nothing is adopted that is not proven, or said by a person.

A carrier may keep the first batch of any epoch and bring it years later, and its signature is good. So a new epoch is
adopted only if its manifest says that it left the one that is present here, or if another channel has adopted it
so; else it is held for a decision while the present one goes on. No clock is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger, positions
from exchange.database.errors import transient_errors
from exchange.database.locks import epochs_lock, import_lock, join, locked
from exchange.database.tables import BatchState, Direction, batch, position
from exchange.format.as_dict import AsDict
from exchange.format.control import MAX_UNDECIDED, Proof
from exchange.format.errors import Problem, Reason, TransientError, Verdict, printable
from exchange.format.lineage import LeftEpoch, left_by
from exchange.format.manifest import BatchKind, Manifest
from exchange.format.names import CONTROL
from exchange.format.placement import Decision, Position
from exchange.link import gaps
from exchange.site import Site

MOST_LOOKED = 100
"""So many epochs of channels that wait for a decision are looked at: a peer may begin any number."""


@dataclass(frozen=True)
class Undecided(AsDict):
    """An epoch of the other side of which batches are held, as nothing proves that it comes after the present one."""

    epoch: str
    channels: tuple[str, ...]
    batches: int
    since: datetime
    present: tuple[str, ...]


@dataclass(frozen=True)
class Decided(AsDict):
    """What a person decided of an epoch and why, and on which channels it is the present one now."""

    epoch: str
    decision: str
    reason: str
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Received(AsDict):
    """An epoch of the other side on one channel: ``present``, ``left`` or ``undecided``, and how far it came there."""

    channel: str
    epoch: str
    state: str
    sequence: int
    since: datetime


# Judge


def undecided_epoch(connection: Connection, manifest: Manifest, at: Position | None) -> Decision | None:
    """Say what becomes of a batch whose epoch may not be adopted; None if it may, or is the one its channel is in.

    ``at`` is where the channel stands. Only reads, in the caller's transaction.
    """
    channel, epoch, sequence = manifest.channel, manifest.epoch, manifest.sequence
    if at is not None and at.epoch == epoch:
        return None
    sentence = _unproven(connection, channel, epoch, left_by(manifest))
    if sentence is None:
        return None
    if manifest.kind is BatchKind.CONTROL and _is_outdated(connection, epoch, sequence):
        return Decision(Verdict.DUPLICATE, None, "a newer control batch of its epoch is held; nothing changed")
    return Decision(Verdict.HELD, Reason.UNPROVEN_EPOCH, sentence)


def _unproven(connection: Connection, channel: str, epoch: str, left: Mapping[str, LeftEpoch]) -> str | None:
    for present in sorted(positions.still_before(connection, channel, epoch)):
        if present not in left:
            return (
                f"epoch {epoch} is new here, and its manifest does not say that it left {present}, the present one: it"
                f" may be old; {_NEXT_STEP.format(epoch=epoch, present=present)}"
            )
        known = _applied(connection, channel, left[present])
        if known is not None and known != left[present].digest:
            return (
                f"epoch {epoch} says that it left {present} behind batch {left[present].sequence} with manifest"
                f" {str(left[present].digest)[:12]}, but the one applied here is {known[:12]}: it is of another"
                f" history; {_NEXT_STEP.format(epoch=epoch, present=present)}"
            )
    return None


_NEXT_STEP = (
    "it is held until its sender shows more, or a person says so: `exchange epoch adopt {epoch} --reason TEXT` here, or"
    " `exchange epoch new --continues {present} --reason TEXT` over there"
)


def _applied(connection: Connection, channel: str, left: LeftEpoch) -> str | None:
    """Give the digest of what was applied where the sender says that it left an epoch, if both are known."""
    if left.digest is None:
        return None
    known = ledger.at_place(connection, Direction.IN, channel, left.epoch, left.sequence)
    return known.digest if known is not None and known.state is BatchState.APPLIED else None


def _is_outdated(connection: Connection, epoch: str, sequence: int) -> bool:
    newer = (batch.c.channel == CONTROL, batch.c.epoch == epoch, batch.c.sequence > sequence)
    return bool(connection.scalar(sa.select(sa.exists().where(*_HELD, *newer))))


# Tell


_HELD = (
    batch.c.direction == Direction.IN,
    batch.c.state == BatchState.HELD,
    batch.c.reason == Reason.UNPROVEN_EPOCH,
)


def list_undecided(connection: Connection) -> list[Undecided]:
    """Give the epochs that wait for a decision, the first come first. Only reads, in the caller's transaction."""
    found: dict[str, list[Any]] = {}
    columns = (batch.c.epoch, batch.c.channel, sa.func.count().label("batches"), sa.func.min(batch.c.created_at))
    grouped = sa.select(*columns, sa.func.min(batch.c.id)).where(*_HELD).group_by(batch.c.epoch, batch.c.channel)
    for row in connection.execute(grouped.order_by(sa.func.min(batch.c.id)).limit(MOST_LOOKED)):
        found.setdefault(row.epoch, []).append(row)
    gone = positions.left_epochs(connection, "")
    looks = [_look(connection, epoch, rows) for epoch, rows in found.items() if epoch not in gone]
    return [look for look in looks if look.present]  # else the next import takes them


def _look(connection: Connection, epoch: str, rows: Iterable[Any]) -> Undecided:
    rows = list(rows)
    present = {one for row in rows for one in positions.still_before(connection, row.channel, epoch)}
    channels, batches = sorted(row.channel for row in rows), sum(row.batches for row in rows)
    return Undecided(epoch, tuple(channels), batches, min(row[3] for row in rows), tuple(sorted(present)))


def list_received(connection: Connection) -> list[Received]:
    """Give the epochs of the other side that this one knows of, by channel, the present one first.

    Only reads, in the caller's transaction.
    """
    rows = connection.execute(
        sa.select(position)
        .where(position.c.direction == Direction.IN)
        .order_by(position.c.channel, position.c.current.desc(), position.c.epoch)
    )
    known = [
        Received(row.channel, row.epoch, "present" if row.current else "left", row.sequence, row.adopted_at)
        for row in rows
    ]
    for one in list_undecided(connection):
        known += [Received(name, one.epoch, "undecided", 0, one.since) for name in one.channels]
    return sorted(known, key=lambda one: one.channel)


def problems(peer: str, epochs: Iterable[Undecided]) -> list[Problem]:
    """Say of each epoch that waits for a decision what it is and what a person does about it."""
    return [
        Problem(
            f"epoch {one.epoch} of {peer} waits for a decision: {one.batches} batches of it are held"
            f" ({', '.join(one.channels)}), and nothing proves that it comes after {' and '.join(one.present)}, which"
            " goes on meanwhile",
            f"`exchange epoch adopt {one.epoch} --reason TEXT` takes it for the newer one, `exchange epoch refuse"
            f" {one.epoch} --reason TEXT` for an old one, and `exchange epoch new --continues {one.present[0]} --reason"
            f" TEXT` on {peer} proves it",
            "exchange epoch list --received",
            one.since,
        )
        for one in epochs
    ]


def proofs(connection: Connection) -> list[Proof]:
    """Give a manifest of each epoch that waits for a decision: its sender sees what it forgot, and says so.

    Only reads, in the caller's transaction.
    """
    return [Proof(row.manifest, row.signature) for row in connection.execute(_FIRST_OF_EACH)]


_FIRST_OF_EACH = (
    sa.select(batch.c.manifest, batch.c.signature)
    .where(batch.c.id.in_(sa.select(sa.func.min(batch.c.id)).where(*_HELD).group_by(batch.c.epoch)))
    .order_by(batch.c.id)
    .limit(MAX_UNDECIDED)
)


# Decide


def adopt_epoch(site: Site, epoch: str, reason: str) -> Decided:
    """Take an epoch that waits for a decision for the newest: on every channel the present one is left for it.

    The next import takes its batches. Raises Busy, and TransientError if no batch of it waits. Commits all of it in one
    transaction, under the lock of every incoming channel.
    """
    with transient_errors(), locked(site.engine, epochs_lock(site.peer)) as connection:
        names = _join_all(site, connection)
        _check(connection, epoch)
        adopted = []
        for name in names:
            at = positions.current_position(connection, Direction.IN, name)
            if at is None or at.epoch == epoch:
                continue
            positions.adopt(connection, name, epoch)
            gaps.pass_over(connection, gaps.Flow(name, epoch), 0)
            adopted.append(name)
    return Decided(epoch, "adopted", reason, tuple(adopted))


def refuse_epoch(site: Site, epoch: str, reason: str) -> Decided:
    """Take an epoch that waits for a decision for one that was left: its batches are stale from now on.

    Raises Busy, and TransientError if no batch of it waits. Commits in one transaction, under the lock of every
    incoming channel.
    """
    with transient_errors(), locked(site.engine, epochs_lock(site.peer)) as connection:
        _join_all(site, connection)
        _check(connection, epoch)
        positions.leave(connection, CONTROL, [epoch])
    return Decided(epoch, "refused", reason)


def _join_all(site: Site, connection: Connection) -> list[str]:
    """Work on every incoming channel at once; give their names in the files."""
    declared = {name for one in site.incoming() for name in (one.declared, one.name)}
    known = connection.scalars(sa.select(position.c.channel).where(position.c.direction == Direction.IN).distinct())
    names = sorted({*declared, *known, CONTROL})
    for name in names:
        join(connection, import_lock(name), alone=True)
    return names


def _check(connection: Connection, epoch: str) -> None:
    waits = sa.exists().where(*_HELD, batch.c.epoch == epoch)
    if epoch in positions.left_epochs(connection, "") or not connection.scalar(sa.select(waits)):
        msg = (
            f"no batch of epoch {printable(epoch)} waits for a decision; nothing was done; `exchange status` names the"
            " epochs that do"
        )
        raise TransientError(msg)
