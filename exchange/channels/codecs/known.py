"""Every type that crosses: its codec, and what people are told of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeGuard

import sqlalchemy as sa
from sqlalchemy import types
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import CompileError
from sqlalchemy.types import TypeDecorator, TypeEngine

from exchange.channels.codecs.array import ArrayCodec, HstoreCodec
from exchange.channels.codecs.base import TypeCodec
from exchange.channels.codecs.custom import registered
from exchange.channels.codecs.document import JsonCodec
from exchange.channels.codecs.interval import IntervalCodec
from exchange.channels.codecs.network import AddressCodec, BitsCodec, DeviceCodec
from exchange.channels.codecs.numeric import BooleanCodec, DecimalCodec, FloatCodec, IntegerCodec
from exchange.channels.codecs.ranges import RangeCodec
from exchange.channels.codecs.temporal import DateCodec, DateTimeCodec, DurationCodec, TimeCodec, ZonedTimeCodec
from exchange.channels.codecs.text import BytesCodec, EnumCodec, TextCodec, UuidCodec, XmlCodec
from exchange.format.errors import printable as shown

_SINGLE_PRECISION_BITS = 24
_MICROSECOND_DIGITS = 6
_HEX_DIGITS = 32

_SQLITE: Dialect = sqlite.dialect()
_POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]


class UnsupportedColumn(ValueError):  # noqa: N818 - a declaration that can't work, said as what it is
    """A column whose values can't cross exactly. The sentence names the column, its type and why."""


def unsupported(column: sa.Column[Any], why: str) -> UnsupportedColumn:
    """Word why a column can't cross."""
    return UnsupportedColumn(f"column {column.name} of type {shown(repr(column.type), 80)} can't cross: {why}")


def codec_of(column: sa.Column[Any]) -> tuple[TypeCodec, str]:
    """Find the codec of a column's type, and why SQLite can't have such a column; nothing where it can.

    Raises UnsupportedColumn.
    """
    on_sqlite = _undecorated(column, column.type.dialect_impl(_SQLITE), _SQLITE)
    on_postgresql = _undecorated(column, column.type.dialect_impl(_POSTGRESQL), _POSTGRESQL)
    custom = next(filter(None, (_custom(column.type), _custom(on_postgresql), _custom(on_sqlite))), None)
    if custom is not None:
        return custom, _uncreatable(column)
    kept = _type_codec(column, on_postgresql)
    if isinstance(on_postgresql, postgresql.INTERVAL) and not isinstance(on_sqlite, types.Interval):
        _check_storage(column, on_postgresql)
        kept = IntervalCodec(_digits(on_postgresql))
    if kept.sqlite_type is not None:
        return kept, _other_form(column, kept, on_sqlite)
    if isinstance(kept, UuidCodec) and _is_text(on_sqlite):
        return replace(kept, dashes=on_sqlite.length != _HEX_DIGITS), ""
    kind = _type_codec(column, _undecorated(column, column.type))
    for dialect, resolved in ((_SQLITE, on_sqlite), (_POSTGRESQL, on_postgresql)):
        _check_storage(column, resolved)
        if _type_codec(column, resolved).family() != kind.family():
            raise unsupported(column, f"{dialect.name} keeps another kind of values for it")
    return kind, _uncreatable(column)


def is_computed(column: sa.Column[Any]) -> bool:
    """Say whether each side's database makes the column's values itself, so that none of them crosses."""
    if column.computed is not None or registered(column.type):
        return column.computed is not None
    kind = column.type.dialect_impl(_POSTGRESQL)
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    return isinstance(kind, postgresql.TSVECTOR)


def _is_text(kind: TypeEngine[Any]) -> TypeGuard[sa.String]:
    return isinstance(kind, sa.String) and not isinstance(kind, sa.Enum)


def _other_form(column: sa.Column[Any], kind: TypeCodec, on_sqlite: TypeEngine[Any]) -> str:
    """Say that a column of a type that only PostgreSQL has is not what keeps its values on SQLite."""
    wanted = kind.sqlite_type
    if _is_text(on_sqlite) if wanted is sa.String else isinstance(on_sqlite, sa.JSON):
        return ""
    name = "String" if wanted is sa.String else "JSON"
    return _on_sqlite(column, f'give it .with_variant(sqlalchemy.{name}(), "sqlite")')


def _uncreatable(column: sa.Column[Any]) -> str:
    try:
        column.type.compile(dialect=_SQLITE)
    except (CompileError, NotImplementedError):
        if isinstance(column.type, postgresql.DOMAIN):
            return _on_sqlite(column, "keep it there as what it is over, by a TypeDecorator")
        return _on_sqlite(column, 'give it another type there by .with_variant(..., "sqlite")')
    return ""


