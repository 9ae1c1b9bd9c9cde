"""The codec of one column: that of its type, and what to say when a value is refused."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from sys import getsizeof
from typing import Any

import sqlalchemy as sa
from sqlalchemy import types
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from exchange.channels.codecs.base import MANY_BYTES, Decode, Encode, EncodeColumn, Json, TypeCodec, as_is
from exchange.channels.codecs.numeric import BooleanCodec, DecimalCodec, FloatCodec, IntegerCodec
from exchange.channels.codecs.temporal import DateCodec, DateTimeCodec, DurationCodec, TimeCodec
from exchange.channels.codecs.text import BytesCodec, EnumCodec, JsonCodec, TextCodec, UuidCodec
from exchange.database.dialects import dialect_of
from exchange.format import json_pointer
from exchange.format.errors import RecordError, described
from exchange.format.errors import printable as shown

_SINGLE_PRECISION_BITS = 24
_MICROSECOND_DIGITS = 6


class UnsupportedColumn(ValueError):  # noqa: N818 - a declaration that can't work, said as what it is
    """A column whose values can't cross exactly. The sentence names the column, its type and why."""


JSON_NULL: Any = object()
"""What a decoder is given for JSON's null in a column where null alone is SQL's."""


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

    def decoder(self, dialect: Dialect, under: str = "/data") -> Decode:
        """Make the function from a wire value that is not null to what the driver binds without conversion.

        It raises RecordError of class ``value`` at the column's member below ``under``.
        """
        return self.type_codec.decoder(partial(self._refusal, under), sqlite=dialect_of(dialect).is_sqlite)

    def column_decoder(self, dialect: Dialect, under: str = "/data") -> Callable[[list[Json]], list[Any]]:
        """Make the same for many values that the strict reader read and the schema accepted, nulls among them.

        For null the driver gets None, but JSON's null in a JSON column that is NOT NULL, and for JSON_NULL.
        """
        decode = self.type_codec.checked_decoder(partial(self._refusal, under), sqlite=dialect_of(dialect).is_sqlite)
        # Both databases read the text null as JSON's.
        null = "null" if isinstance(self.type_codec, JsonCodec) and not self.nullable else None
        as_they_are = {type(None), *self.type_codec.bound_as_is}

        def column(values: list[Json]) -> list[Any]:
            if null is None and as_they_are.issuperset(map(type, values)):
                return values
            return [null if value is None else decode(value) for value in values]

        def documents(values: list[Json]) -> list[Any]:
            return [null if value is None else "null" if value is JSON_NULL else decode(value) for value in values]

        if self.reads_two_nulls:
            return documents

        if decode is as_is and null is None:
            return as_is
        return column

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


def _but_large(encode: EncodeColumn, values: Sequence[Any]) -> Sequence[Json]:
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
    kind = _type_codec(column, _undecorated(column, column.type))
    for dialect in (_SQLITE, _POSTGRESQL):
        resolved = _undecorated(column, column.type.dialect_impl(dialect))
        _check_storage(column, resolved)
        if _type_codec(column, resolved).family() != kind.family():
            raise _unsupported(column, f"{dialect.name} keeps another kind of values for it")
    if column.primary_key and not kind.keyable:
        raise _unsupported(column, "equal values of it may be written differently, so it can't be part of a key")
    schema = kind.schema()
    if column.nullable:
        schema = _or_null(schema)
    return ColumnCodec(
        column, str(column.name if name is None else name), bool(column.nullable), schema, kind, sensitive
    )


_SQLITE: Dialect = sqlite.dialect()
_POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]


def _unsupported(column: sa.Column[Any], why: str) -> UnsupportedColumn:
    return UnsupportedColumn(f"column {column.name} of type {shown(repr(column.type), 80)} can't cross: {why}")


def _undecorated(column: sa.Column[Any], kind: TypeEngine[Any]) -> TypeEngine[Any]:
    # SQLAlchemy's Interval is a decorator too, but one that we know.
    while isinstance(kind, TypeDecorator) and not isinstance(kind, types.Interval):
        if isinstance(kind, types.PickleType):
            raise _unsupported(column, "unpickling what another network sent would run its code")
        kind = kind.impl_instance
    return kind


def _check_storage(column: sa.Column[Any], resolved: TypeEngine[Any]) -> None:
    """Refuse what keeps dates in a way of its own."""
    attribute = "_storage_format"
    written = isinstance(resolved, (sa.Date, sa.DateTime, sa.Time))
    if written and getattr(resolved, attribute, None) != getattr(type(resolved), attribute, None):
        raise _unsupported(column, "it has a storage format of its own on SQLite")
    if getattr(resolved, "fields", None):
        raise _unsupported(column, "PostgreSQL drops what lies outside of the interval's fields")


