"""The order of dead letters: by when they were parked, newest or oldest first, and where in it something stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.database.tables import UtcDateTime, dead_letter
from exchange.dead_letters.store import Brief


class Cursor(NamedTuple):
    """Where a letter stands among all."""

    created_at: datetime
    id: int


class Group(NamedTuple):
    """Letters of one cause in one state, as a statement has them."""

    fingerprint: sa.ColumnElement[str]
    state: sa.ColumnElement[str]


@dataclass(frozen=True)
class Order:
    """Newest first, or oldest first; letters of one moment by their ids."""

    oldest_first: bool = False

    def columns(self, letters: sa.FromClause) -> list[sa.ColumnElement[object]]:
        """Write what to order by."""
        columns: list[sa.ColumnElement[object]] = [letters.c.created_at, letters.c.id]
        return columns if self.oldest_first else [column.desc() for column in columns]

    def first_of(
        self, connection: Connection, group: Group, *, above: Cursor | None = None, below: Cursor | None = None
    ) -> sa.Select[tuple[int]]:
        """Select the first letter of a group, by its id, of those that lie between two places.

        PostgreSQL, told the group by itself, may walk through all letters of its state until it meets one of them. So
        there the group is a part of the place and of the order, which one index alone has; SQLite compares such a place
        with values of another table by its first column alone.
        """
        here = dead_letter.c
        alike = (here.fingerprint, here.state)
        whole: tuple[sa.ColumnElement[Any], ...]
        if dialect_of(connection).is_postgresql:
            whole, before = (*alike, here.created_at, here.id), (group.fingerprint, group.state)
            low = (
                sa.tuple_(*whole) > sa.tuple_(*before, *_values(above))
                if above
                else sa.tuple_(*alike) >= sa.tuple_(*before)
            )
            high = (
                sa.tuple_(*whole) < sa.tuple_(*before, *_values(below))
                if below
                else sa.tuple_(*alike) <= sa.tuple_(*before)
            )
            conditions = [low, high]
        else:
            whole = (here.created_at, here.id)
            conditions = [here.fingerprint == group.fingerprint, here.state == group.state]
            conditions += [sa.tuple_(*whole) > sa.tuple_(*_values(above))] if above else []
            conditions += [sa.tuple_(*whole) < sa.tuple_(*_values(below))] if below else []
        ordered = whole if self.oldest_first else [column.desc() for column in whole]
        return sa.select(here.id).where(*conditions).order_by(*ordered).limit(1)

    def between(
        self, after: Cursor | None, since: datetime | None, until: datetime | None
    ) -> tuple[Cursor | None, Cursor | None]:
        """Give the places between which letters lie that come after one and were parked between two moments."""
        low = [] if since is None else [Cursor(since, 0)]
        high = [] if until is None else [Cursor(until, 0)]
        if after is not None:
            (low if self.oldest_first else high).append(after)
        return max(low, default=None), min(high, default=None)

    def behind(self, there: Cursor | None, letters: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        """Write that a letter comes after a place; nothing if there is none."""
        if there is None:
            return []
        here = sa.tuple_(letters.c.created_at, letters.c.id)
        cursor = sa.tuple_(*_values(there))
        return [here > cursor if self.oldest_first else here < cursor]

    def before(self, there: Cursor | None, letters: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        """Write that a letter comes before a place; nothing if there is none."""
        return Order(oldest_first=not self.oldest_first).behind(there, letters)

    def sorted(self, letters: Iterable[Brief]) -> list[Brief]:
        """Put letters in order."""
        return sorted(letters, key=cursor_of, reverse=not self.oldest_first)

    def foremost(self, cursors: Iterable[Cursor]) -> Cursor:
        """Give the place that comes first."""
        return min(cursors) if self.oldest_first else max(cursors)


def _values(at: Cursor) -> tuple[sa.ColumnElement[Any], ...]:
    return sa.literal(at.created_at, UtcDateTime), sa.literal(at.id, sa.BigInteger)


def cursor_of(letter: Brief) -> Cursor:
    """Say where a letter stands."""
    return Cursor(letter.created_at, letter.id)
