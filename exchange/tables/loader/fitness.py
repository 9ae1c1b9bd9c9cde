"""Whether a receiving table will take what its stream sends, seen beforehand: for people, before records are parked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import BitString
from sqlalchemy.exc import NoSuchTableError

from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.tables import VERSION_COLUMN
from exchange.format.errors import Problem, printable
from exchange.tables.loader.constraints import uniques_of
from exchange.tables.loader.traits import traits_of

_PARKED = "migrate the table, or records that it refuses are parked"
_REMEDY = 'let what the exchange writes pass them (CHANNELS.md, "The receiving table")'


def unfit(connection: Connection, stream: Stream) -> list[Problem]:
    """Say what of a receiving table is stricter than the stream's model, or makes something else of its rows.

    A table that is missing is not spoken of, here and below. Reads in the caller's transaction.
    """
    columns = _columns(connection, stream)
    if not columns:
        return []
    stricter = [
        Problem(f"column {printable(model.name)} of table {stream.table.fullname} {fault}", _PARKED)
        for model in stream.columns
        if model.name in columns
        for fault in _stricter(connection, model, columns[model.name])
    ]
    return [*stricter, *_unusual(connection, stream)]


def unwritable(connection: Connection, stream: Stream) -> list[Problem]:
    """Say why nothing can be written into a receiving table as it is. Reads in the caller's transaction."""
    columns, crossing = _columns(connection, stream), {column.name for column in stream.columns}
    if not columns:
        return []
    table, problems = stream.table.fullname, []
    for name, there in columns.items():
        filled = there["nullable"] or there["default"] is not None or there.get("identity") is not None
        if name in crossing and there.get("computed"):
            what = f"column {printable(name)} of table {table} is generated: nothing can be written to it"
            problems.append(Problem(what, _PARKED))
        elif name not in crossing | {VERSION_COLUMN} and not (
            filled or there.get("computed") or there.get("autoincrement") is True
        ):
            what = f"column {printable(name)} of table {table} is NOT NULL without a default, and no record has it"
            problems.append(Problem(f"{what}: each new row is parked", _PARKED))
    if traits_of(connection, stream).row_security:
        what = f"row-level security of table {table} applies to this side's role, and might hide rows from it"
        problems.append(Problem(what, "give the role BYPASSRLS: until then its channel waits"))
    return problems


def indistinct(connection: Connection, stream: Stream) -> list[Problem]:
    """Say that a table which is sent may have two rows with one key. Reads in the caller's transaction."""
    if not _columns(connection, stream):
        return []
    inspector, table, key = sa.inspect(connection), stream.table, {str(column.name) for column in stream.key}
    primary = inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"]
    if any(columns and key.issuperset(columns) for columns in (primary, *_unique_columns(inspector, table))):
        return []
    said = f"table {table.fullname} may have two rows with one key of stream {stream.name} ({', '.join(sorted(key))})"
    remedy = "make a unique index over it, or take what tells rows apart into the key"
    return [Problem(f"{said}, of which only one can be over there", remedy)]


def _unique_columns(inspector: sa.Inspector, table: sa.Table) -> list[tuple[str, ...]]:
    return [unique.columns for unique in uniques_of(inspector, table)]


def missing_columns(connection: Connection, stream: Stream) -> list[Problem]:
    """Say which columns of a stream its table has not: its channel waits. Reads in the caller's transaction."""
    columns = _columns(connection, stream)
    missing = [printable(column.name) for column in stream.columns if columns and column.name not in columns]
    said = f"table {stream.table.fullname} of stream {stream.name} has no column {', '.join(missing)}"
    return [Problem(said, "run the application's migrations, or correct its model")] if missing else []


def narrower_models(connection: Connection, stream: Stream) -> list[Problem]:
    """Say which columns hold more than the stream's model says: such values are refused where they are read.

    Reads in the caller's transaction. On SQLite a column's type says nothing of its values.
    """
    columns = _columns(connection, stream) if dialect_of(connection).is_postgresql else {}
    problems = []
    for model in stream.columns:
        if model.name in columns:
            kind, there = _plain(model.type, connection.dialect), _plain(columns[model.name]["type"], None)
            narrower = "" if isinstance(there, sa.types.NullType) else _narrower(connection, there, kind)
            if narrower and not _narrower(connection, kind, there):
                said = (
                    f"column {printable(model.name)} of table {stream.table.fullname} is {_shown(connection, there)},"
                )
                said += f" and {_shown(connection, kind)} in the model"
                problems.append(Problem(said, "correct the model: values that it does not allow are parked"))
    return problems


def _shown(connection: Connection, kind: Any) -> str:
    return str(kind.compile(connection.dialect))


def _columns(connection: Connection, stream: Stream) -> dict[str, Any]:
    """Give the columns that a table has, as SQLAlchemy finds them; none if there is no such table."""
    try:
        return {one["name"]: one for one in sa.inspect(connection).get_columns(stream.table.name, stream.table.schema)}
    except NoSuchTableError:
        return {}


