"""How far each channel has come in which epoch, and which epochs it has left."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database.dialects import dialect_of, insert_new
from exchange.database.engine import among, now
from exchange.database.errors import transient_errors
from exchange.database.failed_runs import failed_among, forget_failures
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import Direction, ahead, position, success
from exchange.format.control import MOST_VERSION
from exchange.format.placement import Position


def current_position(connection: Connection, direction: Direction, channel: str) -> Position | None:
    """Give the position in the channel's current epoch; None before the first batch.

    Reads in the caller's transaction.
    """
    row = connection.execute(_CURRENT, {"direction": direction, "channel": channel}).one_or_none()
    return Position(row.epoch, row.sequence, row.digest) if row else None


_CURRENT = sa.select(position.c.epoch, position.c.sequence, position.c.digest).where(
    position.c.direction == sa.bindparam("direction"),
    position.c.channel == sa.bindparam("channel"),
    position.c.current == 1,
)


def note_newest_version(connection: Connection, channel: str, epoch: str, version: int) -> None:
    """Note that a row of an incoming channel came with a version, if it is the greatest. In the caller's transaction.

    Call it when the position has moved: before that a new epoch has none.
    """
    here = {"of_direction": Direction.IN, "of_channel": channel, "of_epoch": epoch}
    connection.execute(_NOTE_NEWEST, {**here, "newest": version})


def newest_version(connection: Connection) -> int | None:
    """Give the greatest version of any row that came; None if none did. Reads in the caller's transaction."""
    known = connection.execute(_NEWEST).one()
    return max((one for one in known if one and one <= MOST_VERSION), default=None)


_NEWEST = sa.select(
    sa.select(sa.func.max(position.c.newest_version)).scalar_subquery(),
    sa.select(sa.func.max(ahead.c.version)).scalar_subquery(),
)


def left_epochs(connection: Connection, channel: str) -> frozenset[str]:
    """Give the epochs of the other side that were left, but the one that an incoming channel is still in.

    An epoch is the life of a database: what one channel has left no other one begins. Reads in the caller's
    transaction.
    """
    return frozenset(connection.scalars(_LEFT, {"channel": channel}))


_LEFT = (
    sa.select(position.c.epoch)
    .where(
        position.c.direction == Direction.IN,
        position.c.current == 0,
        position.c.epoch.not_in(
            sa.select(position.c.epoch).where(
                position.c.direction == Direction.IN,
                position.c.channel == sa.bindparam("channel"),
                position.c.current == 1,
            )
        ),
    )
    .distinct()
)


def leave(connection: Connection, channel: str, epochs: Collection[str], adopted: str | None = None) -> None:
    """Write down which epochs of an incoming channel came before an ``adopted`` one, heard of or not.

    Beyond ``MOST_LEFT`` none is written down: no honest side has so many lives. Runs in the caller's transaction, under
    the channel's import lock.
    """
    if not epochs:
        return
    known = set(connection.scalars(_EPOCHS, {"channel": channel}))
    row = {"direction": Direction.IN, "channel": channel, "sequence": 0, "current": 0, "adopted_at": now()}
    for one in sorted(set(epochs) - known - {adopted})[: max(MOST_LEFT - len(known), 0)]:
        connection.execute(sa.insert(position).values(**row, epoch=one))


_EPOCHS = sa.select(position.c.epoch).where(
    position.c.direction == Direction.IN, position.c.channel == sa.bindparam("channel")
)

MOST_LEFT = 1000
"""So many epochs of an incoming channel are remembered, at most."""


def still_before(connection: Connection, channel: str, epoch: str) -> frozenset[str]:
    """Give the epochs that an incoming channel is in, and that nothing applied shows to have been left for ``epoch``.

    A channel of which nothing was applied is in those that the other ones are in. Where there is none of them,
    ``epoch`` may be adopted. Reads in the caller's transaction.
    """
    rows = connection.execute(_INCOMING).all()
    current = {row.channel: row.epoch for row in rows if row.current}
    left = {row.epoch for row in rows if not row.current}
    present = {current[channel]} if channel in current else set(current.values()) - left
    for row in rows:  # a channel that has adopted it shows what was left for it
        if not row.current and current.get(row.channel) == epoch:
            present.discard(row.epoch)
    return frozenset(present - {epoch})


_INCOMING = sa.select(position.c.channel, position.c.epoch, position.c.current).where(
    position.c.direction == Direction.IN
)


