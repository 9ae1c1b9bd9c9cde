"""Snapshots on their way out: whole tables, or some buckets of them, a part at a time, beside the changes.

All records of a snapshot have one version, drawn when it begins. What is read after that is at least as new as every
change that was claimed before it, and those claimed after it have greater versions: so a late part never overwrites
what is newer, and the receiver sees one moment, however long the parts take. A snapshot of a whole channel goes before
the pending changes, its first part right behind the last batch that it contains; rows that a change is pending of come
along with those that refer to them. One of some rows alone reads each part where no change is pending, so that what its
rows refer to has gone before. Where it stopped is written down with each part, in the transaction that seals it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database import clock, network, pauses, positions, rollouts
from exchange.database.engine import now
from exchange.database.locks import export_lock, locked, reading
from exchange.database.tables import Direction, ResyncState, batch, holds_place, receipt, resync
from exchange.format.batch import BatchWriter
from exchange.format.buckets import bucket_of, key_text
from exchange.format.control import BUCKETS, DIGEST, MAX_CONTAINED, MAX_DOUBT_BYTES, MAX_DOUBTS, Doubt, Part
from exchange.format.errors import RecordError
from exchange.format.manifest import BatchKind, Manifest
from exchange.limits import Limits
from exchange.link import send_requests
from exchange.outgoing import compose, rollout
from exchange.outgoing.compose import Unsent, compose_page
from exchange.outgoing.seal import ENCODING, Sealed, check_room, exported, seal_batch
from exchange.results import Exported
from exchange.site import Site
from exchange.tables import capture

SHRINK = 8
"""By so much smaller is the next page that is tried where one came to more than a batch."""

ALONE = 0
"""A page of one row, which holds on to more than a batch has: what it refers to has its own turn."""


@dataclass(frozen=True)
class _Cursor:
    """Where the next page begins: behind the key ``after`` of a stream. ``stream`` is None when all have been sent.

    ``page`` is how many keys it is to have, None for as many as a batch may.
    """

    stream: str | None
    after: str | None = None
    page: int | None = None

    @classmethod
    def read(cls, text: str) -> _Cursor:
        return cls(**json.loads(text))

    def write(self) -> str:
        return json.dumps(vars(self))


def seal_part(site: Site, channel: Channel, request: sa.Row[Any]) -> Sealed:
    """Seal the next part of a snapshot, of some rows with the changes before it; ``more``: it isn't the last one.

    Raises Busy, Paused and TransientError. Commits under the channel's lock; a snapshot begins in a transaction before.
    """
    check_room(site)
    lock = export_lock(channel.name)
    if request.state == ResyncState.ASKED:
        expected = _count_rows(site, channel, request)
        with locked(site.engine, lock) as connection:
            _begin(site, connection, channel, request, expected)
    running = pauses.refusing(site.engine, site.off, Direction.OUT, channel.declared)
    with locked(site.engine, lock, prepare=running, isolation_level="REPEATABLE READ") as connection:
        row = send_requests.reload_open_request(connection, request.id)
        if row is None:
            return Sealed(None, 0, more=False)
        if row.parts == 0 and send_requests.wants_whole_snapshot(row) and _overtaken(site, connection, row):
            send_requests.update_request(connection, row.id, ResyncState.ASKED)
            return Sealed(None, 0, more=True)
        return _Step(site, connection, channel, row).seal()


def _count_rows(site: Site, channel: Channel, request: sa.Row[Any]) -> int | None:
    """Say about how many rows a snapshot is to have; None for one of some buckets."""
    if request.buckets is not None:
        return None
    rows, shard = 0, channel.shard
    with reading(site.engine) as connection:
        shares = rollouts.read(connection)
        for name in send_requests.streams_of(request, channel):
            parts = shard.of if shard is not None and name in shard.split else 1
            sent = shares[name].buckets if name in shares else BUCKETS
            rows += capture.estimate_rows(connection, channel.stream(name)) * sent // (BUCKETS * parts)
    return rows


def _begin(site: Site, connection: Connection, channel: Channel, request: sa.Row[Any], expected: int | None) -> None:
    """Draw the version, before anything is read, and note which batches have nothing that the snapshot has not."""
    version = capture.draw_version(connection)
    names = send_requests.streams_of(request, channel)
    cursor = _Cursor(names[0] if names else None).write()
    values: dict[str, Any] = {
        "version": version,
        "cursor": cursor,
        "expected": expected,
        "begun_at": now(),
        "epoch": network.open_network(connection, site.network),
    }
    values["contains_through"] = _sealed(connection, channel.name, values["epoch"])
    if request.prune and send_requests.wants_whole_snapshot(request) and not _leaves_rows(connection, channel):
        values["contains_from"] = _contained_from(connection, channel, values["epoch"], values["contains_through"])
    send_requests.update_request(connection, request.id, ResyncState.RUNNING, **values)


def _leaves_rows(connection: Connection, channel: Channel) -> bool:
    """Say whether a snapshot of all rows leaves some over there that it does not have: it stands for no batch then."""
    return bool(rollout.keeping_rest(connection, channel.streams))


def _sealed(connection: Connection, channel: str, epoch: str) -> int:
    """Give the last sequence that was sealed of a channel in an epoch."""
    at = positions.current_position(connection, Direction.OUT, channel)
    return at.sequence if at is not None and at.epoch == epoch else 0


def _overtaken(site: Site, connection: Connection, row: sa.Row[Any]) -> bool:
    """Say whether a batch was sealed since a snapshot began, of which no part is: then it is to begin anew."""
    return bool(
        _sealed(connection, row.channel, network.open_network(connection, site.network)) != row.contains_through
    )


LOOK_BACK = Limits.look_ahead
"""So far back batches are looked at, and as far as the other side says that it has come: it may stand still there."""


def _contained_from(connection: Connection, channel: Channel, epoch: str, through: int) -> int:
    """Give the first of the batches through a sequence that all are of this channel as it is, shard and streams."""
    there = {stream.name for stream in channel.streams}
    has = sa.select(receipt.c.through).where(receipt.c.channel == channel.name, receipt.c.epoch == epoch)
    reached = connection.scalar(has)
    back = through - LOOK_BACK if reached is None else min(through - LOOK_BACK, reached)
    first = max(back, through - MAX_CONTAINED, 0) + 1
    here = (batch.c.direction == Direction.OUT, batch.c.channel == channel.name, batch.c.epoch == epoch)
    sealed = sa.select(batch.c.sequence, batch.c.manifest).where(
        *here, batch.c.sequence.between(first, through), holds_place(batch)
    )
    for row in connection.execute(sealed.order_by(batch.c.sequence.desc()).execution_options(yield_per=LOOK_BACK)):
        said = json.loads(row.manifest)
        if said.get("shards", 1) != channel.shards or not there.issuperset(said["records"].keys() - {DIGEST}):
            return int(row.sequence) + 1
    return first


PATIENT_PERIODS = 4
"""A snapshot that was asked for so many periods ago, and did not begin, is promised no more: something holds it up."""


def promised_from(site: Site, connection: Connection, channel: str, epoch: str, lost: int) -> int | None:
    """Give the first batch that a snapshot contains which was begun, or soon will be, and contains the one ``lost``.

    None if there is none. Only reads, in the caller's transaction.
    """
    row = connection.execute(
        sa.select(resync)
        .where(resync.c.channel == channel, send_requests.is_whole_snapshot, resync.c.prune == 1)
        .where(resync.c.state != ResyncState.CANCELLED)
        .order_by(resync.c.id.desc())
        .limit(1)
    ).one_or_none()
    declared = next((one for one in site.outgoing() if one.name == channel), None)
    if row is None or declared is None or _leaves_rows(connection, declared):
        return None
    if row.state != ResyncState.ASKED:
        reaches = row.epoch == epoch and row.contains_from is not None and row.contains_through >= lost
        return int(row.contains_from) if reaches else None
    if clock.since(row.created_at) >= timedelta(seconds=PATIENT_PERIODS * site.limits.period_seconds):
        return None
    return _contained_from(connection, declared, epoch, _sealed(connection, channel, epoch))


class _Doubts:
    """What a snapshot could not hold, by stream, as its request keeps it.

    At most ``MAX_DOUBTS`` keys of ``MAX_DOUBT_BYTES`` together are named; those beyond are counted.
    """

    def __init__(self, text: str | None) -> None:
        kept = json.loads(text or "{}")
        if isinstance(kept, list):  # an earlier version kept the streams alone
            kept = {name: {"more": 1} for name in kept}
        self._of = {
            name: Doubt(**{"stream": name, **one, "keys": tuple(one.get("keys", ()))}) for name, one in kept.items()
        }
        keys = [key for one in self._of.values() for key in one.keys]
        self._keys, self._bytes = len(keys), sum(len(key_text(key)) for key in keys)

    def add(self, unsent: Iterable[Unsent]) -> None:
        """Remember rows that can't be sent."""
        for stream, key in unsent:
            doubt = self._of.get(stream, Doubt(stream))
            if key is None:
                self._of[stream] = replace(doubt, nameless=doubt.nameless + 1)
                continue
            if key in doubt.keys:  # a row comes along with others, and then in its own turn
                continue
            size = len(key_text(key))
            if self._keys == MAX_DOUBTS or self._bytes + size > MAX_DOUBT_BYTES:
                self._of[stream] = replace(doubt, more=doubt.more + 1)
                continue
            self._keys, self._bytes = self._keys + 1, self._bytes + size
            self._of[stream] = replace(doubt, keys=(*doubt.keys, key))

    def of(self, names: Iterable[str]) -> tuple[Doubt, ...]:
        """Give those of some streams."""
        return tuple(self._of[name] for name in names if name in self._of)

    def as_text(self) -> str:
        """Give what is kept: by its streams, which is what an earlier version reads of it."""
        return json.dumps({name: vars(self._of[name]) for name in sorted(self._of)})


