"""The members that rows of JSON lines have behind a file's beginning: a header of all of them, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import msgspec

from exchange.format.batch import LongLine
from exchange.format.errors import RecordError
from exchange.reading import FileFormat, Place
from exchange.reading.json_rows import read_object
from exchange.reading.records import Records

MOST_MEMBERS, MOST_NAME = 1_000, 200
"""So many members are told apart, of names of so many characters: a row may have any number of others."""


_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What the reader raises: for bytes of a member's name that are no UTF-8 it is the second."""


def nothing() -> None:
    """Go on."""


def all_members(
    file: BinaryIO,
    written: FileFormat,
    first: Sequence[str],
    wanted: Callable[[str], bool],
    most: int,
    still_wanted: Callable[[], None] = nothing,
) -> list[str]:
    """Give the members of a file's rows: those of its beginning, ``first``, then others in their order.

    All that are ``wanted`` are given, and of the others at most ``MOST_MEMBERS``. Rows that can't be read and such as
    are longer than ``most`` bytes count for nothing. ``still_wanted`` is called now and then and may raise. Raises
    FileRefused for damaged compression.
    """
    found = dict.fromkeys([*filter(wanted, first), *first[:MOST_MEMBERS]])
    reader = _reader(found)
    for block in Records(file, written, Place(written.start, written.line), None, most):
        still_wanted()
        records = [record for record in block.records if type(record) is not LongLine]
        more: dict[str, None] = {}
        for name in _others(reader, records, found):
            if wanted(name) or (len(found) + len(more) < MOST_MEMBERS and len(name) <= MOST_NAME):
                more[name] = None
        if more:
            found |= more
            reader = _reader(found)
    return [*found]


def _reader(names: dict[str, None]) -> msgspec.json.Decoder[Any]:
    """Make a reader of rows that have no other members; of the values it sees only that they are JSON."""
    fields = [
        (f"member_{at}", msgspec.Raw, msgspec.field(default=msgspec.Raw(), name=name)) for at, name in enumerate(names)
    ]
    return msgspec.json.Decoder(msgspec.defstruct("Row", fields, forbid_unknown_fields=True, gc=False))


def _others(reader: msgspec.json.Decoder[Any], records: Sequence[bytes], known: dict[str, None]) -> Iterator[str]:
    """Give the members of rows that are not known."""
    try:
        reader.decode_lines(b"\n".join(records))
    except _UNREADABLE:
        yield from _others_one_by_one(reader, records, known)


def _others_one_by_one(
    reader: msgspec.json.Decoder[Any], records: Sequence[bytes], known: dict[str, None]
) -> Iterator[str]:
    for record in records:
        try:
            reader.decode(record)
        except _UNREADABLE:
            try:
                row = read_object(record)
            except RecordError:
                continue
            if isinstance(row, dict):
                yield from (name for name in row if name not in known)
