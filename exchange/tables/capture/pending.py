"""Take pending changes out of the log, and read what the rows they name are now.

``take`` leaves one row per key in the temporary table ``exchange_taken``; everything is done by the database
on sets, so that memory doesn't grow with their number. It needs a transaction that sees one moment of the
database: REPEATABLE READ on PostgreSQL, any on SQLite.
"""
# ruff: noqa: S608 - names can't be parameters; sql.py quotes whatever is not ours

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.channel import Shard, Stream
from exchange.channels.codecs import codec_for
from exchange.database.engine import driver_errors
from exchange.format import strict_json
from exchange.format.errors import RecordError
from exchange.format.record import Op
from exchange.tables.capture import postgresql, sqlite
from exchange.tables.capture.sql import Dialect, KeyColumn, TableName, identifier, literal, literals, run
from exchange.tables.capture.triggers import CaptureFault, dialect_of

FETCH_ROWS = 50
"""How many rows are in memory at once: few, for they may be large, and few are all in the processor's cache."""

WORK_MEMORY_KIB = 64 * 1024
"""How much PostgreSQL may use to sort or hash what was taken before it turns to its disk, unless set higher."""

MANY_KEYS = 1_000
"""From how many keys on a wrong plan hurts more than a scan of the whole table."""

MAX_LEVELS = 64
"""How deep rows are ordered in a table that refers to itself in more than one way, where loops can hide."""


Row = tuple[Any, ...]
"""What the driver gives, untouched."""


@dataclass(frozen=True)
class Taken:
    """What ``take`` took: keys by stream (only streams that have any), and whether changes are left."""

    keys: Mapping[str, int]
    more_pending: bool

    @property
    def count(self) -> int:
        """How many keys were taken."""
        return sum(self.keys.values())


@dataclass(frozen=True)
class Reached:
    """The last record that found room in a batch: which stream's, which version, upsert or delete."""

    stream: str
    version: int
    op: Op


def pending(
    connection: Connection, streams: Sequence[Stream], limit: int | None = None, shard: Shard | None = None
) -> int:
    """Count the changes of these streams, or of a shard of them, that no batch carries yet; stop at ``limit``."""
    if shard is not None and not is_postgresql(connection):
        sqlite.prepare(connection)
    of = f"FROM exchange_change WHERE {_of(connection, streams, shard)}"
    if limit is not None:
        of = f"FROM (SELECT id FROM ({_oldest(connection, streams, limit, shard)}) a LIMIT {limit}) c"
    return int(run(connection, f"SELECT count(*) {of}").scalar_one())


def extent(connection: Connection) -> tuple[int, int] | None:
    """Give the oldest and the newest pending change of all streams; None if there is none.

    From one stream to the next through the index: three looks at it for each that has any.
    """
    log = "FROM exchange_change c WHERE c.stream"
    found = run(
        connection,
        "WITH RECURSIVE s (stream) AS (SELECT min(stream) FROM exchange_change"
        f" UNION ALL SELECT (SELECT min(c.stream) {log} > s.stream) FROM s WHERE s.stream IS NOT NULL)"
        # Apart: SQLite finds both in one SELECT only by reading all between them.
        f" SELECT min((SELECT min(c.id) {log} = s.stream)) AS a, max((SELECT max(c.id) {log} = s.stream)) AS z FROM s",
    ).one()
    return None if found.a is None else (found.a, found.z)


def take(connection: Connection, streams: Sequence[Stream], max_records: int, shard: Shard | None = None) -> Taken:
    """Take about ``max_records`` pending changes, oldest first, into ``exchange_taken``, one row per key.

    Of a ``shard`` only its keys.

    Rows that taken rows refer to by foreign keys among ``streams`` come along if they have changes pending,
    so that a batch can be applied by itself. A key's version is that of its last change. A key that is gone
    is left for the batch in which it goes. What is taken is gone from the log once the transaction commits.
    Raises CaptureFault if a stream's table or a column of its key is missing.
    """
    tables = [StreamTable.of(connection, stream) for stream in carried(streams, shard)]
    empty_taken(connection)
    while True:
        boundary = _boundary(connection, streams, max_records, shard)
        if boundary is None:
            _move(connection, _of(connection, streams, shard), 0)
        else:
            _take_below(connection, tables, boundary, shard)
        counts = run(connection, "SELECT stream, count(*) AS keys FROM exchange_taken GROUP BY stream")
        keys = {row.stream: row.keys for row in counts}
        more = boundary is not None and pending(connection, streams, 1, shard) > 0
        if keys or not more:
            break
    for table in tables:
        if table.stream.name in keys:
            order_self_references(connection, table)
    help_planner(connection, tables)
    return Taken(keys, more)


