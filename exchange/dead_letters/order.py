"""The order of dead letters: by when they were parked, newest or oldest first, and where in it something stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from exchange.database.tables import UtcDateTime
from exchange.dead_letters.store import Brief


class Cursor(NamedTuple):
    """Where a letter stands among all."""

    created_at: datetime
    id: int


@dataclass(frozen=True)
class Order:
    """Newest first, or oldest first; letters of one moment by their ids."""

    oldest_first: bool = False

    def columns(self, letters: sa.FromClause) -> list[sa.ColumnElement[object]]:
        """Write what to order by."""
        columns: list[sa.ColumnElement[object]] = [letters.c.created_at, letters.c.id]
        return columns if self.oldest_first else [column.desc() for column in columns]

    def behind(self, there: Cursor | None, letters: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        """Write that a letter comes after a place; nothing if there is none."""
        if there is None:
            return []
        here = sa.tuple_(letters.c.created_at, letters.c.id)
        cursor = sa.tuple_(sa.literal(there.created_at, UtcDateTime), sa.literal(there.id, sa.BigInteger))
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


def cursor_of(letter: Brief) -> Cursor:
    """Say where a letter stands."""
    return Cursor(letter.created_at, letter.id)
