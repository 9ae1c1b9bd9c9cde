"""JSON documents: as JSON on the wire, or as a text of JSON where a number in it would not stay what it is."""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

import json as stdlib_json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import orjson

from exchange.channels.codecs.base import Decode, Encode, EncodeColumn, Json, Refuse, TypeCodec, WriteColumn
from exchange.format import strict_json
from exchange.format.errors import RecordError
from exchange.format.record import MAX_BODY_DEPTH

# U+0000, and integers of more than 63 bits: what the fast reader does not mind.
_MAYBE_NOT_STRICT = re.compile(rb"\\u0000|[0-9]{19}")

_with_escapes = stdlib_json.JSONEncoder().encode


def read_document(text: bytes, depth: int = MAX_BODY_DEPTH) -> Json:
    """Read JSON as a database keeps it, strictly and no deeper: RecordError or ValueError if it is not strict.

    Most texts were written by a machine. One that comes out the same when what was read is written again names
    no member twice and has no number that changed on the way; blanks say nothing about that, nor do the escapes
    of SQLAlchemy's writer.
    """
    value = orjson.loads(text)
    if _may_be_deep(text):
        _written(value, depth)
    try:
        again = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return strict_json.loads(text.strip(_JSON_BLANKS))
    same = _without_blanks(again) == _without_blanks(text) or _with_escapes(value).encode() == text
    return value if same and not _MAYBE_NOT_STRICT.search(text) else strict_json.loads(text.strip(_JSON_BLANKS))


class DocumentText(str):
    """A document as one text of JSON, as a number in it would be another one if it were read and written as usual."""

    __slots__ = ()


class _Number(str):
    __slots__ = ()


_MOST_DIGITS_BEFORE, _MOST_DIGITS_AFTER = 131_072, 16_383
"""PostgreSQL's own bounds of a number."""