def rows(connection: Connection, stream: Stream) -> Iterator[Sequence[Row]]:
    """Read the taken rows that exist now: key text, version, then the selected value of each stream column.

    Parents come before children, else by version. Streamed, some rows at a time: read it to its end or close
    it before anything else is done with the connection. Raises SQLAlchemy's DBAPIError.
    """
    has_key: sa.ColumnElement[bool] = sa.literal_column(StreamTable.of(connection, stream).row_has_key())
    columns = [stream.codecs[column.name].selected(connection.dialect) for column in stream.columns]
    order = (TAKEN.c.level, TAKEN.c.version) if self_references(stream) else (TAKEN.c.version,)
    if is_postgresql(connection):
        # Key by key in their order, through the table's own index: the first row comes at once, where a join
        # of sets would put all of them into order first, and we would wait.
        taken = (
            sa.select(TAKEN.c.key, TAKEN.c.version)
            .where(TAKEN.c.stream == stream.name)
            .order_by(*order)
            .offset(0)
            .subquery(TAKEN.name)
        )
        row = sa.select(*columns).select_from(stream.table).where(has_key).offset(0).lateral("exchange_row")
        select = sa.select(taken.c.key, taken.c.version, *row.c).select_from(taken.join(row, sa.true()))
    else:
        select = (
            sa.select(TAKEN.c.key, TAKEN.c.version, *columns)
            .select_from(TAKEN.join(stream.table, has_key))
            .where(TAKEN.c.stream == stream.name)
            .order_by(*order)
        )
    yield from streamed(connection, select)


def row_of_key(connection: Connection, stream: Stream, key: str) -> Row | None:
    """Read the row that has the key of a change: the selected value of each stream column; None if it is gone."""
    table = StreamTable.of(connection, stream)
    if not is_postgresql(connection):
        sqlite.prepare(connection)
    quoted = postgresql.literal(key) if is_postgresql(connection) else literal(key)
    name = TableName(stream.table.name, stream.table.schema)
    selected = (stream.codecs[column.name].selected(connection.dialect) for column in stream.columns)
    found = sa.select(*selected).where(sa.literal_column(table.speaks.matches(str(name), quoted, table.key)))
    return connection.execute(found.select_from(stream.table)).one_or_none()


def deleted_keys(connection: Connection, stream: Stream) -> Iterator[Sequence[Row]]:
    """Read the taken keys that no row has now: key text, version, then the values for ``stream.key_encoder``.

    By version; streamed as ``rows``.
    """
    table = StreamTable.of(connection, stream)
    dialect = connection.dialect
    members = (
        f"{value} AS {identifier(column.name)}"
        for column, value in zip(table.key, table.speaks.key_values("k.key", table.key), strict=True)
    )
    gone = sa.Table(
        "exchange_gone",
        sa.MetaData(),
        sa.Column("exchange_text", sa.Text),
        sa.Column("exchange_id", sa.BigInteger),
        *(sa.Column(column.name, column.type) for column in stream.key),
    )
    statement = (
        f"SELECT k.key AS exchange_text, k.version AS exchange_id, {', '.join(members)} FROM exchange_taken k"
        f" WHERE k.stream = {literal(stream.name)} AND NOT {table.exists('k.key')}"
    )
    cte = sa.text(statement.replace(":", "\\:")).columns().cte("exchange_gone")
    select = (
        sa.select(
            gone.c.exchange_text,
            gone.c.exchange_id,
            *(codec_for(gone.c[column.name]).selected(dialect) for column in stream.key),
        )
        .add_cte(cte)
        .order_by(gone.c.exchange_id)
    )
    yield from streamed(connection, select)


def give_back(connection: Connection, streams: Sequence[Stream], reached: Reached | None) -> int:
    """Put what found no room in the batch back into the log, and say how many keys that were.

    ``streams`` as they were taken, parents first; all upserts come before all deletes, and ``reached`` is the
    last record in that order that was written or parked (None: none). What is given back keeps its version.
    """
    dialect_of(connection)
    left = "1 = 1" if reached is None else _after(connection, streams, reached)
    run(
        connection,
        "INSERT INTO exchange_change (id, stream, op, key)"
        f" SELECT k.version, k.stream, k.op, k.key FROM exchange_taken k WHERE {left}",
    )
    given = run(
        connection,
        "DELETE FROM exchange_taken WHERE EXISTS (SELECT 1 FROM exchange_change c"
        " WHERE c.stream = exchange_taken.stream AND c.id = exchange_taken.version)",
    )
    return given.rowcount


