"""Resending: the identical bytes of a batch, published once more under the next attempt name.

The other side's receipts say what it misses, a person may, and on a one-way link the schedule does. A batch of which
this side no longer has the very bytes is lost: the next heartbeat says so, and a snapshot goes in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import clock, folded, ledger, network, pauses
from exchange.database.engine import in_parts, now
from exchange.database.errors import transient_errors
from exchange.database.ledger import Entry
from exchange.database.locks import Busy, export_lock, locked, reading
from exchange.database.tables import BatchState, Direction, batch, holds_place, receipt
from exchange.files.spool import FolderTrouble
from exchange.format import resend_codes
from exchange.format.control import MAX_MORE_RANGES, MAX_RANGES, Range, ranges, shown
from exchange.format.errors import Reason, TransientError, printable
from exchange.format.manifest import Manifest
from exchange.link import peer_statements
from exchange.outgoing.lost import IN_ITS_PLACE, lose, missed_and_folded
from exchange.outgoing.seal import next_copy
from exchange.results import Resent
from exchange.site import Site

MOST = 10_000
"""So many batches are looked for at once."""

AT_ONCE = 50
"""So many are published in one transaction: another export of the channel waits no longer than that takes."""

MOST_SECONDS = 30.0
"""How long one run sends again: the next one goes on."""

MOST_PATIENCE = 8
"""What is asked for again and again is sent at longer and longer intervals, this many times the first one at most."""

_SENT = (BatchState.PUBLISHED, BatchState.ACKNOWLEDGED, BatchState.REJECTED)


def resend_due(site: Site, stopping: Callable[[], bool]) -> tuple[Resent, ...]:
    """Send again what the other side misses, or what a one-way link has to carry once more; give what was done.

    May be repeated at any time: each batch is sent at most once for a receipt, and again not before ``gap_seconds``, or
    ``copy_seconds``. A channel that somebody else works on, or that is paused, is left to a later run, and so is
    what finds no room on the disk or no time. Raises TransientError. Commits some batches at a time, under their
    channel's lock.
    """
    with transient_errors(), reading(site.engine) as connection:
        if network.halted(connection):
            return ()
        asked = _but_paused(site, connection, _asked_for(site, connection))
        copies = _but_paused(site, connection, _copies_due(site, connection))
    done: list[Resent] = []
    end = time.monotonic() + MOST_SECONDS
    for some, why in ((asked, "the other side misses it"), (copies, "a copy")):
        for channel, rows in groupby(some, key=lambda row: row.channel):
            for part in in_parts(list(rows), AT_ONCE):
                if stopping() or (done and time.monotonic() >= end):
                    return tuple(done)
                site.spool.check_room(site.limits.batch_bytes)
                with suppress(Busy):
                    done += _send_again(site, channel, part, why, asked=some is asked)
    return tuple(done)


def _but_paused(site: Site, connection: Connection, rows: Collection[sa.Row[Any]]) -> list[sa.Row[Any]]:
    """Give those of some batches whose channels do not stand still."""
    stopped = {name for way, name in pauses.paused(connection, site.off) if way is Direction.OUT} if rows else set()
    return [one for one in rows if (channel := site.channel(one.channel)) is None or channel.declared not in stopped]


def _asked_for(site: Site, connection: Connection) -> list[sa.Row[Any]]:
    """Give the batches that receipts name as missing and that were not sent since, channel by channel in order."""
    epoch = network.known_epoch(connection, site.network)
    found: list[sa.Row[Any]] = []
    for row in connection.execute(_RECEIPTS, {"epoch": epoch or ""}).all():
        rows = _rows_at(
            connection,
            row.channel,
            row.epoch,
            peer_statements.missing(row.said),
            batch.c.reason.is_distinct_from(Reason.LOST),
        )
        found += (one for one in rows if _is_due(site, one.attempt, one.published_at, row.heard_at))
    return found[:MOST]


_RECEIPTS = sa.select(receipt).where(receipt.c.epoch == sa.bindparam("epoch")).order_by(receipt.c.channel)


def _is_due(site: Site, attempt: int, published_at: datetime | None, heard_at: datetime) -> bool:
    """Tell whether a batch is to be sent again: not twice for one receipt, nor while a copy may be on its way.

    How long the first publication is waited for, whoever misses it says by asking for it.
    """
    if published_at is None:
        return True
    patience = timedelta(seconds=_patience_seconds(site, attempt) if attempt > 1 else 0)
    ago = clock.since(published_at)
    return (published_at < heard_at or ago == timedelta.max) and ago >= patience


def _patience_seconds(site: Site, attempt: int) -> float:
    """Say how long a batch is waited for that was published for the ``attempt``-th time."""
    times: int = min(2 ** (attempt - 2), MOST_PATIENCE)
    return site.limits.gap_seconds * times


def _rows_at(
    connection: Connection, channel: str, epoch: str, wanted: Sequence[Range], *more: sa.ColumnElement[bool]
) -> list[sa.Row[Any]]:
    """Give the batches at some places of a channel that were published, in order."""
    columns = (batch.c.id, batch.c.channel, batch.c.sequence, batch.c.state, batch.c.attempt, batch.c.published_at)
    found: list[sa.Row[Any]] = []
    for part in in_parts(wanted, MAX_RANGES):
        here = sa.select(*columns).where(*_at(channel, epoch, part), batch.c.state.in_(_SENT), *more)
        found += connection.execute(here.order_by(batch.c.sequence))
    return found


def _at(channel: str, epoch: str, wanted: Sequence[Range]) -> list[sa.ColumnElement[bool] | sa.TextClause]:
    """Say that an outgoing batch holds one of these places, so that an index finds it."""
    places = sa.or_(*(batch.c.sequence.between(first, last) for first, last in wanted))
    here = [batch.c.direction == Direction.OUT, batch.c.channel == channel, batch.c.epoch == epoch, places]
    return [*here, holds_place(batch)]


def _copies_due(site: Site, connection: Connection) -> list[sa.Row[Any]]:
    if not site.one_way:
        return []
    # What is due later than a copy ever is was published by a clock that was ahead.
    latest = now() + timedelta(seconds=site.limits.copy_seconds) + clock.SKEW
    found: list[sa.Row[Any]] = []
    for due in (batch.c.again_at <= now(), batch.c.again_at > latest):  # each by itself: together no index has them
        some = sa.select(batch.c.id, batch.c.channel, batch.c.state, batch.c.attempt).where(due)
        found += connection.execute(some.order_by(batch.c.again_at).limit(MOST - len(found)))
    return sorted(found, key=lambda row: row.channel)


def _send_again(site: Site, channel: str, rows: Sequence[sa.Row[Any]], why: str, *, asked: bool) -> list[Resent]:
    """Publish batches of a channel under their next names, but for those that are no longer as ``rows`` have them.

    Commits together what could be published. Raises Busy and TransientError.
    """
    done: list[Resent] = []
    trouble: FolderTrouble | None = None
    with transient_errors(), locked(site.engine, export_lock(channel)) as connection:
        for row in rows:
            entry = ledger.by_id(connection, row.id)
            if (entry.state, entry.attempt) == (row.state, row.attempt):
                try:
                    done += _publish_again(site, connection, entry, why, asked=asked)
                except FolderTrouble as error:
                    trouble = error
                    break
    if trouble is not None:
        raise trouble
    return done


def _publish_again(site: Site, connection: Connection, entry: Entry, why: str, *, asked: bool) -> Iterator[Resent]:
    manifest = Manifest.parse((entry.manifest or "").encode())
    kept = entry.erased_at is None
    if not kept or not site.spool.has_sealed(manifest.name, manifest.encoding, entry.digest, manifest.sha256):
        if asked:
            yield _lose(connection, entry, _GONE if kept else _ERASED)
        else:
            connection.execute(sa.update(batch).where(batch.c.id == entry.id).values(again_at=None))
        return
    attempt = entry.attempt + 1
    again = next_copy(site, manifest, attempt)
    site.spool.publish(manifest.name, manifest.encoding, attempt)
    stem = str(manifest.name.again(attempt))
    cause = f"published again as {stem}: {printable(why, 1000)}"
    ledger.move(connection, entry, BatchState.PUBLISHED, cause, attempt=attempt, published_at=now(), again_at=again)
    yield Resent(stem, entry.channel, entry.epoch, entry.sequence, attempt, cause)


_GONE = f"it is asked for again, but its files are no longer kept whole; {IN_ITS_PLACE}"
_ERASED = f"it is asked for again, but a record in it was to be forgotten and it was erased; {IN_ITS_PLACE}"


def lose_erased(connection: Connection, entry: Entry) -> None:
    """Write down that a batch that was erased may never have come, where nobody asks for it: as if it was asked for.

    Runs in the caller's transaction, under the channel's lock.
    """
    _lose(connection, entry, f"it was erased before it was surely carried over; {IN_ITS_PLACE}")


def _lose(connection: Connection, entry: Entry, cause: str) -> Resent:
    """Write down that a batch can't be sent any more, and have a snapshot sent in its place."""
    lose(connection, entry, cause)
    return Resent(entry.stem, entry.channel, entry.epoch, entry.sequence, None, cause)


def with_lost_places(connection: Connection, epoch: str) -> set[str]:
    """Name the channels that have places which can't be sent again. Only reads, in the caller's transaction."""
    return set(connection.scalars(_WITH_LOST, {"epoch": epoch})) | missed_and_folded(connection, epoch).keys()


_WITH_LOST = (
    sa.select(batch.c.channel)
    .where(
        batch.c.state == BatchState.REJECTED,
        batch.c.direction == Direction.OUT,
        batch.c.reason == Reason.LOST,
        batch.c.epoch == sa.bindparam("epoch"),
    )
    .distinct()
)


def comes_behind(connection: Connection, channel: str, epoch: str, lost: int) -> bool:
    """Tell whether anything of a channel may come behind a ``lost`` place, or the other side shows that it has.

    It may if a batch is sealed or published and not acknowledged; of what can't be sent again a copy may come late.
    Only reads, in the caller's transaction.
    """
    here = (batch.c.direction == Direction.OUT, batch.c.channel == channel, batch.c.epoch == epoch)
    states = [BatchState.SEALED, BatchState.PUBLISHED]
    if connection.scalar(sa.select(sa.exists().where(batch.c.state.in_(states), *here))):
        return True
    told = sa.select(receipt.c.said).where(receipt.c.channel == channel, receipt.c.epoch == epoch)
    said = peer_statements.receipt(connection.scalar(told))
    shown = peer_statements.manifest(said.proof.manifest) if said is not None and said.proof is not None else None
    return shown is not None and shown.sequence > lost


