"""Rows on their way into one table, as directly as what came before allows.

New rows go straight in, by the database's own bulk load. Where that is refused rows are staged first: where keys are
there already, one statement inserts and updates; where rows are bad, the doubtful are sifted out and kept for the
end of the load, and the others inserted. Where most are doubtful all are kept. There is no way back to a cheaper
way, so that a load pays for what its rows need and hardly more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from enum import Enum, auto

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels import Stream
from exchange.format.record import Op
from exchange.loader import writing
from exchange.loader.constraints import Constraints
from exchange.loader.putting import put, refuses_the_row
from exchange.loader.sifting import doubts, not_newer
from exchange.loader.staging import OUTCOME, Rows, Stage, applying
from exchange.models import VERSION_COLUMN, tombstone

DOUBTFUL = "doubtful"

UNIQUE_VIOLATION = "23505"
"""PostgreSQL's code."""

WORTHWHILE = 0.5
"""The share of rows that must come through a sifting, or there is not another one."""


class Way(Enum):
    """How rows enter their table: each way costs more than those before it, and stands more."""

    STRAIGHT = auto()
    SIFTED = auto()
    """Staged, without the doubtful, inserted."""
    REPLACING = auto()
    """Staged, all of them, inserted or updated."""
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
        self._connection = connection
        self._reflect = reflect
        self._arriving = Stage(connection, stream, f"exchange_arriving_{number}")
        # A constraint that is checked late would let rows pass and refuse the whole batch at its end.
        late = any(key.deferrable or key.initially for key in stream.table.foreign_key_constraints)
        self._way = Way.KEPT if late else Way.STRAIGHT
        self._newest_tombstone = 0 if late else self._find_newest_tombstone()

    def take(self, rows: Rows) -> None:
        """Take rows of this stream."""
        if rows.op is Op.DELETE or self._way is Way.KEPT:
            self.stage.keep(rows)
            return
        buried = min(rows.versions) <= self._newest_tombstone
        if self._way is Way.STRAIGHT and not buried and self._goes_straight(rows):
            return
        if len(set(rows.keys)) != len(rows.keys):  # one statement can't write a row twice
            self.stage.keep(rows)
            return
        self._arriving.keep(rows)
        if self._way is Way.REPLACING and not buried:
            if self._enters(len(rows.rows)):
                self._arriving.clear()
                return
            self._way = Way.SIFTED_REPLACING
        self._sift(len(rows.rows), buried=buried)

    def _goes_straight(self, rows: Rows) -> bool:
        """Insert the rows into the table, or none of them and find another way."""
        names = [*(column.name for column in self.stream.columns), VERSION_COLUMN]
        try:
            with self._connection.begin_nested():
                put(self._connection, self.stage.target, names, rows.rows)
        except DBAPIError as error:
            if not refuses_the_row(error):
                raise
            self._way = Way.REPLACING if self._repeats_the_key(error.orig) else Way.SIFTED
            return False
        self.entered += len(rows.rows)
        return True

    def _repeats_the_key(self, error: BaseException | None) -> bool:
        """Say whether the database refused a row because there is one with its key."""
        if getattr(error, "sqlstate", None) == UNIQUE_VIOLATION:
            others = {unique.name for unique in self._reflect().uniques[self.stage.target.name]}
            return error.diag.constraint_name not in others  # type: ignore[union-attr]
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY

    def _sift(self, arrived: int, *, buried: bool) -> None:
        """Enter the arriving rows that nothing speaks against, and keep the others."""
        good = arrived - sum(self._doubt(reason) for reason in doubts(self._arriving, self._reflect(), buried=buried))
        entered = self._enters(good)
        if not entered:
            self._way = Way.SIFTED_REPLACING
            good -= self._doubt(not_newer(self._arriving))
            entered = self._enters(good)
        doubtful = self._arriving.table.c[OUTCOME] == DOUBTFUL
        self.stage.take_over(self._arriving, doubtful if entered else sa.true())
        self._arriving.clear()
        if not entered or good < arrived * WORTHWHILE:
            self._way = Way.KEPT

    def _doubt(self, reason: sa.ColumnElement[bool]) -> int:
        """Mark the arriving rows against which something speaks, and count them."""
        arriving = self._arriving.table
        marking = sa.update(arriving).where(applying(arriving), reason).values({OUTCOME: DOUBTFUL})
        try:
            with self._connection.begin_nested():
                return self._connection.execute(marking).rowcount
        except DBAPIError as error:  # a constraint's expression fails on some row; so will the insert
            if not refuses_the_row(error):
                raise
            return 0

    def _enters(self, expected: int) -> bool:
        """Insert, or update, the arriving rows that are not doubtful: all ``expected`` ones, or none."""
        replacing = self._way is not Way.SIFTED
        with self._connection.begin_nested() as savepoint:
            try:
                if writing.enter(self._arriving, replacing=replacing) == expected:
                    self.entered += expected
                    return True
            except DBAPIError as error:
                if not refuses_the_row(error):
                    raise
            savepoint.rollback()
            return False

    def _find_newest_tombstone(self) -> int:
        """Find the version that a record must exceed so that no tombstone can forbid it."""
        newest = sa.select(sa.func.max(tombstone.c.version)).where(tombstone.c.stream == self.stream.name)
        return self._connection.scalar(newest) or 0