def key_text(connection: Connection, stream: Stream, values: Sequence[Any]) -> str | None:
    """Give the key of the row with these values of its key, as a change notes it; None if there is no such row.

    ``values`` as ``Stream.key_decoder`` gives them, in ``key`` order. Raises CaptureFault as ``take`` does.
    """
    table = StreamTable.of(connection, stream)
    name = TableName(stream.table.name, stream.table.schema)
    has_key = (
        sa.literal_column(f"{name}.{identifier(column.name)}") == sa.bindparam(None, value, type_=sa.types.NullType())
        for column, value in zip(table.key, values, strict=True)
    )
    text: sa.ColumnElement[str] = sa.literal_column(table.speaks.key_text(str(name), table.key))
    found: str | None = connection.scalar(sa.select(text).select_from(stream.table).where(*has_key))
    return found


def is_key(connection: Connection, stream: Stream, text: str) -> bool:
    """Tell if a text could be the key of a change: the database can compare it with its rows."""
    table = StreamTable.of(connection, stream)
    if not is_postgresql(connection):
        sqlite.prepare(connection)
    try:
        members = strict_json.loads(text.encode())
    except RecordError:
        return False
    if not isinstance(members, dict) or members.keys() != {column.name for column in table.key}:
        return False
    if any(isinstance(value, (dict, list)) for value in members.values()):
        return False
    quoted = postgresql.literal(text) if is_postgresql(connection) else literal(text)
    try:
        with connection.begin_nested():
            run(connection, f"SELECT {table.exists(quoted)}")
    except DBAPIError:
        return False
    return True


TAKEN = sa.table(
    "exchange_taken",
    *(sa.column(name) for name in ("stream", "key", "version", "op", "late", "round", "level")),
)
"""What ``take`` took and was not given back, by stream and key; there until the transaction ends."""


@dataclass(frozen=True)
class StreamTable:
    """A stream's table as the database has it now."""

    stream: Stream
    place: TableName
    key: tuple[KeyColumn, ...]
    speaks: Dialect

    @classmethod
    def of(cls, connection: Connection, stream: Stream) -> StreamTable:
        """Find it. Raises CaptureFault if the table or a column of its key is missing."""
        speaks = dialect_of(connection)
        place = speaks.find(connection, TableName(stream.table.name, stream.table.schema))
        if place is None:
            raise CaptureFault(f"table {stream.table.name} of stream {stream.name} does not exist")
        key = tuple(speaks.key_columns(connection, place, [column.name for column in stream.key]))
        if len(key) != len(stream.key):
            raise CaptureFault(f"table {place.name} lacks a key column of stream {stream.name}; migrate it")
        return cls(stream, place, key, speaks)

    def row_has_key(self) -> str:
        """Say that a row of the table, as SQLAlchemy names it, has the key of a row of ``exchange_taken``."""
        name = TableName(self.stream.table.name, self.stream.table.schema)
        return self.speaks.matches(str(name), "exchange_taken.key", self.key)

    def exists(self, text: str) -> str:
        """Say that a row with this key exists."""
        return f"EXISTS (SELECT 1 FROM {self.place} t WHERE {self.speaks.matches('t', text, self.key)})"


_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    # Its compiling costs more than it gives here; and a sample of thousands says enough of a table of keys.
    "jit": "off",
    "default_statistics_target": "10",
}


def _of(connection: Connection, streams: Sequence[Stream], shard: Shard | None) -> str:
    """Say that a change is one of these streams', and of the shard if only that is wanted."""
    some = carried(streams, shard)
    if shard is None:
        return f"stream IN ({literals(stream.name for stream in some)})"
    return f"({' OR '.join(_in_shard(connection, stream, shard) for stream in some)})"


def _in_shard(connection: Connection, stream: Stream, shard: Shard | None) -> str:
    return f"(stream = {literal(stream.name)}{falls(connection, stream, shard)})"


def falls(connection: Connection, stream: Stream, shard: Shard | None, text: str = "key") -> str:
    """Say, after a condition, that the key in ``text`` falls to the shard; nothing where all of the stream's do."""
    if shard is None or stream.name not in shard.split:
        return ""
    return f" AND {dialect_of(connection).bucket(text)} % {shard.of} = {shard.number}"


