"""Claim pending changes: take them out of the log, one per key, in the transaction of the batch that carries them.

``claim`` leaves one row per key in the temporary table ``exchange_taken``; everything is done by the database
on sets, so that memory doesn't grow with their number. It needs a transaction that sees one moment of the
database: REPEATABLE READ on PostgreSQL, any on SQLite.
"""
# ruff: noqa: S608 - names can't be parameters; sql.py quotes whatever is not ours

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from exchange.channels.channel import Shard
from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.format.record import Op
from exchange.tables.capture import sqlite
from exchange.tables.capture.sql import literal, literals, run
from exchange.tables.capture.stream_table import (
    StreamTable,
    and_in_shard,
    carried,
    help_planner,
    make_claimed_table,
    order_self_references,
    refers,
)
from exchange.tables.capture.versions import drawing, note_drawn


@dataclass(frozen=True)
class Claimed:
    """What ``claim`` claimed: keys by stream (only streams that have any), and whether changes are left."""

    keys: Mapping[str, int]
    more_pending: bool

    @property
    def count(self) -> int:
        """How many keys were claimed."""
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
    """Count the changes of these streams, or of a shard of them, that no batch carries yet; stop at ``limit``.

    Reads in the caller's transaction.
    """
    if shard is not None and not dialect_of(connection).is_postgresql:
        sqlite.prepare(connection)
    of = f"FROM exchange_change WHERE {_of(connection, streams, shard)}"
    if limit is not None:
        of = f"FROM (SELECT id FROM ({_oldest(connection, streams, limit, shard)}) a LIMIT {limit}) c"
    return int(run(connection, f"SELECT count(*) {of}").scalar_one())


def extent(connection: Connection) -> tuple[int, int] | None:
    """Give the oldest and the newest pending change of all streams; None if there is none.

    From one stream to the next through the index: three looks at it for each that has any. Reads in the caller's
    transaction.
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


def claim(connection: Connection, streams: Sequence[Stream], max_records: int, shard: Shard | None = None) -> Claimed:
    """Claim about ``max_records`` pending changes, oldest first, into ``exchange_taken``, one row per key.

    Of a ``shard`` only its keys.

    Rows that claimed rows refer to by foreign keys among ``streams`` come along if they have changes pending, so that a
    batch can be applied by itself. Each key draws a version: in the order of their last changes, and greater than any
    that was drawn before. A key that is gone is left for the batch in which it goes. What is claimed is gone from the
    log once the transaction commits. Raises CaptureFault if a stream's table or a column of its key is missing. Runs in
    the transaction that seals the batch, under the channel's export lock; commits nothing.
    """
    tables = [StreamTable.of(connection, stream) for stream in carried(streams, shard)]
    make_claimed_table(connection)
    _put_strange_first(connection, streams, shard)
    while True:
        boundary = _boundary(connection, streams, max_records, shard)
        if boundary is None:
            _move(connection, _of(connection, streams, shard), 0)
        else:
            _claim_below(connection, tables, boundary, shard)
        counts = run(connection, "SELECT stream, count(*) AS keys FROM exchange_taken GROUP BY stream")
        keys = {row.stream: row.keys for row in counts}
        more = boundary is not None and pending(connection, streams, 1, shard) > 0
        if keys or not more:
            break
    for table in tables:
        if table.stream.name in keys:
            order_self_references(connection, table)
    help_planner(connection, tables)
    return Claimed(keys, more)


def give_back(connection: Connection, streams: Sequence[Stream], reached: Reached | None) -> int:
    """Put what found no room in the batch back into the log, and say how many keys that were.

    ``streams`` as they were claimed, parents first; all upserts come before all deletes, and ``reached`` is the last
    record in that order that was written or parked (None: none). What is given back keeps its place in the order. Runs
    in the transaction of ``claim``.
    """
    left = "1 = 1" if reached is None else _after(connection, streams, reached)
    run(connection, f"UPDATE exchange_taken AS k SET round = {_LEFT} WHERE {left}")
    run(
        connection,
        "INSERT INTO exchange_change (id, stream, op, key)"
        f" SELECT k.id, k.stream, k.op, k.key FROM exchange_taken k WHERE k.round = {_LEFT}",
    )
    return run(connection, f"DELETE FROM exchange_taken WHERE round = {_LEFT}").rowcount


_LEFT = -1
"""The round of what is given back."""


def _of(connection: Connection, streams: Sequence[Stream], shard: Shard | None) -> str:
    """Say that a change is one of these streams', and of the shard if only that is wanted."""
    some = carried(streams, shard)
    if shard is None:
        return f"stream IN ({literals(stream.name for stream in some)})"
    return f"({' OR '.join(_in_shard(connection, stream, shard) for stream in some)})"


def _in_shard(connection: Connection, stream: Stream, shard: Shard | None) -> str:
    return f"(stream = {literal(stream.name)}{and_in_shard(connection, stream, shard)})"


def _boundary(connection: Connection, streams: Sequence[Stream], max_records: int, shard: Shard | None) -> int | None:
    """Find the id from which on changes are not claimed; None if all are.

    Of those that have one id, as two sessions may give it, all are claimed or none; and at least one is.
    """
    each = _oldest(connection, streams, max_records + 1, shard)
    oldest = f"SELECT id FROM ({each}) a ORDER BY id LIMIT {max_records + 1}"
    found = run(connection, f"SELECT count(*) AS n, min(id) AS a, max(id) AS z FROM ({oldest}) b").one()
    if found.n <= max_records:
        return None
    return int(found.z) if found.z > found.a else int(found.z) + 1