def _stricter(connection: Connection, model: sa.Column[Any], there: Any) -> Iterator[str]:
    """Say what the table's column refuses of what the model lets through."""
    if (there.get("identity") or {}).get("always"):
        yield "is GENERATED ALWAYS AS IDENTITY, so that changes of rows are refused: make it BY DEFAULT"
    if not there["nullable"] and model.nullable:
        yield "is NOT NULL, and in the model it is not"
    if dialect_of(connection).is_postgresql:  # SQLite keeps what it is given, whatever the column's type
        narrower = _narrower(connection, _plain(model.type, connection.dialect), _plain(there["type"], None))
        if narrower:
            yield narrower


def _plain(kind: Any, dialect: sa.Dialect | None) -> Any:
    """Give the type that the database has, without decorators, variants and domains."""
    if dialect is not None:
        kind = kind.dialect_impl(dialect)
    while isinstance(kind, sa.types.TypeDecorator) and not isinstance(kind, sa.types.Interval):
        kind = kind.impl_instance
    return _plain(kind.data_type, dialect) if isinstance(kind, postgresql.DOMAIN) else kind


def _narrower(connection: Connection, model: Any, there: Any) -> str:
    """Say how a type takes less than the model's; nothing where it takes as much."""
    labels = getattr(there, "enums", None)
    if isinstance(model, sa.Enum) and labels is not None:
        missing = [printable(one) for one in model.enums if one not in labels]
        return f"does not know {', '.join(missing)}, which the model does" if missing else ""
    if isinstance(there, sa.types.NullType) or _takes_all(model, there):  # of the one nobody here knows anything
        return ""
    return f"is {_shown(connection, there)}, and {_shown(connection, model)} in the model"


def _takes_all(model: Any, there: Any) -> bool:
    match model:
        case sa.Enum():
            return isinstance(there, sa.String)
        case sa.Integer():
            return isinstance(there, sa.Numeric) or _bits(there) >= _bits(model)
        case sa.String():
            return isinstance(there, sa.String) and not isinstance(there, sa.Enum) and _length(there) >= _length(model)
        case sa.Float():
            return isinstance(there, sa.Float) and (isinstance(model, sa.REAL) or not isinstance(there, sa.REAL))
        case sa.Numeric():
            return isinstance(there, sa.Numeric) and _fits(model, there)
        case _:
            zones = (getattr(model, "timezone", None), getattr(there, "timezone", None))
            kinds = (_python_type(model), _python_type(there))
            return _takes_own(model, there) if kinds[0] in _OWN else kinds[0] is kinds[1] and zones[0] == zones[1]


_OWN = (None, object, list, BitString)
"""What Python has for values of types that are PostgreSQL's own."""


def _takes_own(model: Any, there: Any) -> bool:
    match model:
        case sa.ARRAY():
            return isinstance(there, sa.ARRAY) and _takes_all(_plain(model.item_type, None), there.item_type)
        case sa.JSON():
            return isinstance(there, sa.JSON)
        case postgresql.BIT():
            if not isinstance(there, postgresql.BIT) or bool(there.varying) < bool(model.varying):
                return False
            return _length(there) >= _length(model) if there.varying else there.length == model.length
        case _:
            return isinstance(model, type(there)) or isinstance(there, sa.String)


def _python_type(kind: Any) -> type | None:
    try:
        found: type = kind.python_type
    except NotImplementedError:
        return None
    return found


def _bits(kind: Any) -> int:
    bits = ((sa.SmallInteger, 16), (sa.BigInteger, 64), (sa.Integer, 32))
    return next((number for one, number in bits if isinstance(kind, one)), 0)


def _length(kind: Any) -> float:
    return float("inf") if kind.length is None else kind.length


def _fits(model: Any, there: Any) -> bool:
    if there.precision is None:
        return True
    scale, model_scale = there.scale or 0, model.scale or 0
    return (
        model.precision is not None
        and scale >= model_scale
        and there.precision - scale >= model.precision - model_scale
    )


def _unusual(connection: Connection, stream: Stream) -> Iterator[Problem]:
    """Say what the table does to rows that are written."""
    traits, table = traits_of(connection, stream), stream.table.fullname
    if traits.triggers:
        names = ", ".join(map(printable, traits.triggers))
        yield Problem(f"triggers of table {table} may change or drop rows that are received: {names}", _REMEDY)
    if not traits.has_arbiter:
        said = f"the key of stream {stream.name} has no unique index in table {table} that ON CONFLICT can name"
        remedy = "make one that is neither deferrable nor partial, and no rules"
        if traits.partitioned:
            remedy = "a partitioned table has such an index only with its partition columns: take them into the key"
        yield Problem(f"{said}: writing is slower", remedy)
    for name, why in traits.alike.items():
        said = f"table {table} takes unlike keys for one: column {printable(name)} compares by {why}"
        yield Problem(said, "use a collation that tells all texts apart on the receiving side")