def _on_sqlite(column: sa.Column[Any], what: str) -> str:
    return (
        f"column {column.name} of type {shown(repr(column.type), 80)} can't be had on SQLite: {what}, or leave it out"
    )


def _custom(kind: TypeEngine[Any]) -> TypeCodec | None:
    """Find the codec that was registered for a type, or for what it is a decorator of."""
    while (found := registered(kind)) is None and isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    return found


def _undecorated(column: sa.Column[Any], kind: TypeEngine[Any], dialect: Dialect | None = None) -> TypeEngine[Any]:
    """Give what the database keeps, or the first on the way to it that has a codec of its own."""
    while registered(kind) is None:
        if isinstance(kind, types.PickleType):
            raise unsupported(column, "unpickling what another network sent would run its code")
        # SQLAlchemy's Interval is a decorator too, but one that we know.
        if isinstance(kind, TypeDecorator) and not isinstance(kind, types.Interval):
            kind = kind.impl_instance
        elif isinstance(kind, postgresql.DOMAIN):
            kind = kind.data_type if dialect is None else kind.data_type.dialect_impl(dialect)
        else:
            break
    return kind


def _check_storage(column: sa.Column[Any], resolved: TypeEngine[Any]) -> None:
    """Refuse what keeps dates in a way of its own."""
    attribute = "_storage_format"
    written = isinstance(resolved, (sa.Date, sa.DateTime, sa.Time))
    if written and getattr(resolved, attribute, None) != getattr(type(resolved), attribute, None):
        raise unsupported(column, "it has a storage format of its own on SQLite")
    if getattr(resolved, "fields", None):
        raise unsupported(column, "PostgreSQL drops what lies outside of the interval's fields")


def _type_codec(column: sa.Column[Any], kind: TypeEngine[Any]) -> TypeCodec:
    for known in _KNOWN:
        if isinstance(kind, known.kinds):
            return known.make(column, kind)
    if isinstance(kind, types.NullType):
        raise unsupported(column, "its type isn't known; define the table that it refers to before the stream")
    if isinstance(kind, types.UserDefinedType) and kind.compile(dialect=_POSTGRESQL).upper() == "XML":
        return XmlCodec()
    why = next(
        (why for kinds, why in _REFUSED if isinstance(kind, kinds)), "nobody has said how its values are written"
    )
    raise unsupported(column, f"{why}; {_CUSTOM_ROUTE}")


_CUSTOM_ROUTE = (
    'bring a codec for it with exchange.channels.register_codec (CHANNELS.md, "A type of your own"), or leave the'
    " column out"
)

_REFUSED: tuple[tuple[tuple[type[Any], ...], str], ...] = (
    ((postgresql.MONEY,), "its text depends on the server's locale: Numeric is exact"),
    (
        (postgresql.OID, postgresql.REGCLASS, postgresql.REGCONFIG),
        "it is a number in the catalogue of one database, and means nothing in another",
    ),
    ((postgresql.TSVECTOR,), "each side's database computes it"),
)


def _integer(bits: int) -> Callable[[sa.Column[Any], Any], TypeCodec]:
    return lambda _column, _type: IntegerCodec(bits)


def _decimal(column: sa.Column[Any], kind: sa.Numeric[Any]) -> TypeCodec:
    if kind.precision is None:
        return DecimalCodec(None, 0, bool(column.primary_key))
    scale = kind.scale or 0
    if not 0 <= scale <= kind.precision:
        raise unsupported(column, "its scale must lie between 0 and its precision")
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
        raise unsupported(column, "it must have values, and one name kept for each")
    wires = tuple(zip(kind.enums, values, strict=True))
    if any(type(wire) not in {str, int} or "\0" in str(wire) for _, wire in wires):
        raise unsupported(column, "the value of each of its members must be a string or an integer")
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
        return ZonedTimeCodec(_digits(kind))
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


def _array(column: sa.Column[Any], kind: sa.ARRAY[Any]) -> TypeCodec:
    inner = _undecorated(column, kind.item_type.dialect_impl(_POSTGRESQL), _POSTGRESQL)
    element = registered(inner) or _type_codec(column, inner)
    match element:
        case DecimalCodec():
            element = replace(element, in_key=element.precision is not None)
        case TimeCodec():
            element = replace(element, in_key=True)
        case DurationCodec(native=True):
            element = IntervalCodec(element.digits, strict=True)
        case DurationCodec() | ArrayCodec():
            raise unsupported(column, "such elements have no exact form")
    return ArrayCodec(element)


