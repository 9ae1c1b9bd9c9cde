"""Which rows differed: a snapshot that this side asked for, beside this side's rows before it is applied.

A checkpoint only says in which buckets rows differ. The snapshot of these buckets that answers for it has the rows
themselves: those that are missing here, those that are different, and with its last part those that nobody sent.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Shard
from exchange.channels.stream import Stream
from exchange.database.engine import now
from exchange.database.tables import VERSION_COLUMN, DeadLetterState, Direction, agreement, dead_letter
from exchange.format import record as records
from exchange.format.batch import BatchReader
from exchange.format.buckets import HASH_BYTES, bucket_of_text, key_text, row_hash, shard_of
from exchange.format.control import Doubt, Part
from exchange.format.errors import RecordError
from exchange.format.record import Op
from exchange.incoming.manifests import Arrival, part_of
from exchange.link import asked_requests, peer_statements
from exchange.link.vain_repairs import DIFFERENT, EXTRA, MISSING, VainRepairs, have_keys
from exchange.site import Site
from exchange.tables.bucket_digests import RowReader, parts_of
from exchange.tables.loader.decode import checked

MOST_SHOWN = 100
"""So many keys of rows that differ are kept of each stream."""

AT_ONCE = 100
"""So many rows are looked up together: a database takes only so many conditions at once."""

MOST_KEYS = 1_000_000
"""So many rows of one part of a snapshot are remembered; of one with more those that are extra here are not found."""

MOST_KEY_BYTES = 1_000
"""A longer key is counted and not kept."""

_Body = dict[str, Any]


def record_row_diff(site: Site, connection: Connection, arrival: Arrival, data: BinaryIO) -> None:
    """Write down which of our rows a part of a snapshot is to change, if we asked for it.

    ``data`` is verified and at its start, and is so again. Raises Corrupt if it can't be read after all. Runs in the
    transaction that applies the part, before its records, under the channel's lock.
    """
    part = part_of(arrival.manifest)
    if part is None or part.answers is None:
        return
    if not asked_requests.is_ours(connection, arrival.channel.name, part.answers):
        return
    streams = {one.name: one for one in arrival.channel.streams if one.name in part.streams}
    found = {name: _Findings(connection, arrival, stream, part) for name, stream in streams.items()}
    for name, bodies in _sent(site, arrival, data):
        if name in found:
            found[name].compare(bodies)
    data.seek(0)
    for one in found.values():
        if part.last:
            one.find_extra_rows(parts_of(one.stream, arrival.channel.shard))
        one.write()


def _sent(site: Site, arrival: Arrival, data: BinaryIO) -> Iterator[tuple[str, list[_Body]]]:
    """Give the rows of a snapshot, some of a stream at a time; those that will be parked are left out."""
    schemas = arrival.manifest.schemas
    some: dict[str, list[_Body]] = defaultdict(list)
    for lines in BatchReader(data, arrival.manifest, site.limits.read):
        for line in lines:
            try:
                record = checked(site, schemas, records.decode(line))
            except (RecordError, KeyError):
                continue
            if record.op is Op.UPSERT:
                some[record.stream].append(record.body)
                if len(some[record.stream]) == AT_ONCE:
                    yield record.stream, some.pop(record.stream)
    yield from some.items()


class _Findings:
    """What differs of one stream. Parts of one snapshot add up, those of another begin anew."""

    def __init__(self, connection: Connection, arrival: Arrival, stream: Stream, part: Part) -> None:
        self.stream = stream
        self._connection = connection
        self._sequence = arrival.manifest.sequence
        self._part = part
        self._reader = RowReader(connection, stream)
        self._decode_key = stream.key_decoder(connection.dialect)
        self._here = sa.and_(
            agreement.c.direction == Direction.IN,
            agreement.c.channel == arrival.channel.name,
            agreement.c.stream == stream.name,
        )
        kept = connection.execute(sa.select(agreement.c.found, agreement.c.in_vain).where(self._here)).one_or_none()
        self._repaired = VainRepairs(kept.in_vain if kept else None)
        known = peer_statements.differing_rows(kept.found if kept else None)
        before = known if known is not None and known.answers == part.answers else None
        self._counts = {what: getattr(before, what) if before else 0 for what in (MISSING, EXTRA, DIFFERENT)}
        self._keys = list(before.keys) if before else []
        self._came: set[bytes] = set()

    def compare(self, bodies: Sequence[_Body]) -> None:
        """Look our rows up beside those of the snapshot."""
        bodies = [body for body in bodies if self._has_key(body)]
        if not bodies:
            return
        ours: dict[bytes, _Body | None] = {}
        for found in self._reader.rows(have_keys(self._connection, self.stream, bodies)):
            ours |= dict(found)
        for body in bodies:
            key, data = self._reader.known(body)
            if len(self._came) <= MOST_KEYS:
                self._came.add(_short(key))
            if key not in ours:
                self._note(MISSING, key, data, None)
            elif data is not None and _hash(ours[key]) != row_hash(data):
                self._note(DIFFERENT, key, data, ours[key])

    def find_extra_rows(self, shard: Shard | None) -> None:
        """Look for rows that no part of the snapshot had: none of them wrote them, and this one will not."""
        if len(self._came) > MOST_KEYS:
            return
        part = self._part
        doubt = next((one for one in part.doubts if one.stream == self.stream.name), Doubt(self.stream.name))
        if doubt.more:
            return  # which of them are no longer there is not known
        buckets = None if part.buckets is None else frozenset(part.buckets)
        version: sa.ColumnElement[Any] = sa.literal_column(
            self._connection.dialect.identifier_preparer.quote(VERSION_COLUMN)
        )
        older = sa.or_(version.is_(None), version < part.version)
        parked = self._parked()
        doubtful = {key_text(key) for key in doubt.keys}
        for keys in self._reader.keys(older):
            for key in keys:
                if shard is not None and shard_of(key, shard.of) != shard.number:
                    continue
                if buckets is not None and bucket_of_text(key, part.of) not in buckets:
                    continue
                if _short(key) not in self._came and key not in parked:
                    self._note(DIFFERENT if key in doubtful else EXTRA, key, None, None)

    def write(self) -> None:
        """Write it down where the stream was compared before."""
        found = peer_statements.Found(
            answers=self._part.answers, sequence=self._sequence, at=now(), keys=tuple(self._keys), **self._counts
        )
        self._connection.execute(
            sa.update(agreement).where(self._here).values(found=found.as_text(), in_vain=self._repaired.as_text())
        )

    def _note(self, what: str, key: bytes, theirs: _Body | None, ours: _Body | None) -> None:
        self._counts[what] += 1
        if len(key) <= MOST_KEY_BYTES:
            self._repaired.note(self.stream, what, key, (theirs, ours), now().isoformat())
        if len(self._keys) < MOST_SHOWN and len(key) <= MOST_KEY_BYTES:
            self._keys.append({"what": what, "key": self.stream.shown(json.loads(key))})

    def _has_key(self, body: _Body) -> bool:
        """Say whether a row's key can be kept here at all: else its record will be parked."""
        try:
            self._decode_key([body])
        except RecordError:
            return False
        return True

    def _parked(self) -> frozenset[bytes]:
        """Give the keys of the snapshot's rows that were parked: that they are not here is known."""
        letters: Iterable[str | None] = self._connection.scalars(
            sa.select(dead_letter.c.key).where(
                dead_letter.c.stream == self.stream.name,
                dead_letter.c.state == DeadLetterState.PARKED,
                dead_letter.c.direction == Direction.IN,
                dead_letter.c.version >= self._part.version,
            )
        )
        return frozenset(key.encode() for key in letters if key is not None)


def _short(key: bytes) -> bytes:
    """Give what is remembered of a key, however long it is."""
    return sha256(key).digest()[:HASH_BYTES]


def _hash(data: _Body | None) -> bytes | None:
    return None if data is None else row_hash(data)
