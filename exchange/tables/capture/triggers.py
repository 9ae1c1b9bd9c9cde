"""Put triggers on a table, take them off, and tell whether they are as they should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import ProgrammingError

from exchange.channels.stream import Stream
from exchange.database.dialects import POSTGRESQL, SQLITE, Dialect, dialect_of
from exchange.database.tables import VERSION_COLUMN
from exchange.format.errors import Problem
from exchange.tables.capture import postgresql, sqlite
from exchange.tables.capture.sql import OUT_OF_DATE, CaptureSql, KeyColumn, TableName, identifier, run

_MODULES: dict[Dialect, CaptureSql] = {POSTGRESQL: postgresql, SQLITE: sqlite}


class CaptureFault(ValueError):  # noqa: N818 - reads as what it is
    """A table can't be captured as asked; the sentence says why."""


def install(
    connection: Connection,
    table: str,
    key: Sequence[str] | None = None,
    stream: str | None = None,
    schema: str | None = None,
) -> None:
    """Capture every change of ``table`` from now on; may be repeated.

    ``key`` are the columns that tell its rows apart (default: its primary key, as the database has it); ``stream`` is
    the name under which changes are noted (default: the table's). The exchange's own tables must be there. Raises
    CaptureFault if the table or the key is missing. Runs in the caller's transaction, and locks the table until it
    ends.
    """
    stream = stream or table
    if "," in stream:
        raise CaptureFault(f"a stream's name can't have a comma, found {stream!r}; give it another name")
    sql = capture_sql(connection)
    place = _find(connection, table, schema)
    if sql.find(connection, TableName("exchange_change")) is None:
        raise CaptureFault("table exchange_change is missing; run the exchange's own migrations first")
    if (refused := sql.refusal(connection, place)) is not None:
        raise CaptureFault(str(refused))
    names = key or sa.inspect(connection).get_pk_constraint(table, place.schema)["constrained_columns"]
    sql.install(connection, place, _key(connection, place, names), stream)


def drop(connection: Connection, table: str, schema: str | None = None) -> None:
    """Stop capturing ``table``; what was captured stays pending.

    Raises CaptureFault if there is no such table. Runs in the caller's transaction.
    """
    capture_sql(connection).drop(connection, _find(connection, table, schema))


@dataclass(frozen=True)
class TableProblem(Problem):
    """What is wrong with a stream's table.

    ``stops`` says that its rows can't be read or sent as they are, ``minor`` that only what is rarely done to a table
    was not captured.
    """

    stops: bool = False
    minor: bool = False


def check(connection: Connection, stream: Stream, *, captured: bool = True) -> list[TableProblem]:
    """Say what keeps a stream's table from being exchanged; an empty list is well.

    ``captured``: whether this network is the stream's source, where triggers must stand. Reads the catalogue, in the
    caller's transaction. Raises CaptureFault for a database that is neither.
    """
    sql = capture_sql(connection)
    name, schema = stream.table.name, stream.table.schema
    if schema is not None and not dialect_of(connection).is_postgresql:
        remedy = "declare it without, as SQLite has none, or use PostgreSQL"
        return [
            TableProblem(f"table {name} of stream {stream.name} is declared in schema {schema}", remedy, stops=True)
        ]
    place = sql.find(connection, TableName(name, schema))
    shown = f"{schema}.{name}" if schema else name
    if place is None:
        message = f"table {shown} of stream {stream.name} does not exist"
        return [TableProblem(message, "run the application's migrations", stops=True)]
    problems = []
    if (hidden := sql.hides_rows(connection, place)) is not None:
        problems.append(TableProblem(hidden.message, hidden.remedy, stops=True))
    installing = f"op.install_capture({name!r}{f', schema={schema!r}' if schema else ''})"
    names = [column.name for column in stream.key]
    columns = {one.name: one for one in sql.key_columns(connection, place, [*names, VERSION_COLUMN])}
    key = [columns[name] for name in names if name in columns]
    if len(key) != len(names):
        lost = sorted(set(names) - columns.keys())
        message = f"table {shown} has no column {', '.join(lost)}, which is in the key of stream {stream.name}"
        problems.append(TableProblem(message, "run the application's migrations, or correct its model", stops=True))
    if VERSION_COLUMN not in columns:
        problems.append(TableProblem(f"table {shown} has no column {VERSION_COLUMN}", f"add it with {installing}"))
    if not captured or len(key) != len(names):
        return problems
    if (refused := sql.refusal(connection, place)) is not None:
        problems.append(TableProblem(refused.message, refused.remedy))
    remedy = f"install them with {installing}; what was changed meanwhile `exchange resync` sends, with the whole table"
    problems += [
        TableProblem(f"table {shown} is not captured as stream {stream.name}: {fault}", remedy)
        for fault in sql.faults(connection, place, key, stream.name)
    ]
    if others := ", ".join(sql.other_tables(connection, place, stream.name)):
        message = f"stream {stream.name} is of table {place}, but changes of {others} are noted under its name"
        remedy = "take that capture away (op.drop_capture), or give it another name (op.install_capture(stream=))"
        problems.append(TableProblem(message, remedy, stops=True))
    problems += [TableProblem(one.message, one.remedy, minor=True) for one in sql.cautions(connection, place)]
    return problems


