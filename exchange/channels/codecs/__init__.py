"""How a column's values look on the wire (FORMAT.md, "Values"), and back: exact, or refused with a sentence.

``codec_for`` finds the codec of a column by its type without any decorator or variant: what crosses is what
the database keeps, not what an application's own type makes of it. A value that one of the two databases
would keep differently from the other is refused on both, before any database sees it.
"""

from exchange.channels.codecs.base import LOOK_AT_EACH, EncodeColumn, Json, as_is, json_null_member
from exchange.channels.codecs.column import JSON_NULL, ColumnCodec, UnsupportedColumn, codec_for

__all__ = [
    "JSON_NULL",
    "LOOK_AT_EACH",
    "ColumnCodec",
    "EncodeColumn",
    "Json",
    "UnsupportedColumn",
    "as_is",
    "codec_for",
    "json_null_member",
]
