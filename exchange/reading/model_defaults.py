"""What a model gives a column that rows of a file lack: its own ``default=``, as an insert by the ORM has it."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from exchange.channels.codecs import ColumnCodec, Json
from exchange.channels.codecs.array import ArrayCodec, HstoreCodec
from exchange.channels.codecs.document import JsonCodec
from exchange.channels.codecs.text import EnumCodec
from exchange.reading import FileFormat
from exchange.reading.cells import cells_of

_EXACT = FileFormat("csv", nulls=())


def gives(column: sa.Column[Any]) -> bool:
    """Say whether a column has a default that needs no statement: a value, or a function without arguments."""
    default = column.default
    if default is None or not (default.is_scalar or default.is_callable):
        return False
    return not default.is_callable or _needs_nothing(default.arg)  # type: ignore[attr-defined]


def needs_a_statement(column: sa.Column[Any]) -> bool:
    """Say whether a column's default is only had in a statement of SQLAlchemy's, and the table has none of its own."""
    return column.default is not None and not gives(column) and column.server_default is None


def _needs_nothing(function: Callable[..., Any]) -> bool:
    """Say whether a function takes no context. SQLAlchemy wraps such a one, so that it can be called with any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin, which it wraps, too
        return True
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return not any(one.kind in positional and one.default is one.empty for one in parameters)


Make = Callable[[int], list[Json]]
"""Gives so many values as a record's data has them."""


def makers(written: FileFormat, codecs: Mapping[str, ColumnCodec]) -> dict[str, Make]:
    """Give what makes the values of the columns that the model gives.

    Raises RecordError for one that its column can't keep, and what a function of the application's raises.
    """
    return {name: _maker(codecs[name]) for name in written.given}


def _maker(codec: ColumnCodec) -> Make:
    default: Any = codec.column.default
    wire = partial(_wire, codec)
    if default.is_callable:
        wire(default.arg(None))
        return lambda count: [wire(default.arg(None)) for _ in range(count)]
    value = wire(default.arg)
    return lambda count: [value] * count


def _wire(codec: ColumnCodec, value: Any) -> Json:
    kind = codec.column.type
    if isinstance(kind, sa.TypeDecorator):
        value = kind.process_bind_param(value, _DIALECT)
    if isinstance(codec.type_codec, EnumCodec) and isinstance(kind, sa.Enum) and value is not None:
        stored: Callable[[Any], str] = kind.bind_processor(_DIALECT) or str  # type: ignore[no-untyped-call]
        return dict(codec.type_codec.wires)[stored(value)]
    if value is None or isinstance(codec.type_codec, (JsonCodec, ArrayCodec, HstoreCodec)):
        return value
    return cells_of(codec, _EXACT).one(_text(value))


_DIALECT = DefaultDialect()


def _text(value: Any) -> str:
    """Write a value as a cell has it that says everything."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return format(value, "f")
    return repr(value) if isinstance(value, float) else str(value)