def _bits(_column: sa.Column[Any], kind: postgresql.BIT) -> TypeCodec:
    return BitsCodec(kind.length, bool(kind.varying))


def _range(element: TypeCodec, *, many: bool, whole: bool = False, one_text: bool = False) -> _Make:
    codec = RangeCodec(element, whole, isinstance(element, (DateCodec, DateTimeCodec)), many, one_text)
    return lambda _column, _type: codec


_Make = Callable[[sa.Column[Any], Any], TypeCodec]


class TypeRow(NamedTuple):
    """What people are told of some types."""

    types: str
    """As SQLAlchemy has them."""
    crosses_as: str
    refused: str
    sqlite: str = "the same"
    """What the column is on SQLite."""


@dataclass(frozen=True)
class _Known:
    """Types that cross, and how their codec is made."""

    kinds: tuple[type[Any], ...]
    make: _Make
    row: TypeRow


_TEXT_ON_SQLITE = '`.with_variant(String(), "sqlite")`'
_JSON_ON_SQLITE = '`.with_variant(JSON(), "sqlite")`'

_INTEGERS = TypeRow("`SmallInteger`, `Integer`, `BigInteger`", "a number", "beyond 16, 32, 64 bits")
_TEXTS = TypeRow(
    "`String`, `Text`, `CHAR`, `CITEXT`",
    "text",
    "longer than its length, NUL, half surrogates; `CITEXT` as a key",
    "the same; `CITEXT` has no form there",
)
_NUMBERS = TypeRow(
    "`Numeric`",
    "digits, exactly",
    "more digits than precision and scale have; NaN, infinities; as a key without precision",
)
_INTERVALS = TypeRow("`Interval`", "ISO 8601, days and less", "months and years: `postgresql.INTERVAL` has them")
_TIMES = TypeRow(
    "`Date`, `Time`, `DateTime` with and without time zone",
    "RFC 3339, six digits, UTC if it has a zone",
    "years beyond 9999 and infinities",
)
_RANGES = TypeRow(
    "ranges and multiranges (`INT4RANGE`, `TSTZMULTIRANGE` ...)",
    "PostgreSQL's text, with bounds as such values cross",
    "bounds that don't cross by themselves (infinite days and moments do); as a key but for those of integers",
    _TEXT_ON_SQLITE,
)
_NETWORKS = TypeRow("`INET`, `CIDR`, `MACADDR`, `MACADDR8`", "PostgreSQL's text", "any other spelling", _TEXT_ON_SQLITE)

