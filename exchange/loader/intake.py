"""Rows on their way into one table, as directly as what came before allows.

New rows go straight in. At the first conflict rows are staged and merged by one statement. At the first row that
this refuses, what is doubtful is sifted out first and kept for the end of the load; where that is most of them,
all others are kept too. Each step costs more than the one before it and there is no way back, so that a load pays
for what its rows need and hardly more.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

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
WORTHWHILE = 0.5
"""The share of rows that must come through a sifting, or there is not another one."""


class Way(IntEnum):
    """How rows enter their table."""

    STRAIGHT = 1
    MERGED = 2
    SIFTED = 3
    KEPT = 4


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
        if self._way is Way.STRAIGHT and not buried:
            if self._go_straight(rows):
                return
            self._way = Way.MERGED
        if len(set(rows.keys)) != len(rows.keys):  # one upsert can't write a row twice
            self.stage.keep(rows)
            return
        self._arriving.keep(rows)
        if self._way is not Way.SIFTED and not buried:
            if self._merge(len(rows.rows)):
                self._arriving.clear()
                return
            self._way = Way.SIFTED
        self._sift(len(rows.rows), buried=buried)

    def _go_straight(self, rows: Rows) -> bool:
        """Insert the rows into the table, or none of them."""
        names = [*(column.name for column in self.stream.columns), VERSION_COLUMN]
        try:
            with self._connection.begin_nested():
                put(self._connection, self.stage.target, names, rows.rows)
        except DBAPIError as error:
            if not refuses_the_row(error):
                raise
            return False
        self.entered += len(rows.rows)
        return True

    def _merge(self, expected: int) -> bool:
        """Upsert the arriving rows that have no outcome: all ``expected`` ones, or none."""
        with self._connection.begin_nested() as savepoint:
            try:
                if writing.merge(self._arriving) == expected:
                    self.entered += expected
                    return True
            except DBAPIError as error:
                if not refuses_the_row(error):
                    raise
            savepoint.rollback()
            return False

    def _sift(self, arrived: int, *, buried: bool) -> None:
        """Merge the arriving rows that nothing speaks against, and keep the others."""
        good = arrived - sum(self._doubt(reason) for reason in doubts(self._arriving, self._reflect(), buried=buried))
        merged = self._merge(good)
        if not merged and (old := self._doubt(not_newer(self._arriving))):
            good -= old
            merged = self._merge(good)
        doubtful = self._arriving.table.c[OUTCOME] == DOUBTFUL
        self.stage.take_over(self._arriving, doubtful if merged else sa.true())
        self._arriving.clear()
        if not merged or good < arrived * WORTHWHILE:
            self._way = Way.KEPT

    def _doubt(self, reason: sa.ColumnElement[bool]) -> int:
        arriving = self._arriving.table
        marking = sa.update(arriving).where(applying(arriving), reason).values({OUTCOME: DOUBTFUL})
        try:
            with self._connection.begin_nested():
                return self._connection.execute(marking).rowcount
        except DBAPIError as error:  # a constraint's expression fails on some row; so will the merge
            if not refuses_the_row(error):
                raise
            return 0

    def _find_newest_tombstone(self) -> int:
        """Find the version that a record must exceed so that no tombstone can forbid it."""
        newest = sa.select(sa.func.max(tombstone.c.version)).where(tombstone.c.stream == self.stream.name)
        return self._connection.scalar(newest) or 0
