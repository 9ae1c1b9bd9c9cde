"""The records of one batch, out of the database into its data file, or parked with a reason.

Upserts come parents first, then deletes children first, so that foreign keys hold at every line. Runs inside
the exporter's transaction and leaves it to the exporter to commit or undo all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection

from exchange import capture, dead_letters
from exchange.bulk import uncollected
from exchange.channels import Channel, Stream
from exchange.dead_letters import Letter
from exchange.format import record as records
from exchange.format.batch import BatchWriter
from exchange.format.errors import RecordError
from exchange.format.record import Op, Record
from exchange.models import Direction
from exchange.site import Site


@dataclass(frozen=True)
class Composed:
    """How many records were parked, and whether some found no room and went back."""

    parked: int
    left: bool


class _Kind(NamedTuple):
    """Records of one stream and one op, and how their lines are made."""

    stream: Stream
    op: Op
    line: Callable[[int, Sequence[Any]], bytes]


class _Taken(NamedTuple):
    """One taken key: its change's text and version, and the values of its row, or of its key if the row is gone."""

    kind: _Kind
    key: str
    version: int
    values: Sequence[Any]


def compose(
    site: Site, connection: Connection, channel: Channel, streams: Sequence[Stream], writer: BatchWriter
) -> Composed:
    """Write what was taken of ``streams`` until the batch is full; what found no room goes back to the log."""
    letters: list[Letter] = []
    reached: capture.Reached | None = None
    left = False
    with uncollected(), closing(_taken(site, connection, streams)) as keys:
        for taken in keys:
            stream, op, make_line = taken.kind
            try:
                line = make_line(taken.version, taken.values)
            except RecordError as error:
                letters.append(_letter(channel, taken, error))
            else:
                if writer.content_bytes + len(line) > site.limits.batch_bytes and writer.records:
                    left = True
                    break
                writer.write(line, stream.name, op)
            reached = capture.Reached(stream.name, taken.version, op)
    if left:
        capture.give_back(connection, channel.streams, reached)
    dead_letters.park(connection, letters, "refused on export")
    return Composed(len(letters), left)


def _taken(site: Site, connection: Connection, streams: Sequence[Stream]) -> Generator[_Taken, None, None]:
    for stream in streams:
        kind = _Kind(stream, Op.UPSERT, _upsert_line(site, connection, stream))
        for row in capture.rows(connection, stream):
            yield _Taken(kind, row[0], row[1], row[2:])
    for stream in reversed(streams):
        kind = _Kind(stream, Op.DELETE, _delete_line(site, connection, stream))
        for key, version, values in capture.deleted_keys(connection, stream):
            yield _Taken(kind, key, version, values)


def _upsert_line(site: Site, connection: Connection, stream: Stream) -> Callable[[int, Sequence[Any]], bytes]:
    """Make the function from a version and a row to the line. It raises RecordError for what must not cross."""
    encode = stream.encoder(connection.dialect)
    check = site.checkers[stream.name].check_data

    def line(version: int, values: Sequence[Any]) -> bytes:
        data = encode(values)
        check(data, stream.schema_version)
        return _bounded(site, records.encode(Record(stream.name, Op.UPSERT, version, data)))

    return line


def _delete_line(site: Site, connection: Connection, stream: Stream) -> Callable[[int, Sequence[Any]], bytes]:
    """Make the same from a version and a key."""
    encode = stream.key_encoder(connection.dialect)
    check = site.checkers[stream.name].check_key

    def line(version: int, values: Sequence[Any]) -> bytes:
        key = encode(values)
        check(key)
        return _bounded(site, records.encode(Record(stream.name, Op.DELETE, version, key)))

    return line


def _bounded(site: Site, line: bytes) -> bytes:
    allowed = site.limits.read.max_record_bytes
    if len(line) - 1 > allowed:
        raise RecordError("size", "", f"the record is {len(line) - 1} bytes long, at most {allowed} are sent")
    return line


def _letter(channel: Channel, taken: _Taken, error: RecordError) -> Letter:
    return Letter(
        Direction.OUT,
        channel.name,
        taken.key.encode(),
        error.error,
        f"{error.sentence}; it is not sent: mend the row, which sends it again",
        pointer=error.pointer,
        stream=taken.kind.stream.name,
        op=taken.kind.op.value,
        key=taken.key,
        version=taken.version,
        schema_version=taken.kind.stream.schema_version,
    )
