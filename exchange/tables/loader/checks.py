"""Questions to the database about staged records, one query each for all of them.

What is stale, what refers to nothing, what takes a value that another row has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from exchange.channels.stream import HIDDEN, Stream
from exchange.database.tables import VERSION_COLUMN, tombstone
from exchange.format import json_pointer
from exchange.format.errors import RecordError, printable
from exchange.format.record import Op
from exchange.tables.loader.constraints import ConstraintCheck, ForeignKey, Unique, broken
from exchange.tables.loader.staging import (
    DUPLICATE,
    KEY,
    LINE,
    OP,
    ORPHAN,
    OUTCOME,
    PARKED,
    STALE,
    Stage,
    applying,
    equal,
)
from exchange.tables.loader.writing import Writing


@dataclass(frozen=True)
class Refusal:
    """Why one line of a batch did not take effect. ``cause`` is the same for the same cause, whatever the values."""

    line: int
    error: str
    pointer: str
    sentence: str
    cause: str = ""

    def as_error(self) -> RecordError:
        """Give it as what is wrong with a record."""
        return RecordError(self.error, self.pointer, self.sentence)


def park(stage: Stage, refusals: list[Refusal]) -> list[Refusal]:
    """Mark the refused lines in their stage, so that they are not applied; give the refusals back."""
    stage.settle([refusal.line for refusal in refusals], PARKED)
    return refusals


def park_repeated_keys(stage: Stage) -> list[Refusal]:
    """A key may appear once in a batch: keep its highest version, park the others.

    Runs in the load's transaction; the lines are settled in the stage.
    """
    table = stage.table
    repeated = sa.select(table.c[KEY]).group_by(table.c[KEY]).having(sa.func.count() > 1).subquery("repeated")
    rows = stage.connection.execute(
        sa.select(table.c[LINE], table.c[KEY], table.c[VERSION_COLUMN])
        .join(repeated, repeated.c[KEY] == table.c[KEY])
        .order_by(table.c[KEY], table.c[VERSION_COLUMN].desc(), table.c[LINE])
    ).all()
    kept: dict[str, int] = {}
    refusals = []
    for row in rows:
        line, key = row[0], row[1]
        if kept.setdefault(key, line) != line:
            refusals.append(
                Refusal(
                    line,
                    "repeated_key",
                    "",
                    f"key {_shown_key(stage.stream, key)} appears twice in this batch, also at line {kept[key]},"
                    " which is kept; this line is parked",
                )
            )
    return park(stage, refusals)


def settle_old_versions(stage: Stage) -> None:
    """Records no newer than the row or the tombstone they meet change nothing: duplicate if equal, else stale.

    Runs in the load's transaction.
    """
    staged = stage.table
    for met, condition in (
        (stage.target, stage.same_key(stage.target, staged)),
        (tombstone, (tombstone.c.stream == stage.stream.name) & (tombstone.c.key == staged.c[KEY])),
    ):
        version = met.c.version if met is tombstone else met.c[VERSION_COLUMN]
        stage.connection.execute(
            sa.update(staged)
            .where(condition, applying(staged), version >= staged.c[VERSION_COLUMN])
            .values({OUTCOME: sa.case((version == staged.c[VERSION_COLUMN], DUPLICATE), else_=STALE)})
        )


def settle_earlier_lines(stage: Stage) -> None:
    """Of own rows of one key the last line counts: those before it are stale. Runs in the load's transaction."""
    staged, later = stage.table, stage.table.alias("later")
    repeated = sa.exists().where(stage.same_key(later, staged), applying(later), later.c[LINE] > staged.c[LINE])
    stage.connection.execute(sa.update(staged).where(applying(staged), repeated).values({OUTCOME: STALE}))