# The first that fits: a subclass stands before its base.
_KNOWN: tuple[_Known, ...] = (
    _Known(
        (sa.Enum,),
        _enum,
        TypeRow("`Enum`, native or not", "its value: text or a whole number", "what is no value of it"),
    ),
    _Known((sa.String,), _text, _TEXTS),
    _Known((sa.Boolean,), lambda _column, _type: BooleanCodec(), TypeRow("`Boolean`", "true or false", "")),
    _Known((sa.SmallInteger,), _integer(16), _INTEGERS),
    _Known((sa.BigInteger,), _integer(64), _INTEGERS),
    _Known((sa.Integer,), _integer(32), _INTEGERS),
    _Known(
        (sa.Float,),
        _float,
        TypeRow(
            "`Float`, `REAL`, `Double`", "the shortest number that is the same one", "NaN and infinities; as a key"
        ),
    ),
    _Known((sa.Numeric,), _decimal, _NUMBERS),
    _Known((types.Interval, postgresql.INTERVAL), _duration, _INTERVALS),
    _Known((sa.DateTime,), _date_time, _TIMES),
    _Known((sa.Date,), lambda _column, _type: DateCodec(), _TIMES),
    _Known((sa.Time,), _time, _TIMES),
    _Known(
        (sa.Uuid,),
        _uuid,
        TypeRow(
            "`Uuid`, as objects or as text, native or not",
            "text in lower case with dashes",
            "any other spelling",
            "the same; or `CHAR(32)`, which keeps hex digits, or `String(36)`, with dashes",
        ),
    ),
    _Known((sa.LargeBinary,), lambda _column, _type: BytesCodec(), TypeRow("`LargeBinary`", "base64", "")),
    _Known(
        (sa.JSON,),
        lambda _column, _type: JsonCodec(),
        TypeRow(
            "`JSON`, `JSONB`",
            "JSON; `null` of JSON and NULL are two values; as text where a number is beyond 64 bits or a double",
            "a member twice, NUL, more than 62 deep; as a key",
        ),
    ),
    _Known(
        (sa.ARRAY,),
        _array,
        TypeRow(
            "`ARRAY` of any of these but itself",
            "arrays of JSON within each other; NULL is null",
            "lower bounds other than 1; JSON's null as an element; as a key",
            _JSON_ON_SQLITE,
        ),
    ),
    _Known(
        (postgresql.HSTORE,),
        lambda _column, _type: HstoreCodec(),
        TypeRow("`HSTORE`", "an object of texts and nulls", "as a key", _JSON_ON_SQLITE),
    ),
    _Known((postgresql.INET,), lambda _column, _type: AddressCodec(network=False), _NETWORKS),
    _Known((postgresql.CIDR,), lambda _column, _type: AddressCodec(network=True), _NETWORKS),
    _Known((postgresql.MACADDR,), lambda _column, _type: DeviceCodec(6), _NETWORKS),
    _Known((postgresql.MACADDR8,), lambda _column, _type: DeviceCodec(8), _NETWORKS),
    _Known(
        (postgresql.BIT,),
        _bits,
        TypeRow("`BIT`, `BIT(varying=True)`", "a text of 0 and 1", "another length than its own", _TEXT_ON_SQLITE),
    ),
    _Known((postgresql.INT4RANGE,), _range(IntegerCodec(32), many=False, whole=True, one_text=True), _RANGES),
    _Known((postgresql.INT8RANGE,), _range(IntegerCodec(64), many=False, whole=True, one_text=True), _RANGES),
    _Known((postgresql.NUMRANGE,), _range(DecimalCodec(None, 0, in_key=False), many=False), _RANGES),
    _Known((postgresql.DATERANGE,), _range(DateCodec(), many=False, whole=True), _RANGES),
    _Known((postgresql.TSRANGE,), _range(DateTimeCodec(aware=False, digits=6), many=False), _RANGES),
    _Known((postgresql.TSTZRANGE,), _range(DateTimeCodec(aware=True, digits=6), many=False), _RANGES),
    _Known((postgresql.INT4MULTIRANGE,), _range(IntegerCodec(32), many=True, whole=True), _RANGES),
    _Known((postgresql.INT8MULTIRANGE,), _range(IntegerCodec(64), many=True, whole=True), _RANGES),
    _Known((postgresql.NUMMULTIRANGE,), _range(DecimalCodec(None, 0, in_key=False), many=True), _RANGES),
    _Known((postgresql.DATEMULTIRANGE,), _range(DateCodec(), many=True, whole=True), _RANGES),
    _Known((postgresql.TSMULTIRANGE,), _range(DateTimeCodec(aware=False, digits=6), many=True), _RANGES),
    _Known((postgresql.TSTZMULTIRANGE,), _range(DateTimeCodec(aware=True, digits=6), many=True), _RANGES),
)

ROWS: tuple[TypeRow, ...] = (
    *dict.fromkeys(known.row for known in _KNOWN),
    TypeRow(
        "`postgresql.INTERVAL`",
        "ISO 8601 with months, days and less",
        "infinities; as a key",
        f"`Interval`, and then without months, or {_TEXT_ON_SQLITE}",
    ),
    TypeRow(
        "`Time(timezone=True)`",
        "RFC 3339 with its offset",
        "24:00:00; as a key",
        _TEXT_ON_SQLITE,
    ),
    TypeRow("a `UserDefinedType` whose SQL is `XML`", "text", "NUL, half surrogates; as a key", _TEXT_ON_SQLITE),
    TypeRow(
        "`postgresql.DOMAIN` over any of these",
        "what it is over",
        "what its own rules refuse",
        "what it is over, by a `TypeDecorator`",
    ),
    TypeRow("`TypeDecorator` over any of these", "what it keeps", "", "the same"),
    TypeRow(
        "a type of your own",
        "what the codec that you register makes of it",
        "what its functions don't give back",
        "the same",
    ),
    TypeRow("`TSVECTOR`, computed columns", "left out: each side's database computes its own", "", "the same"),
    TypeRow("`PickleType`", "not at all", "unpickling what another network sent would run its code", "the same"),
    TypeRow("`MONEY`, `OID`, `REGCLASS`, `REGCONFIG`", "not at all", "they mean something else in another database"),
    TypeRow("`TSQUERY`, `JSONPATH`, any other", "not at all", "unless you register a codec"),
)
"""Every type, in the order of the page."""
