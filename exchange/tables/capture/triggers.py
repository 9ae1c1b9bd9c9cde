"""Put triggers on a table, take them off, and tell whether they are as they should be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from exchange.channels.stream import Stream
from exchange.database import first_loads
from exchange.database.dialects import POSTGRESQL, SQLITE, dialect_of
from exchange.database.tables import VERSION_COLUMN
from exchange.format.errors import Problem, TransientError
from exchange.tables.capture import postgresql, postgresql_catalogue, sqlite, sqlite_catalogue
from exchange.tables.capture.sql import (
    OUT_OF_DATE,
    CaptureSql,
    Catalogue,
    CatalogueModule,
    KeyColumn,
    TableName,
    TableProblem,
    identifier,
    in_files,
    run,
)


class _Modules(NamedTuple):
    sql: CaptureSql
    catalogue: CatalogueModule


_MODULES = {
    POSTGRESQL: _Modules(postgresql, postgresql_catalogue),
    SQLITE: _Modules(sqlite, sqlite_catalogue),
}


class CaptureFault(TransientError):  # noqa: N818 - reads as what it is
    """A table can't be captured as asked, or is not as its stream needs it; the sentence says why."""


def install(
    connection: Connection,
    table: str,
    key: Sequence[str] | Mapping[str, str] | None = None,
    stream: str | None = None,
    schema: str | None = None,
) -> None:
    """Capture every change of ``table`` from now on; may be repeated. Whether it has rows already is noted.

    ``key`` are the columns that tell its rows apart (default: its primary key, as the database has it), as a mapping
    each with what it is called in files; ``stream`` is the name under which changes are noted (default: the table's).
    The exchange's own tables must be there. Raises
    CaptureFault if the table or the key is missing, or the table is captured as another stream. Runs in the caller's
    transaction, and locks the table until it ends.
    """
    stream = stream or table
    if "," in stream:
        raise CaptureFault(f"a stream's name can't have a comma, found {stream!r}; give it another name")
    sql = capture_sql(connection)
    place = _find(connection, table, schema)
    if sql.find(connection, TableName("exchange_change")) is None:
        raise CaptureFault("table exchange_change is missing; run the exchange's own migrations first")
    seen = read_catalogue(connection, [place])
    if (refused := seen.refusal(place)) is not None:
        raise CaptureFault(str(refused))
    other = seen.captured_as(place)
    if other not in (None, stream):
        raise CaptureFault(
            f"table {table!r} is captured already, as stream {other!r}: of two streams over one table each would miss"
            f" what the other one took; op.drop_capture({table!r}) first, if it is to be {stream!r} from now on"
        )
    names = key or _primary_key(connection, place)
    columns = _key(connection, place, [*names])
    if isinstance(names, Mapping):
        columns = in_files(columns, names)
    sql.install(connection, place, columns, stream)
    if faults := read_catalogue(connection, [place]).faults(place, columns, stream):
        raise CaptureFault(f"table {table!r} can't be captured: {faults[0]}")
    if other is None:
        empty = run(connection, f"SELECT 1 FROM {place} LIMIT 1").first() is None  # noqa: S608 - quoted
        with _noting_first_loads(connection):
            first_loads.note(connection, stream, empty=empty)


@contextmanager
def _noting_first_loads(connection: Connection) -> Iterator[None]:
    """Let a role that may not write the note go on without, and older migrations of ours: then the export looks."""
    with suppress(DBAPIError), connection.begin_nested():
        yield


def drop(connection: Connection, table: str, schema: str | None = None) -> None:
    """Stop capturing ``table``; what was captured stays pending.

    Raises CaptureFault if there is no such table. Runs in the caller's transaction.
    """
    place = _find(connection, table, schema)
    stream = read_catalogue(connection, [place]).captured_as(place)
    if stream is not None:
        with _noting_first_loads(connection):
            first_loads.forget(connection, stream)
    capture_sql(connection).drop(connection, place)


def check(connection: Connection, stream: Stream, *, captured: bool = True) -> list[TableProblem]:
    """Say what keeps a stream's table from being exchanged; an empty list is well.

    ``captured``: whether this network is the stream's source, where triggers must stand. Reads the catalogue, in the
    caller's transaction. Raises CaptureFault for a database that is neither.
    """
    return check_all(connection, [stream], captured=captured)[stream.name]


