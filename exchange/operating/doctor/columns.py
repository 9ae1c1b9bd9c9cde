"""The tables beside the model: columns that are missing or stricter, and what else changes what is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, types

from exchange.channels.stream import Stream
from exchange.database import locks
from exchange.database.dialects import dialect_of
from exchange.database.tables import VERSION_COLUMN
from exchange.operating.doctor.finding import Finding, Findings, fault, ok, warning
from exchange.settings import Settings
from exchange.site import Site
from exchange.tables.loader.traits import traits_of

_CORRECT = "run the application's migrations, or correct its model"


def check_columns(_settings: Settings, site: Site) -> Findings:
    """Compare each stream's model with its table; what is received there is written, and may be refused or changed."""
    findings: list[Finding] = []
    with locks.reading(site.engine) as connection:
        inspector = sa.inspect(connection)
        for channel in site.channels:
            for stream in channel.streams:
                table, schema = stream.table.name, stream.table.schema
                if not inspector.has_table(table, schema):
                    continue  # that it is missing is said of the table
                columns = {one["name"]: one for one in inspector.get_columns(table, schema)}
                findings += _missing(stream, columns)
                if channel.target == site.network:
                    findings += _stricter(stream, columns, sqlite=dialect_of(connection).is_sqlite)
                    findings += _unusual(connection, stream)
    yield from findings
    if not findings:
        yield ok("columns", "every table has the columns of its model, and takes what the model allows")


def _missing(stream: Stream, columns: Mapping[str, Any]) -> Iterator[Finding]:
    lost = [column.name for column in stream.columns if column.name not in columns]
    if lost:
        said = f"table {stream.table.fullname} of stream {stream.name} has no column {', '.join(lost)}"
        yield fault("columns", said, _CORRECT)


def _stricter(stream: Stream, columns: Mapping[str, Any], *, sqlite: bool) -> Iterator[Finding]:
    """Say why rows that the model allows will be parked."""
    table, model = stream.table.fullname, {column.name: column for column in stream.columns}
    for name, found in columns.items():
        generated = found.get("computed") is not None
        if name not in model:
            own = name == VERSION_COLUMN or found["nullable"] or found.get("default") is not None
            if not own and not generated and found.get("identity") is None and found.get("autoincrement") is not True:
                said = f"column {name} of table {table} is NOT NULL without a default, and no record has it"
                yield fault("columns", f"{said}: each new row is parked", _CORRECT)
        elif generated:
            yield fault(
                "columns", f"column {name} of table {table} is generated: nothing can be written to it", _CORRECT
            )
        elif (why := _narrower(model[name], found, sqlite=sqlite)) is not None:
            yield warning("columns", f"column {name} of table {table} {why}: records beyond that are parked", _CORRECT)


def _narrower(model: sa.Column[Any], found: Mapping[str, Any], *, sqlite: bool) -> str | None:
    """Say what a column takes less of than its model. SQLite keeps any length and number, whatever is declared."""
    if model.nullable and not found["nullable"]:
        return "is NOT NULL, and in the model it is not"
    if sqlite:
        return None
    wide, narrow = model.type, found["type"]
    while isinstance(wide, types.TypeDecorator):
        wide = wide.impl_instance
    if isinstance(wide, types.String) and not isinstance(wide, types.Enum) and isinstance(narrow, types.String):
        if narrow.length is not None and (wide.length is None or wide.length > narrow.length):
            return f"takes {narrow.length} characters, and in the model {wide.length or 'any number'}"
    elif isinstance(wide, types.Integer) and isinstance(narrow, types.Integer):
        bits, least = _bits(wide), _bits(narrow)
        if bits > least:
            return f"has {least} bits, and in the model {bits}"
    return None


def _bits(kind: types.Integer) -> int:
    return 64 if isinstance(kind, types.BigInteger) else 16 if isinstance(kind, types.SmallInteger) else 32


def _unusual(connection: Connection, stream: Stream) -> Iterator[Finding]:
    """Say what the table does to rows that are written."""
    traits, table = traits_of(connection, stream), stream.table.fullname
    if traits.triggers:
        said = f"triggers of table {table} may change or drop rows that are received: {', '.join(traits.triggers)}"
        yield warning("columns", said, "what they do is counted; comparisons find rows that differ from their source")
    if traits.narrower:
        said = f"table {table} keeps less of {', '.join(traits.narrower)} than the model says"
        yield warning("columns", said, _CORRECT)
    for name, why in traits.alike.items():
        said = f"table {table} takes unlike keys for one: column {name} compares by {why}"
        yield warning("columns", said, "use a collation that tells all texts apart on the receiving side")
    if not traits.has_arbiter:
        said = f"the key of stream {stream.name} has no unique index in table {table} that ON CONFLICT can name"
        yield warning("columns", f"{said}: writing is slower", "make one that is neither deferrable nor partial")
