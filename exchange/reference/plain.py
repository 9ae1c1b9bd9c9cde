"""What may cross in a JSON column: what the other side would check, checked before the row is written."""

from __future__ import annotations

from typing import Any

import orjson

from exchange.format import strict_json
from exchange.format.errors import RecordError

LONGEST_VALUE_BYTES = 900_000
"""Below the limit of 1 MiB that a record had, so that any side takes it, with the row's other columns beside it."""


def check_plain(value: Any) -> None:
    """Raise ValueError, with the end of a sentence, if ``value`` would not arrive as it is.

    Refused are values that JSON has no form for or would silently change (NaN, dates, tuples, integers
    outside 64 bits), U+0000 and lone surrogates, more nesting and more bytes than a record may have.
    """
    try:
        # As deep as it will stand in the record: {"data": {"column": value}}.
        encoded = orjson.dumps({"data": {"value": value}})
    except (TypeError, orjson.JSONEncodeError) as error:
        raise ValueError(f"is no plain JSON ({error})") from error
    if len(encoded) > LONGEST_VALUE_BYTES:
        raise ValueError(f"has {len(encoded)} bytes as JSON, at most {LONGEST_VALUE_BYTES} cross")
    try:
        read = strict_json.loads(encoded)["data"]["value"]
    except RecordError as error:
        raise ValueError(f"can't cross: {error.sentence}") from error
    if read != value:
        raise ValueError("is no plain JSON: it holds a value that JSON would change, such as NaN, a date or a tuple")
