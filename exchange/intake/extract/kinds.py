"""What kind of cell or value each column's wire values are in files of people."""

from __future__ import annotations

from enum import Enum

from exchange.channels.codecs import ColumnCodec
from exchange.channels.codecs.array import StructuredCodec
from exchange.channels.codecs.base import TypeCodec
from exchange.channels.codecs.custom import CustomCodec
from exchange.channels.codecs.document import JsonCodec
from exchange.channels.codecs.network import BitsCodec
from exchange.channels.codecs.numeric import BooleanCodec, FloatCodec, IntegerCodec
from exchange.channels.codecs.ranges import RangeCodec
from exchange.channels.codecs.text import BytesCodec, EnumCodec, TextCodec, XmlCodec


class Kind(Enum):
    """How a column's wire values become cells."""

    TRUTH = "truth"
    WHOLE = "whole"
    REAL = "real"
    SPELLED = "spelled"
    """Texts that need no quotes and are never empty: decimals, dates, UUIDs and their like."""
    CODED = "coded"
    """Texts without a formula that may be empty or have commas: bytes, bits, ranges."""
    WORDS = "words"
    """Texts that people wrote."""
    DOCUMENT = "document"
    """JSON, in which null and no value are two things."""
    JSON = "json"
    """What is no text on the wire, such as an array: as JSON's text."""


_KINDS: tuple[tuple[tuple[type[TypeCodec], ...], Kind], ...] = (
    ((BooleanCodec,), Kind.TRUTH),
    ((IntegerCodec,), Kind.WHOLE),
    ((FloatCodec,), Kind.REAL),
    ((BytesCodec, BitsCodec, RangeCodec), Kind.CODED),
    ((TextCodec, XmlCodec, EnumCodec), Kind.WORDS),
    ((JsonCodec,), Kind.DOCUMENT),
    ((StructuredCodec,), Kind.JSON),
)


def kind_of(codec: ColumnCodec) -> Kind:
    """Say of which kind a column is. A type of the application's own is of text only if its schema says so."""
    own = codec.type_codec
    if isinstance(own, CustomCodec):
        return Kind.WORDS if own.json_schema["type"] == "string" else Kind.JSON
    return next((kind for kinds, kind in _KINDS if isinstance(own, kinds)), Kind.SPELLED)