def carried(streams: Sequence[Stream], shard: Shard | None) -> Sequence[Stream]:
    """Give the streams of which a shard may carry something: all, or those that are split."""
    if shard is None or shard.number == 0:
        return streams
    return [stream for stream in streams if stream.name in shard.split]


def is_postgresql(connection: Connection) -> bool:
    """Say which of the two databases it is."""
    return connection.dialect.name == "postgresql"


def _work_memory_kib(connection: Connection) -> int:
    return int(run(connection, "SELECT setting FROM pg_settings WHERE name = 'work_mem'").scalar_one())


def empty_taken(connection: Connection) -> None:
    """Make ``exchange_taken`` anew. On SQLite the version is the row's place, so reading by version needs no sort."""
    run(connection, "DROP TABLE IF EXISTS exchange_taken")
    if is_postgresql(connection):
        kind, version, end = "TEMPORARY", "bigint", " ON COMMIT DROP"
        # Key texts are compared with those that triggers wrote under these very settings.
        settings = {**_SETTINGS, "work_mem": f"{max(_work_memory_kib(connection), WORK_MEMORY_KIB)}kB"}
        named = (f"set_config({literal(name)}, {literal(value)}, true)" for name, value in settings.items())
        run(connection, f"SELECT {', '.join(named)}")
    else:
        kind, version, end = "TEMPORARY", "INTEGER PRIMARY KEY", ""
        sqlite.prepare(connection)
    run(
        connection,
        f"CREATE {kind} TABLE exchange_taken (version {version}, stream text NOT NULL, key text NOT NULL,"
        " op text NOT NULL, late bigint, round integer NOT NULL DEFAULT 0,"
        f" level integer NOT NULL DEFAULT 0){end}",
    )


def help_planner(connection: Connection, tables: Sequence[StreamTable]) -> None:
    """Keep PostgreSQL from comparing every row with every key.

    A table that was vacuumed while nearly empty, as the log often is, is believed to be so until the next
    time, however much has come since; a nested loop over "one row" may then be one over a million.
    """
    if not is_postgresql(connection):
        return
    run(connection, "ANALYZE exchange_taken")
    names = ", ".join(
        f"to_regclass({postgresql.literal(str(place))})"
        for place in (TableName("exchange_change"), *(table.place for table in tables))
    )
    mistaken = run(
        connection,
        f"SELECT count(*) FROM pg_class WHERE oid IN ({names}) AND reltuples >= 0"
        f" AND reltuples < relpages AND (SELECT count(*) FROM exchange_taken) > {MANY_KEYS}",
    ).scalar_one()
    if mistaken:
        run(connection, "SET LOCAL enable_nestloop = off")


def _boundary(connection: Connection, streams: Sequence[Stream], max_records: int, shard: Shard | None) -> int | None:
    """Find the first change that isn't taken; None if all are."""
    each = _oldest(connection, streams, max_records + 1, shard)
    found = run(connection, f"SELECT id FROM ({each}) a ORDER BY id LIMIT 1 OFFSET {max_records}").scalar()
    return None if found is None else int(found)


def _oldest(connection: Connection, streams: Sequence[Stream], limit: int, shard: Shard | None) -> str:
    """Write the query for the oldest ``limit`` changes of each stream.

    A stream at a time, so that the index gives them in order. It says BETWEEN and orders by the stream, too, so
    that only this index does: told ``stream = 'x' ... LIMIT 1``, a planner that believes 'x' to be frequent
    walks through another channel's millions instead, sure of meeting one soon.
    """
    return " UNION ALL ".join(
        "SELECT id FROM (SELECT id FROM exchange_change"
        f" WHERE stream BETWEEN {literal(stream.name)} AND {literal(stream.name)}"
        f"{falls(connection, stream, shard)} ORDER BY stream, id LIMIT {limit}) s"
        for stream in carried(streams, shard)
    )


