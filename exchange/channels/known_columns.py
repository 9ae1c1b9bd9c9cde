"""What each column of a stream takes, for the reader of lines of a known shape: no more than the stream's schema does.

Where a type has no check here that is quicker, the schema's own program is asked of the whole column. Types that an
application brought, and those that are arrays or objects in files, are read in the usual way alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any

import msgspec

from exchange.channels.codecs import ColumnCodec
from exchange.channels.codecs.array import StructuredCodec
from exchange.channels.codecs.base import TypeCodec
from exchange.channels.codecs.custom import CustomCodec
from exchange.channels.codecs.document import JsonCodec
from exchange.channels.codecs.numeric import BooleanCodec, FloatCodec, IntegerCodec
from exchange.channels.codecs.temporal import DateCodec, DateTimeCodec
from exchange.channels.codecs.text import EnumCodec, TextCodec, UuidCodec
from exchange.format import strict_json
from exchange.format.known_shape import DOCUMENT, ONE_OF, KnownColumn

Fits = Callable[[Sequence[Any]], bool]

_MICROSECOND_DIGITS = 6

_WIDEST = 2**63 - 1
"""Integers of an enumeration that are larger need a look of their own."""


def known_column(codec: ColumnCodec, by_schema: Fits) -> KnownColumn | None:
    """Say what to ask of a column's values; ``by_schema`` asks the schema of many. None if they are read otherwise."""
    kind = codec.type_codec
    escaped = strict_json.dumps(codec.name) != f'"{codec.name}"'.encode()  # msgspec knows no such name
    wide = isinstance(kind, EnumCodec) and any(type(one) is int and abs(one) > _WIDEST for _, one in kind.wires)
    if escaped or wide or isinstance(kind, (StructuredCodec, CustomCodec)):
        return None
    if isinstance(kind, JsonCodec):
        return KnownColumn(DOCUMENT)
    known = _of_type(kind, codec.json_schema, by_schema)
    return known._replace(type=known.type | None) if codec.nullable else known


def _of_type(kind: TypeCodec, schema: Mapping[str, Any], by_schema: Fits) -> KnownColumn:
    of: Any = str
    fits: Fits | None = None
    match kind:
        case IntegerCodec():
            of = Annotated[int, msgspec.Meta(ge=schema["minimum"], le=schema["maximum"])]
        case BooleanCodec():
            of = bool
        case FloatCodec():
            of = float
        case EnumCodec():
            of = ONE_OF[tuple(value for value in schema["enum"] if value is not None)]
        case TextCodec(fixed=False, length=length):  # U+0000 is in no line of the shape
            of = Annotated[str, msgspec.Meta(max_length=length)]
        case UuidCodec():
            fits = are_uuids
        case DateTimeCodec(digits=digits, aware=aware) if digits == _MICROSECOND_DIGITS:
            fits = are_moments if aware else are_local_moments
        case DateCodec():
            fits = are_days
        case _:
            fits = by_schema
    return KnownColumn(of, fits)


def _alike(characters: bytes) -> bytes:
    """Make the table that writes each of these characters as 0."""
    return bytes.maketrans(characters, b"0" * len(characters))


_DIGITS, _HEX_DIGITS = _alike(b"0123456789"), _alike(b"0123456789abcdef")


def _shaped(values: Sequence[str], shape: bytes, table: bytes) -> bool:
    """Say whether all texts are of one shape, once characters that are alike are written as one."""
    return "\n".join([*values, ""]).encode().translate(table) == shape * len(values)


def _read_by(read: Callable[[str], object], values: Sequence[str]) -> bool:
    try:
        deque(map(read, values), maxlen=0)
    except ValueError:
        return False
    return True


def are_uuids(values: Sequence[str]) -> bool:
    """Say whether all texts are UUIDs in lower case with dashes."""
    return _shaped(values, b"00000000-0000-0000-0000-000000000000\n", _HEX_DIGITS)


def are_days(values: Sequence[str]) -> bool:
    """Say whether all texts are days of the calendar, YYYY-MM-DD."""
    return _shaped(values, b"0000-00-00\n", _DIGITS) and _read_by(date.fromisoformat, values)


def are_moments(values: Sequence[str]) -> bool:
    """Say whether all texts are date-times of the calendar in UTC, with microseconds and a Z."""
    return _are_moments(values, b"0000-00-00T00:00:00.000000Z\n")


def are_local_moments(values: Sequence[str]) -> bool:
    """Say whether all texts are date-times of the calendar without zone, with microseconds."""
    return _are_moments(values, b"0000-00-00T00:00:00.000000\n")


def _are_moments(values: Sequence[str], shape: bytes) -> bool:
    # Newer Pythons read 24:00 as the next day's beginning.
    return "T24" not in "".join(values) and _shaped(values, shape, _DIGITS) and _read_by(datetime.fromisoformat, values)
