"""The records of one batch, out of the database into its data file, or parked with a reason.

Upserts come parents first, then deletes children first, so that foreign keys hold at every line. Runs inside
the exporter's transaction and leaves it to the exporter to commit or undo all of it.

Of a stream of which only a share of the keys is sent, the others are passed over, changes and rows of a snapshot alike:
what they are then comes with the snapshot that makes the share larger.

Rows are taken some at a time and encoded, checked and written together: a call for each value would cost most
of an export. Where anything about some rows is not as usual, they go the slow way, one by one, and only that
one refuses records and fills a batch to its last byte.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.codecs import LOOK_AT_EACH
from exchange.channels.stream import Stream, WriteLines
from exchange.database import rollouts
from exchange.database.rollouts import Rollout
from exchange.database.tables import Direction
from exchange.dead_letters import store, supersede
from exchange.dead_letters.store import Letter
from exchange.format import record as records
from exchange.format import strict_json
from exchange.format.batch import BatchWriter, too_long
from exchange.format.buckets import key_text
from exchange.format.errors import RecordError, printable
from exchange.format.manifest import BatchKind
from exchange.format.record import Op, Record
from exchange.outgoing.seal import ENCODING, Sealed, exported, seal_batch
from exchange.site import Site
from exchange.tables import capture
from exchange.tables.gc_pause import gc_paused


@dataclass(frozen=True)
class Composed:
    """How many records were parked, and whether there are more, which found no room and went back."""

    parked: int
    more: bool


class _LineEncoder(NamedTuple):
    """Records of one stream and one op, and how their lines are made of versions and values."""

    stream: Stream
    op: Op
    line: Callable[[int, Sequence[Any]], bytes]
    """One record's line; raises RecordError for what must not cross."""
    lines: WriteLines
    """The same of many, given as columns; raises one of LOOK_AT_EACH if any of them needs ``line``."""
    key: Callable[[Sequence[Any]], dict[str, Any]]
    """The key of one record's row; raises RecordError for one that no record can hold."""


class _RowsToEncode(NamedTuple):
    """Some taken keys: of each the text, the version, and the values of its row, or of its key if that is gone."""

    kind: _LineEncoder
    rows: Sequence[capture.Row]


def compose(
    site: Site, connection: Connection, channel: Channel, keys: Mapping[str, int], writer: BatchWriter
) -> Composed:
    """Write what was taken until the batch is full; what found no room goes back to the log.

    ``keys`` says how many keys were taken, by stream. Runs in the transaction that seals, under the channel's lock.
    """
    letters, _, reached, left = _write(site, connection, channel, keys, writer)
    if left:
        capture.give_back(connection, channel.streams, reached)
    _supersede(connection, keys, letters)
    store.park(connection, letters, "refused on export")
    return Composed(len(letters), left)


@dataclass(frozen=True)
class PageComposed:
    """How a page was written: behind which key it was cut for want of room, if it was, and what was not sent of it."""

    parked: int
    cut: str | None
    unsent: Sequence[Unsent]


class Unsent(NamedTuple):
    """A row that can't be sent: its stream and its key as a record has it, None where no record can hold that."""

    stream: str
    key: Mapping[str, Any] | None


def compose_page(
    site: Site, connection: Connection, channel: Channel, page: capture.KeyPage, version: int, writer: BatchWriter
) -> PageComposed | None:
    """Write the rows of a page, all with one version, until the batch is full.

    None if not all found room and they are of use only as a whole: then nothing was parked, and the batch is to be made
    anew. Of what is parked already none is counted. Runs in the transaction that seals, under the channel's
    lock.
    """
    letters, unsent, reached, left = _write(site, connection, channel, page.keys, writer, version)
    if left and page.whole:
        return None
    cut = capture.cut_page(connection, reached.version) if left and reached is not None else None
    _supersede(connection, page.keys, letters)
    return PageComposed(store.park(connection, letters, "refused on export"), cut, unsent)