def _move(connection: Connection, where: str, turn: int) -> int:
    """Move the changes for which ``where`` holds from the log into ``exchange_taken``, coalesced per key."""
    into = "INSERT INTO exchange_taken (version, stream, key, op, round)"
    # D, if the key was ever deleted: the least of the three letters.
    chosen = f"SELECT max(id), stream, key, min(op), {turn}"
    # In order, so that they are also read in order, and near each other, without much sorting.
    once = "GROUP BY stream, key ORDER BY max(id)"
    if is_postgresql(connection):
        moved = run(
            connection,
            f"WITH gone AS (DELETE FROM exchange_change WHERE {where} RETURNING id, stream, op, key)"
            f" {into} {chosen} FROM gone {once}",
        )
        return moved.rowcount
    moved = run(connection, f"{into} {chosen} FROM exchange_change WHERE {where} {once}")
    run(connection, f"DELETE FROM exchange_change WHERE {where}")
    return moved.rowcount


def _take_below(connection: Connection, tables: Sequence[StreamTable], boundary: int, shard: Shard | None) -> None:
    """Take the changes below ``boundary``, and what belongs to them of the rest."""
    streams = [table.stream for table in tables]
    _move(connection, f"{_of(connection, streams, shard)} AND id < {boundary}", 0)
    if not is_postgresql(connection):  # PostgreSQL joins whole sets by hashing, for less than an index costs
        run(connection, "CREATE INDEX IF NOT EXISTS exchange_taken_key ON exchange_taken (stream, key)")
    help_planner(connection, tables)
    _take_later_changes(connection, tables)
    _take_parents(connection, tables)


def _take_later_changes(connection: Connection, tables: Sequence[StreamTable]) -> None:
    """Take the later changes of keys that were taken: what is read is their state after them."""
    # Equal keys are in one shard: it need not be asked for.
    streams = _of(connection, [table.stream for table in tables], None)
    late = run(
        connection,
        "UPDATE exchange_taken SET late = x.id FROM"
        " (SELECT c.stream, c.key, max(c.id) AS id FROM exchange_change c JOIN exchange_taken k"
        f" ON k.stream = c.stream AND k.key = c.key WHERE c.{streams} GROUP BY c.stream, c.key) x"
        " WHERE exchange_taken.stream = x.stream AND exchange_taken.key = x.key",
    )
    if not late.rowcount:
        return
    for table in tables:
        # Deleted only later: other rows that still referred to it may not be in this batch, and the delete
        # would fail over there. The later change, still pending, says it all.
        run(
            connection,
            f"DELETE FROM exchange_taken WHERE stream = {literal(table.stream.name)} AND late IS NOT NULL"
            f" AND op <> 'D' AND NOT {table.exists('exchange_taken.key')}",
        )
    run(
        connection,
        f"DELETE FROM exchange_change WHERE {streams} AND EXISTS (SELECT 1 FROM exchange_taken k"
        " WHERE k.stream = exchange_change.stream AND k.key = exchange_change.key"
        " AND exchange_change.id <= k.late)",
    )
    run(connection, "UPDATE exchange_taken SET version = late WHERE late IS NOT NULL")


def _take_parents(connection: Connection, tables: Sequence[StreamTable]) -> None:
    """Take pending changes of the rows that taken rows refer to, and of those these refer to, and so on."""
    by_table = {table.stream.table.key: table for table in tables}
    references = [
        (child, by_table[constraint.referred_table.key], constraint)
        for child in tables
        for constraint in child.stream.table.foreign_key_constraints
        if constraint.referred_table.key in by_table
    ]
    turn, found = 0, bool(references)
    while found:
        found = False
        for child, parent, constraint in references:
            if not pending(connection, [parent.stream], 1):
                continue
            parents = (
                f"SELECT {parent.speaks.key_text('p', parent.key)} FROM exchange_taken k"
                f" JOIN {child.place} c ON {child.speaks.matches('c', 'k.key', child.key)}"
                f" JOIN {parent.place} p ON {refers(constraint)}"
                f" WHERE k.stream = {literal(child.stream.name)} AND k.round = {turn}"
            )
            where = f"stream = {literal(parent.stream.name)} AND key IN ({parents})"
            found |= _move(connection, where, turn + 1) > 0
        turn += 1


def refers(constraint: sa.ForeignKeyConstraint) -> str:
    """Say that row ``c`` refers to row ``p``."""
    return " AND ".join(
        f"p.{identifier(element.column.name)} = c.{identifier(element.parent.name)}" for element in constraint.elements
    )


def self_references(stream: Stream) -> list[sa.ForeignKeyConstraint]:
    """Give the references of a stream's table to itself."""
    return [one for one in stream.table.foreign_key_constraints if one.referred_table is stream.table]