def check_all(
    connection: Connection, streams: Sequence[Stream], *, captured: bool = True
) -> dict[str, list[TableProblem]]:
    """Say of streams, by their names, what ``check`` says of each: in a few statements, however many they are."""
    if not streams:
        return {}
    in_schemas = dialect_of(connection).is_postgresql
    there = [stream for stream in streams if in_schemas or stream.table.schema is None]
    names = {VERSION_COLUMN, *(column.name for stream in there for column in stream.key)}
    seen = read_catalogue(connection, [_table_of(stream) for stream in there], sorted(names))
    found: dict[str, list[TableProblem]] = {}
    for stream in streams:
        if in_schemas or stream.table.schema is None:
            found[stream.name] = list(_problems(connection, seen, stream, captured=captured))
            continue
        found[stream.name] = [_in_no_schema(stream)]
    return found


def _in_no_schema(stream: Stream) -> TableProblem:
    """Say that SQLite has no schemas: what it calls so are other files, of which no trigger can note a change here."""
    message = f"table {stream.table.name} of stream {stream.name} is declared in schema {stream.table.schema}"
    remedy = (
        f'declare it without, as SQLite has none and no attached database is captured: Stream(..., table="'
        f'{stream.table.name}"), for this network alone if need be; or use PostgreSQL'
    )
    return TableProblem(message, remedy, stops=True)


def check_sent(
    connection: Connection, streams: Sequence[Stream], declared: Sequence[Stream]
) -> dict[str, list[TableProblem]]:
    """Say of streams that are sent from here what ``check`` and ``shared_tables`` say of each.

    Where all was well when this process asked last it only asks whether the catalogue has changed since. ``declared``
    are all that are declared. Reads in the caller's transaction.
    """
    asked = (tuple(streams), tuple(declared))
    print_now = _module(connection).catalogue.fingerprint(connection, [_table_of(one) for one in streams])
    if _WELL.get(connection.engine) == (asked, print_now):
        return {}
    found = check_all(connection, streams)
    for name, problem in shared_tables(connection, declared).items():
        if name in found:
            found[name].append(problem)
    if any(found.values()):
        _WELL.pop(connection.engine, None)
    else:
        _WELL[connection.engine] = (asked, print_now)
    return found


_WELL: WeakKeyDictionary[Engine, tuple[Hashable, Hashable]] = WeakKeyDictionary()
"""By database the streams that were found well last, and what the catalogue was then."""


def _table_of(stream: Stream) -> TableName:
    return TableName(stream.table.name, stream.table.schema)


def _problems(connection: Connection, seen: Catalogue, stream: Stream, *, captured: bool) -> Iterator[TableProblem]:
    name, schema = stream.table.name, stream.table.schema
    table, shown = _table_of(stream), f"{schema}.{name}" if schema else name
    if seen.find(table) is None:
        if (kind := capture_sql(connection).other_kind(connection, table)) is not None:
            yield TableProblem(f"{shown} of stream {stream.name} is {kind}, {_UNSEEN}", _KEEP_A_TABLE, stops=True)
            return
        message = f"table {shown} of stream {stream.name} does not exist"
        yield TableProblem(message, "run the application's migrations", stops=True)
        return
    if (hidden := seen.hides_rows(table)) is not None:
        yield TableProblem(hidden.message, hidden.remedy, stops=True)
    installing = f"op.install_capture({_arguments(stream)})"
    names = [column.name for column in stream.key]
    columns = {one.name: one for one in seen.key_columns(table, [*names, VERSION_COLUMN])}
    key = in_files([columns[name] for name in names if name in columns], stream.in_files)
    if len(key) != len(names):
        lost = sorted(set(names) - columns.keys())
        message = f"table {shown} has no column {', '.join(lost)}, which is in the key of stream {stream.name}"
        yield TableProblem(message, "run the application's migrations, or correct its model", stops=True)
    if not captured:
        if VERSION_COLUMN not in columns:
            receiving = f"{installing[:-1]}, source=...) that names the network which sends it"
            yield TableProblem(f"table {shown} has no column {VERSION_COLUMN}", f"add it with {receiving}")
        if (other := seen.captured_as(table)) is not None:
            yield _received_and_captured(stream, shown, other)
    elif len(key) == len(names):
        yield from _capture_problems(connection, seen, stream, key, installing)


_UNSEEN = "and what changes in it no trigger can note"
_KEEP_A_TABLE = "send the tables that it is made of, or let the application keep its rows in a table and send that"


def is_readable(connection: Connection, stream: Stream) -> bool:
    """Say whether all rows of a stream's table can be read by their keys. Reads in the caller's transaction."""
    return not any(problem.stops for problem in check(connection, stream, captured=False))


