"""Walk through whole tables in the order of their keys, a page at a time, each page from where the last one ended.

A page is put into ``exchange_taken``, as if its keys had changed, so that its rows are read like changed ones; its
``version`` is only their order there. Where we stand is the text of a key.
"""
# ruff: noqa: S608 - names can't be parameters; sql.py quotes whatever is not ours

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Shard
from exchange.channels.stream import Stream
from exchange.database.dialects import dialect_of
from exchange.database.engine import in_parts
from exchange.database.tables import VERSION_COLUMN
from exchange.tables.capture import sqlite
from exchange.tables.capture.pending import pending
from exchange.tables.capture.read import Row
from exchange.tables.capture.sql import TableName, identifier, literal, run
from exchange.tables.capture.stream_table import (
    CLAIMED,
    StreamTable,
    and_in_shard,
    carried,
    help_planner,
    make_claimed_table,
    order_self_references,
    refers,
    self_references,
)

MAX_ROUNDS = 1_000
"""So many references in a row are followed from a page's rows to those that must come with them."""


@dataclass(frozen=True)
class KeyPage:
    """Keys in ``exchange_taken``: how many of each stream (the page's own, and those its rows refer to).

    ``last`` is where the page ends, ``ends`` says that nothing comes behind it. If ``whole``, its rows hold each other
    up, and it is of use only as a whole.
    """

    keys: Mapping[str, int]
    last: str | None
    ends: bool
    whole: bool = False


def next_page(
    connection: Connection,
    streams: Sequence[Stream],
    stream: Stream,
    *,
    after: str | None,
    limit: int,
    room: int | None = None,
    shard: Shard | None = None,
    wanted: Callable[[Row], bool] | None = None,
    alone: bool = False,
    before_changes: bool = False,
) -> KeyPage | None:
    """Take the next ``limit`` keys of a stream behind the key ``after``, of a ``shard`` only its own.

    ``wanted`` is asked for each by its values for ``stream.key_encoder``. Unless ``alone``, rows come along that the
    page's refer to and that no page before it had: of the stream itself and of those behind it in ``streams``, where
    references run in a circle. ``before_changes``: pending changes go after the page, so rows that have one come along,
    too, for they may have come behind the pages that were to have them. None if those are more than ``room`` (or
    ``limit``): ask for less. The transaction sees one moment. Runs in the transaction that seals the page, under the
    channel's export lock. Raises CaptureFault as ``claim`` does.
    """
    table = StreamTable.of(connection, stream)
    make_claimed_table(connection)
    found = _put_keys(connection, table, after, limit, shard)
    if not found:
        return KeyPage({}, after, ends=True)
    last = str(run(connection, _LAST).scalar_one())
    if wanted is not None:
        _drop_unwanted(connection, stream, wanted)
    tables = [StreamTable.of(connection, one) for one in carried(streams, shard)]
    whole = False
    if not alone:
        references = _references_behind(tables, table)
        changed = _references_to_pending(connection, tables) if before_changes else []
        brought = _claim_referred(connection, [*references, *changed], table, after, room or limit)
        if brought is None:
            return None
        whole = bool(references) or brought > 0
    counts = run(connection, "SELECT stream, count(*) AS keys FROM exchange_taken GROUP BY stream")
    keys = {row.stream: row.keys for row in counts}
    for one in tables:
        if one.stream.name in keys and self_references(one.stream):
            order_self_references(connection, one)
    help_planner(connection, tables)
    return KeyPage(keys, last, ends=found < limit, whole=whole)


def cut_page(connection: Connection, version: int) -> str:
    """Forget all of a page behind the row in this place; give that row's key.

    Runs in the transaction of ``next_page``.
    """
    run(connection, f"DELETE FROM exchange_taken WHERE version > {version:d}")
    return str(run(connection, f"SELECT key FROM exchange_taken WHERE version = {version:d}").scalar_one())