class _Step:
    """One transaction: the changes that are pending, unless all rows are sent, and then the next part."""

    def __init__(self, site: Site, connection: Connection, channel: Channel, row: sa.Row[Any]) -> None:
        self._site = site
        self._connection = connection
        self._channel = channel
        self._row = row
        site.progress.expect(row.id, None if row.expected is None else max(row.expected - row.records, 0))
        self._names = send_requests.streams_of(row, channel)
        self._buckets, self._of = send_requests.buckets_of(row)
        self._doubts = _Doubts(row.unsent)

    def seal(self) -> Sealed:
        """Seal what is pending, unless all rows are sent, and then, if that is all of it, the next part."""
        before = Sealed(None, 0, more=False)
        if not send_requests.wants_whole_snapshot(self._row):
            before = compose.seal_changes(self._site, self._connection, self._channel)
        batches = (before.batch,) if before.batch else ()
        if before.more:
            return Sealed(None, before.parked, more=True, before=batches)
        cursor = _Cursor.read(self._row.cursor)
        if cursor.stream is None:
            with self._site.spool.drafting() as draft:
                ending = self._seal(BatchWriter(draft[0], ENCODING), draft, last=True)
            return Sealed(self._done(ending), before.parked, more=False, before=batches)
        while True:
            with self._site.spool.drafting() as draft:
                writer = BatchWriter(draft[0], ENCODING)
                written = self._write(cursor, writer)
                if written is None:
                    limit = self._limit(cursor)
                    cursor = replace(cursor, page=max(limit // SHRINK, 1) if limit > 1 else ALONE)
                    continue
                behind, parked = written
                parked += before.parked
                # What is to be removed is counted when all rows have come: so nothing comes with the last part then.
                last = behind.stream is None and not self._row.prune
                manifest = self._seal(writer, draft, last=last) if writer.records or last else None
            if last:
                assert manifest is not None  # the last part is sealed, whatever is in it
                return Sealed(self._done(manifest), parked, more=False, before=batches)
            self._go_on(behind, manifest)
            return Sealed(exported(manifest) if manifest else None, parked, more=True, before=batches)

    def _write(self, cursor: _Cursor, writer: BatchWriter) -> tuple[_Cursor, int] | None:
        """Write the page at the cursor; give the one behind it and how many records were parked. None: too large."""
        stream = self._channel.stream(str(cursor.stream))
        limit = self._limit(cursor)
        page = capture.next_page(
            self._connection,
            self._channel.streams,
            stream,
            after=cursor.after,
            limit=limit,
            room=self._site.limits.batch_records,
            shard=self._channel.shard,
            wanted=self._in_buckets(stream) if self._buckets is not None else None,
            alone=cursor.page == ALONE,
            before_changes=send_requests.wants_whole_snapshot(self._row),
        )
        if page is None:
            return None
        composed = compose_page(self._site, self._connection, self._channel, page, self._row.version, writer)
        if composed is None:
            return None
        self._doubts.add(composed.unsent)
        if composed.cut is not None:
            return replace(cursor, after=composed.cut), composed.parked
        if not page.ends:
            grown = None if cursor.page is None else limit * SHRINK
            return replace(cursor, after=page.last, page=grown), composed.parked
        following = self._names[self._names.index(stream.name) + 1 :]
        left = (name for name in following if capture.has_rows(self._connection, self._channel.stream(name)))
        return _Cursor(next(left, None)), composed.parked

    def _limit(self, cursor: _Cursor) -> int:
        most = self._site.limits.batch_records
        return most if cursor.page is None else min(max(cursor.page, 1), most)

    def _in_buckets(self, stream: Stream) -> Callable[[Sequence[Any]], bool]:
        """Make the function that says whether a key is in the buckets that are wanted."""
        encode, buckets = stream.key_encoder(self._connection.dialect), frozenset(self._buckets or ())

        def is_in(values: Sequence[Any]) -> bool:
            try:
                return bucket_of(encode(values), self._of) in buckets
            except RecordError:
                return True  # its row can't be sent either, and is parked

        return is_in

    def _seal(self, writer: BatchWriter, draft: tuple[BinaryIO, Path], *, last: bool) -> Manifest:
        row = self._row
        left = self._left() if last and row.prune else set[str]()
        doubts = self._doubts.of(name for name in self._names if name not in left) if last and row.prune else ()
        doubtful = {one.stream for one in doubts} | left
        part = Part(
            name=f"{network.open_network(self._connection, self._site.network)}-{row.id}",
            version=row.version,
            part=row.parts + 1,
            last=last,
            streams=self._names,
            buckets=self._buckets,
            of=self._of,
            # An earlier version knows of no doubts: so it leaves all rows of a stream that has some.
            prune=tuple(name for name in self._names if name not in doubtful) if last and row.prune else (),
            answers=row.answers,
            doubts=doubts,
            contains=None if row.contains_from is None else (row.contains_from, row.contains_through),
            before=None if row.expected is None else row.records,
            expected=row.expected,
        )
        return seal_batch(
            self._site,
            self._connection,
            writer,
            draft,
            channel=self._channel.name,
            kind=BatchKind.SNAPSHOT,
            schemas={name: self._channel.stream(name).schema_version for name in writer.streams},
            shards=self._channel.shards,
            extra={"snapshot": part.as_data()},
        )

    def _left(self) -> set[str]:
        """Name the streams of which nothing may be removed: the other side has rows of them that are not sent now."""
        streams = [self._channel.stream(name) for name in self._names]
        return {
            name
            for name, one in rollout.keeping_rest(self._connection, streams).items()
            if self._buckets is None or self._of != BUCKETS or max(self._buckets) >= one.buckets
        }

    def _go_on(self, cursor: _Cursor, manifest: Manifest | None) -> None:
        self._note(ResyncState.RUNNING, manifest, cursor=cursor.write(), unsent=self._doubts.as_text())

    def _done(self, manifest: Manifest) -> Exported:
        self._note(ResyncState.DONE, manifest, unsent=None)  # its keys are with the dead letters
        return exported(manifest)

    def _note(self, state: ResyncState, manifest: Manifest | None, **values: str | None) -> None:
        parts, records = self._row.parts, self._row.records
        if manifest is not None:
            parts, records = parts + 1, records + manifest.total
        send_requests.update_request(self._connection, self._row.id, state, parts=parts, records=records, **values)
