"""Dead letters with words in their message: no index helps, so that a page looks for them only so long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.database.tables import DeadLetterState, dead_letter
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.order import Cursor, Order, cursor_of
from exchange.dead_letters.store import Brief, brief, brief_columns

LOOKED_AT = 5_000
"""Among how many letters words are looked for at a time."""

LOOKING_SECONDS = 0.12
"""After how long looking for words ends, and leaves the rest to the next page."""


class Count(NamedTuple):
    """How many letters there are; if not ``exact``, at least so many."""

    letters: int
    exact: bool


@dataclass(frozen=True)
class LetterPage:
    """Some letters in order.

    ``after`` is the id of the letter after which the next page begins, None if this is the last. ``cut`` says that the
    page is not full and yet not the last: looking for words took too long.
    """

    letters: tuple[Brief, ...]
    after: int | None
    count: Count
    cut: bool = False


def searched(connection: Connection, filters: Filters, order: Order, after: Cursor | None, limit: int) -> LetterPage:
    """Give the first letters behind ``after`` that are meant, as far as there is time to look."""
    until = monotonic() + LOOKING_SECONDS
    search = _Search(connection, filters, order, limit + 1)
    with _keeping_to_the_index(connection):
        for state in filters.states:
            search.look(state, after)
        while search.ahead and len(search.certain()) <= limit and monotonic() < until:
            search.look(*search.foremost())
    letters = order.sorted(search.certain())
    count = Count(len(search.found), exact=not search.ahead)
    if len(letters) > limit:
        return LetterPage(tuple(letters[:limit]), letters[limit - 1].id, count)
    after_that = search.foremost()[1].id if search.ahead else None
    return LetterPage(tuple(letters), after_that, count, cut=bool(search.ahead))


@contextmanager
def _keeping_to_the_index(connection: Connection) -> Iterator[None]:
    """Keep PostgreSQL from sorting a million letters that it takes for a few, as long as it has not counted them."""
    if not dialect_of(connection).is_postgresql:
        yield
        return
    connection.exec_driver_sql("SET LOCAL enable_sort = off")
    yield
    connection.exec_driver_sql("SET LOCAL enable_sort TO DEFAULT")


class _Search:
    """What was found so far; ``ahead`` says of each state from where to go on, and lacks those looked through."""

    def __init__(self, connection: Connection, filters: Filters, order: Order, limit: int) -> None:
        self.found: list[Brief] = []
        self.ahead: dict[DeadLetterState, Cursor] = {}
        self._connection = connection
        self._filters = filters
        self._order = order
        self._limit = limit

    def foremost(self) -> tuple[DeadLetterState, Cursor]:
        """Give the state whose next letter may come before all others', and its place."""
        first = self._order.foremost(self.ahead.values())
        return next((state, place) for state, place in self.ahead.items() if place == first)

    def certain(self) -> list[Brief]:
        """Give what was found before anything that was not looked at yet."""
        if not self.ahead:
            return self.found
        _, first = self.foremost()
        return [one for one in self.found if self._order.foremost([first, cursor_of(one)]) == cursor_of(one)]

    def look(self, state: DeadLetterState, after: Cursor | None) -> None:
        """Look among the next letters of a state."""
        order, filters = self._order, self._filters
        here = [dead_letter.c.state == state, *filters.of_time(dead_letter), *order.behind(after, dead_letter)]
        ordered = sa.select(*brief_columns(dead_letter)).where(*here).order_by(*order.columns(dead_letter))
        looked = ordered.limit(LOOKED_AT).subquery("looked")
        rows = self._connection.execute(
            sa.select(*brief_columns(looked))
            .where(*filters.of_group(looked), *filters.of_letter(looked))
            .order_by(*order.columns(looked))
            .limit(self._limit)
        )
        found = [brief(row) for row in rows]
        self.found += found
        end = cursor_of(found[-1]) if len(found) == self._limit else self._end(here)
        self.ahead.pop(state, None)
        if end is not None:
            self.ahead[state] = end

    def _end(self, here: list[sa.ColumnElement[bool]]) -> Cursor | None:
        """Say where a look ended; None if it came to the end of all."""
        row = self._connection.execute(
            sa.select(dead_letter.c.created_at, dead_letter.c.id)
            .where(*here)
            .order_by(*self._order.columns(dead_letter))
            .offset(LOOKED_AT - 1)
            .limit(1)
        ).one_or_none()
        return Cursor(*row) if row else None