def older_keys(
    connection: Connection, stream: Stream, version: int, shard: Shard | None = None, at_once: int = 10_000
) -> Iterator[Sequence[Row]]:
    """Read the keys of received rows that no record of ``version`` or a later one wrote, in their order.

    Of each the text, then the values for ``stream.key_encoder``. The connection is free between two pieces, and what is
    read may be changed as far as it came. Runs in the caller's transaction, and makes ``exchange_taken`` anew for each
    piece.
    """
    table = StreamTable.of(connection, stream)
    after: str | None = None
    while True:
        make_claimed_table(connection)
        if not _put_keys(connection, table, after, at_once, shard, older_than=version):
            return
        help_planner(connection, [table])
        found = _claimed_keys(connection, stream, CLAIMED.c.key)
        yield found
        after = str(run(connection, _LAST).scalar_one())


def row_page(
    connection: Connection, stream: Stream, columns: Sequence[sa.ColumnElement[Any]], after: str | None, limit: int
) -> list[Row]:
    """Read the next ``limit`` rows of a stream behind the key ``after``: of each the key's text, then ``columns``.

    In the order of keys, all at once; nothing is put anywhere. Reads in the caller's transaction. Raises CaptureFault
    as ``claim`` does.
    """
    table = StreamTable.of(connection, stream)
    if not dialect_of(connection).is_postgresql:
        sqlite.prepare(connection)
    row = str(TableName(stream.table.name, stream.table.schema))
    key = [f"{row}.{identifier(column.name)}" for column in table.key]
    text: sa.ColumnElement[str] = sa.literal_column(table.sql.key_text(row, table.key))
    conditions = [f"{column} IS NOT NULL" for column in key]
    if after is not None:
        conditions.append(_behind(table, after, row))
    select = sa.select(text, *columns).select_from(stream.table)
    for condition in conditions:
        select = select.where(sa.literal_column(condition))
    select = select.order_by(*map(sa.literal_column, key)).limit(limit)
    return [tuple(one) for one in connection.execute(select)]


_LAST = "SELECT key FROM exchange_taken ORDER BY version DESC LIMIT 1"


def _put_keys(
    connection: Connection,
    table: StreamTable,
    after: str | None,
    limit: int,
    shard: Shard | None,
    older_than: int | None = None,
) -> int:
    """Put the next keys into ``exchange_taken``, numbered in their order; of received rows only older ones."""
    text = table.sql.key_text("t", table.key)
    names = ", ".join(f"t.{identifier(column.name)}" for column in table.key)
    # A key that is NULL, as SQLite allows, can't cross.
    conditions = [f"t.{identifier(column.name)} IS NOT NULL" for column in table.key]
    if after is not None:
        conditions.append(_behind(table, after))
    if older_than is not None:
        written = f"t.{identifier(VERSION_COLUMN)}"
        conditions.append(f"({written} IS NULL OR {written} < {older_than:d})")
    page = (
        f"SELECT {names} FROM {table.place} t WHERE {' AND '.join(conditions)}"
        f"{and_in_shard(connection, table.stream, shard, text)} ORDER BY {_ordered(table)} LIMIT {limit:d}"
    )
    put = run(
        connection,
        "INSERT INTO exchange_taken (version, stream, key, op)"
        f" SELECT row_number() OVER (ORDER BY {_ordered(table)}), {literal(table.stream.name)}, {text}, 'I'"
        f" FROM ({page}) t",
    )
    return put.rowcount


def _ordered(table: StreamTable) -> str:
    return ", ".join(f"t.{identifier(column.name)}" for column in table.key)


def _behind(table: StreamTable, after: str, row: str = "t") -> str:
    """Say that a row comes behind a key in the order of keys."""
    mine = ", ".join(f"{row}.{identifier(column.name)}" for column in table.key)
    return f"({mine}) > ({', '.join(table.sql.key_values(table.sql.literal(after), table.key))})"


def _claimed_keys(connection: Connection, stream: Stream, first: sa.ColumnElement[Any]) -> list[Row]:
    """Read the claimed keys: ``first``, then the values for ``stream.key_encoder``, in their order."""
    table = StreamTable.of(connection, stream)
    columns = (stream.codecs[column.name].selected(connection.dialect) for column in stream.key)
    has_key: sa.ColumnElement[bool] = sa.literal_column(table.row_has_key())
    select = (
        sa.select(first, *columns)
        .select_from(CLAIMED.join(stream.table, has_key))
        .where(CLAIMED.c.stream == stream.name)
        .order_by(CLAIMED.c.version)
    )
    return [tuple(row) for row in connection.execute(select)]


def _drop_unwanted(connection: Connection, stream: Stream, wanted: Callable[[Row], bool]) -> None:
    gone = [str(row[0]) for row in _claimed_keys(connection, stream, CLAIMED.c.version) if not wanted(row[1:])]
    for some in in_parts(gone):
        run(connection, f"DELETE FROM exchange_taken WHERE version IN ({', '.join(some)})")


@dataclass(frozen=True)
class _Reference:
    """A reference to a row that no earlier page may have had; if ``pending`` to one that has a change."""

    child: StreamTable
    parent: StreamTable
    constraint: sa.ForeignKeyConstraint
    pending: bool = False


def _references_behind(tables: Sequence[StreamTable], first: StreamTable) -> list[_Reference]:
    """Give the references that lead from rows of ``first`` to its own stream, or to those behind it."""
    place = [table.stream.name for table in tables].index(first.stream.name)
    every = _references(tables[place:])
    reached = {first.stream.name}
    while True:
        more = {reference.parent.stream.name for reference in every if reference.child.stream.name in reached} - reached
        if not more:
            return [reference for reference in every if reference.child.stream.name in reached]
        reached |= more


def _references(tables: Sequence[StreamTable]) -> list[_Reference]:
    """Give the references among some streams."""
    there = {table.stream.table.key: table for table in tables}
    return [
        _Reference(child, there[parent], constraint)
        for child in there.values()
        for constraint in child.stream.table.foreign_key_constraints
        if (parent := constraint.elements[0].target_table_key or "") in there
        and {column.name for column in child.stream.columns}.issuperset(one.name for one in constraint.columns)
    ]


def _references_to_pending(connection: Connection, tables: Sequence[StreamTable]) -> list[_Reference]:
    """Give the references to streams that have changes pending."""
    found = [replace(one, pending=True) for one in _references(tables)]
    return [one for one in found if pending(connection, [one.parent.stream], 1)]


def _claim_referred(
    connection: Connection, references: Sequence[_Reference], first: StreamTable, after: str | None, room: int
) -> int | None:
    """Take what the page's rows refer to, and what that refers to, and so on; give how many, None if too many."""
    if not references:
        return 0
    run(connection, "CREATE INDEX IF NOT EXISTS exchange_taken_key ON exchange_taken (stream, key)")
    brought = 0
    for turn in range(MAX_ROUNDS):
        added = sum(_add_parents(connection, reference, first, after, turn) for reference in references)
        brought += added
        if not added:
            return brought
        if brought > room:
            return None
    return None


def _add_parents(
    connection: Connection, reference: _Reference, first: StreamTable, after: str | None, turn: int
) -> int:
    """Put into ``exchange_taken``, as the next round, rows that those of round ``turn`` refer to and that no page had.

    Gives how many. Runs in the transaction of ``next_page``.
    """
    child, parent = reference.child, reference.parent
    # Earlier pages had the rows before this one.
    unsent = f" AND {_behind(parent, after, 'p')}" if parent.stream is first.stream and after else ""
    name = literal(parent.stream.name)
    if reference.pending:
        changed = f"SELECT c.key FROM exchange_change c WHERE c.stream = {name}"
        unsent = f" AND {parent.sql.key_text('p', parent.key)} IN ({changed})"
    parents = (
        f"SELECT DISTINCT {parent.sql.key_text('p', parent.key)} AS key FROM exchange_taken k"
        f" JOIN {child.place} c ON {child.sql.matches('c', 'k.key', child.key)}"
        f" JOIN {parent.place} p ON {refers(reference.constraint)}{unsent}"
        f" WHERE k.stream = {literal(child.stream.name)} AND k.round = {turn:d}"
    )
    put = run(
        connection,
        "INSERT INTO exchange_taken (version, stream, key, op, round)"
        " SELECT (SELECT max(version) FROM exchange_taken) + row_number() OVER (ORDER BY x.key),"
        f" {name}, x.key, 'I', {turn + 1:d} FROM ({parents}) x"
        f" WHERE NOT EXISTS (SELECT 1 FROM exchange_taken o WHERE o.stream = {name} AND o.key = x.key)",
    )
    return put.rowcount
