"""What the rows of a stream are, in few words: a count and a digest for each bucket of its keys.

Rows are read once, some at a time, and nothing is locked or written: memory holds the buckets and those few rows.
Equal rows give equal digests on every database, as they are made of the records that the rows would be sent as.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel, Shard
from exchange.channels.codecs import LOOK_AT_EACH
from exchange.channels.codecs.document import JsonCodec
from exchange.channels.stream import Stream
from exchange.format.buckets import HASH_BYTES, key_text, one_spelling, row_hash, shard_of
from exchange.format.control import BUCKETS, Digest
from exchange.format.errors import RecordError
from exchange.tables import capture
from exchange.tables.gc_pause import gc_paused

ROWS_AT_ONCE: Final = 200

_DIGEST_VALUES: Final = 1 << (8 * HASH_BYTES)


class KeyedRow(NamedTuple):
    """A row: its key as buckets are made of it, and its record's data; None if it can't be sent as it is."""

    key: bytes
    data: dict[str, Any] | None


def streams_of(channel: Channel) -> list[Stream]:
    """Give the streams of which a channel of the files carries rows: every shard but the first only the split ones."""
    return list(capture.carried(channel.streams, channel.shard))


def digest(
    connection: Connection, stream: Stream, shard: Shard | None = None, below: int | None = None, of: int = BUCKETS
) -> Digest:
    """Digest the rows of a stream, or those that fall to a shard of its channel, as this transaction sees them.

    ``below`` a bucket alone, where it is given: those from it on are empty.

    A row that can't be sent as it is counts, but has no hash, so that the two sides never seem to agree about it.
    Raises SQLAlchemy's DBAPIError. Reads in the caller's transaction, with one query.
    """
    counts, sums = [0] * of, [0] * of
    parts = parts_of(stream, shard)
    from_bytes, hash_of = int.from_bytes, row_hash
    with gc_paused():
        for found in RowReader(connection, stream).rows():
            for key, data in found:
                if parts is not None and shard_of(key, parts.of) != parts.number:
                    continue
                bucket = crc32(key) % of
                if below is not None and bucket >= below:
                    continue
                counts[bucket] += 1
                if data is not None:
                    sums[bucket] += from_bytes(hash_of(data))
    return Digest(
        stream.name,
        sum(counts),
        tuple(counts),
        _written(sums),
        stream.schema_version,
    )


def folded(digest: Digest, of: int) -> Digest:
    """Give the same digest in fewer buckets: ``of`` divides their number."""
    if len(digest.counts) == of:
        return digest
    counts = [sum(digest.counts[number::of]) for number in range(of)]
    sums = [sum(int(one, 16) for one in digest.digests[number::of]) for number in range(of)]
    return replace(digest, counts=tuple(counts), digests=_written(sums))


def _written(sums: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{number % _DIGEST_VALUES:0{2 * HASH_BYTES}x}" for number in sums)


def digests(connection: Connection, channel: Channel, names: Collection[str] | None = None) -> list[Digest]:
    """Digest the streams of a channel of the files, or those of them that are named, one after the other.

    Reads in the caller's transaction, with a query for each.
    """
    wanted = [one for one in streams_of(channel) if names is None or one.name in names]
    return [digest(connection, stream, channel.shard) for stream in wanted]


def parts_of(stream: Stream, shard: Shard | None) -> Shard | None:
    """Give the shard if it has only a part of the stream's keys."""
    return shard if shard is not None and stream.name in shard.split else None


class RowReader:
    """Reads the rows of a stream as the records that they would be sent as, on one connection."""

    def __init__(self, connection: Connection, stream: Stream) -> None:
        """Prepare; nothing is read yet."""
        self.stream = stream
        self._connection = connection
        dialect = connection.dialect
        self._select = sa.select(*(stream.codecs[column.name].selected(dialect) for column in stream.columns))
        self._encode, self._encode_all = stream.encoder(dialect), stream.rows_encoder(dialect)
        self._encode_key = stream.key_encoder(dialect)
        self._key = stream.key_names
        self._key_places = [stream.names.index(name) for name in self._key]
        codecs = [stream.codecs[column.name] for column in stream.columns]
        self._documents = [codec.name for codec in codecs if isinstance(codec.type_codec, JsonCodec)]

    def rows(self, where: sa.ColumnElement[bool] | None = None) -> Iterator[list[KeyedRow]]:
        """Read the rows, in no order, some at a time: read to the end before the connection does anything else."""
        select = self._select.select_from(self.stream.table)
        at_once = capture.fetch_rows(self._connection, self.stream, ROWS_AT_ONCE)
        for rows in capture.streamed(self._connection, select if where is None else select.where(where), at_once):
            yield self.keyed(rows)

    def keys(self, where: sa.ColumnElement[bool]) -> Iterator[list[bytes]]:
        """Read the keys alone of some rows, as ``rows`` does; a key that can't be sent is left out."""
        columns = (self.stream.codecs[column.name].selected(self._connection.dialect) for column in self.stream.key)
        select = sa.select(*columns).select_from(self.stream.table).where(where)
        for rows in capture.streamed(self._connection, select, ROWS_AT_ONCE):
            yield [text for text in map(self._key_alone, rows) if text]

    def known(self, data: Mapping[str, Any]) -> KeyedRow:
        """Give the row that a record's data, of the current schema version, would be."""
        body = dict(data)
        self._spell(body)
        return KeyedRow(self.key_text(body), body)

    def key_text(self, values: Mapping[str, Any]) -> bytes:
        """Write the key in a record's data or key."""
        return key_text({name: values[name] for name in self._key})

    def keyed(self, rows: Sequence[Sequence[Any]]) -> list[KeyedRow]:
        """Give rows with the values that ``rows`` selects as what they would be sent as."""
        try:
            bodies = self._encode_all([*zip(*rows, strict=True)])
        except LOOK_AT_EACH:
            return [self._alone(row) for row in rows]
        if self._documents:
            for body in bodies:
                self._spell(body)
        if len(self._key) == 1:
            (name,) = self._key
            return [KeyedRow(key_text({name: body[name]}), body) for body in bodies]
        return [KeyedRow(self.key_text(body), body) for body in bodies]

    def _alone(self, row: Sequence[Any]) -> KeyedRow:
        try:
            return self.known(self._encode(row))
        except (RecordError, TypeError):
            return KeyedRow(self._key_alone([row[place] for place in self._key_places]), None)

    def _key_alone(self, values: Sequence[Any]) -> bytes:
        try:
            return key_text(self._encode_key(values))
        except (RecordError, TypeError):
            return b""

    def _spell(self, body: dict[str, Any]) -> None:
        for name in self._documents:
            if name in body:  # else it is JSON's null, under a name of its own
                body[name] = one_spelling(body[name])
