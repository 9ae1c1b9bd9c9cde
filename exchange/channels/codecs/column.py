"""The codec of one column: that of its type, and what to say when a value is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from sys import getsizeof
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from exchange.channels.codecs import known
from exchange.channels.codecs.base import (
    MANY_BYTES,
    Decode,
    Encode,
    EncodeColumn,
    Json,
    TypeCodec,
    WriteColumn,
    as_is,
)
from exchange.channels.codecs.document import DocumentText, JsonCodec
from exchange.database.dialects import dialect_of
from exchange.format import json_pointer, strict_json
from exchange.format.errors import RecordError, described
from exchange.format.errors import printable as shown

_Made = TypeVar("_Made")

JSON_NULL: Any = object()
"""What a decoder is given for JSON's null in a column where null alone is SQL's."""


_BEGIN_NUMBERS = frozenset("-0123456789")

_AS_DOCUMENTS = frozenset([object, DocumentText])
"""Types of what stands for a document beside what JSON itself has."""


@dataclass(frozen=True)
class ColumnCodec:
    """One column's values, both ways. ``json_schema`` is of the wire value, null included."""

    column: sa.Column[Any]
    name: str
    """What it is called in files."""
    nullable: bool
    json_schema: Mapping[str, Any]
    type_codec: TypeCodec = field(repr=False)
    sensitive: bool = False
    sqlite_fault: str = ""
    """Why the column can't be had on SQLite, and what to do; nothing where it can."""

    def selected(self, dialect: Dialect) -> sa.ColumnElement[Any]:
        """Say what to select, labelled with the column's name, so that ``encoder`` gets it untouched."""
        return self.type_codec.selected(self.column, sqlite=dialect_of(dialect).is_sqlite).label(self.column.name)

    def encoder(self, dialect: Dialect, under: str = "/data") -> Encode:
        """Make the function from a selected value that is not NULL to the wire's.

        It raises RecordError of class ``value`` at the column's member below ``under``. It is ``as_is``
        where nothing is left to do.
        """
        return self.type_codec.encoder(partial(self._refusal, under), sqlite=dialect_of(dialect).is_sqlite)

    def column_encoder(self, dialect: Dialect, under: str = "/data") -> EncodeColumn:
        """Make the function from many selected values, NULL or not, to the wire's: what ``encoder`` makes of each.

        It raises one of ``LOOK_AT_EACH`` where ``encoder`` may refuse one of them, and if they are too large to
        be many; a value that ``json_schema`` refuses may get through.
        """
        encode = self.type_codec.column_encoder(partial(self._refusal, under), sqlite=dialect_of(dialect).is_sqlite)
        encode = as_is if encode is as_is else partial(_but_null, encode)
        return partial(_but_large, encode) if self.type_codec.long else encode

    def column_writer(
        self, dialect: Dialect, takes: Callable[[Sequence[Json]], bool], under: str = "/data"
    ) -> WriteColumn:
        """Make the function from many selected values, NULL or not, to the JSON text of each on the wire.

        It raises one of ``LOOK_AT_EACH`` where ``encoder`` or ``json_schema`` may refuse one of them, if they are too
        large to be many, and for a document that goes as a text. ``takes`` asks the schema about wire values.
        """
        write = self.type_codec.column_writer(partial(self._refusal, under), sqlite=dialect_of(dialect).is_sqlite)
        if write is None:
            return partial(_checked, self.column_encoder(dialect, under), takes)
        write = partial(_null_beside, write, self.nullable)
        return partial(_but_large, write) if self.type_codec.long else write

    def decoder(self, dialect: Dialect, under: str = "/data") -> Decode:
        """Make the function from a wire value that is not null to what the driver binds without conversion.

        It raises RecordError of class ``value`` at the column's member below ``under``.
        """
        return self.type_codec.decoder(partial(self._refusal, under), sqlite=dialect_of(dialect).is_sqlite)

    def column_decoder(self, dialect: Dialect, under: str = "/data") -> Callable[[list[Json]], list[Any]]:
        """Make the same for many values that the strict reader read and the schema accepted, nulls among them.

        For null the driver gets None, but JSON's null in a JSON column that is NOT NULL, and for JSON_NULL. There a
        DocumentText is a document, too.
        """
        refuse, sqlite = partial(self._refusal, under), dialect_of(dialect).is_sqlite
        decode = self.type_codec.checked_decoder(refuse, sqlite=sqlite)
        decode_all = self.type_codec.checked_column_decoder(refuse, sqlite=sqlite)
        # Both databases read the text null as JSON's.
        null = "null" if isinstance(self.type_codec, JsonCodec) and not self.nullable else None
        as_they_are = {type(None), *self.type_codec.bound_as_is}

        def column(values: list[Json]) -> list[Any]:
            if as_they_are.issuperset(map(type, values)):
                return values
            if None not in values:
                return decode_all(values)
            made = iter(decode_all([value for value in values if value is not None]))
            return [None if value is None else next(made) for value in values]

        if isinstance(self.type_codec, JsonCodec):
            decode_text = self.type_codec.text_decoder(refuse, sqlite=sqlite)

            def documents(values: list[Json]) -> list[Any]:
                if _AS_DOCUMENTS.isdisjoint(map(type, values)):
                    return [null if value is None else decode(value) for value in values]
                return [
                    null
                    if value is None
                    else "null"
                    if value is JSON_NULL
                    else (decode_text if type(value) is DocumentText else decode)(value)
                    for value in values
                ]

            return documents

        return as_is if decode_all is as_is else column

    def text_decoder(self, dialect: Dialect) -> Callable[[list[str]], list[Any]]:
        """Make the function from many documents' texts, as ``strict_json.dumps`` writes them, to what the driver binds.

        It gives what ``column_decoder`` makes of the documents.
        """
        numbers = dialect_of(dialect).is_sqlite

        def documents(texts: list[str]) -> list[Any]:
            if self.nullable and "null" in texts:
                return [None if text == "null" else document(text) for text in texts]
            some_are_numbers = numbers and not _BEGIN_NUMBERS.isdisjoint({text[0] for text in texts})
            return [*map(document, texts)] if some_are_numbers else texts

        def document(text: str) -> str | float:
            return orjson.loads(text) if numbers and text[0] in _BEGIN_NUMBERS else text

        return documents

    @property
    def has_two_nulls(self) -> bool:
        """Whether JSON's null and SQL's NULL are two values of this column, so that the wire tells them apart."""
        return self.nullable and isinstance(self.type_codec, JsonCodec)

    @property
    def reads_two_nulls(self) -> bool:
        """Whether a record may have ``json_null_member`` in the place of this column's member."""
        return isinstance(self.type_codec, JsonCodec)

    def _refusal(self, under: str, value: object, why: str = "") -> RecordError:
        if isinstance(value, bytes):  # a text as SQLite keeps it
            value = value.decode("utf-8", "backslashreplace")
        what = "a value that is not shown" if self.sensitive else described(value)
        because = f" ({why})" if why and not self.sensitive else ""
        sentence = f"{shown(self.name)}: expected {shown(self.type_codec.expected, 400)}, found {what}{because}"
        return RecordError("value", under + json_pointer.join(self.name), sentence)


