"""Rows as Parquet, by pyarrow, which the extra ``parquet`` brings: each value exactly, or the column is refused.

What Parquet has no type for, such as an interval or a range, is a string as it crosses; arrays and documents are JSON.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Sequence
from datetime import time
from typing import Any, BinaryIO

import orjson

from exchange.channels.codecs import ColumnCodec, json_null_member
from exchange.channels.codecs.numeric import BooleanCodec, DecimalCodec, FloatCodec, IntegerCodec
from exchange.channels.codecs.temporal import DateCodec, DateTimeCodec, TimeCodec
from exchange.channels.codecs.text import BytesCodec, EnumCodec
from exchange.channels.stream import Stream
from exchange.format.errors import printable
from exchange.intake.extract.kinds import Kind, kind_of
from exchange.intake.extract.lines import Body, Lines
from exchange.intake.extract.refused import ExtractRefused

GROUP_BYTES = 16 * 1024 * 1024
"""So much is in memory before it is written as a group of rows."""
_MOST_DIGITS = 76
_DIGITS_OF_128_BITS = 38

_Values = Callable[[Sequence[Body]], list[Any]]


class Parquet(Lines):
    """A Parquet file; ``write`` keeps rows until they are a group."""

    def __init__(self, out: BinaryIO, stream: Stream) -> None:
        super().__init__(out)
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra
            from pyarrow import parquet  # noqa: PLC0415 - an extra
        except ImportError:
            raise ExtractRefused(
                "Parquet takes pyarrow, which is not installed; pip install 'exchange[parquet]', or name a .csv or"
                " .jsonl"
            ) from None
        self._arrow = pa
        codecs = [stream.codecs[column.name] for column in stream.columns]
        fields = [_field(pa, codec) for codec in codecs]
        self._schema = pa.schema(fields)
        self._columns = [_values(codec) for codec in codecs]
        self._writer = parquet.ParquetWriter(out, self._schema)
        self._kept: list[Any] = []
        self._bytes = 0

    def write(self, bodies: Sequence[Body]) -> None:
        """Take rows, and write a group once there is one. Raises OSError."""
        arrays = [
            self._array(column(bodies), field.type) for column, field in zip(self._columns, self._schema, strict=True)
        ]
        batch = self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._kept.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def __exit__(self, kind: object, *_: object) -> None:
        """Write what is left and the file's end. Raises OSError."""
        if kind is None:
            self._flush()
            self._writer.close()
        else:
            with contextlib.suppress(Exception):  # what it writes now is thrown away
                self._writer.close()

    def _flush(self) -> None:
        if self._kept:
            self._writer.write_table(self._arrow.Table.from_batches(self._kept, self._schema))
        self._kept, self._bytes = [], 0

    def _array(self, values: list[Any], kind: Any) -> Any:
        """Make an array; texts of numbers, days and times are read by Arrow itself, exactly or not at all."""
        arrow, types = self._arrow, self._arrow.types
        try:
            if types.is_decimal(kind) or types.is_date(kind) or types.is_timestamp(kind):
                return arrow.array(values, arrow.string()).cast(kind)
            return arrow.array(values, kind)
        except arrow.ArrowException as error:
            raise ExtractRefused(f"Parquet can't keep a value exactly: {printable(str(error), 200)}") from error


def _field(arrow: Any, codec: ColumnCodec) -> Any:
    return arrow.field(str(codec.name), _type(arrow, codec), nullable=codec.nullable)


def _type(arrow: Any, codec: ColumnCodec) -> Any:
    kind = codec.type_codec
    made = arrow.string()
    match kind:
        case IntegerCodec():
            made = {16: arrow.int16(), 32: arrow.int32(), 64: arrow.int64()}[kind.bits]
        case FloatCodec():
            made = arrow.float32() if kind.single else arrow.float64()
        case DecimalCodec():
            made = _decimal(arrow, codec, kind)
        case DateCodec():
            made = arrow.date32()
        case TimeCodec():
            made = arrow.time64("us")
        case DateTimeCodec():
            made = arrow.timestamp("us", tz="UTC" if kind.aware else None)
        case BytesCodec():
            made = arrow.binary()
        case BooleanCodec():
            made = arrow.bool_()
        case EnumCodec() if _wires(kind) == {int}:
            made = arrow.int64()
    return made


def _wires(kind: EnumCodec) -> set[type]:
    return {type(wire) for _, wire in kind.wires}


def _decimal(arrow: Any, codec: ColumnCodec, kind: DecimalCodec) -> Any:
    if kind.precision is None or kind.precision > _MOST_DIGITS:
        raise ExtractRefused(
            f"columns: Parquet keeps decimals of at most {_MOST_DIGITS} digits, and {printable(str(codec.name), 80)}"
            " has no such bound; leave it out, or write .csv or .jsonl"
        )
    make = arrow.decimal128 if kind.precision <= _DIGITS_OF_128_BITS else arrow.decimal256
    return make(kind.precision, kind.scale)


def _values(codec: ColumnCodec) -> _Values:
    name = str(codec.name)
    kind = kind_of(codec)
    if isinstance(codec.type_codec, BytesCodec):
        decode = base64.b64decode
        return lambda bodies: [None if (v := body[name]) is None else decode(v) for body in bodies]
    if isinstance(codec.type_codec, TimeCodec):
        return lambda bodies: [None if (v := body[name]) is None else time.fromisoformat(v) for body in bodies]
    if kind is Kind.JSON:
        return lambda bodies: [None if (v := body[name]) is None else orjson.dumps(v).decode() for body in bodies]
    if kind is Kind.DOCUMENT:
        return _documents(codec, name)
    if isinstance(codec.type_codec, EnumCodec) and _wires(codec.type_codec) == {int, str}:
        return lambda bodies: [None if (v := body[name]) is None else str(v) for body in bodies]
    return lambda bodies: [body[name] for body in bodies]


def _documents(codec: ColumnCodec, name: str) -> _Values:
    member = json_null_member(name)
    null = None if codec.has_two_nulls else "null"

    def document(body: Body) -> str | None:
        if name in body:
            return null if body[name] is None else orjson.dumps(body[name]).decode()
        return "null" if body[member] is None else str(body[member])

    return lambda bodies: [*map(document, bodies)]
