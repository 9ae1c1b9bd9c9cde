"""Dead letters by the page, sorted by when they were parked: whatever is asked, only what an index leads to is read.

Letters of one fingerprint and state lie in order in an index, and so do all of one state, one key or one batch. A
page is merged from the newest of each fingerprint; words are looked for among a bounded number of letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.dead_letters.counting import groups_in
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.finding import Brief, briefs
from exchange.models import DeadLetterState, UtcDateTime, dead_letter

LOOKED_AT = 100_000
"""Among how many letters one page looks for words."""

COUNTED = 10_000
"""How far letters are counted where no count is kept."""


class Place(NamedTuple):
    """Where a letter stands among all, by when it was parked."""

    created_at: datetime
    id: int


class Count(NamedTuple):
    """How many letters there are; if not ``exact``, at least so many."""

    letters: int
    exact: bool


@dataclass(frozen=True)
class Page:
    """Some letters in order.

    ``after`` is the id of the letter after which the next page begins, None if this is the last. ``cut`` says that the
    page is not full and yet not the last: so many letters were looked through.
    """

    letters: tuple[Brief, ...]
    after: int | None
    count: Count
    cut: bool = False


class _Group(NamedTuple):
    fingerprint: str
    state: str
    letters: int
    first: Place


@dataclass(frozen=True)
class _Order:
    """Newest first, or oldest first, beginning behind a place."""

    oldest_first: bool
    after: Place | None

    def sort(self, letters: sa.FromClause) -> list[sa.ColumnElement[object]]:
        columns: list[sa.ColumnElement[object]] = [letters.c.created_at, letters.c.id]
        return columns if self.oldest_first else [column.desc() for column in columns]

    def beyond(self, letters: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        if self.after is None:
            return []
        here = sa.tuple_(letters.c.created_at, letters.c.id)
        there = sa.tuple_(sa.literal(self.after.created_at, UtcDateTime), sa.literal(self.after.id, sa.BigInteger))
        return [here > there if self.oldest_first else here < there]

    def sorted(self, places: Sequence[Place]) -> list[Place]:
        return sorted(places, reverse=not self.oldest_first)

    def before(self, one: Place, other: Place) -> bool:
        return one < other if self.oldest_first else one > other


def place(connection: Connection, letter_id: int) -> Place | None:
    """Say where a letter stands; None if there is no such letter."""
    row = connection.execute(
        sa.select(dead_letter.c.created_at, dead_letter.c.id).where(dead_letter.c.id == letter_id)
    ).one_or_none()
    return Place(*row) if row else None


def page(
    connection: Connection,
    filters: Filters,
    *,
    after: Place | None = None,
    limit: int = 50,
    oldest_first: bool = False,
) -> Page:
    """Give the letters that ``filters`` mean, newest first, at most ``limit`` of those behind ``after``."""
    order = _Order(oldest_first, after)
    if filters.keys or filters.batch:
        places, count = _of_few(connection, filters, order, limit + 1)
    elif filters.text:
        return _among_many(connection, filters, order, limit)
    else:
        places = _merged(connection, filters, order, limit + 1)
        count = counted(connection, filters)
    more = len(places) > limit
    letters = briefs(connection, [one.id for one in places[:limit]])
    return Page(tuple(letters), places[limit - 1].id if more else None, count)


def counted(connection: Connection, filters: Filters) -> Count:
    """Count what ``filters`` mean: exactly, or as far as ``COUNTED`` where it takes looking at each letter.

    Words are not counted but found, page by page: raises ValueError.
    """
    newest = _Order(oldest_first=False, after=None)
    if filters.text and not (filters.keys or filters.batch):
        raise ValueError("letters with words in them are counted page by page")
    if filters.keys or filters.batch:
        return _of_few(connection, filters, newest, 0)[1]
    if filters.since is None and filters.until is None:
        return Count(sum(one.letters for one in _groups(connection, filters, newest)), exact=True)
    return _counted_in_time(connection, filters)


# Letters of one key or one batch


def _of_few(connection: Connection, filters: Filters, order: _Order, limit: int) -> tuple[list[Place], Count]:
    by = filters.only("keys") if filters.keys else filters.only("batch")
    columns = [column for column in dead_letter.c if column.name != "record"]
    # Set apart, so that no database thinks of walking through all letters in order until it has met enough.
    few = sa.select(*columns).where(*by.where()).cte("few").prefix_with("MATERIALIZED")
    wanted = filters.where(few)
    rows = connection.execute(
        sa.select(few.c.created_at, few.c.id).where(*wanted, *order.beyond(few)).order_by(*order.sort(few)).limit(limit)
    )
    places = [Place(*row) for row in rows]
    number = connection.scalar(sa.select(sa.func.count()).select_from(few).where(*wanted)) or 0
    return places, Count(number, exact=True)


# Letters of some fingerprints


def _merged(connection: Connection, filters: Filters, order: _Order, limit: int) -> list[Place]:
    """Take the first letters of each group, beginning with the group that has the very first one."""
    places: list[Place] = []
    for group in _groups(connection, filters, order, limit):
        if len(places) == limit and order.before(places[-1], group.first):
            break
        rows = connection.execute(
            sa.select(dead_letter.c.created_at, dead_letter.c.id)
            .where(*_of_group(group), *filters.of_time(dead_letter), *order.beyond(dead_letter))
            .order_by(*order.sort(dead_letter))
            .limit(limit)
        )
        places = order.sorted([*places, *(Place(*row) for row in rows)])[:limit]
    return places


def _counted_in_time(connection: Connection, filters: Filters) -> Count:
    number = 0
    for group in _groups(connection, filters, _Order(oldest_first=False, after=None)):
        some = (
            sa.select(sa.literal(1))
            .where(*_of_group(group), *filters.of_time(dead_letter))
            .limit(COUNTED + 1 - number)
            .subquery()
        )
        number += connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
        if number > COUNTED:
            return Count(COUNTED, exact=False)
    return Count(number, exact=True)


def _groups(connection: Connection, filters: Filters, order: _Order, limit: int | None = None) -> list[_Group]:
    """Give the groups that have letters which are meant, by their first letter in order."""
    there = groups_in(*filters.states)
    first = (
        sa.select(dead_letter.c.id)
        .where(
            dead_letter.c.fingerprint == there.c.fingerprint,
            dead_letter.c.state == there.c.state,
            *filters.of_time(dead_letter),
            *order.beyond(dead_letter),
        )
        .order_by(*order.sort(dead_letter))
        .limit(1)
        .correlate(there)
        .scalar_subquery()
    )
    groups = sa.select(there, first.label("first")).cte("groups_with_first").prefix_with("MATERIALIZED")
    rows = connection.execute(
        sa.select(groups.c.fingerprint, groups.c.state, groups.c.letters, dead_letter.c.created_at, dead_letter.c.id)
        .join(dead_letter, dead_letter.c.id == groups.c.first)
        .where(*filters.of_group(dead_letter))
        .order_by(*order.sort(dead_letter))
        .limit(limit)
    )
    return [_Group(row.fingerprint, row.state, int(row.letters), Place(row.created_at, row.id)) for row in rows]


def _of_group(group: _Group) -> list[sa.ColumnElement[bool]]:
    return [dead_letter.c.fingerprint == group.fingerprint, dead_letter.c.state == group.state]


# Letters with words in their message


def _among_many(connection: Connection, filters: Filters, order: _Order, limit: int) -> Page:
    """Look through the first letters of each state; what lies behind where a look ended waits for the next page."""
    looks = [_look(connection, filters, state, order, limit + 1) for state in filters.states]
    ends = order.sorted([look.end for look in looks if look.end])
    end = ends[0] if ends else None
    found = order.sorted([one for look in looks for one in look.found if not (end and order.before(end, one))])
    shown = found[:limit]
    letters = tuple(briefs(connection, [one.id for one in shown]))
    count = Count(sum(look.number for look in looks), exact=end is None)
    if len(found) > limit:
        return Page(letters, shown[-1].id, count)
    return Page(letters, end.id if end else None, count, cut=end is not None)


class _Look(NamedTuple):
    """The first letters that were found, how many there were in all, and where looking ended before the last one."""

    found: list[Place]
    number: int
    end: Place | None


def _look(connection: Connection, filters: Filters, state: DeadLetterState, order: _Order, limit: int) -> _Look:
    share = LOOKED_AT // len(filters.states)
    of_state = [dead_letter.c.state == state, *filters.of_time(dead_letter), *order.beyond(dead_letter)]
    columns = [column for column in dead_letter.c if column.name != "record"]
    looked = sa.select(*columns).where(*of_state).order_by(*order.sort(dead_letter)).limit(share).subquery()
    rows = connection.execute(
        sa.select(looked.c.created_at, looked.c.id, sa.func.count().over().label("number"))
        .where(*filters.of_group(looked), *filters.of_letter(looked))
        .order_by(*order.sort(looked))
        .limit(limit)
    ).all()
    end = connection.execute(
        sa.select(dead_letter.c.created_at, dead_letter.c.id)
        .where(*of_state)
        .order_by(*order.sort(dead_letter))
        .offset(share - 1)
        .limit(1)
    ).one_or_none()
    found = [Place(row.created_at, row.id) for row in rows]
    return _Look(found, rows[0].number if rows else 0, Place(*end) if end else None)