def adopt(connection: Connection, channel: str, epoch: str) -> None:
    """Let an incoming channel be in an epoch of which nothing was applied yet; the one it was in is left.

    Runs in the caller's transaction, under the channel's import lock.
    """
    here = (position.c.direction == Direction.IN) & (position.c.channel == channel)
    connection.execute(sa.update(position).where(here).values(current=0))
    row = {"direction": Direction.IN, "channel": channel, "epoch": epoch, "sequence": 0, "current": 1}
    connection.execute(sa.insert(position).values(**row, adopted_at=now()))


def end(connection: Connection, channel: str, epoch: str) -> None:
    """Let an incoming channel have left an epoch, and be in none: the other side goes on without that channel.

    Runs in the caller's transaction, under the channel's import lock.
    """
    here = (position.c.direction == Direction.IN) & (position.c.channel == channel) & (position.c.epoch == epoch)
    connection.execute(sa.update(position).where(here).values(current=0))


def advance(
    connection: Connection, direction: Direction, channel: str, epoch: str, sequence: int, digest: str | None
) -> None:
    """Move a channel's position to a batch just sealed or applied, adopting its epoch if it is a new one.

    ``digest`` is None for a place that was given up. Runs in the transaction that seals, applies or passes over the
    batch, under the channel's lock. Raises Busy if somebody else moved it since this transaction began.
    """
    here = {"of_direction": direction, "of_channel": channel, "of_epoch": epoch}
    moved = connection.execute(_ADVANCE, {**here, "to_sequence": sequence, "to_digest": digest})
    if moved.rowcount or connection.scalar(_IS_KNOWN, here):
        return  # or an unordered channel filled a hole behind its position
    mine = (position.c.direction == direction) & (position.c.channel == channel)
    connection.execute(sa.update(position).where(mine).values(current=0))
    place = {"direction": direction, "channel": channel, "epoch": epoch}
    row = {**place, "sequence": sequence, "digest": digest, "current": 1, "adopted_at": now()}
    if not insert_new(connection, position, row):
        raise Busy(f"channel {channel}", "another process, just now", None)


_OF_EPOCH = (
    (position.c.direction == sa.bindparam("of_direction"))
    & (position.c.channel == sa.bindparam("of_channel"))
    & (position.c.epoch == sa.bindparam("of_epoch"))
)
_NOTE_NEWEST = (
    sa.update(position)
    .where(_OF_EPOCH, sa.func.coalesce(position.c.newest_version, 0) < sa.bindparam("newest"))
    .values(newest_version=sa.bindparam("newest"))
)
_IS_KNOWN = sa.select(sa.exists().where(_OF_EPOCH))
_ADVANCE = (
    sa.update(position)
    .where(_OF_EPOCH, position.c.sequence < sa.bindparam("to_sequence"))
    .values(sequence=sa.bindparam("to_sequence"), digest=sa.bindparam("to_digest"))
)

NOTED_SECONDS = 10.0
"""What was noted so short a time ago is not noted again: ticks that were nudged come close together."""


def note_success(engine: Engine, direction: Direction, channels: Collection[str]) -> None:
    """Write down that channels were worked on to the end just now, unless somebody else is at work.

    A few statements, however many channels there are, and none that writes if all was noted just now. Commits a
    transaction of its own. Raises TransientError.
    """
    if not channels:
        return
    with suppress(Busy), transient_errors():
        moment = now()
        with reading(engine) as connection:
            rows = connection.execute(_SUCCESSES, {"direction": direction})
            noted = {row.channel: row.at for row in rows if row.channel in channels}
            failed = failed_among(connection, direction, channels)
        stale = [one for one, at in noted.items() if not timedelta() <= moment - at < timedelta(seconds=NOTED_SECONDS)]
        new = sorted(set(channels) - noted.keys())
        if stale or new or failed:
            with writing(engine) as connection:
                _note(connection, direction, stale, new, moment)
                forget_failures(connection, direction, failed)


_SUCCESSES = sa.select(success.c.channel, success.c.at).where(success.c.direction == sa.bindparam("direction"))


def _note(connection: Connection, direction: Direction, stale: Sequence[str], new: Sequence[str], at: datetime) -> None:
    if stale:
        # In one order, and past who notes the same: two processes never wait for each other.
        here = (success.c.direction == direction, among(connection, success.c.channel, stale))
        free = sa.select(success.c.channel).where(*here).order_by(success.c.channel).with_for_update(skip_locked=True)
        mine = (success.c.direction == direction, success.c.channel.in_(free))
        connection.execute(sa.update(success).where(*mine).values(at=at))
    if new:
        rows = [{"direction": direction, "channel": one, "at": at} for one in new]
        connection.execute(dialect_of(connection).insert(success).on_conflict_do_nothing(), rows)