def _plain(number: str) -> str:
    """Write a number without exponent and without needless zeros; raises ValueError for one that is too long."""
    sign = "-" if number[0] == "-" else ""
    mantissa, _, exponent = number.lower().removeprefix("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return "0"
    if len(exponent) > len(str(_MOST_DIGITS_BEFORE)) + 1:
        raise ValueError("a number of too many digits")
    after = len(fraction) - int(exponent or 0)  # so many of the digits stand behind the point
    shorter = digits.rstrip("0")
    after -= len(digits) - len(shorter)
    if len(shorter) - after > _MOST_DIGITS_BEFORE or after > _MOST_DIGITS_AFTER:
        raise ValueError("a number of too many digits")
    if after <= 0:
        return sign + shorter + "0" * -after
    padded = shorter.rjust(after + 1, "0")
    return f"{sign}{padded[:-after]}.{padded[-after:]}"


def _no_number(word: str) -> Json:
    raise ValueError(f"{word} is no number of JSON")


_EXACT = stdlib_json.JSONDecoder(
    object_pairs_hook=strict_json.members, parse_int=_Number, parse_float=_Number, parse_constant=_no_number
)


def exact_text(text: bytes) -> DocumentText:
    """Write a document in its one spelling: members by name, no blanks, each number with all its digits.

    Raises ValueError or RecordError for what is strict JSON in nothing but its numbers either.
    """
    try:
        return DocumentText(_written(_EXACT.decode(text.strip(_JSON_BLANKS).decode()), MAX_BODY_DEPTH))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


_TOO_DEEP = f"objects and arrays nested deeper than {MAX_BODY_DEPTH}"


def _written(value: Json, depth: int) -> str:
    if isinstance(value, _Number):
        return _plain(value)
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise ValueError(_TOO_DEEP)
        if isinstance(value, list):
            return "[" + ",".join(_written(one, depth - 1) for one in value) + "]"
        if len(value) > strict_json.MAX_MEMBERS:
            raise ValueError(f"an object of more than {strict_json.MAX_MEMBERS} members")
        return (
            "{"
            + ",".join(f"{_written(name, depth)}:{_written(value[name], depth - 1)}" for name in sorted(value))
            + "}"
        )
    return strict_json.dumps(value, 1 if value is None else 0).decode()


def _read_or_keep(text: bytes) -> Json:
    """Read a document, or give it as a text if its numbers forbid it; raises what ``read_document`` raises."""
    try:
        return read_document(text)
    except (ValueError, RecordError):
        try:
            return exact_text(text)
        except (ValueError, RecordError):
            pass
        raise


_MARK = secrets.token_hex(16)
_BETWEEN = f',"{_MARK}",'.encode()


_ALWAYS_SHALLOW = 2 * MAX_BODY_DEPTH


def _may_be_deep(text: bytes) -> bool:
    return text.count(b"{") + text.count(b"[") > MAX_BODY_DEPTH


def _read_documents(texts: Sequence[bytes]) -> list[Json]:
    """Read many documents at once, as ``read_document`` reads each; raises as it does, and if one may be deep."""
    read = _read_at_once(texts)
    return [*map(read_document, texts)] if read is None else read[0]


def _write_documents(texts: Sequence[bytes]) -> list[bytes]:
    """Read many documents at once and write each as the wire has it; raises as ``read_document`` does, and so on."""
    read = _read_at_once(texts)
    written = read[1][1:-1].split(_BETWEEN) if read is not None else []
    if max(map(len, written), default=0) <= strict_json.ALWAYS_FEW and written:
        return written
    return strict_json.dumps_each([*map(read_document, texts)])


def _read_at_once(texts: Sequence[bytes]) -> tuple[list[Json], bytes] | None:
    """Read many documents, and write them as one array with marks between; None if any needs a look of its own.

    They are read as one array with a mark between each two. Nobody who wrote them can know the mark, so where
    every second element is one, each text held exactly one document. Raises ValueError if one may be deep.
    """
    text = b"[%b]" % _BETWEEN.join(texts)
    if any(_may_be_deep(one) for one in texts if len(one) > _ALWAYS_SHALLOW):
        raise ValueError
    try:
        elements = orjson.loads(text)
        # Only integers that need no second look.
        again = orjson.dumps(elements, option=orjson.OPT_STRICT_INTEGER)
    except (ValueError, TypeError):
        return None
    values: list[Json] = elements[::2]
    same = _without_blanks(again) == _without_blanks(text) and not (b"\\" in text and b"\\u0000" in text)
    alone = len(values) == len(texts) and elements[1::2] == [_MARK] * (len(texts) - 1)
    return (values, again) if same and alone else None


_JSON_BLANKS = b" \t\r\n"


def _without_blanks(text: bytes) -> bytes:
    # Those within strings too: both texts lose them, and where strings begin and end does not hang on them.
    return text.translate(None, b" ")


@dataclass(frozen=True)
class JsonCodec(TypeCodec):
    """JSON columns, as they are.

    JSON's null and SQL's NULL are two values, though SQLAlchemy reads both as None: where a column may be NULL a record
    has ``json_null_member`` for JSON's, where it may not null is JSON's. Numbers keep their value, not their spelling;
    a document of which a number is more than 64 bits or a double keep is a ``DocumentText``.
    """

    long = True
    keyable = False
    expected = "strict JSON"

    def schema(self) -> dict[str, Any]:
        return {}

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        def from_text(text: str) -> Json:
            return from_bytes(text.encode())

        def from_sqlite(value: Any) -> Json:
            if type(value) is bytes:
                return from_bytes(value)
            # SQLite makes a number of a text that is one.
            if type(value) is int or (type(value) is float and isfinite(value)):
                return value
            raise refuse(value)

        def from_bytes(text: bytes) -> Json:
            try:
                return _read_or_keep(text)
            except ValueError as error:
                raise refuse(text, str(error)) from error
            except RecordError as error:
                raise refuse(text, error.sentence) from error

        return from_sqlite if sqlite else from_text

    def column_encoder(self, refuse: Refuse, *, sqlite: bool) -> EncodeColumn:
        encode = self.encoder(refuse, sqlite=sqlite)

        def documents(values: Sequence[Any]) -> Sequence[Json]:
            if sqlite and {*map(type, values)} != {bytes}:
                found = [*map(encode, values)]
                if DocumentText in {*map(type, found)}:  # it goes under another name than its column's
                    raise ValueError
                return found
            return _read_documents(values if sqlite else [*map(str.encode, values)])

        return documents

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn:
        encode = self.column_encoder(refuse, sqlite=sqlite)

        def written(values: Sequence[Any]) -> list[bytes]:
            if sqlite and {*map(type, values)} != {bytes}:
                return strict_json.dumps_each(encode(values))
            return _write_documents(values if sqlite else [*map(str.encode, values)])

        return written

    def checked_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        write = orjson.dumps

        def document(value: Json) -> str:
            return write(value).decode()

        def document_or_number(value: Json) -> str | float:
            return value if type(value) is int or type(value) is float else write(value).decode()

        return document_or_number if sqlite else document

    def text_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        """From the text of a document that can't be read and written as usual to the driver's."""

        def document(text: Json) -> str:
            try:
                one_spelling = exact_text(text.encode())
            except (ValueError, RecordError) as error:
                raise refuse(text, str(error)) from error
            if one_spelling != text:
                raise refuse(
                    text, "a document as text has its members by name, no blanks, and all digits of each number"
                )
            try:
                read_document(text.encode())
            except (ValueError, RecordError):
                if sqlite and text[0] not in '[{"':
                    raise refuse(text, "SQLite makes a float of such a number") from None
                return str(text)
            raise refuse(text, "a document whose numbers are usual ones is no text")

        return document

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        write = strict_json.dumps

        def document(value: Json) -> str:
            try:
                return write(value).decode()
            except RecordError as error:
                raise refuse(value, error.sentence) from error

        def document_or_number(value: Json) -> str | float:
            # As text it would be read by SQLite itself, less exactly than by us.
            text = document(value)
            return value if type(value) is int or type(value) is float else text

        return document_or_number if sqlite else document
