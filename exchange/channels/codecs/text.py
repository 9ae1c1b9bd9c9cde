"""Strings, enums, UUIDs, bytes and JSON documents."""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

import binascii
import json as stdlib_json
import re
import secrets
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import orjson
import sqlalchemy as sa

from exchange.channels.codecs.base import Decode, Encode, EncodeColumn, Json, Refuse, TypeCodec, as_is, raw
from exchange.format import strict_json
from exchange.format.errors import RecordError
from exchange.format.record import MAX_BODY_DEPTH

_SHORT = 200


@dataclass(frozen=True)
class TextCodec(TypeCodec):
    """Strings, of at most ``length`` code points.

    A column of fixed length (CHAR) has no blanks at its end: PostgreSQL pads with them and says they mean
    nothing, SQLite does neither.
    """

    length: int | None
    fixed: bool
    keyable: bool = True

    @property
    def long(self) -> bool:  # type: ignore[override]
        return self.length is None or self.length > _SHORT

    @property
    def expected(self) -> str:
        bound = "" if self.length is None else f" of at most {self.length} characters"
        blanks = ", none of them a blank at the end" if self.fixed else ""
        return f"a string{bound} without U+0000{blanks}"

    def schema(self) -> dict[str, Any]:
        bound = {} if self.length is None else {"maxLength": self.length}
        pattern = "^([^\\u0000]*[^\\u0000 ])?$" if self.fixed else "^[^\\u0000]*$"
        return {"type": "string", **bound, "pattern": pattern}

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        if not sqlite:
            return as_is
        check = self.decoder(refuse, sqlite=True)

        def words(value: Any) -> str:
            if type(value) is not bytes:
                raise refuse(value)
            try:
                text = value.decode()
            except UnicodeDecodeError as error:
                raise refuse(value, "its bytes are not UTF-8") from error
            return str(check(text))

        return words

    def column_encoder(self, refuse: Refuse, *, sqlite: bool) -> EncodeColumn:  # noqa: ARG002 - the schema has the rest
        return _decoded if sqlite else as_is

    def checked_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        return self.decoder(refuse, sqlite=sqlite) if self.fixed else as_is

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        most = self.length
        fixed = self.fixed

        def words(value: Json) -> str:
            if type(value) is not str or "\0" in value or (most is not None and len(value) > most):
                raise refuse(value)
            if fixed and value[-1:] == " ":
                raise refuse(value)
            if not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError as error:
                    raise refuse(value, "a lone surrogate is no character") from error
            return value

        return words


@dataclass(frozen=True)
class EnumCodec(TypeCodec):
    """Enums, by value. ``wires`` maps what the database keeps to the value; its order is the declared one."""

    wires: tuple[tuple[str, str | int], ...]

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(repr(wire) for wire in self._values())

    def _values(self) -> list[str | int]:
        return list(dict.fromkeys(wire for _, wire in self.wires))

    def schema(self) -> dict[str, Any]:
        types = sorted({"string" if type(wire) is str else "integer" for wire in self._values()})
        return {"type": types[0] if len(types) == 1 else types, "enum": self._values()}

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        wires = self._wire_values(sqlite=sqlite)

        def choice(value: Any) -> str | int:
            wire = wires.get(value)
            if wire is None:
                raise refuse(value)
            return wire

        return choice

    def column_encoder(self, refuse: Refuse, *, sqlite: bool) -> EncodeColumn:  # noqa: ARG002
        wire = self._wire_values(sqlite=sqlite).__getitem__
        return lambda values: [*map(wire, values)]

    def _wire_values(self, *, sqlite: bool) -> Mapping[Hashable, str | int]:
        return {name.encode() if sqlite else name: wire for name, wire in self.wires}

    def checked_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        alike = all(name == wire for name, wire in self.wires)
        return as_is if alike else self.decoder(refuse, sqlite=sqlite)

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        names: dict[str | int, str] = {}
        for name, wire in self.wires:
            names.setdefault(wire, name)
        types = frozenset(type(wire) for wire in names)

        def choice(value: Json) -> str:
            # Python would find 1 for true and for 1.0.
            name = names.get(value) if type(value) in types else None
            if name is None:
                raise refuse(value)
            return name

        return choice

    def family(self) -> Hashable:
        """Let a variant keep only the same names for the same values."""
        return (EnumCodec, frozenset(self.wires))


def _decoded(values: Sequence[Any]) -> list[str]:
    return [*map(bytes.decode, values)]


def _digits(uuid: str) -> str:
    return uuid.replace("-", "")


_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX = re.compile(rb"[0-9a-f]{32}")


@dataclass(frozen=True)
class UuidCodec(TypeCodec):
    """UUIDs. Where the database has no such type, or if not ``native``, SQLAlchemy keeps 32 hex digits."""

    native: bool
    expected = "a UUID in lower case with dashes"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_UUID.pattern}$"}

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        if self.native and not sqlite:
            return as_is

        def dashed(value: Any) -> str:
            if type(value) is str:
                value = value.encode()
            if type(value) is not bytes or not _HEX.fullmatch(value):
                raise refuse(value, "where 32 hex digits in lower case are kept")
            digits = value.decode()
            return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

        return dashed

    def column_encoder(self, refuse: Refuse, *, sqlite: bool) -> EncodeColumn:
        """Put dashes into whatever there is: into anything but 32 hex digits they go so that the schema refuses it."""
        if not sqlite:
            return super().column_encoder(refuse, sqlite=sqlite)
        return lambda values: [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}" for d in map(bytes.decode, values)]

    def checked_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        return as_is if self.native and not sqlite else _digits

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        fits = _UUID.fullmatch

        def dashed(value: Json) -> str:
            if type(value) is str and fits(value):
                return value
            raise refuse(value)

        def digits(value: Json) -> str:
            if type(value) is str and fits(value):
                return value.replace("-", "")
            raise refuse(value)

        return dashed if self.native and not sqlite else digits