def renew(connection: Connection, stream: Stream) -> bool:
    """Write the triggers of a stream's table anew if they are as an earlier version wrote them; say whether it did.

    Not if the table is somebody else's: ``check`` goes on saying it. Runs in the caller's transaction, within a
    savepoint, and locks the table until it ends.
    """
    sql = capture_sql(connection)
    place = sql.find(connection, TableName(stream.table.name, stream.table.schema))
    if place is None:
        return False
    key = sql.key_columns(connection, place, [column.name for column in stream.key])
    if len(key) != len(stream.key) or sql.faults(connection, place, key, stream.name) != [OUT_OF_DATE]:
        return False
    try:
        with connection.begin_nested():
            sql.install(connection, place, key, stream.name)
    except ProgrammingError:
        return False
    return True


def captured_tables(connection: Connection) -> list[str]:
    """Name the tables that have triggers of ours, in whatever state. Reads in the caller's transaction."""
    return capture_sql(connection).captured(connection)


def add_version_column(connection: Connection, table: str, schema: str | None = None) -> None:
    """Give a table the column that guards received rows, unless it has it.

    Runs in the caller's transaction. Raises CaptureFault if there is no such table.
    """
    if not _has_version_column(connection, table, schema):
        place = _find(connection, table, schema)
        run(connection, f"ALTER TABLE {place} ADD COLUMN {identifier(VERSION_COLUMN)} BIGINT")


def drop_version_column(connection: Connection, table: str, schema: str | None = None) -> None:
    """Take that column away again, if it is there; the versions in it are lost.

    Runs in the caller's transaction. Raises CaptureFault if there is no such table.
    """
    if _has_version_column(connection, table, schema):
        place = _find(connection, table, schema)
        run(connection, f"ALTER TABLE {place} DROP COLUMN {identifier(VERSION_COLUMN)}")


def capture_sql(connection: Connection) -> CaptureSql:
    """Give the module that writes this database's SQL; raises CaptureFault for any other database."""
    try:
        return _MODULES[dialect_of(connection)]
    except ValueError as error:
        raise CaptureFault(f"capture knows postgresql and sqlite, found {connection.dialect.name}") from error


def _find(connection: Connection, table: str, schema: str | None) -> TableName:
    if schema is not None and not dialect_of(connection).is_postgresql:
        raise CaptureFault(f"table {table!r} can't be in schema {schema!r}: SQLite has none; leave schema out")
    place = capture_sql(connection).find(connection, TableName(table, schema))
    if place is None:
        raise CaptureFault(f"there is no table {table!r} in this database; create it first")
    return place


def _key(connection: Connection, place: TableName, names: Sequence[str]) -> list[KeyColumn]:
    if not names:
        raise CaptureFault(f"table {place.name!r} has no primary key; name the columns of its key")
    key = capture_sql(connection).key_columns(connection, place, names)
    missing = sorted(set(names) - {column.name for column in key})
    if missing:
        raise CaptureFault(f"table {place.name!r} has no column {missing[0]!r}; name the columns of its key")
    return key


def _has_version_column(connection: Connection, table: str, schema: str | None) -> bool:
    place = _find(connection, table, schema)
    columns = sa.inspect(connection).get_columns(place.name, place.schema)
    return any(column["name"] == VERSION_COLUMN for column in columns)