def _write(
    site: Site,
    connection: Connection,
    channel: Channel,
    keys: Mapping[str, int],
    writer: BatchWriter,
    version: int | None = None,
) -> tuple[list[Letter], list[Unsent], capture.Reached | None, bool]:
    """Write what was taken, with one version for all if it is given.

    Gives the letters of what can't be sent and its keys, the last record that was written or refused, and whether some
    are left.
    """
    letters: list[Letter] = []
    unsent: list[Unsent] = []
    reached: capture.Reached | None = None
    shares = {name: one for name, one in rollouts.read(connection).items() if one.is_partial}
    with gc_paused(), closing(_rows_to_encode(site, connection, channel, keys)) as pieces:
        for kind, taken in pieces:
            rows = taken
            site.progress.add(len(rows))
            if (share := shares.get(kind.stream.name)) is not None:
                rows = [row for row in rows if _is_sent(kind, share, row[2:])]
                if not rows:
                    continue
            if _write_all(site, writer, kind, rows, version):
                reached = capture.Reached(kind.stream.name, rows[-1][1], kind.op)
                continue
            for row in rows:
                try:
                    line = kind.line(version or row[1], row[2:])
                except RecordError as error:
                    letters.append(_letter(channel, kind, row[0], version or row[1], error))
                    unsent.append(_unsent(kind, row[2:]))
                else:
                    if _is_full(site, writer, len(line)) and writer.records:
                        return letters, unsent, reached, True
                    writer.write(line, kind.stream.name, kind.op)
                reached = capture.Reached(kind.stream.name, row[1], kind.op)
    return letters, unsent, reached, False


def _is_sent(kind: _LineEncoder, share: Rollout, values: Sequence[Any]) -> bool:
    """Say whether a key is one of those that are sent; of one that can't be, a letter tells."""
    try:
        return share.has(key_text(kind.key(values)))
    except RecordError:
        return True


def _unsent(kind: _LineEncoder, values: Sequence[Any]) -> Unsent:
    try:
        return Unsent(kind.stream.name, kind.key(values))
    except RecordError:
        return Unsent(kind.stream.name, None)


def _supersede(connection: Connection, keys: Mapping[str, int], letters: Sequence[Letter]) -> None:
    for stream in keys:
        refused = {letter.key for letter in letters if letter.key and letter.stream == stream}
        sentence = "superseded: its row went out with a later export"
        supersede.supersede_sent(connection, stream, capture.CLAIMED, refused, sentence)


def _write_all(
    site: Site, writer: BatchWriter, kind: _LineEncoder, rows: Sequence[capture.Row], version: int | None
) -> bool:
    """Write the records of these rows if there is nothing to be said about any of them and room for all; else none."""
    _, versions, *values = zip(*rows, strict=True)
    try:
        text = kind.lines([version] * len(rows) if version else versions, values)
    except LOOK_AT_EACH:
        return False
    longest = len(text) if len(text) <= site.limits.read.max_record_bytes else max(map(len, text.split(b"\n")))
    if longest > site.limits.read.max_record_bytes or _is_full(site, writer, len(text)):
        return False
    writer.write_all(text, len(rows), kind.stream.name, kind.op)
    return True


def _is_full(site: Site, writer: BatchWriter, more_bytes: int) -> bool:
    return writer.content_bytes + more_bytes > site.limits.batch_bytes


def _rows_to_encode(
    site: Site, connection: Connection, channel: Channel, keys: Mapping[str, int]
) -> Generator[_RowsToEncode, None, None]:
    streams = [stream for stream in channel.streams if stream.name in keys]
    there = dict.fromkeys(keys, 0)
    for stream in streams:
        kind, last = _upsert_encoder(site, connection, stream), None
        for rows in capture.rows(connection, stream, keys[stream.name]):
            # Each key has a version of its own, and where a key is not unique after all its rows come together:
            # those at the beginning of a piece may belong to the key that the piece before ended with.
            versions = {row[1] for row in rows}
            versions.discard(last)
            there[stream.name] += len(versions)
            last = rows[-1][1]
            yield _RowsToEncode(kind, rows)
    for stream in reversed(streams):
        if there[stream.name] == keys[stream.name]:
            continue  # none is gone, and to look for them costs as much as to read those that are there
        kind = _delete_encoder(site, connection, stream)
        for rows in capture.deleted_keys(connection, stream):
            yield _RowsToEncode(kind, rows)