def _capture_problems(
    connection: Connection, seen: Catalogue, stream: Stream, key: Sequence[KeyColumn], installing: str
) -> Iterator[TableProblem]:
    """Say what keeps the changes of a stream's table from being noted as its own."""
    table, place = _table_of(stream), seen.find(_table_of(stream))
    shown = f"{stream.table.schema}.{stream.table.name}" if stream.table.schema else stream.table.name
    other = seen.captured_as(table)
    if other not in (None, stream.name):
        message = (
            f"table {shown} of stream {stream.name} is captured as stream {other}, and its changes are not its own"
        )
        remedy = f"declare one stream of it, or have it captured as this one: op.drop_capture, then {installing}"
        yield TableProblem(message, remedy)
        return
    if (refused := seen.refusal(table)) is not None:
        yield TableProblem(refused.message, refused.remedy)
    names = {str(column.name): stream.in_files[column.name] for column in stream.key}
    faults = seen.faults(table, key, stream.name)
    if any(name != column for column, name in names.items()):
        installing = f"{installing[:-1]}, key={names!r})"
    elif faults and place and (there := _primary_key(connection, place)) and there != [*names]:
        installing = f"{installing[:-1]}, key={[*names]!r})"  # else it takes the table's own
    remedy = f"install them with {installing}; what was changed meanwhile `exchange resync` sends, with the whole table"
    for fault in faults:
        yield TableProblem(f"table {shown} is not captured as stream {stream.name}: {fault}", remedy)
    if others := ", ".join(seen.other_tables(table, stream.name)):
        message = f"stream {stream.name} is of table {place}, but changes of {others} are noted under its name"
        remedy = "take that capture away (op.drop_capture), or give it another name (op.install_capture(stream=))"
        yield TableProblem(message, remedy, stops=True)
    yield from seen.cautions(table)


def _arguments(stream: Stream) -> str:
    """Write how a migration names a stream's table."""
    name, schema = str(stream.table.name), stream.table.schema
    said = [repr(name), *([f"schema={str(schema)!r}"] if schema else ())]
    return ", ".join([*said, *([f"stream={stream.name!r}"] if stream.name != name else ())])


def _received_and_captured(stream: Stream, table: str, other: str | None) -> TableProblem:
    remedy = f"take the capture away: op.install_capture({_arguments(stream)}, source=THE OTHER NETWORK)"
    if other == stream.name:
        message = f"table {table}, which stream {stream.name} receives, is captured: what is noted here is never sent"
        return TableProblem(message, remedy, minor=True)
    message = f"table {table} is received as stream {stream.name} and sent as stream {other}: each would undo the other"
    return TableProblem(message, f"declare one stream of it; {remedy}", stops=True)


def shared_tables(connection: Connection, streams: Iterable[Stream]) -> dict[str, TableProblem]:
    """Say of streams, by their names, that the table which the database finds is another one's, too.

    ``streams`` are all that are declared. Reads the catalogue, in the caller's transaction, if two have one name.
    """
    named: dict[str, list[Stream]] = defaultdict(list)
    for stream in streams:
        named[stream.table.name.casefold()].append(stream)
    doubtful = [stream for some in named.values() if len(some) > 1 for stream in some]
    places: dict[TableName, list[str]] = defaultdict(list)
    if doubtful:
        seen = read_catalogue(connection, [_table_of(stream) for stream in doubtful])
        for stream in doubtful:
            place = seen.find(_table_of(stream))
            if place is not None:
                places[place].append(stream.name)
    return {
        name: TableProblem(
            f"table {place} is that of the streams {' and '.join(names)}: each would undo what the other one did",
            "declare one stream of it",
            stops=True,
        )
        for place, names in places.items()
        for name in names
        if len(names) > 1
    }


def unreceivable(connection: Connection, declared: Iterable[Stream], received: Sequence[Stream]) -> dict[str, Problem]:
    """Say of received streams, by their names, that their table is another one's, too, or is captured for another one.

    Reads the catalogue, in the caller's transaction.
    """
    found: dict[str, Problem] = {**shared_tables(connection, declared)}
    if not dialect_of(connection).is_postgresql:
        found |= {stream.name: _in_no_schema(stream) for stream in received if stream.table.schema is not None}
        received = [stream for stream in received if stream.table.schema is None]
    captured = {name.casefold() for name in captured_tables(connection)}
    doubtful = [stream for stream in received if stream.table.name.casefold() in captured]
    if doubtful:
        seen = read_catalogue(connection, [_table_of(stream) for stream in doubtful])
        for stream in doubtful:
            table = _table_of(stream)
            other = seen.captured_as(table) if seen.find(table) is not None else None
            if other not in (None, stream.name):
                found[stream.name] = _received_and_captured(stream, str(seen.find(table)), other)
    return found