def _put_strange_first(connection: Connection, streams: Sequence[Stream], shard: Shard | None) -> None:
    """Put changes whose place in the order lies ahead of the write-ahead log before all others.

    They were noted in another cluster, out of which this database was restored, or by an earlier release.
    """
    if not dialect_of(connection).is_postgresql:
        return
    newest = " UNION ALL ".join(
        f"(SELECT id FROM exchange_change WHERE stream BETWEEN {literal(stream.name)} AND {literal(stream.name)}"
        " ORDER BY stream DESC, id DESC LIMIT 1)"
        for stream in carried(streams, shard)
    )
    here = run(connection, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").scalar_one()
    if run(connection, f"SELECT max(id) > {here} FROM ({newest}) n").scalar_one():
        strange = f"{_of(connection, streams, shard)} AND id > {here}"
        run(connection, f"UPDATE exchange_change SET id = id - {_AHEAD_OF_ALL} WHERE {strange}")


_AHEAD_OF_ALL = 2**62
"""Taken from an id it makes it less than any place in a write-ahead log, and leaves the order among such ids."""


def _oldest(connection: Connection, streams: Sequence[Stream], limit: int, shard: Shard | None) -> str:
    """Write the query for the oldest ``limit`` changes of each stream.

    A stream at a time, so that the index gives them in order. It says BETWEEN and orders by the stream, too, so
    that only this index does: told ``stream = 'x' ... LIMIT 1``, a planner that believes 'x' to be frequent
    walks through another channel's millions instead, sure of meeting one soon.
    """
    return " UNION ALL ".join(
        "SELECT id FROM (SELECT id FROM exchange_change"
        f" WHERE stream BETWEEN {literal(stream.name)} AND {literal(stream.name)}"
        f"{and_in_shard(connection, stream, shard)} ORDER BY stream, id LIMIT {limit}) s"
        for stream in carried(streams, shard)
    )


def _move(connection: Connection, where: str, turn: int) -> int:
    """Move the changes for which ``where`` holds from the log into ``exchange_taken``, coalesced per key."""
    into = "INSERT INTO exchange_taken (version, id, stream, key, op, round)"
    # D, if the key was ever deleted: the least of the three letters.
    chosen = f"SELECT max(id) AS id, stream, key, min(op) AS op, {turn} AS round"
    # In order, so that they are also read in order, and near each other, without much sorting.
    once = "GROUP BY stream, key ORDER BY max(id)"
    put = f"{into} SELECT {drawing(connection, 'x.id')}, x.*"
    # Both see one moment of the log. On PostgreSQL what a DELETE gave back would cost twice as much to go through.
    moved = run(connection, f"{put} FROM ({chosen} FROM exchange_change WHERE {where} {once}) x ORDER BY x.id")
    run(connection, f"DELETE FROM exchange_change WHERE {where}")
    note_drawn(connection, moved.rowcount)
    return moved.rowcount


def _claim_below(connection: Connection, tables: Sequence[StreamTable], boundary: int, shard: Shard | None) -> None:
    """Claim the changes below ``boundary``, and what belongs to them of the rest."""
    streams = [table.stream for table in tables]
    _move(connection, f"{_of(connection, streams, shard)} AND id < {boundary}", 0)
    if not dialect_of(connection).is_postgresql:  # PostgreSQL joins whole sets by hashing, for less than an index costs
        run(connection, "CREATE INDEX IF NOT EXISTS exchange_taken_key ON exchange_taken (stream, key)")
    help_planner(connection, tables)
    _claim_later_changes(connection, tables)
    _claim_parents(connection, tables)


def _claim_later_changes(connection: Connection, tables: Sequence[StreamTable]) -> None:
    """Claim the later changes of keys that were claimed: what is read is their state after them."""
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
    # Read in the order of the last changes, like all others.
    drawn = run(
        connection,
        "UPDATE exchange_taken SET version = x.drawn, id = x.late FROM"
        f" (SELECT {drawing(connection, 'l.late')} AS drawn, l.* FROM"
        " (SELECT version AS before, late FROM exchange_taken WHERE late IS NOT NULL ORDER BY late) l) x"
        " WHERE exchange_taken.version = x.before",
    )
    note_drawn(connection, drawn.rowcount)


def _claim_parents(connection: Connection, tables: Sequence[StreamTable]) -> None:
    """Claim pending changes of the rows that claimed rows refer to, and of those these refer to, and so on."""
    by_table = {table.stream.table.key: table for table in tables}
    references = [
        (child, by_table[referred], constraint)
        for child in tables
        for constraint in child.stream.table.foreign_key_constraints
        if (referred := constraint.elements[0].target_table_key or "") in by_table
    ]
    turn, found = 0, bool(references)
    while found:
        found = False
        for child, parent, constraint in references:
            if not pending(connection, [parent.stream], 1):
                continue
            parents = (
                f"SELECT {parent.sql.key_text('p', parent.key)} FROM exchange_taken k"
                f" JOIN {child.place} c ON {child.sql.matches('c', 'k.key', child.key)}"
                f" JOIN {parent.place} p ON {refers(constraint)}"
                f" WHERE k.stream = {literal(child.stream.name)} AND k.round = {turn}"
            )
            where = f"stream = {literal(parent.stream.name)} AND key IN ({parents})"
            found |= _move(connection, where, turn + 1) > 0
        turn += 1


def _after(connection: Connection, streams: Sequence[Stream], reached: Reached) -> str:
    """Say that a claimed key ``k`` comes after ``reached``: upserts parents first, deletes children first."""
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
