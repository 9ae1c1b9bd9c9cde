"""The row that a dead letter is about, as it stands in the database now."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.channel import Stream
from exchange.database.tables import VERSION_COLUMN, Direction, tombstone
from exchange.dead_letters.store import Brief
from exchange.format.errors import RecordError
from exchange.tables import capture


@dataclass(frozen=True)
class Row:
    """``data`` is the row as its record would have it, None if there is no row.

    ``version`` is that of the record that wrote the row, or of the delete that removed it (``deleted``); None if the
    row is this side's own.
    """

    data: Mapping[str, Any] | None
    version: int | None = None
    deleted: bool = False


class _AsItIs(sa.types.UserDefinedType[Any]):
    """A value as the driver wants it already."""

    cache_ok = True


def row_of(connection: Connection, stream: Stream, letter: Brief) -> Row | None:
    """Read the row of a letter's key; None if the key or the row can't be read."""
    if letter.key is None:
        return None
    try:
        with connection.begin_nested():
            if letter.direction is Direction.OUT:
                values = capture.row_of_key(connection, stream, letter.key)
                return Row(_data(connection, stream, values) if values else None)
            return _received(connection, stream, letter.key)
    except (DBAPIError, RecordError, capture.CaptureFault, ValueError, KeyError, TypeError):
        return None


def _received(connection: Connection, stream: Stream, key: str) -> Row:
    columns = stream.key_decoder(connection.dialect)([json.loads(key)])
    wanted = [column == sa.literal(value, _AsItIs()) for column, (value,) in zip(stream.key, columns, strict=True)]
    selected = [stream.codecs[column.name].selected(connection.dialect) for column in stream.columns]
    version = sa.column(VERSION_COLUMN, sa.BigInteger)
    row = connection.execute(sa.select(*selected, version).select_from(stream.table).where(*wanted)).one_or_none()
    if row is not None:
        return Row(_data(connection, stream, row[:-1]), row[-1])
    gone = connection.scalar(
        sa.select(tombstone.c.version).where(tombstone.c.stream == stream.name, tombstone.c.key == key)
    )
    return Row(None, gone, deleted=gone is not None)


def _data(connection: Connection, stream: Stream, values: Iterable[Any]) -> dict[str, Any]:
    return {
        str(column.name): _encoded(stream.codecs[column.name].encoder(connection.dialect), value)
        for column, value in zip(stream.columns, values, strict=True)
    }


def _encoded(encode: Callable[[Any], Any], value: Any) -> Any:
    """Write a value as its record would have it; what can't cross is why an outgoing letter is there."""
    try:
        return None if value is None else encode(value)
    except RecordError as error:
        return f"({error.sentence})"
