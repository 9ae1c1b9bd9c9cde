"""The bulk path: upserts of one stream on their way into its table, as directly as what came before allows.

New rows are inserted by the database's own bulk load. Where it refuses that, rows that may be bad are found by a
precheck first and staged for the end of the load, and the others are inserted. Where keys are there already one
statement inserts and updates. Where most rows are suspect all are staged. There is no way back to a cheaper strategy,
so that a load pays for what its rows need and hardly more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from functools import cached_property

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.stream import Stream
from exchange.database.errors import refuses_a_record
from exchange.database.tables import tombstone
from exchange.format.record import Op
from exchange.tables.loader import upsert
from exchange.tables.loader.checks import Refusal
from exchange.tables.loader.constraints import Constraints
from exchange.tables.loader.copy import goes_on, put
from exchange.tables.loader.precheck import Precheck
from exchange.tables.loader.staging import LINE, Key, Rows, Stage, TemporaryTable
from exchange.tables.loader.traits import TableFault, traits_of
from exchange.tables.loader.writing import Writing

MOST_RECORD_BYTES = 4 * 1024 * 1024
"""So much of the lines of staged rows is kept in memory."""

UNIQUE_VIOLATION = "23505"
"""PostgreSQL's code."""

WORTHWHILE = 0.5
"""The share of rows that must pass a precheck, or there is not another one."""


Refuse = Callable[[list[Refusal]], object]
"""Takes note of refusals; raises if they are too many."""

Note = Callable[[Rows], object]
"""Takes note of rows that were written."""


class Strategy(Enum):
    """How upserts are written: each strategy costs more than those before it, and succeeds with more rows."""

    INSERT = auto()
    """All rows, by the bulk load."""
    CHECKED_INSERT = auto()
    """Without those that break a constraint on single rows, refer to nothing or share a unique value."""
    UNIQUE_CHECKED_INSERT = auto()
    """Without those, either, whose unique value another row of the table has."""
    UPSERT = auto()
    """All rows, inserted or updated by one statement."""
    CHECKED_UPSERT = auto()
    """Without all of those, and without rows that are no newer than the row they meet."""
    STAGE = auto()
    """None: all rows are staged until the end of the load."""


_NEXT_OF_INSERTS = {
    Strategy.INSERT: Strategy.CHECKED_INSERT,
    Strategy.CHECKED_INSERT: Strategy.UNIQUE_CHECKED_INSERT,
    Strategy.UNIQUE_CHECKED_INSERT: Strategy.STAGE,
}
"""Where a row whose key is there changes nothing, that key is a unique value like others."""