def _type_codec(column: sa.Column[Any], kind: TypeEngine[Any]) -> TypeCodec:
    for known, make in _CODECS:
        if isinstance(kind, known):
            return make(column, kind)
    if isinstance(kind, types.NullType):
        raise _unsupported(column, "its type isn't known; define the table that it refers to before the stream")
    raise _unsupported(column, "its values have no exact form that both databases share")


def _integer(bits: int) -> Callable[[sa.Column[Any], Any], TypeCodec]:
    return lambda _column, _type: IntegerCodec(bits)


def _decimal(column: sa.Column[Any], kind: sa.Numeric[Any]) -> TypeCodec:
    if kind.precision is None:
        return DecimalCodec(None, 0, bool(column.primary_key))
    scale = kind.scale or 0
    if not 0 <= scale <= kind.precision:
        raise _unsupported(column, "its scale must lie between 0 and its precision")
    return DecimalCodec(kind.precision, scale, bool(column.primary_key))


def _float(_column: sa.Column[Any], kind: sa.Float[Any]) -> TypeCodec:
    bits = kind.precision
    return FloatCodec(isinstance(kind, sa.REAL) or (bits is not None and bits <= _SINGLE_PRECISION_BITS))


def _text(_column: sa.Column[Any], kind: sa.String) -> TypeCodec:
    # Two texts that differ may be one key where case does not count.
    counts_case = not isinstance(kind, postgresql.CITEXT)
    return TextCodec(kind.length, isinstance(kind, (sa.CHAR, sa.NCHAR)), counts_case)


def _enum(column: sa.Column[Any], kind: sa.Enum) -> TypeCodec:
    values = list(_enum_values(kind))
    if not values or len(values) != len(kind.enums):
        raise _unsupported(column, "it must have values, and one name kept for each")
    wires = tuple(zip(kind.enums, values, strict=True))
    if any(type(wire) not in {str, int} or "\0" in str(wire) for _, wire in wires):
        raise _unsupported(column, "the value of each of its members must be a string or an integer")
    return EnumCodec(wires)


def _enum_values(kind: sa.Enum) -> Iterator[Any]:
    """Give the wire values in the order of the names kept for them; aliases only if those are kept too."""
    if kind.enum_class is None:
        yield from kind.enums
        return
    members: Mapping[str, enum.Enum] = kind.enum_class.__members__
    distinct = [member for name, member in members.items() if member.name == name]
    for member in distinct if len(distinct) == len(kind.enums) else members.values():
        yield member.value


def _uuid(_column: sa.Column[Any], kind: sa.Uuid[Any]) -> TypeCodec:
    return UuidCodec(bool(kind.native_uuid))


def _time(column: sa.Column[Any], kind: sa.Time) -> TypeCodec:
    if kind.timezone:
        raise _unsupported(column, "a time with zone means no moment; make it a time without zone")
    return TimeCodec(_digits(kind), bool(column.primary_key))


def _date_time(_column: sa.Column[Any], kind: sa.DateTime) -> TypeCodec:
    return DateTimeCodec(bool(kind.timezone), _digits(kind))


def _duration(_column: sa.Column[Any], kind: Any) -> TypeCodec:
    digits = kind.second_precision if isinstance(kind, types.Interval) else kind.precision
    return DurationCodec(bool(kind.native), _MICROSECOND_DIGITS if digits is None else digits)


def _digits(kind: TypeEngine[Any]) -> int:
    """How many digits of a second's fraction the column keeps: PostgreSQL rounds the others away."""
    digits = getattr(kind, "precision", None)
    return _MICROSECOND_DIGITS if digits is None else int(digits)


# The first that fits: a subclass stands before its base.
_CODECS: tuple[tuple[type[Any] | tuple[type[Any], ...], Callable[[sa.Column[Any], Any], TypeCodec]], ...] = (
    (sa.Enum, _enum),
    (sa.String, _text),
    (sa.Boolean, lambda _column, _type: BooleanCodec()),
    (sa.SmallInteger, _integer(16)),
    (sa.BigInteger, _integer(64)),
    (sa.Integer, _integer(32)),
    (sa.Float, _float),
    (sa.Numeric, _decimal),
    ((types.Interval, postgresql.INTERVAL), _duration),
    (sa.DateTime, _date_time),
    (sa.Date, lambda _column, _type: DateCodec()),
    (sa.Time, _time),
    (sa.Uuid, _uuid),
    (sa.LargeBinary, lambda _column, _type: BytesCodec()),
    (sa.JSON, lambda _column, _type: JsonCodec()),
)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Let null through as well; a schema without type lets everything through already."""
    kinds = schema.get("type")
    if kinds is None:
        return schema
    nullable = {**schema, "type": [*([kinds] if isinstance(kinds, str) else kinds), "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable
