"""Records into the receiving tables, in the caller's transaction: stage, compare, write.

One algorithm for every database; only how rows reach the stage differs. Never commits, reads no file.
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
from exchange.loader.staging import OUTCOME, Stage
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
        self._limit = limit
        self._refusals: list[Refusal] = []

    def add(self, line: int, record: Record) -> None:
        """Stage one checked record of the current schema version. Raises RecordError for a value out of range."""
        stage = self._stages.get(record.stream)
        if stage is None:
            stage = Stage(self._connection, self._streams[record.stream], len(self._stages))
            self._stages[record.stream] = stage
        stage.add(line, record)

    def load(self) -> Loaded:
        """Apply what was staged: parents' upserts before children's, then children's deletes before parents'."""
        stages = [self._stages[name] for name in self._order if name in self._stages]
        if not stages:
            return Loaded(Counts(), ())
        constraints = reflect(self._connection, [stage.target.name for stage in stages])
        self._hide_from_capture(stages)
        for stage in stages:
            stage.complete()
            self._refuse(checks.park_repeated_keys(stage))
            checks.settle_old_versions(stage)
        while not self._write(stages, constraints):
            for stage in stages:
                stage.settle([refusal.line for refusal in self._refusals], checks.PARKED)
        for stage in stages:
            writing.keep_tombstones(stage)
        self._show_to_capture()
        return Loaded(self._count(stages), tuple(self._refusals))

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

    def _upsert(
        self, stage: Stage, stages: Sequence[Stage], constraints: Constraints, gave_up: set[int]
    ) -> None:
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

    def _hide_from_capture(self, stages: Sequence[Stage]) -> None:
        """Tell our triggers which streams this transaction writes, and let deferrable constraints wait for its end."""
        names = [stage.stream.name for stage in stages]
        if self._connection.dialect.name == "postgresql":
            self._connection.execute(sa.select(sa.func.set_config("exchange.importing", ",".join(names), sa.true())))
            self._connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
        else:
            self._connection.execute(sa.insert(importing), [{"stream": name} for name in names])
            if any(key.deferrable for stage in stages for key in stage.stream.table.foreign_key_constraints):
                self._connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")

    def _show_to_capture(self) -> None:
        if self._connection.dialect.name == "postgresql":
            self._connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        else:
            self._connection.execute(sa.delete(importing))

    def _count(self, stages: Sequence[Stage]) -> Counts:
        totals: dict[str | None, int] = {}
        for stage in stages:
            outcome = stage.table.c[OUTCOME]
            for name, number in self._connection.execute(sa.select(outcome, sa.func.count()).group_by(outcome)):
                totals[name] = totals.get(name, 0) + number
        return Counts(
            applied=totals.get(None, 0),
            duplicate=totals.get(checks.DUPLICATE, 0),
            stale=totals.get(checks.STALE, 0),
            parked=totals.get(checks.PARKED, 0),
        )