def park_orphans(stage: Stage, key: ForeignKey, stages: Mapping[str, Stage]) -> int:
    """Mark upserts as orphans that refer to a row which neither exists nor comes with this batch; give how many.

    Runs in the load's transaction. ``orphans`` names them at its end.
    """
    if not stage.carries(key.columns):
        return 0
    staged, parent_stage = stage.table, stages.get(key.referred)
    missing = _refers_to_nothing(stage, key, parent_stage)
    if parent_stage is not None:
        # An alias: the stage may be its own parent.
        coming = parent_stage.table.alias("coming")
        mine = [staged.c[name] for name in key.columns]
        missing &= ~sa.exists().where(applying(coming, Op.UPSERT), *equal(coming, key.referred_columns, mine))
    return _mark_orphans(stage, sa.and_(applying(staged, Op.UPSERT), missing))


def _refers_to_nothing(stage: Stage, key: ForeignKey, parent_stage: Stage | None) -> sa.ColumnElement[bool]:
    """Say that a staged row refers to a row that its table does not have."""
    mine = [stage.table.c[name] for name in key.columns]
    parent = (parent_stage.target if parent_stage else key.parent).alias("parent")
    there = sa.exists().where(*equal(parent, key.referred_columns, mine))
    return sa.and_(*(column.is_not(None) for column in mine), ~there)


def _mark_orphans(stage: Stage, which: sa.ColumnElement[bool]) -> int:
    marking = sa.update(stage.table).where(which).values({OUTCOME: ORPHAN})
    return stage.connection.execute(marking, execution_options={"preserve_rowcount": True}).rowcount


class Orphan(NamedTuple):
    """A record that only waits for another row: for its parent, or a delete for those that still refer to its row."""

    refusal: Refusal
    stream: str
    key: str
    """As canonical JSON."""


ORPHANS_AT_ONCE = 5_000
"""So many are in memory."""


def orphans(
    stage: Stage, refers: Sequence[ForeignKey], referred: Sequence[ForeignKey], stages: Mapping[str, Stage]
) -> Iterator[Orphan]:
    """Name the orphans of a stage in the order of their lines, each with what it waits for. Call it after the load.

    ``refers`` are the foreign keys of the stage's table, ``referred`` those that refer to it. The connection is free
    between two of them.
    """
    staged, connection = stage.table, stage.connection
    line, is_orphan = staged.c[LINE], staged.c[OUTCOME] == ORPHAN
    if not connection.scalar(sa.select(sa.exists().where(is_orphan))):
        return
    sa.Index(f"ix_{staged.name}_orphans", line, sqlite_where=is_orphan, postgresql_where=is_orphan).create(connection)
    last = 0
    while True:
        asking = sa.select(line, staged.c[KEY]).where(is_orphan, line > last).order_by(line).limit(ORPHANS_AT_ONCE)
        page = connection.execute(asking).all()
        if not page:
            return
        first, last = page[0][0], page[-1][0]
        here = sa.and_(is_orphan, line.between(first, last))
        why: dict[int, Refusal] = {}
        for key in refers:
            if stage.carries(key.columns):
                why = {**_missing_parents(stage, key, stages, here), **why}
        for key in referred:
            why = {**_held_in_place(stage, key, stages, here), **why}
        for number, text in page:
            refusal = why.get(number) or Refusal(number, FOREIGN_KEY, "", "it waits for another row; it is parked")
            yield Orphan(refusal, stage.stream.name, text)


FOREIGN_KEY = "foreign_key"
"""The class of error of what only waits for another row."""


def _missing_parents(
    stage: Stage, key: ForeignKey, stages: Mapping[str, Stage], here: sa.ColumnElement[bool]
) -> dict[int, Refusal]:
    staged = stage.table
    missing = _refers_to_nothing(stage, key, stages.get(key.referred))
    columns = [staged.c[name] for name in key.columns]
    rows = stage.connection.execute(
        sa.select(staged.c[LINE], *columns).where(here, staged.c[OP] == Op.UPSERT[0], missing)
    )
    return {
        row[0]: Refusal(
            row[0],
            FOREIGN_KEY,
            pointer_to(stage.stream, key.columns[0]),
            f"{_shown(stage.stream, key.columns, row[1:])} refers to a row of {key.referred} that is not here"
            f" (constraint {key.name}); it is parked until that row has come",
            key.name,
        )
        for row in rows
    }