def renew(connection: Connection, stream: Stream) -> bool:
    """Write the triggers of a stream's table anew if they are as an earlier version wrote them; say whether it did.

    Not if the table is somebody else's, or locked: ``check`` goes on saying it. Runs in the caller's transaction,
    within a savepoint, and locks the table until it ends.
    """
    table, names = _table_of(stream), [column.name for column in stream.key]
    seen = read_catalogue(connection, [table], names)
    place = seen.find(table)
    if place is None:
        return False
    key = in_files(seen.key_columns(table, names), stream.in_files)
    if len(key) != len(stream.key) or seen.faults(table, key, stream.name) != [OUT_OF_DATE]:
        return False
    if seen.captured_as(table) not in (None, stream.name):
        return False
    sql = capture_sql(connection)
    try:
        with connection.begin_nested():
            sql.install(connection, place, key, stream.name)
    except DBAPIError:  # not our table, or somebody holds a lock on it
        return False
    return True


def take_in_partitions(connection: Connection, stream: Stream) -> bool:
    """Note the rows that partitions had when they were attached, for the next batch; say whether it could be done.

    It can't by a role that does not own them, or while others write to them for longer than a moment: ``check`` goes on
    saying it. Runs in the caller's transaction, within a savepoint, and keeps others from writing to those partitions
    until it ends.
    """
    sql = capture_sql(connection)
    place = sql.find(connection, _table_of(stream))
    assert place is not None
    key = in_files(sql.key_columns(connection, place, [column.name for column in stream.key]), stream.in_files)
    try:
        with connection.begin_nested():
            run(connection, f"SET LOCAL lock_timeout = '{_MOMENT_SECONDS}s'")
            sql.take_in_partitions(connection, place, key, stream.name)
    except DBAPIError:
        return False
    return True


_MOMENT_SECONDS = 2


def captured_tables(connection: Connection) -> list[str]:
    """Name the tables that have triggers of ours, in whatever state. Reads in the caller's transaction."""
    return capture_sql(connection).captured(connection)


def add_version_column(connection: Connection, table: str, schema: str | None = None) -> bool:
    """Give a table the column that guards received rows, unless it has it; say whether it was given.

    Runs in the caller's transaction. Raises CaptureFault if there is no such table.
    """
    if _has_version_column(connection, table, schema):
        return False
    run(connection, f"ALTER TABLE {_find(connection, table, schema)} ADD COLUMN {identifier(VERSION_COLUMN)} BIGINT")
    return True


def drop_version_column(connection: Connection, table: str, schema: str | None = None) -> None:
    """Take that column away again, if it is there; the versions in it are lost.

    Runs in the caller's transaction. Raises CaptureFault if there is no such table.
    """
    if _has_version_column(connection, table, schema):
        place = _find(connection, table, schema)
        run(connection, f"ALTER TABLE {place} DROP COLUMN {identifier(VERSION_COLUMN)}")


def capture_sql(connection: Connection) -> CaptureSql:
    """Give the module that writes this database's SQL; raises CaptureFault for any other database."""
    return _module(connection).sql


def read_catalogue(connection: Connection, tables: Sequence[TableName], columns: Sequence[str] = ()) -> Catalogue:
    """Read what the catalogue says of tables, and of some ``columns`` of them, in the caller's transaction.

    Raises CaptureFault for a database that is neither.
    """
    return _module(connection).catalogue.Catalogue(connection, tables, columns)


def _module(connection: Connection) -> _Modules:
    try:
        return _MODULES[dialect_of(connection)]
    except ValueError as error:
        raise CaptureFault(f"capture knows postgresql and sqlite, found {connection.dialect.name}") from error


def _find(connection: Connection, table: str, schema: str | None) -> TableName:
    if schema is not None and not dialect_of(connection).is_postgresql:
        raise CaptureFault(f"table {table!r} can't be in schema {schema!r}: SQLite has none; leave schema out")
    place = capture_sql(connection).find(connection, TableName(table, schema))
    if place is None:
        if (kind := capture_sql(connection).other_kind(connection, TableName(table, schema))) is not None:
            raise CaptureFault(f"{table!r} is {kind}, {_UNSEEN}: {_KEEP_A_TABLE}")
        where = f" in schema {schema!r} of" if schema else " in"
        raise CaptureFault(f"there is no table {table!r}{where} this database; create it first")
    return place


def _primary_key(connection: Connection, place: TableName) -> list[str]:
    return list(sa.inspect(connection).get_pk_constraint(place.name, place.schema)["constrained_columns"])


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
