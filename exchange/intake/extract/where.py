"""Conditions as people type them, such as ``celsius>=80``: read by the column's codec, never as SQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation
from operator import ge, gt, le, lt
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.codecs import ColumnCodec, Json
from exchange.channels.codecs.array import StructuredCodec
from exchange.channels.codecs.base import SpelledCodec, TypeCodec, raw
from exchange.channels.codecs.custom import CustomCodec
from exchange.channels.codecs.document import JsonCodec
from exchange.channels.codecs.numeric import BooleanCodec, DecimalCodec, FloatCodec, IntegerCodec
from exchange.channels.codecs.temporal import DateTimeCodec, DurationCodec, TimeCodec
from exchange.channels.codecs.text import BytesCodec, EnumCodec, XmlCodec
from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.format.errors import RecordError, printable
from exchange.intake.extract.refused import ExtractRefused

_Compare = Callable[[Any, Any], sa.ColumnElement[bool]]
_ORDERING: Mapping[str, _Compare] = {"<=": le, ">=": ge, "<": lt, ">": gt}
_COMPARED = re.compile(r"\s*(<=|>=|!=|=|<|>)(.*)", re.DOTALL)
_NULL = re.compile(r"\s+IS\s+(NOT\s+)?NULL\s*", re.IGNORECASE)

_NEVER_COMPARED = (JsonCodec, StructuredCodec, CustomCodec, XmlCodec)
_NOT_ORDERED = (SpelledCodec, BooleanCodec, EnumCodec, BytesCodec, DurationCodec)
"""What PostgreSQL and SQLite would order differently, or not at all."""


class Condition(NamedTuple):
    """One condition: a column, as files call it, an operator, and the value as typed."""

    column: str
    operator: str
    """Or ``IS NULL`` and ``IS NOT NULL``, without a value."""
    value: str = ""


def without_value(text: str) -> str:
    """Give a condition as typed without what it compares with."""
    found = re.search("<=|>=|!=|=|<|>", text)
    return text[: found.end()] if found else printable(text, 80)


def read_conditions(stream: Stream, texts: Sequence[str]) -> list[Condition]:
    """Read conditions, all of which a row has to meet. Raises ExtractRefused."""
    return [_read(stream, text) for text in texts]


def _read(stream: Stream, text: str) -> Condition:
    for name in sorted(stream.names, key=len, reverse=True):
        rest = text[len(name) :]
        if not text.startswith(name):
            continue
        if found := _NULL.fullmatch(rest):
            return Condition(name, "IS NOT NULL" if found[1] else "IS NULL")
        if compared := _COMPARED.fullmatch(rest):
            return Condition(name, compared[1], compared[2])
    raise ExtractRefused(
        f"where: expected COLUMN=VALUE (or !=, <, <=, >, >=, IS NULL, IS NOT NULL) with one of the columns"
        f" {printable(', '.join(stream.names), 400)}, found {printable(repr(text), 80)}"
    )


def clause(connection: Connection, stream: Stream, condition: Condition) -> sa.ColumnElement[bool]:
    """Give a condition for the database, its value bound as the column keeps it. Raises ExtractRefused."""
    column = next(c for c, name in zip(stream.columns, stream.names, strict=True) if name == condition.column)
    codec, kept = stream.codecs[column.name], raw(column)
    if condition.operator.endswith("NULL"):
        return kept.is_(None) if condition.operator == "IS NULL" else kept.is_not(None)
    kind = codec.type_codec
    if isinstance(kind, _NEVER_COMPARED):
        raise ExtractRefused(f"where: {condition.column} can only be asked for IS NULL or IS NOT NULL")
    if isinstance(kind, _NOT_ORDERED) and condition.operator in _ORDERING:
        raise ExtractRefused(f"where: {condition.column} has no order, so it can only be asked for = or !=")
    value = sa.bindparam(None, _bound(connection, codec, condition.value), type_=sa.types.NullType())
    compared: Any = value
    if isinstance(kind, FloatCodec) and kind.single and dialect_of(connection).is_postgresql:
        compared = sa.cast(value, sa.REAL)  # 0.1 of 64 bits is another number
    if condition.operator in _ORDERING:
        return _ORDERING[condition.operator](kept, compared)
    return kept == compared if condition.operator == "=" else kept.is_distinct_from(compared)


def _bound(connection: Connection, codec: ColumnCodec, text: str) -> Any:
    try:
        return codec.decoder(connection.dialect)(_wire(codec, text))
    except RecordError as error:
        raise ExtractRefused(f"where: {error.sentence}") from error


def _wire(codec: ColumnCodec, text: str) -> Json:
    """Give a typed value as the wire has it, or the text itself where it is none: the codec refuses that."""
    kind = codec.type_codec
    try:
        return next(read(kind, text) for one, read in _TYPED if isinstance(kind, one))
    except (ValueError, KeyError, StopIteration, InvalidOperation, OverflowError):
        return text


def _decimal(kind: Any, text: str) -> str:
    number = Decimal(text)
    digits = f"{number:f}"
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    if kind.in_key and kind.scale:
        whole, _, fraction = digits.partition(".")
        digits = f"{whole}.{fraction:0<{kind.scale}}"
    return "0" if digits == "-0" else digits


def _moment(kind: Any, text: str) -> str:
    """Read a moment: UTC where it says no zone and the column has one."""
    moment = datetime.fromisoformat(text)
    if kind.aware:
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    elif moment.tzinfo:
        raise ValueError
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + ("Z" if kind.aware else "")


def _time(_kind: Any, text: str) -> str:
    moment = time.fromisoformat(text)
    if moment.tzinfo:
        raise ValueError
    return moment.isoformat(timespec="microseconds")


_TYPED: Sequence[tuple[type[TypeCodec], Callable[[Any, str], Json]]] = (
    (IntegerCodec, lambda _kind, text: int(text)),
    (FloatCodec, lambda _kind, text: float(text)),
    (BooleanCodec, lambda _kind, text: {"true": True, "false": False}[text.lower()]),
    (EnumCodec, lambda kind, text: next(wire for _, wire in kind.wires if str(wire) == text)),
    (DecimalCodec, _decimal),
    (DateTimeCodec, _moment),
    (TimeCodec, _time),
)
