"""Strings, XML, enums, UUIDs and bytes."""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from exchange.channels.codecs.base import (
    Decode,
    Encode,
    EncodeColumn,
    Json,
    Refuse,
    SpelledCodec,
    TypeCodec,
    WriteColumn,
    as_is,
    in_shape,
    raw,
)
from exchange.format import strict_json

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

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn | None:
        if self.fixed:
            return None
        encode, most = self.column_encoder(refuse, sqlite=sqlite), self.length

        def written(values: Sequence[Any]) -> list[bytes]:
            words = encode(values)
            if {*map(type, words)} != {str} or (most is not None and max(map(len, words)) > most):
                raise ValueError
            return strict_json.dumps_scalars(words)

        return written

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
class XmlCodec(SpelledCodec):
    """XML, as the text that it is: documents and contents. Only PostgreSQL sees whether it is well-formed."""

    long = True
    keyable = False
    expected = "XML as a string without U+0000"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[^\\u0000]*$"}

    def check(self, text: str) -> str:
        if "\0" in text:
            raise ValueError
        text.encode()
        return text


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

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn:  # noqa: ARG002
        texts = {kept: orjson.dumps(wire) for kept, wire in self._wire_values(sqlite=sqlite).items()}
        return lambda values: [*map(texts.__getitem__, values)]

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
_HEX_DIGITS = bytes.maketrans(b"123456789abcdef", b"0" * 15)
_UUID_SHAPE = b"00000000-0000-0000-0000-000000000000"
_HEX = re.compile(rb"[0-9a-f]{32}")


@dataclass(frozen=True)
class UuidCodec(TypeCodec):
    """UUIDs. Where the database has no such type, or if not ``native``, SQLAlchemy keeps 32 hex digits.

    On SQLite a column of text by the application's own choice keeps them with ``dashes``, unless it holds just 32.
    """

    native: bool
    dashes: bool = False
    expected = "a UUID in lower case with dashes"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_UUID.pattern}$"}

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        if self.native and not sqlite:
            return as_is
        fits = _UUID.fullmatch

        def with_dashes(value: Any) -> str:
            text = value.decode("ascii", "replace") if type(value) is bytes else ""
            if not fits(text):
                raise refuse(value, "where lower-case hex digits with dashes are kept")
            return text

        if self.dashes and sqlite:
            return with_dashes

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
        if not sqlite or self.dashes:
            return super().column_encoder(refuse, sqlite=sqlite)
        return lambda values: [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}" for d in map(bytes.decode, values)]

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn:
        encode = self.column_encoder(refuse, sqlite=sqlite)
        return lambda values: in_shape(("\n".join(encode(values)) + "\n").encode(), _HEX_DIGITS, _UUID_SHAPE)

    def checked_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        return as_is if self._is_dashed(sqlite=sqlite) else _digits

    def checked_column_decoder(self, refuse: Refuse, *, sqlite: bool) -> Callable[[list[Json]], list[Any]]:
        """Take the dashes out of all at once: a UUID has no newline."""
        if self._is_dashed(sqlite=sqlite):
            return super().checked_column_decoder(refuse, sqlite=sqlite)
        return lambda values: "\n".join(values).replace("-", "").split("\n") if values else []

    def _is_dashed(self, *, sqlite: bool) -> bool:
        return self.dashes if sqlite else self.native

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

        return dashed if self._is_dashed(sqlite=sqlite) else digits


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

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn:
        octets = self.encoder(refuse, sqlite=sqlite)
        return lambda values: strict_json.dumps_scalars([*map(octets, values)])

    def text_encoder(self, refuse: Refuse) -> Encode:
        octets = self.encoder(refuse, sqlite=False)
        return lambda text: octets(bytes.fromhex(text[2:]))

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