def _checked(encode: EncodeColumn, takes: Callable[[Sequence[Json]], bool], values: Sequence[Any]) -> list[bytes]:
    wire = encode(values)
    if not takes([*wire]):
        raise ValueError
    return strict_json.dumps_each(wire)


def _null_beside(write: WriteColumn, nullable: bool, values: Sequence[Any]) -> list[bytes]:
    if None not in values:
        return write(values)
    if not nullable:
        raise ValueError
    there = [value for value in values if value is not None]
    made = iter(write(there) if there else ())
    return [b"null" if value is None else next(made) for value in values]


def _but_large(encode: Callable[[Sequence[Any]], _Made], values: Sequence[Any]) -> _Made:
    if sum(map(getsizeof, values)) > MANY_BYTES:
        raise ValueError
    return encode(values)


def _but_null(encode: EncodeColumn, values: Sequence[Any]) -> Sequence[Json]:
    if None not in values:
        return encode(values)
    made = iter(encode([value for value in values if value is not None]))
    return [None if value is None else next(made) for value in values]


def codec_for(column: sa.Column[Any], *, name: str | None = None, sensitive: bool = False) -> ColumnCodec:
    """Find the codec of a column; ``sensitive`` keeps its values out of every sentence.

    In files it is called ``name``, or as in its table.

    Raises UnsupportedColumn for a type, a variant or a key column that can't cross exactly.
    """
    kind, sqlite_fault = known.codec_of(column)
    if column.primary_key and not kind.keyable:
        raise known.unsupported(column, "equal values of it may be written differently, so it can't be part of a key")
    schema = kind.schema()
    if column.nullable:
        schema = _or_null(schema)
    called = str(column.name if name is None else name)
    return ColumnCodec(column, called, bool(column.nullable), schema, kind, sensitive, sqlite_fault)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Let null through as well; a schema without type lets everything through already."""
    kinds = schema.get("type")
    if kinds is None:
        return schema
    nullable = {**schema, "type": [*([kinds] if isinstance(kinds, str) else kinds), "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable
