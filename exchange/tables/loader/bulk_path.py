"""Rows on their way into one table, as directly as what came before allows.

New rows go straight in, by the database's own bulk load. Where rows are bad that is refused: then the doubtful are
sifted out first and kept for the end of the load, and the others go straight in. Where keys are there already rows are
staged, and one statement inserts and updates. Where most are doubtful all are kept. There is no way back to a cheaper
way, so that a load pays for what its rows need and hardly more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from enum import Enum, auto
from functools import cached_property

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.stream import Stream
from exchange.database.tables import tombstone
from exchange.format.record import Op
from exchange.tables.loader import precheck, upsert
from exchange.tables.loader.constraints import Constraints
from exchange.tables.loader.copy import put, refuses_the_row
from exchange.tables.loader.precheck import Sieve
from exchange.tables.loader.staging import Rows, Stage, column_names

MOST_RECORD_BYTES = 4 * 1024 * 1024
"""So much of the lines of rows that wait is kept in memory."""

UNIQUE_VIOLATION = "23505"
"""PostgreSQL's code."""

WORTHWHILE = 0.5
"""The share of rows that must come through a sifting, or there is not another one."""


class Way(Enum):
    """How rows enter their table: each way costs more than those before it, and stands more."""

    STRAIGHT = auto()
    SIFTED = auto()
    """Straight, but for those that lack something."""
    SIFTED_TWICE = auto()
    """The same, but for those that take another row's value, too."""
    REPLACING = auto()
    """Inserted or updated, all of them."""
    SIFTED_REPLACING = auto()
    KEPT = auto()
    """Staged until the end."""


class Intake:
    """The upserts and deletes of one stream, each into its table or into ``stage``, for the end of the load."""

    def __init__(self, connection: Connection, stream: Stream, number: int, reflect: Callable[[], Constraints]) -> None:
        """Prepare; ``reflect`` is asked for what the table demands when that begins to matter."""
        self.stream = stream
        self.stage = Stage(connection, stream, f"exchange_stage_{number}")
        self.entered = 0
        """Rows that are in the table already."""
        self.records: dict[int, bytes] = {}
        """Lines of rows that wait, as they came, as far as memory allows."""
        self._connection = connection
        self._reflect = reflect
        self._number = number
        self._replacements = Stage(connection, stream, f"exchange_replacing_{number}")
        # A constraint that is checked late would let rows pass and refuse the whole batch at its end.
        late = any(key.deferrable or key.initially for key in stream.table.foreign_key_constraints)
        self._way = Way.KEPT if late else Way.STRAIGHT
        self._newest_tombstone = 0 if late else self._find_newest_tombstone()
        self._record_bytes = 0

    def take(self, rows: Rows) -> None:
        """Take rows of this stream."""
        if rows.op is Op.DELETE or self._way is Way.KEPT:
            self._keep(rows)
            return
        buried = min(rows.versions) <= self._newest_tombstone
        if self._way is Way.STRAIGHT and not buried and self._enters(rows):
            return
        if len(set(rows.keys)) != len(rows.keys):  # one statement can't write a row twice
            self._keep(rows)
            return
        if self._way is Way.REPLACING and not buried and self._enters(rows):
            return
        while self._way is not Way.KEPT:
            good, doubtful = self._sifted(rows, buried=buried)
            if len(good.rows) < len(rows.rows) * WORTHWHILE:
                self._way = Way.KEPT
            elif self._enters(good):
                if doubtful.rows:
                    self._keep(doubtful)
                return
        self._keep(rows)

    def _keep(self, rows: Rows) -> None:
        self.stage.keep(rows)
        if self._record_bytes <= MOST_RECORD_BYTES:
            self._record_bytes += sum(map(len, rows.records))
            self.records |= zip(rows.lines, rows.records, strict=True)

    def _sifted(self, rows: Rows, *, buried: bool) -> tuple[Rows, Rows]:
        """Part rows against which nothing speaks from the doubtful ones; how close a look that takes says the way."""
        sieve = self._sieve
        conditions = [*precheck.lacking(sieve)]
        if self._way in {Way.SIFTED_TWICE, Way.SIFTED_REPLACING}:
            conditions += precheck.taking(sieve)
        if self._way is Way.SIFTED_REPLACING:
            conditions.append(precheck.not_newer(sieve))
        if buried:
            conditions.append(precheck.buried(sieve))
        return rows.parted(sieve.doubtful(rows, conditions, with_keys=buried))

    @cached_property
    def _sieve(self) -> Sieve:
        return Sieve(self._connection, self.stream, f"exchange_arriving_{self._number}", self._reflect())

    def _enters(self, rows: Rows) -> bool:
        """Bring the rows into the table, or none of them and find another way."""
        if self._way in {Way.REPLACING, Way.SIFTED_REPLACING}:
            self._replacements.keep(rows)
            entered = self._writes(len(rows.rows), lambda: upsert.enter(self._replacements))
            self._replacements.clear()
            return entered
        return self._writes(len(rows.rows), lambda: self._insert(rows))

    def _writes(self, expected: int, write: Callable[[], int]) -> bool:
        error: BaseException | None = None
        try:
            with self._connection.begin_nested() as savepoint:
                if write() == expected:
                    self.entered += expected
                    return True
                savepoint.rollback()
        except DBAPIError as refusal:
            if not refuses_the_row(refusal):
                raise
            error = refusal.orig
        self._way = self._next_way(error)
        return False

    def _insert(self, rows: Rows) -> int:
        put(self._connection, self.stage.target, column_names(self.stream), rows.rows)
        return len(rows.rows)

    def _next_way(self, error: BaseException | None) -> Way:
        """Say which way may stand what the database refused."""
        if self._way is Way.STRAIGHT:
            return Way.REPLACING if self._repeats_the_key(error) else Way.SIFTED
        if self._way is Way.SIFTED and not self._repeats_the_key(error):
            return Way.SIFTED_TWICE
        return Way.KEPT if self._way is Way.SIFTED_REPLACING else Way.SIFTED_REPLACING

    def _repeats_the_key(self, error: BaseException | None) -> bool:
        """Say whether the database refused a row because there is one with its key."""
        if getattr(error, "sqlstate", None) == UNIQUE_VIOLATION:
            others = {unique.name for unique in self._reflect().uniques[self.stage.target.name]}
            return error.diag.constraint_name not in others  # type: ignore[union-attr]
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY

    def _find_newest_tombstone(self) -> int:
        """Find the version that a record must exceed so that no tombstone can forbid it."""
        newest = sa.select(sa.func.max(tombstone.c.version)).where(tombstone.c.stream == self.stream.name)
        return self._connection.scalar(newest) or 0