def order_self_references(connection: Connection, table: StreamTable) -> None:
    """Give taken rows whose table refers to itself their level below the topmost taken one."""
    constraints = self_references(table.stream)
    if not constraints:
        return
    # Along one reference a loop can't be entered from outside. Along two it can: there the depth is bounded.
    bound = f" WHERE l.level < {MAX_LEVELS}" if len(constraints) > 1 else ""
    speaks, key, name = table.speaks, table.key, literal(table.stream.name)
    differs = " OR ".join(f"p.{identifier(c.name)} <> c.{identifier(c.name)}" for c in key)
    edges = " UNION ".join(
        f"SELECT k.version AS child, u.version AS parent FROM exchange_taken k"
        f" JOIN {table.place} c ON {speaks.matches('c', 'k.key', key)}"
        f" JOIN {table.place} p ON {refers(constraint)} AND ({differs})"
        f" JOIN exchange_taken u ON u.key = {speaks.key_text('p', key)} AND u.stream = {name}"
        f" WHERE k.stream = {name}"
        for constraint in constraints
    )
    run(connection, "DROP TABLE IF EXISTS exchange_edge")
    drop = " ON COMMIT DROP" if is_postgresql(connection) else ""
    run(connection, "CREATE INDEX IF NOT EXISTS exchange_taken_key ON exchange_taken (stream, key)")
    help_planner(connection, [table])
    run(connection, f"CREATE TEMPORARY TABLE exchange_edge{drop} AS {edges}")
    run(connection, "CREATE INDEX exchange_edge_parent ON exchange_edge (parent)")
    run(
        connection,
        "WITH RECURSIVE lies (version, level) AS ("
        " SELECT DISTINCT parent, 0 FROM exchange_edge"
        "  WHERE parent NOT IN (SELECT child FROM exchange_edge)"
        f" UNION SELECT e.child, l.level + 1 FROM lies l JOIN exchange_edge e ON e.parent = l.version{bound})"
        " UPDATE exchange_taken SET level = x.level FROM"
        " (SELECT version, max(level) AS level FROM lies GROUP BY version) x"
        " WHERE exchange_taken.version = x.version",
    )
    run(connection, "DROP TABLE exchange_edge")


def _after(connection: Connection, streams: Sequence[Stream], reached: Reached) -> str:
    """Say that a taken key ``k`` comes after ``reached``: upserts parents first, deletes children first."""
    parts = []
    place = [stream.name for stream in streams].index(reached.stream)
    last = f"(SELECT r.level FROM exchange_taken r WHERE r.version = {reached.version})"
    for number, stream in enumerate(streams):
        gone = f"NOT {StreamTable.of(connection, stream).exists('k.key')}"
        if reached.op is Op.UPSERT:
            here = f"({gone} OR (k.level, k.version) > ({last}, {reached.version}))"
            before, behind = gone, "1 = 1"
        else:
            here = f"({gone} AND k.version > {reached.version})"
            before, behind = gone, "1 = 0"
        left = here if number == place else before if number < place else behind
        parts.append(f"(k.stream = {literal(stream.name)} AND {left})")
    return f"({' OR '.join(parts)})"


def streamed(connection: Connection, select: sa.Select[Any], rows_at_once: int = FETCH_ROWS) -> Iterator[Sequence[Row]]:
    """Read what a query finds, some rows at a time: read it to its end or close it before anything else is done.

    Raises SQLAlchemy's DBAPIError.
    """
    with driver_errors(connection, "reading rows"):
        yield from (_from_postgresql if is_postgresql(connection) else _from_sqlite)(connection, select, rows_at_once)


def _from_postgresql(connection: Connection, select: sa.Select[Any], rows_at_once: int) -> Iterator[Sequence[Row]]:
    """Read rows while the server goes on making them: a cursor would make it wait for each next call."""
    compiled = select.compile(dialect=connection.dialect)
    driver = connection.connection.driver_connection
    # Whoever closes this before its end cancels the query, and that undoes everything up to here.
    with (
        connection.begin_nested(),
        driver.cursor() as cursor,  # type: ignore[union-attr]
        closing(cursor.stream(str(compiled), compiled.params, size=rows_at_once)) as found,
    ):
        while piece := [*islice(found, rows_at_once)]:
            yield piece


def _from_sqlite(connection: Connection, select: sa.Select[Any], rows_at_once: int) -> Iterator[Sequence[Row]]:
    """Read the driver's own tuples: SQLAlchemy's rows cost as much as the query."""
    with connection.execute(select) as result:
        while piece := result.cursor.fetchmany(rows_at_once):
            yield piece
