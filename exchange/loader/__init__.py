"""Records into the receiving tables, in the caller's transaction: stage, compare, write.

New rows go straight into their table; from the first conflict on the rest is staged, compared and written by
sets. One algorithm for every database, only how rows reach it differs. Never commits, reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels import Channel
from exchange.format.record import Record
from exchange.ledger import Counts
from exchange.loader import checks, writing
from exchange.loader.checks import Refusal
from exchange.loader.constraints import Constraints, reflect
from exchange.loader.staging import OUTCOME, Row, Stage, row_maker
from exchange.models import importing

__all__ = ["Loaded", "Loader", "Refusal", "TooManyRefusals"]


class TooManyRefusals(Exception):  # noqa: N818 - it ends the batch, nothing is broken
    """The database refuses more records of one batch than a setting allows."""


@dataclass(frozen=True)
class Loaded:
    """What the load did, and the lines it refused."""

    counts: Counts
    refusals: tuple[Refusal, ...]


class Loader:
    """Loads the records of one batch. Use once, within one transaction."""

    def __init__(self, connection: Connection, channel: Channel, limit: int) -> None:
        """Prepare for ``channel``; more than ``limit`` refusals raise TooManyRefusals."""
        self._connection = connection
        self._streams = {stream.name: stream for stream in channel.streams}
        self._order = [stream.name for stream in channel.streams]
        self._stages: dict[str, Stage] = {}
        self._row_makers = {stream.name: row_maker(stream, connection.dialect) for stream in channel.streams}
        self._limit = limit
        self._refusals: list[Refusal] = []
        self._hidden = False

    def row(self, record: Record) -> Row:
        """Make the row of a checked record of the current schema version; needs no connection, so any thread may.

        Raises RecordError for a value that its column's type can't keep.
        """
        return self._row_makers[record.stream](record)

    def add(self, line: int, record: Record, row: Row) -> None:
        """Take one checked record and its row."""
        stage = self._stages.get(record.stream)
        if stage is None:
            stage = self._open(record.stream)
        stage.add(line, record, row)

    def flush(self) -> None:
        """Hand all that was added to the database, so that the connection is free for something else."""
        for name in self._order:
            if name in self._stages:
                self._stages[name].flush()

    def load(self) -> Loaded:
        """Apply what was added: parents' upserts before children's, then children's deletes before parents'."""
        self.flush()
        stages = [self._stages[name] for name in self._order if name in self._stages]
        staged = [stage for stage in stages if stage.rows]
        if staged:
            self._apply(staged)
        if self._hidden:
            self._show_to_capture()
        return Loaded(self._count(stages), tuple(self._refusals))

    def _open(self, name: str) -> Stage:
        if not self._hidden:
            self._hide_from_capture()
        self.flush()  # a new stream's rows may refer to those before it
        stage = Stage(self._connection, self._streams[name], len(self._stages))
        self._stages[name] = stage
        return stage

    def _apply(self, stages: Sequence[Stage]) -> None:
        """Compare what is staged with what is there, and write it."""
        self._defer_constraints()
        constraints = reflect(self._connection, [stage.target.name for stage in stages])
        for stage in stages:
            stage.complete()
            self._refuse(checks.park_repeated_keys(stage))
            checks.settle_old_versions(stage)
        while not self._write(stages, constraints):
            for stage in stages:
                stage.settle([refusal.line for refusal in self._refusals], checks.PARKED)
        for stage in stages:
            writing.keep_tombstones(stage)

    def _write(self, stages: Sequence[Stage], constraints: Constraints) -> bool:
        """Write what is staged. False, and nothing written, if a row that gave up a unique value stays after all."""
        with self._connection.begin_nested() as savepoint:
            gave_up: set[int] = set()
            self._park_until_stable(stages, constraints)
            for stage in stages:
                self._upsert(stage, stages, constraints, gave_up)
            self._park_held(stages, constraints)
            for stage in reversed(stages):
                if stage.deletes:
                    self._refuse(writing.delete(stage))
            if gave_up.isdisjoint(refusal.line for refusal in self._refusals):
                return True
            savepoint.rollback()
            return False

    def _upsert(self, stage: Stage, stages: Sequence[Stage], constraints: Constraints, gave_up: set[int]) -> None:
        if stage.deletes == stage.rows:
            return
        for unique in constraints.uniques[stage.target.name]:
            lines, refusals = writing.vacate(stage, unique)
            gave_up |= lines
            if self._refuse(refusals):
                self._park_until_stable(stages, constraints)
        if self._refuse(writing.upsert(stage)):
            # What the database refused may be a parent of what is still staged.
            self._park_until_stable(stages, constraints)

    def _park_held(self, stages: Sequence[Stage], constraints: Constraints) -> None:
        """Park deletes of rows that others will still refer to: one that stays may hold another one."""
        by_table = {stage.target.name: stage for stage in stages}
        more = True
        while more:
            more = False
            for stage in stages:
                for key in constraints.referring_to(stage.target.name) if stage.deletes else ():
                    more |= self._refuse(checks.park_still_referred(stage, key, by_table, self._limit + 1))

    def _park_until_stable(self, stages: Sequence[Stage], constraints: Constraints) -> None:
        """Repeat the checks until they park nothing more: a parked record may be what another one relied on."""
        by_table = {stage.target.name: stage for stage in stages}
        more = True
        while more:
            more = False
            for stage in stages:
                for key in constraints.of(stage.target.name):
                    more |= self._refuse(checks.park_orphans(stage, key, by_table, self._limit + 1))
                for unique in constraints.uniques[stage.target.name]:
                    more |= self._refuse(checks.park_taken(stage, unique, self._limit + 1))

    def _refuse(self, refusals: list[Refusal]) -> bool:
        self._refusals.extend(refusals)
        if len(self._refusals) > self._limit:
            raise TooManyRefusals
        return bool(refusals)

    def _hide_from_capture(self) -> None:
        """Tell our triggers which streams this transaction writes."""
        if self._connection.dialect.name == "postgresql":
            names = ",".join(self._order)
            self._connection.execute(sa.select(sa.func.set_config("exchange.importing", names, sa.true())))
        else:
            self._connection.execute(sa.insert(importing), [{"stream": name} for name in self._order])
        self._hidden = True

    def _defer_constraints(self) -> None:
        """Let deferrable constraints wait for the end of the load: rows of a cycle can't all come first."""
        if self._connection.dialect.name == "postgresql":
            self._connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
        elif any(key.deferrable for one in self._streams.values() for key in one.table.foreign_key_constraints):
            self._connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")

    def _show_to_capture(self) -> None:
        if self._connection.dialect.name == "postgresql":
            self._connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        else:
            self._connection.execute(sa.delete(importing))

    def _count(self, stages: Sequence[Stage]) -> Counts:
        totals: dict[str | None, int] = {None: sum(stage.straight for stage in stages)}
        for stage in stages:
            if not stage.rows:
                continue
            outcome = stage.table.c[OUTCOME]
            for name, number in self._connection.execute(sa.select(outcome, sa.func.count()).group_by(outcome)):
                totals[name] = totals.get(name, 0) + number
        return Counts(
            applied=totals[None],
            duplicate=totals.get(checks.DUPLICATE, 0),
            stale=totals.get(checks.STALE, 0),
            parked=totals.get(checks.PARKED, 0),
        )
