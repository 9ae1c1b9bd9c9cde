"""Reads a file as a stream's values, piece by piece, and a single row of it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from exchange.channels.stream import Stream
from exchange.format.batch import LongLine, ReadLimits
from exchange.format.errors import RecordError
from exchange.reading import BadRow, Body, FileFormat, Piece, Place
from exchange.reading.one_row import check_is_one
from exchange.reading.records import Records, too_long
from exchange.reading.rows import Rows
from exchange.reading.source import as_in_file, as_utf8, is_direct


def read(
    file: BinaryIO,
    written: FileFormat,
    stream: Stream,
    start: Place | None = None,
    stop: int | None = None,
    limits: ReadLimits | None = None,
) -> Iterator[Piece]:
    """Yield the rows from a place on, up to the byte ``stop`` where a row begins, in pieces of some 256 KiB.

    ``start`` is the first row's place unless given; any place is taken that ``Cutter`` or a piece's ``end`` has named.
    What is compressed is read up to there. Raises FileRefused for damaged compression, and what the file raises.
    """
    most = (limits or ReadLimits()).max_record_bytes
    rows = Rows(written, stream)
    direct = is_direct(written.encoding)
    for block in Records(file, written, start or Place(written.start, written.line), stop, most):
        made = rows.make(block.records, block.bad)
        records, numbers = block.records, block.numbers
        if not direct:
            records = [_as_in_file(record, written.encoding) for record in records]
        bad = [BadRow(numbers[at], records[at], made.bad[at].kept()) for at in sorted(made.bad)]
        if len(made.places) != len(records):
            numbers, records = [numbers[at] for at in made.places], [records[at] for at in made.places]
        yield Piece(numbers, records, made.bodies, bad, block.end)


def read_row(written: FileFormat, stream: Stream, record: bytes, limits: ReadLimits | None = None) -> Body:
    """Read one row, as a file of this format has it, without the end of its line; raises RecordError."""
    most = (limits or ReadLimits()).max_record_bytes
    if len(record) > most or isinstance(record, LongLine):
        raise too_long(record.length if isinstance(record, LongLine) else len(record), most)
    data = as_utf8(record, written.encoding)
    check_is_one(written, data)
    rows = Rows(written, stream)
    made = rows.make_one_by_one([data], {})
    if not made.bad:
        rows.check_members(data)
    if made.bad:
        raise made.bad[0]
    if not made.bodies:
        raise RecordError("ragged", "", "the row is blank")
    return made.bodies[0]


def _as_in_file(record: bytes, encoding: str) -> bytes:
    if isinstance(record, LongLine):
        # Its beginning may end within a character.
        whole = record.decode("utf-8", "ignore").encode()
        return LongLine.of(as_in_file(whole, encoding), record.length)
    return as_in_file(record, encoding)
