"""Folding: rows of what is settled go once their retention is over, and what must be known of them is kept as a sum.

Kept are the last batch of each flow, by which both sides compare where they stand; what waits for a person; what a
snapshot that is being received is made of; and the newest row of each table, as SQLite would give its id out again.
What comes again of a folded place is a duplicate, by ``database.folded``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import folded
from exchange.database.dialects import insert_new
from exchange.database.engine import among, now
from exchange.database.folded import Folded
from exchange.database.locks import reading, writing
from exchange.database.tables import (
    BatchState,
    DeadLetterState,
    Direction,
    GapState,
    RepairState,
    ResyncState,
    batch,
    dead_letter,
    event,
    gap,
    holds_place,
    is_missing,
    loading,
    position,
    receipt,
    repair,
    resync,
    tombstone,
    tombstone_mark,
)
from exchange.format.control import CHECKPOINT, SNAPSHOT
from exchange.format.errors import Reason
from exchange.format.manifest import Manifest
from exchange.format.names import CONTROL, BatchName, data_name, manifest_name
from exchange.incoming.doubts import MOST_SNAPSHOTS
from exchange.operating.retention_clock import RetentionClock
from exchange.site import Site

CHUNK = 1_000
"""Rows removed in one transaction: nobody waits long for its locks."""

MARKS = 5
"""Over so many marks a retention is spread: a tombstone stays at most a fifth longer than it has to."""

_GONE = (Reason.GIVEN_UP, Reason.LOST)
"""Why an outgoing batch was refused that nobody waits for any more, once the other side is beyond it."""

_Where = tuple[sa.ColumnElement[bool] | sa.TextClause, ...]
_Order = tuple[sa.ColumnElement[Any], ...]
_BY_PLACE: _Order = (batch.c.sequence,)
_BY_STATE: _Order = (batch.c.channel, batch.c.id)


def fold_settled(site: Site, clock: RetentionClock, control_days: float) -> int:
    """Fold what was settled twice the retention ago, control batches after ``control_days``; give how many rows went.

    May be repeated, and run beside all other work. Raises TransientError. Commits ``CHUNK`` rows at a time.
    """
    old, told = clock.before(2 * site.limits.retention_days), clock.before(control_days)
    removed = 0
    with reading(site.engine) as connection:
        flows = connection.execute(sa.select(position)).all()
    for at in flows:
        removed += _fold_flow(site, at, told if at.channel == CONTROL else old)
        removed += _fold_gaps(site, at, old)
    for given_up in (BatchState.REJECTED, BatchState.DISCARDED):
        removed += _in_chunks(site, partial(_fold_refused, given_up=given_up, before=old))
    removed += _in_chunks(site, lambda connection: _forget_requests(connection, old, told))
    removed += _forget_events(site, old)
    return removed + _forget_tombstones(site, old, timedelta(days=2 * site.limits.retention_days / MARKS))


def _in_chunks(site: Site, step: Callable[[Connection], int]) -> int:
    """Repeat a step, each time in a transaction of its own, until it removes nothing; give how many rows went."""
    removed = 0
    while True:
        with writing(site.engine) as connection:
            some = step(connection)
        if not some:
            return removed
        removed += some


# Batches


def _fold_flow(site: Site, at: Any, before: datetime) -> int:
    """Fold the settled batches behind the last one of a flow; ``at`` is its row of ``exchange_position``.

    They are looked at in their order, up to a thousand of which none is old: however long the ledger is.
    """
    fold = _fold_applied if at.direction == Direction.IN else _fold_sent
    removed, after = _in_chunks(site, lambda connection: _fold_left(site, connection, at, before)), -1
    while True:
        with writing(site.engine) as connection:
            places = (*_of(at), holds_place(batch), batch.c.sequence > after)
            window = sa.select(batch.c.sequence, batch.c.updated_at).where(*places)
            rows = connection.execute(window.order_by(batch.c.sequence).limit(CHUNK)).all()
            if not any(row.updated_at < before for row in rows):
                return removed
            old = (holds_place(batch), batch.c.sequence.between(rows[0].sequence, rows[-1].sequence))
            removed += fold(site, connection, at, (*_of(at), *old, batch.c.updated_at < before))
        after = rows[-1].sequence


def _of(at: Any) -> _Where:
    return (batch.c.direction == at.direction, batch.c.channel == at.channel, batch.c.epoch == at.epoch)


def _remove(connection: Connection, which: _Where, order: _Order = ()) -> Sequence[Any]:
    """Remove some rows of the ledger and their events; give what is counted of each.

    ``order`` is that of the index by which they are found: SQLite goes by it.
    """
    newest = batch.alias("newest")
    not_last = batch.c.id < sa.select(newest.c.id).order_by(newest.c.id.desc()).limit(1).scalar_subquery()
    ids = list(connection.scalars(sa.select(batch.c.id).where(*which, not_last).order_by(*order).limit(CHUNK)))
    if not ids:
        return ()
    columns = (batch.c[one] for one in ("id", "sequence", "stem", "manifest", "updated_at", "records", "bytes"))
    counts = (batch.c[one] for one in ("applied", "duplicate", "stale", "parked"))
    # Asked again: somebody may have moved one meanwhile.
    going = sa.delete(batch).where(among(connection, batch.c.id, ids), *which).returning(*columns, *counts)
    gone = connection.execute(going).all()
    of_batches = (event.c.subject == "batch", among(connection, event.c.subject_id, [row.id for row in gone]))
    connection.execute(sa.delete(event).where(*of_batches))
    return gone


def _sum(gone: Iterable[Any], places: int) -> Folded:
    gone = list(gone)
    sums = {name: sum(int(getattr(row, name)) for row in gone) for name in _SUMMED}
    return Folded(through=max(row.sequence for row in gone), places=places, batches=len(gone), **sums)


_SUMMED = ("records", "bytes", "applied", "duplicate", "stale", "parked")


def _fold_sent(site: Site, connection: Connection, at: Any, old: _Where, order: _Order = _BY_PLACE) -> int:
    """Fold what was pruned and is acknowledged, or never will be, behind the last batch that either side speaks of."""
    last = at.sequence
    if at.channel != CONTROL and not site.one_way:
        said = sa.select(receipt.c.through).where(receipt.c.channel == at.channel, receipt.c.epoch == at.epoch)
        last = min(last, connection.scalar(said) or last)
    settled = sa.or_(
        batch.c.state.in_([BatchState.ACKNOWLEDGED, BatchState.DISCARDED]),
        sa.and_(batch.c.state == BatchState.REJECTED, batch.c.reason.in_(_GONE)),
    )
    if site.one_way or at.channel == CONTROL:
        settled = sa.or_(settled, batch.c.state == BatchState.PUBLISHED)
    kept = (batch.c.pruned_at.is_not(None), batch.c.again_at.is_(None))
    gone = _remove(connection, (*old, settled, *kept, batch.c.sequence < last), order)
    if gone:
        folded.add(connection, Direction.OUT, (at.channel, at.epoch), _sum(gone, len(gone)))
    return len(gone)


def _fold_left(site: Site, connection: Connection, at: Any, before: datetime) -> int:
    """Fold what was left of an epoch that was left: it holds no place."""
    if at.direction == Direction.IN:
        return 0
    left = (batch.c.state == BatchState.DISCARDED, batch.c.updated_at < before)
    return _fold_sent(site, connection, at, (*_of(at), *left), _BY_STATE)


def _fold_applied(site: Site, connection: Connection, at: Any, old: _Where) -> int:
    """Fold what was applied before the last batch of a flow, with what was refused and missed at its places first."""
    if connection.scalar(sa.select(sa.exists().where(loading.c.channel == at.channel))):
        return 0  # the parts of a snapshot are counted when its last one comes
    newest, doubts = batch.alias("newest_in_doubt"), '"doubts":[{'
    doubted = (
        sa.select(newest.c.id)
        .where(newest.c.direction == Direction.IN, newest.c.state == BatchState.APPLIED)
        .where(newest.c.manifest.contains(doubts))
        .order_by(newest.c.id.desc())
        .limit(MOST_SNAPSHOTS)
    )
    # Of most batches the first half says all: no others are looked for.
    let_go = sa.or_(sa.func.coalesce(batch.c.manifest, "").not_like(f"%{doubts}%"), batch.c.id.not_in(doubted))
    applied = (batch.c.state == BatchState.APPLIED, batch.c.sequence < at.sequence)
    gone = _remove(connection, (*old, *applied, let_go), _BY_PLACE)
    if not gone:
        return 0
    applied_at = {row.sequence: row.updated_at for row in gone}
    refused = (*_of(at), batch.c.state == BatchState.QUARANTINED, among(connection, batch.c.sequence, applied_at))
    columns = (batch.c.id, batch.c.sequence, batch.c.updated_at)
    mended = [
        row.id
        for row in connection.execute(sa.select(*columns).where(*refused))
        if row.updated_at <= applied_at[row.sequence]
    ]
    mended_rows = _remove(connection, (among(connection, batch.c.id, mended),)) if mended else ()
    missed = (gap.c.channel == at.channel, gap.c.epoch == at.epoch, among(connection, gap.c.sequence, applied_at))
    connection.execute(sa.delete(gap).where(*missed))
    flow = (at.channel, at.epoch)
    folded.add(connection, Direction.IN, flow, _sum(gone, len(gone)))
    if mended_rows:
        folded.add(connection, Direction.IN, flow, Folded(refused=len(mended_rows)))
    if at.channel == CONTROL:
        site.spool.remove(site.spool.folders.archive, [name for row in gone for name in _files_of(row)])
    return len(gone) + len(mended_rows)


def _files_of(row: Any) -> tuple[str, ...]:
    name = BatchName.parse(row.stem)
    if not row.manifest:
        return (manifest_name(name),)
    return manifest_name(name), data_name(name, Manifest.parse(row.manifest.encode()).encoding)


def _fold_refused(connection: Connection, given_up: BatchState, before: datetime) -> int:
    """Fold what came and was given up, by a person or for a snapshot, where the channel is beyond it."""
    beyond = sa.exists().where(
        position.c.direction == batch.c.direction,
        position.c.channel == batch.c.channel,
        position.c.epoch == batch.c.epoch,
        sa.or_(position.c.current == 0, position.c.sequence >= batch.c.sequence),
    )
    settled = (batch.c.direction == Direction.IN, batch.c.state == given_up, batch.c.updated_at < before)
    which = (*settled, sa.or_(beyond, batch.c.manifest.is_(None)))
    return len(_remove(connection, which, _BY_STATE))


# Places that were missing


def _fold_gaps(site: Site, at: Any, before: datetime) -> int:
    """Fold closed gaps behind a flow's position, but for those of which receipts still tell.

    A place at which something else than an applied batch lies keeps its gap.
    """
    if at.direction != Direction.IN:
        return 0
    told = at.sequence - site.limits.look_ahead if at.current else at.sequence
    passed = sa.or_(gap.c.sequence <= told, sa.and_(gap.c.state == GapState.ARRIVED, gap.c.sequence < at.sequence))
    flow = (gap.c.channel == at.channel, gap.c.epoch == at.epoch)
    removed, after = 0, -1
    while True:
        with writing(site.engine) as connection:
            some = sa.select(gap.c.sequence).where(*flow, gap.c.sequence > after, gap.c.closed_at < before, passed)
            sequences = list(connection.scalars(some.order_by(gap.c.sequence).limit(CHUNK)))
            if not sequences:
                return removed
            empty = set(sequences) - _taken(connection, at, sequences)
            gone = connection.scalars(
                sa.delete(gap).where(*flow, among(connection, gap.c.sequence, empty)).returning(gap.c.sequence)
            ).all()
            if gone:
                more = Folded(through=max(gone), places=len(gone))
                folded.add(connection, Direction.IN, (at.channel, at.epoch), more)
        removed += len(gone)
        after = sequences[-1]


def _taken(connection: Connection, at: Any, sequences: Sequence[int]) -> set[int]:
    """Say at which of these places of a flow a batch lies, whether it holds its place or not."""
    here = (*_of(at), among(connection, batch.c.sequence, sequences))
    without = (BatchState.QUARANTINED, BatchState.REJECTED, BatchState.DISCARDED, BatchState.WAITING, BatchState.HELD)
    return {
        sequence
        for which in (holds_place(batch), batch.c.state.in_(without))
        for sequence in connection.scalars(sa.select(batch.c.sequence).where(*here, which))
    }


# What was asked for


def _forget_requests(connection: Connection, before: datetime, told: datetime) -> int:
    """Forget what was asked for and answered, but for the newest request, and the newest snapshots of each channel.

    The comparisons that this side begins by itself, each day, go with the control batches.
    """
    other = resync.alias("other")
    later = sa.exists().where(
        other.c.id > resync.c.id,
        other.c.channel == resync.c.channel,
        other.c.want == resync.c.want,
        other.c.prune == resync.c.prune,
        other.c.state == ResyncState.DONE,
        sa.or_(resync.c.want != SNAPSHOT, sa.and_(other.c.streams.is_(None), other.c.buckets.is_(None))),
    )
    ended = resync.c.state.in_([ResyncState.DONE, ResyncState.CANCELLED])
    sent = _forget(connection, resync, (ended, later, resync.c.updated_at < before))
    own = (resync.c.want == CHECKPOINT, resync.c.answers.is_(None), resync.c.state == ResyncState.DONE)
    sent += _forget(connection, resync, (*own, later, resync.c.updated_at < told))
    answered = repair.c.state.in_([RepairState.ANSWERED, RepairState.WITHDRAWN])
    return sent + _forget(connection, repair, (answered, repair.c.closed_at < before))


def _forget(connection: Connection, table: sa.Table, which: _Where) -> int:
    newest = connection.scalar(sa.select(sa.func.max(table.c.id))) or 0
    some = sa.select(table.c.id).where(*which, table.c.id < newest).order_by(table.c.id).limit(CHUNK)
    ids = list(connection.scalars(some))
    connection.execute(sa.delete(table).where(among(connection, table.c.id, ids)))
    return len(ids)


# Events and tombstones


def _forget_events(site: Site, before: datetime) -> int:
    """Forget the history of dead letters that were let go of, the oldest events first."""
    removed, after = 0, 0
    gone = ~sa.exists().where(dead_letter.c.id == event.c.subject_id)
    while True:
        with writing(site.engine) as connection:
            some = sa.select(event.c.id, event.c.at).where(event.c.id > after).order_by(event.c.id).limit(CHUNK)
            ids = [row.id for row in connection.execute(some) if row.at < before]
            mine = (event.c.subject == "dead_letter", among(connection, event.c.id, ids))
            removed += connection.execute(sa.delete(event).where(*mine, gone)).rowcount
        if len(ids) < CHUNK:
            return removed
        after = ids[-1]


def _forget_tombstones(site: Site, before: datetime, step: timedelta) -> int:
    """Forget deletes so old that no older record of their rows can come any more.

    How old one is only the marks tell, which each run leaves: a version is no moment. A stream whose batches wait or
    are missing, whose snapshot is coming in, or with letters of which nobody knows the row, keeps all of its own; a row
    with a letter that may still be applied keeps its own.
    """
    removed = 0
    channels: dict[str, set[str]] = {}
    for channel in site.incoming():
        for stream in channel.streams:
            channels.setdefault(stream.name, set()).add(channel.name)
    for name, names in sorted(channels.items()):
        with writing(site.engine) as connection:
            _mark(connection, name, step)
            reached = _reached_by(connection, name, before)
            if reached is None or _may_come_again(connection, name, names):
                continue
        removed += _in_chunks(site, partial(_bury, stream=name, reached=reached))
    return removed


def _mark(connection: Connection, stream: str, step: timedelta) -> None:
    last = connection.scalar(sa.select(sa.func.max(tombstone_mark.c.at)).where(tombstone_mark.c.stream == stream))
    moment = now()
    version = connection.scalar(sa.select(sa.func.max(tombstone.c.version)).where(tombstone.c.stream == stream))
    if version is None or (last is not None and timedelta() <= moment - last < step):
        return
    ahead = (tombstone_mark.c.stream == stream, tombstone_mark.c.at >= moment)
    connection.execute(sa.delete(tombstone_mark).where(*ahead))  # by a clock that was ahead
    insert_new(connection, tombstone_mark, {"stream": stream, "at": moment, "version": version})


def _reached_by(connection: Connection, stream: str, before: datetime) -> int | None:
    """Say how far versions reached when the newest of a stream's old marks was left; forget the marks before that."""
    old = (tombstone_mark.c.stream == stream, tombstone_mark.c.at < before)
    columns = (tombstone_mark.c.at, tombstone_mark.c.version)
    row = connection.execute(sa.select(*columns).where(*old).order_by(columns[0].desc()).limit(1)).one_or_none()
    if row is None:
        return None
    connection.execute(sa.delete(tombstone_mark).where(*old, tombstone_mark.c.at < row.at))
    return int(row.version)


def _may_come_again(connection: Connection, stream: str, names: Iterable[str]) -> bool:
    """Say whether a record of an old row may still come, by batches that are not in or letters without a key."""
    names = list(names)
    open_ones = (batch.c.state.in_([BatchState.WAITING, BatchState.HELD]), batch.c.direction == Direction.IN)
    letters = (dead_letter.c.stream == stream, dead_letter.c.key.is_(None), _may_be_applied)
    return bool(
        connection.scalar(
            sa.select(
                sa.or_(
                    sa.exists().where(*open_ones, batch.c.channel.in_(names)),
                    sa.exists().where(is_missing(gap), gap.c.channel.in_(names)),
                    sa.exists().where(loading.c.channel.in_(names)),
                    sa.exists().where(*letters),
                )
            )
        )
    )


_may_be_applied = sa.and_(
    dead_letter.c.direction == Direction.IN,
    dead_letter.c.state.in_([DeadLetterState.PARKED, DeadLetterState.DISCARDED]),
)


def _bury(connection: Connection, stream: str, reached: int) -> int:
    letter = (dead_letter.c.stream == tombstone.c.stream, dead_letter.c.key == tombstone.c.key, _may_be_applied)
    old = (tombstone.c.stream == stream, tombstone.c.version <= reached)
    keys = list(connection.scalars(sa.select(tombstone.c.key).where(*old, ~sa.exists().where(*letter)).limit(CHUNK)))
    connection.execute(sa.delete(tombstone).where(*old, among(connection, tombstone.c.key, keys)))
    return len(keys)
