"""How a column's values look on the wire (FORMAT.md, "Values"), and back: exact, or refused with a sentence.

``codec_for`` finds the codec of a column by its type without any decorator or variant: what crosses is what
the database keeps, not what an application's own type makes of it. A value that one of the two databases
would keep differently from the other is refused on both, before any database sees it.
"""

from exchange.channels.codecs.base import LOOK_AT_EACH, EncodeColumn, Json, as_is, json_null_member
from exchange.channels.codecs.column import JSON_NULL, ColumnCodec, codec_for
from exchange.channels.codecs.custom import register_codec
from exchange.channels.codecs.document import DocumentText
from exchange.channels.codecs.interval import MONTHS_SCHEMA
from exchange.channels.codecs.known import ROWS, TypeRow, UnsupportedColumn, is_computed
from exchange.channels.codecs.temporal import DURATION_SCHEMA

__all__ = [
    "DURATION_SCHEMA",
    "JSON_NULL",
    "LOOK_AT_EACH",
    "MONTHS_SCHEMA",
    "ROWS",
    "ColumnCodec",
    "DocumentText",
    "EncodeColumn",
    "Json",
    "TypeRow",
    "UnsupportedColumn",
    "as_is",
    "codec_for",
    "is_computed",
    "json_null_member",
    "register_codec",
]