def lost_places(connection: Connection, channel: str, epoch: str) -> tuple[Range, ...]:
    """Give the places of a channel that can't be sent again, to be told in the next heartbeat.

    Where the other side answers, those that it has not got beyond; else the newest ones. Only reads, in the caller's
    transaction.
    """
    row = connection.execute(
        sa.select(receipt.c.through, receipt.c.said).where(receipt.c.channel == channel, receipt.c.epoch == epoch)
    ).one_or_none()
    asking = sa.select(batch.c.sequence).where(
        batch.c.state == BatchState.REJECTED,
        batch.c.direction == Direction.OUT,
        batch.c.channel == channel,
        batch.c.epoch == epoch,
        batch.c.reason == Reason.LOST,
    )
    if row is not None:
        said = peer_statements.receipt(row.said)
        reached = min([row.through, *(first - 1 for first, _ in said.missing)]) if said else 0
        asking = asking.where(batch.c.sequence > reached)
    found = set(connection.scalars(asking))
    for first, last in missed_and_folded(connection, epoch).get(channel, ()):
        found.update(range(first, last + 1))
    every = ranges(sorted(found), most=len(found))
    most = MAX_RANGES + MAX_MORE_RANGES
    return every[:most] if row is not None else every[-most:]


# At a person's word


def resend_by_code(site: Site, code: str) -> tuple[Resent, ...]:
    """Send again what a request code names. Raises Busy, and TransientError for what is no code, or none for this side.

    Commits batch by batch, each under its channel's lock.
    """
    with transient_errors(), reading(site.engine) as connection:
        epoch = network.known_epoch(connection, site.network) or ""
    try:
        channel, _, wanted = resend_codes.decode(code, [(one.name, epoch) for one in site.outgoing()])
    except ValueError as error:
        raise TransientError(f"{error}; nothing was done") from error
    return _at_once(site, channel, wanted, f"asked for by code {code}")


def resend_by_hand(site: Site, channel: str, sequences: Sequence[int]) -> tuple[Resent, ...]:
    """Send batches of a channel again. Raises Busy, and TransientError if one was never sent.

    Commits batch by batch, each under its channel's lock.
    """
    return _at_once(site, channel, ranges(sorted(set(sequences)), most=len(sequences)), "asked for by hand")


def _at_once(site: Site, channel: str, wanted: Sequence[Range], why: str) -> tuple[Resent, ...]:
    """Send batches of the present epoch again now, whatever the other side said of them, and however long ago.

    Raises Paused where the channel stands still.
    """
    declared = site.channel(channel)
    site.spool.prepare()
    with transient_errors(), reading(site.engine) as connection:
        halted = network.halted(connection)
        if halted:
            raise TransientError(f"nothing is sent again: {halted}")
        if declared is not None:
            pauses.refuse_paused(connection, site.off, Direction.OUT, declared.declared)
        epoch = network.known_epoch(connection, site.network) or ""
        rows = _rows_at(connection, channel, epoch, wanted)
        through = folded.of_flow(connection, Direction.OUT, channel, epoch).through
    found = {row.sequence for row in rows}
    lacking = [one for first, last in wanted for one in range(first, last + 1) if one not in found]
    old = ranges(one for one in lacking if one <= through)
    if old:
        msg = (
            f"channel {channel}: {shown(old)} was settled so long ago that it is no longer kept; nothing was done;"
            f" `exchange resync {channel} --prune-missing` sends all rows in its place"
        )
        raise TransientError(msg)
    absent = ranges(lacking)
    if absent:
        msg = (
            f"channel {channel} has published no batch {shown(absent)} in its present epoch {epoch}; nothing was done;"
            " `exchange batches --direction out` lists those there are"
        )
        raise TransientError(msg)
    return tuple(sent for some in in_parts(rows, AT_ONCE) for sent in _send_again(site, channel, some, why, asked=True))