class BulkPath:
    """The upserts and deletes of one stream, each written to its table or kept in ``stage``.

    Runs on the load's connection, in the caller's transaction, and writes each piece within a savepoint.
    """

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        number: int,
        reflect: Callable[[], Constraints],
        refuse: Refuse,
        note: Note | None = None,
        writing: Writing = Writing.RECEIVED,
    ) -> None:
        """Prepare; ``reflect`` is asked for the table's constraints when they begin to matter.

        ``refuse`` takes note of rows that can't even be staged, as the database takes no such value for the column, and
        ``note`` of those that are in the table already.
        """
        self.stream = stream
        self.traits = traits_of(connection, stream)
        if writing.takes_last and stream.lacking:  # ON CONFLICT looks at what a new row would be
            self.traits = replace(self.traits, has_arbiter=False)
        self.stage = Stage(connection, stream, f"exchange_stage_{number}", self.traits, writing)
        self.written = 0
        """Rows that are in the table already."""
        self.newest_key: int | None = None
        """The greatest key that came, where the table's counter is to be kept ahead of it."""
        self.superseded = 0
        """Own rows behind which another one of their key came."""
        self.records: dict[int, bytes] = {}
        """Lines of staged rows, as they came, as far as memory allows."""
        self._writing = writing
        self._staged_keys: set[Key] = set()
        """Of own rows of which the last counts: what comes after them is staged behind them."""
        self._connection = connection
        self._reflect = reflect
        self._refuse = refuse
        self._note = note
        self._number = number
        self._upserts = Stage(connection, stream, f"exchange_replacing_{number}", self.traits, writing)
        # A constraint that is checked late would let rows pass and refuse the whole batch at its end.
        late = any(key.deferrable or key.initially for key in stream.table.foreign_key_constraints)
        staged = late or (self._stages_own() if writing.is_own else self.traits.staged)
        self._strategy = Strategy.STAGE if staged else Strategy.INSERT
        self._newest_tombstone = 0 if staged or writing.is_own else self._find_newest_tombstone()
        self._record_bytes = 0

    def keep(self, rows: Rows) -> None:
        """Note the keys of rows, before ``delete_others``."""
        names = self.stage.names
        keys = zip(*([row[names.index(column.name)] for row in rows.rows] for column in self.stream.key), strict=True)
        self._kept.put((line, *key) for line, key in zip(rows.lines, keys, strict=True))

    def delete_others(self) -> None:
        """Delete the rows whose keys were not noted, once all are written. Raises DBAPIError if something holds one."""
        kept, target = self._kept.table, self.stage.target
        sa.Index(f"ix_{kept.name}", *self._kept.key(kept)).create(self._connection)
        others = sa.delete(target).where(~sa.exists().where(self._kept.same_key(kept, target)))
        self.stage.deleted += self._connection.execute(others, execution_options={"preserve_rowcount": True}).rowcount

    @cached_property
    def _kept(self) -> TemporaryTable:
        names = [str(column.name) for column in self.stream.key]
        return TemporaryTable(
            self._connection,
            self.stream,
            f"exchange_kept_{self._number}",
            {LINE: "bigint"},
            names,
            writing=self._writing,
        )

    def _stages_own(self) -> bool:
        """Say whether own rows must not go straight into the table: what its triggers make of them is meant."""
        if self.traits.narrower and not self.stream.key:
            columns = ", ".join(self.traits.narrower)
            said = f"table {self.stream.table.fullname} keeps less of column {columns} than its model says, and rows"
            raise TableFault(
                f"{said} without their key can't be compared with what it kept; mend the table or the model"
            )
        unlike = self._writing.takes_last and (self.traits.alike or not self.traits.has_arbiter)
        return bool(self.traits.narrower or self.traits.deferred or unlike)

    def note_newest_key(self, rows: Rows) -> None:
        """Remember the greatest key, if anybody wants to know it."""
        if self.traits.counter is not None and not self._writing.is_own:
            place = [column.name for column in self.stream.columns].index(self.stream.key[0].name)
            newest = max(row[place] for row in rows.rows)
            self.newest_key = newest if self.newest_key is None else max(newest, self.newest_key)

    def write(self, rows: Rows) -> None:
        """Write rows of this stream, or stage them. Raises DBAPIError for what is not a row's fault."""
        if rows.op is Op.DELETE or self._strategy is Strategy.STAGE:
            self._add_to_stage(rows)
            return
        may_be_deleted = not self._writing.is_own and min(rows.versions) <= self._newest_tombstone
        if self._strategy is Strategy.INSERT and not may_be_deleted and self._try(rows):
            return
        self._write_checked(self._last_of_each(rows), may_be_deleted=may_be_deleted)

    def _write_checked(self, rows: Rows, *, may_be_deleted: bool) -> None:
        """Write rows of which some may be bad, as the strategy says, or as the next one that succeeds."""
        if self._repeats_a_key(rows):
            self._add_to_stage(rows)
            return
        if self._strategy is Strategy.UPSERT and not may_be_deleted and self._try(rows):
            return
        while self._strategy is not Strategy.STAGE:
            suspects = self._suspects(rows, tombstones=may_be_deleted)
            if suspects is None:
                self._strategy = Strategy.STAGE
                break
            good = rows.parted(suspects)[0] if suspects else rows
            if len(good.rows) < len(rows.rows) * WORTHWHILE:
                self._strategy = Strategy.STAGE
            elif self._try(good):
                if suspects:
                    self._add_to_stage(rows.on(suspects))
                return
        self._add_to_stage(rows)

    def _repeats_a_key(self, rows: Rows) -> bool:
        """Say whether a statement that may change rows would write one twice, which none can."""
        return self._writing is not Writing.INSERT and len(set(rows.keys)) != len(rows.keys)

    def _last_of_each(self, rows: Rows) -> Rows:
        """Give the last row of each key where that is the one that counts."""
        last = dict(zip(rows.keys, rows.lines, strict=True)) if self._writing.takes_last else {}
        if len(last) in {0, len(rows.keys)}:
            return rows
        self.superseded += len(rows.keys) - len(last)
        return rows.parted({*last.values()})[1]

    def _suspects(self, rows: Rows, *, tombstones: bool) -> set[int] | None:
        """Give the lines of those that may be bad, or follow one of their key that may be.

        None if one of them has a value that its column does not take.
        """
        followers: set[int] = set()
        if self._staged_keys:
            followers = {line for line, key in zip(rows.lines, rows.keys, strict=True) if key in self._staged_keys}
        try:
            return followers | self._precheck.suspects(
                rows,
                unique_values=self._strategy in {Strategy.UNIQUE_CHECKED_INSERT, Strategy.CHECKED_UPSERT},
                versions=self._strategy is Strategy.CHECKED_UPSERT and not self._writing.is_own,
                tombstones=tombstones,
            )
        except DBAPIError as error:
            if not refuses_a_record(error):
                raise
            return None

    def _try(self, rows: Rows) -> bool:
        """Write all rows, as the strategy says. If one is refused none is written, and the strategy is the next one."""
        upserting = self._strategy in {Strategy.UPSERT, Strategy.CHECKED_UPSERT}
        if upserting:
            self._upserts.make()
        error: BaseException | None = None
        done = False
        try:
            with self._connection.begin_nested() as savepoint:
                if upserting:
                    self._upserts.add(rows)
                    done = upsert.upsert_newer(self._upserts) == len(rows.rows)
                else:
                    done = put(self._connection, self.stage.target, self.stage.names, rows.rows) == len(rows.rows)
                if not done:
                    savepoint.rollback()
        except DBAPIError as refusal:
            if not refuses_a_record(refusal) or not goes_on(self._connection):
                raise
            error, done = refusal.orig, False
        if done:
            self.written += len(rows.rows)
            if self._note is not None:
                self._note(rows)
        elif not upserting and error is None:  # a trigger dropped a row: which one is found at the end
            self._strategy = Strategy.STAGE
        else:
            self._strategy = self._next_strategy(error)
        if upserting:
            self._upserts.clear()
        return done

    def _next_strategy(self, error: BaseException | None) -> Strategy:
        """Choose the cheapest strategy that may succeed after the database's ``error``."""
        if self._writing is Writing.INSERT:
            return _NEXT_OF_INSERTS[self._strategy]
        if self._strategy is Strategy.INSERT:
            return Strategy.UPSERT if self._is_key_taken(error) else Strategy.CHECKED_INSERT
        if self._strategy is Strategy.CHECKED_INSERT and not self._is_key_taken(error):
            return Strategy.UNIQUE_CHECKED_INSERT
        return Strategy.STAGE if self._strategy is Strategy.CHECKED_UPSERT else Strategy.CHECKED_UPSERT

    def _is_key_taken(self, error: BaseException | None) -> bool:
        """Say whether the database refused a row because there is one with its key."""
        if getattr(error, "sqlstate", None) == UNIQUE_VIOLATION:
            others = {unique.name for unique in self._reflect().uniques[self.stage.target.key]}
            return error.diag.constraint_name not in others  # type: ignore[union-attr]
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY

    def _add_to_stage(self, rows: Rows) -> None:
        self.stage.make()
        if self._writing.takes_last:
            self._staged_keys.update(rows.keys)
        parts = [rows]
        while parts:
            some = parts.pop()
            try:
                with self._connection.begin_nested():
                    self.stage.add(some)
            except DBAPIError as error:
                if not refuses_a_record(error):
                    raise
                if len(some.lines) == 1:
                    self.stage.add_refused(some)
                    self._refuse([upsert.refusal(self.stage, some.lines[0], error, some.op)])
                else:
                    parts += reversed(some.parted(some.lines[len(some.lines) // 2 :]))
        if self._record_bytes <= MOST_RECORD_BYTES:
            self._record_bytes += sum(map(len, rows.records))
            self.records |= zip(rows.lines, rows.records, strict=True)

    @cached_property
    def _precheck(self) -> Precheck:
        name = f"exchange_arriving_{self._number}"
        return Precheck(self._connection, self.stream, name, self._reflect(), self._writing)

    def _find_newest_tombstone(self) -> int:
        """Find the version that a record must exceed so that no tombstone can forbid it."""
        newest = sa.select(sa.func.max(tombstone.c.version)).where(tombstone.c.stream == self.stream.name)
        return self._connection.scalar(newest) or 0