def _held_in_place(
    stage: Stage, key: ForeignKey, stages: Mapping[str, Stage], here: sa.ColumnElement[bool]
) -> dict[int, Refusal]:
    staged = stage.table
    held = _still_referred(stage, key, stages)
    if held is None:
        return {}
    referred = [staged.c[name] for name in key.referred_columns]
    rows = stage.connection.execute(
        sa.select(staged.c[LINE], *referred).where(here, staged.c[OP] == Op.DELETE[0], held)
    )
    return {
        row[0]: Refusal(
            row[0],
            FOREIGN_KEY,
            "/key",
            f"rows of {key.table} still refer to {_shown(stage.stream, key.referred_columns, row[1:])}"
            f" (constraint {key.name}); the delete is parked",
            key.name,
        )
        for row in rows
    }


def park_unique_conflicts(stage: Stage, unique: Unique, limit: int) -> list[Refusal]:
    """Park upserts whose unique value a row has that does not give it up in this batch.

    Runs in the load's transaction; the lines are settled in the stage. Of either kind at most ``limit`` are found.
    """
    if not stage.carries(unique.columns):
        return []
    staged, target = stage.table, stage.target
    found = [
        *stage.connection.execute(
            sa.select(staged.c[LINE], *_named(stage.key(target)), *(staged.c[name] for name in unique.columns))
            .where(
                applying(staged, Op.UPSERT),
                *equal(target, unique.columns, [staged.c[name] for name in unique.columns]),
                ~stage.changes(staged, target),
                ~_gives_up(stage, unique),
            )
            .limit(limit)
        ),
        *stage.connection.execute(_both_staged(stage, unique).limit(limit)),
    ]
    width = len(stage.stream.key)
    refusals = {
        row[0]: Refusal(
            row[0],
            "unique",
            pointer_to(stage.stream, unique.columns[0]),
            f"{_shown(stage.stream, unique.columns, row[1 + width :])} is taken by"
            f" {_shown_row(stage, row[1 : 1 + width])} (constraint {unique.name}); it is parked",
            unique.name,
        )
        for row in found
    }
    return park(stage, list(refusals.values()))


def _gives_up(stage: Stage, unique: Unique) -> sa.ColumnElement[bool]:
    """Say that a row of the target loses its unique value in this load."""
    if stage.writing is Writing.INSERT:
        return sa.false()
    target, moving = stage.target, stage.table.alias("moving")
    other_value = (moving.c[name].is_distinct_from(target.c[name]) for name in unique.columns)
    return sa.exists().where(
        stage.changes(moving, target), applying(moving), sa.or_(moving.c[OP] == Op.DELETE[0], *other_value)
    )


def _shown_row(stage: Stage, key: Sequence[Any]) -> str:
    if not key:
        return f"another row of {stage.target.name}"
    return f"the row {_shown(stage.stream, [c.name for c in stage.stream.key], key)} of {stage.target.name}"


def park_check_violations(stage: Stage, check: ConstraintCheck, limit: int) -> list[Refusal]:
    """Park upserts that a constraint on single rows refuses.

    Runs in the load's transaction; the lines are settled in the stage. At most ``limit`` are found.
    """
    staged = stage.table
    asking = sa.select(staged.c[LINE]).where(applying(staged, Op.UPSERT), broken(check)).limit(limit)
    try:
        with stage.connection.begin_nested():
            lines = list(stage.connection.scalars(asking))
    except DBAPIError:
        return []  # its expression fails on some row: the database will find which when it writes
    refusals = [
        Refusal(
            line,
            "constraint",
            "/data",
            f"the row breaks the constraint {check.name} of {stage.target.name}; it is parked",
            check.name,
        )
        for line in lines
    ]
    return park(stage, refusals)