@dataclass(frozen=True)
class BytesCodec(TypeCodec):
    """Bytes, as base64 of the standard alphabet with its padding."""

    long = True
    expected = "bytes as base64"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}

    def selected(self, column: sa.Column[Any], *, sqlite: bool) -> sa.ColumnElement[Any]:
        """Select the bytes; a text in their place is given as text, and no UTF-8 is asked of it."""
        if not sqlite:
            return raw(column)
        is_blob = sa.func.typeof(column).in_([sa.literal_column("'blob'"), sa.literal_column("'null'")])
        return sa.type_coerce(
            sa.case((is_blob, raw(column)), else_=sa.literal_column("'no blob'")), sa.types.NullType()
        )

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:  # noqa: ARG002
        to_base64 = binascii.b2a_base64

        def octets(value: Any) -> str:
            if type(value) is bytes:
                return to_base64(value, newline=False).decode("ascii")
            raise refuse(value)

        return octets

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        from_base64, to_base64 = binascii.a2b_base64, binascii.b2a_base64

        def octets(value: Json) -> bytes:
            if type(value) is not str:
                raise refuse(value)
            try:
                found = from_base64(value, strict_mode=True) if value else b""
            except ValueError as error:
                raise refuse(value) from error
            # Several texts may mean the same bytes: only the one that we would write is taken.
            if to_base64(found, newline=False).decode("ascii") != value:
                raise refuse(value, "its last character has bits that mean nothing")
            return found

        def in_hex(value: Json) -> str:
            return "\\x" + octets(value).hex()

        return octets if sqlite else in_hex


# U+0000, and integers of more than 63 bits: what the fast reader does not mind.
_MAYBE_NOT_STRICT = re.compile(rb"\\u0000|[0-9]{19}")

_with_escapes = stdlib_json.JSONEncoder().encode


def _read_document(text: bytes) -> Json:
    """Read JSON as a database keeps it, strictly: RecordError or ValueError if it is not strict.

    Most texts were written by a machine. One that comes out the same when what was read is written again names
    no member twice and has no number that changed on the way; blanks say nothing about that, nor do the escapes
    of SQLAlchemy's writer.
    """
    value = orjson.loads(text)
    try:
        again = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return strict_json.loads(text.strip(_JSON_BLANKS))
    same = _without_blanks(again) == _without_blanks(text) or _with_escapes(value).encode() == text
    return value if same and not _MAYBE_NOT_STRICT.search(text) else strict_json.loads(text.strip(_JSON_BLANKS))


_MARK = secrets.token_hex(16)
_BETWEEN = f',"{_MARK}",'.encode()


_ALWAYS_SHALLOW = 2 * MAX_BODY_DEPTH


def _may_be_deep(text: bytes) -> bool:
    return text.count(b"{") + text.count(b"[") > MAX_BODY_DEPTH


def _read_documents(texts: Sequence[bytes]) -> list[Json]:
    """Read many documents at once, as ``_read_document`` reads each; raises as it does, and if one may be deep.

    They are read as one array with a mark between each two. Nobody who wrote them can know the mark, so where
    every second element is one, each text held exactly one document.
    """
    text = b"[%b]" % _BETWEEN.join(texts)
    if any(_may_be_deep(one) for one in texts if len(one) > _ALWAYS_SHALLOW):
        raise ValueError
    try:
        elements = orjson.loads(text)
        # Only integers that need no second look.
        again = orjson.dumps(elements, option=orjson.OPT_STRICT_INTEGER)
    except (ValueError, TypeError):
        return [*map(_read_document, texts)]
    values: list[Json] = elements[::2]
    same = _without_blanks(again) == _without_blanks(text) and not (b"\\" in text and b"\\u0000" in text)
    if same and len(values) == len(texts) and elements[1::2] == [_MARK] * (len(texts) - 1):
        return values
    return [*map(_read_document, texts)]


_JSON_BLANKS = b" \t\r\n"


def _without_blanks(text: bytes) -> bytes:
    # Those within strings too: both texts lose them, and where strings begin and end does not hang on them.
    return text.translate(None, b" ")


@dataclass(frozen=True)
class JsonCodec(TypeCodec):
    """JSON columns, as they are.

    JSON's null and SQL's NULL are two values, though SQLAlchemy reads both as None: where a column may be NULL a record
    has ``json_null_member`` for JSON's, where it may not null is JSON's. Numbers keep their value, not their spelling.
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
                return _read_document(text)
            except ValueError as error:
                raise refuse(text, str(error)) from error
            except RecordError as error:
                raise refuse(text, error.sentence) from error

        return from_sqlite if sqlite else from_text

    def column_encoder(self, refuse: Refuse, *, sqlite: bool) -> EncodeColumn:
        encode = self.encoder(refuse, sqlite=sqlite)

        def documents(values: Sequence[Any]) -> Sequence[Json]:
            if sqlite and {*map(type, values)} != {bytes}:
                return [*map(encode, values)]
            return _read_documents(values if sqlite else [*map(str.encode, values)])

        return documents

    def checked_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        write = orjson.dumps

        def document(value: Json) -> str:
            return write(value).decode()

        def document_or_number(value: Json) -> str | float:
            return value if type(value) is int or type(value) is float else write(value).decode()

        return document_or_number if sqlite else document

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
