"""What may speak against writing a staged row right now: one condition for each reason, asked of all rows at once.

They look at what is in the tables at this moment, not at what else the batch brings: a row in doubt is not bad, it
waits for the end of the load.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from exchange.loader.constraints import Constraints, broken
from exchange.loader.staging import KEY, Stage
from exchange.models import VERSION_COLUMN, tombstone

Condition = sa.ColumnElement[bool]


def doubts(stage: Stage, constraints: Constraints, *, buried: bool) -> Iterator[Condition]:
    """Give the conditions, but for ``not_newer``; tombstones are looked at only if some row may be ``buried``."""
    staged, target = stage.table, stage.target
    names = {column.name for column in stage.stream.columns}
    if buried:
        yield sa.exists().where(
            tombstone.c.stream == stage.stream.name,
            tombstone.c.key == staged.c[KEY],
            tombstone.c.version >= staged.c[VERSION_COLUMN],
        )
    for key in constraints.of(target.name):
        if names.issuperset(key.columns):
            mine = [staged.c[name] for name in key.columns]
            parent = sa.table(key.referred, *map(sa.column, key.referred_columns)).alias("parent")
            there: Condition = sa.exists().where(*_equal(parent, key.referred_columns, mine))
            if key.referred == target.name:  # it may stand beside the row
                beside = staged.alias("beside")
                there = there | sa.exists().where(*_equal(beside, key.referred_columns, mine))
            yield sa.and_(*(column.is_not(None) for column in mine), ~there)
    for unique in constraints.uniques[target.name]:
        if names.issuperset(unique.columns):
            mine = [staged.c[name] for name in unique.columns]
            yield sa.exists().where(*_equal(target, unique.columns, mine), ~stage.same_key(target, staged))
    for check in constraints.checks[target.name]:
        yield broken(check)


def not_newer(stage: Stage) -> Condition:
    """Say that a row meets one that is as new."""
    staged, target = stage.table, stage.target
    return sa.exists().where(stage.same_key(target, staged), target.c[VERSION_COLUMN] >= staged.c[VERSION_COLUMN])


def _equal(table: sa.FromClause, names: tuple[str, ...], values: list[sa.Column[object]]) -> list[Condition]:
    return [table.c[name] == value for name, value in zip(names, values, strict=True)]