def _both_staged(stage: Stage, unique: Unique) -> sa.Select[Any]:
    """Two records of one batch with one unique value: the later line gives way."""
    staged, first = stage.table, stage.table.alias("first")
    return sa.select(staged.c[LINE], *_named(stage.key(first)), *(staged.c[name] for name in unique.columns)).where(
        applying(staged, Op.UPSERT),
        applying(first, Op.UPSERT),
        *(stage.as_in_target(first.c[name]) == staged.c[name] for name in unique.columns),
        first.c[LINE] < staged.c[LINE],
    )


def passing_values(stage: Stage, unique: Unique) -> sa.Select[Any]:
    """Rows of the target whose unique value another applying record takes: their keys, and both lines."""
    if stage.writing is Writing.INSERT or not stage.carries(unique.columns):
        return sa.select(sa.null()).where(sa.false())
    staged, target, moving = stage.table, stage.target, stage.table.alias("moving")
    return sa.select(staged.c[LINE], moving.c[LINE].label("moving_line"), *_named(stage.key(target))).where(
        applying(staged, Op.UPSERT),
        *equal(target, unique.columns, [staged.c[name] for name in unique.columns]),
        ~stage.changes(staged, target),
        stage.changes(moving, target),
        applying(moving),
    )


def park_still_referred(stage: Stage, key: ForeignKey, stages: Mapping[str, Stage]) -> int:
    """Mark deletes as orphans of rows that others refer to, once all upserts are in; rows that leave hold nothing.

    Gives how many. Runs in the load's transaction. ``orphans`` names them at its end.
    """
    held = _still_referred(stage, key, stages)
    return 0 if held is None else _mark_orphans(stage, sa.and_(applying(stage.table, Op.DELETE), held))


def _still_referred(stage: Stage, key: ForeignKey, stages: Mapping[str, Stage]) -> sa.ColumnElement[bool] | None:
    """Say that a row refers to what a staged delete names and stays; None where that is for the database to decide."""
    staged = stage.table
    child_stage = stages.get(key.table)
    referred = [staged.c[name] for name in key.referred_columns if name in staged.c]
    if len(referred) != len(key.referred_columns) or not _is_key(stage.stream, key.referred_columns):
        return None  # the reference is to columns that a delete does not name
    child = (child_stage.target if child_stage else key.child).alias("child")
    holding = sa.exists().where(*equal(child, key.columns, referred))
    if child_stage is not None:
        leaving = child_stage.table.alias("leaving")
        gone = sa.exists().where(applying(leaving, Op.DELETE), child_stage.same_key(leaving, child))
        holding = holding.where(~gone)
    return holding


def _is_key(stream: Stream, columns: tuple[str, ...]) -> bool:
    return {column.name for column in stream.key} >= set(columns)


def _named(columns: list[sa.ColumnElement[Any]]) -> list[sa.ColumnElement[Any]]:
    return [column.label(f"key_{number}") for number, column in enumerate(columns)]


def _shown_key(stream: Stream, key: str) -> str:
    """Write a key's text for a person; sensitive values are not shown."""
    if stream.sensitive.isdisjoint(stream.key_names):
        return printable(key)
    return printable(json.dumps(stream.shown(json.loads(key))))


def pointer_to(stream: Stream, column: str) -> str:
    """Give the place of a column in a record."""
    return "/data" + json_pointer.join(stream.in_files.get(column, column))


def _shown(stream: Stream, columns: Any, values: Any) -> str:
    """Write ``column = value`` pairs for a person, as files call them; a sensitive column's value is not shown."""
    pairs = zip((stream.in_files.get(name, name) for name in columns), values, strict=True)
    return ", ".join(
        f"{name} = {HIDDEN if name in stream.sensitive else printable(str(value), 80)}" for name, value in pairs
    )