def _upsert_encoder(site: Site, connection: Connection, stream: Stream) -> _LineEncoder:
    encode_key = stream.key_encoder(connection.dialect)
    places = [stream.names.index(name) for name in stream.key_names]
    return _line_encoder(
        site,
        connection,
        stream,
        Op.UPSERT,
        stream.encoder(connection.dialect),
        site.checkers[stream.name].check_data,
        lambda values: encode_key([values[place] for place in places]),
    )


def _delete_encoder(site: Site, connection: Connection, stream: Stream) -> _LineEncoder:
    encode_key = stream.key_encoder(connection.dialect)
    return _line_encoder(
        site, connection, stream, Op.DELETE, encode_key, site.checkers[stream.name].check_key, encode_key
    )


def _line_encoder(
    site: Site,
    connection: Connection,
    stream: Stream,
    op: Op,
    encode: _Encode,
    check: Callable[[_Body], None],
    key: _Encode,
) -> _LineEncoder:
    """Make the functions to the lines from those that encode and check one."""

    def line(version: int, values: Sequence[Any]) -> bytes:
        body = encode(values)
        check(body)
        return _bounded(site, records.encode(Record(stream.name, op, version, body)))

    lines = stream.line_writer(connection.dialect, op, site.checkers[stream.name].accepts_column)
    return _LineEncoder(stream, op, line, lines, key)


_Body = dict[str, Any]
_Encode = Callable[[Sequence[Any]], _Body]


def _bounded(site: Site, line: bytes) -> bytes:
    allowed = site.limits.read.max_record_bytes
    if len(line) - 1 > allowed:
        raise too_long(line[:-1], allowed)
    return line


def _letter(channel: Channel, kind: _LineEncoder, key: str, version: int, error: RecordError) -> Letter:
    advice = "it is not sent: mend the row, which sends it again"
    if kind.op is Op.DELETE and (other := _other_columns(kind.stream, key)):
        mine = ", ".join(kind.stream.key_names)
        sentence = f"this change names its row by {other}, and the key of stream {kind.stream.name} is {mine} now"
        error = RecordError("key", "/key", sentence)
        advice = (
            f"it is not sent: `exchange resync {channel.declared}` sends the whole table, and with --prune-missing what"
            " is gone from it"
        )
    return Letter(
        Direction.OUT,
        channel.name,
        key.encode(errors="surrogateescape"),
        error.error,
        f"{error.sentence}; {advice}",
        pointer=error.pointer,
        stream=kind.stream.name,
        op=kind.op.value,
        key=key,
        version=version,
        schema_version=kind.stream.schema_version,
    )


def _other_columns(stream: Stream, key: str) -> str:
    """Name the columns by which a change names its row, if those are not the stream's key; else nothing."""
    names = strict_json.loads(key.encode(errors="replace")).keys()
    return "" if names == set(stream.key_names) else printable(", ".join(sorted(names)))


def seal_changes(site: Site, connection: Connection, channel: Channel) -> Sealed:
    """Take pending changes and make them a batch; the caller commits, or nothing happened.

    Raises TransientError if the disk did not take it. Runs under the channel's lock, on PostgreSQL in a REPEATABLE READ
    transaction.
    """
    with site.spool.drafting() as draft:
        taken = capture.claim(connection, channel.streams, site.limits.batch_records, channel.shard)
        writer = BatchWriter(draft[0], ENCODING)
        composed = compose(site, connection, channel, taken.keys, writer)
        manifest = None
        if writer.records:
            manifest = seal_batch(
                site,
                connection,
                writer,
                draft,
                channel=channel.name,
                kind=BatchKind.CHANGES,
                schemas={name: channel.stream(name).schema_version for name in writer.streams},
                shards=channel.shards,
            )
    return Sealed(exported(manifest) if manifest else None, composed.parked, taken.more_pending or composed.more)
