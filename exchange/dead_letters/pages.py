"""Dead letters by the page, sorted by when they were parked: whatever is asked, only what an index leads to is read.

Letters of one fingerprint and state lie in order in an index, and so do all of one state, one key or one batch. A
page is merged from the newest of each fingerprint; words are looked for among a bounded number of letters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.tables import dead_letter, selected
from exchange.dead_letters.counts import groups_in
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.order import Cursor, Group, Order, cursor_of
from exchange.dead_letters.search import Count, LetterPage, searched
from exchange.dead_letters.store import Brief, brief, brief_columns

COUNTED = 10_000
"""How far letters are counted where no count is kept."""


class _Group(NamedTuple):
    fingerprint: str
    state: str
    letters: int
    first: Cursor


def cursor(connection: Connection, letter_id: int) -> Cursor | None:
    """Say where a letter stands, to give the page behind it; None if there is no such letter."""
    row = connection.execute(
        sa.select(dead_letter.c.created_at, dead_letter.c.id).where(dead_letter.c.id == letter_id)
    ).one_or_none()
    return Cursor(*row) if row else None


def page(
    connection: Connection,
    filters: Filters,
    *,
    after: Cursor | None = None,
    limit: int = 50,
    oldest_first: bool = False,
) -> LetterPage:
    """Give the letters that ``filters`` mean, newest first, at most ``limit`` of those behind ``after``.

    Those of a selection come in the order in which they were kept.
    """
    order = Order(oldest_first)
    if filters.keys or filters.batch or filters.intake:
        letters, count = _of_few(connection, filters, order, after, limit + 1)
    elif filters.selection:
        letters = [brief(row) for row in connection.execute(_those_selected(filters, order, after, limit + 1))]
        count = counted(connection, filters)
    elif filters.text:
        return searched(connection, filters, order, after, limit)
    else:
        letters = _merged(connection, filters, order, after, limit + 1)
        count = counted(connection, filters)
    return LetterPage(tuple(letters[:limit]), letters[limit - 1].id if len(letters) > limit else None, count)


def counted(connection: Connection, filters: Filters) -> Count:
    """Count what ``filters`` mean: exactly, or as far as ``COUNTED`` where it takes looking at each letter.

    Words are not counted but found, page by page: raises ValueError.
    """
    if filters.keys or filters.batch or filters.intake:
        return _of_few(connection, filters, Order(), None, 0)[1]
    if filters.selection:
        return _count_selected(connection, filters)
    if filters.text:
        raise ValueError("letters with words in them are counted page by page")
    if filters.since is None and filters.until is None:
        return Count(sum(one.letters for one in _groups(connection, filters, Order())), exact=True)
    return _counted_in_time(connection, filters)


# Letters of one key, one batch or one file of people


def _of_few(
    connection: Connection, filters: Filters, order: Order, after: Cursor | None, limit: int
) -> tuple[list[Brief], Count]:
    by = filters.only("keys") if filters.keys else filters.only("batch" if filters.batch else "intake")
    # Set apart, so that no database thinks of walking through all letters in order until it has met enough.
    few = sa.select(*brief_columns(dead_letter)).where(*by.where()).cte("few").prefix_with("MATERIALIZED")
    wanted = filters.where(few)
    rows = connection.execute(
        sa.select(*brief_columns(few))
        .where(*wanted, *order.behind(after, few))
        .order_by(*order.columns(few))
        .limit(limit)
    )
    letters = [brief(row) for row in rows]
    number = connection.scalar(sa.select(sa.func.count()).select_from(few).where(*wanted)) or 0
    return letters, Count(number, exact=True)


# Letters of a selection


def some_selected(connection: Connection, name: str, limit: int) -> list[Brief]:
    """Give some letters of a selection, the newest, and count none."""
    return [brief(row) for row in connection.execute(_those_selected(Filters(selection=name), Order(), None, limit))]


def _those_selected(filters: Filters, order: Order, after: Cursor | None, limit: int) -> sa.Select[Any]:
    letter = selected.c.letter
    behind = [] if after is None else [letter > after.id if order.oldest_first else letter < after.id]
    return (
        sa.select(*brief_columns(dead_letter))
        .join_from(selected, dead_letter, dead_letter.c.id == letter)
        .where(selected.c.selection == filters.selection, *replace(filters, selection=None).where(), *behind)
        .order_by(letter if order.oldest_first else letter.desc())
        .limit(limit)
    )


def _count_selected(connection: Connection, filters: Filters) -> Count:
    if filters == filters.only("selection"):
        there = sa.select(sa.func.count()).where(selected.c.selection == filters.selection)
        return Count(connection.scalar(there) or 0, exact=True)
    some = _those_selected(filters, Order(), None, COUNTED + 1).with_only_columns(sa.literal(1)).subquery()
    number = connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
    return Count(min(number, COUNTED), exact=number <= COUNTED)


# Letters of some fingerprints


def _merged(connection: Connection, filters: Filters, order: Order, after: Cursor | None, limit: int) -> list[Brief]:
    """Take the first letters of each group, beginning with the group that has the very first one."""
    letters: list[Brief] = []
    last: Cursor | None = None
    for group in _groups(connection, filters, order, after, limit):
        if last and order.foremost([last, group.first]) == last:
            break
        here = [*order.behind(after, dead_letter), *order.before(last, dead_letter)]
        rows = connection.execute(
            sa.select(*brief_columns(dead_letter))
            .where(*_of_group(group), *filters.of_time(dead_letter), *here)
            .order_by(*order.columns(dead_letter))
            .limit(limit)
        )
        letters = order.sorted([*letters, *map(brief, rows)])[:limit]
        last = cursor_of(letters[-1]) if len(letters) == limit else None
    return letters


def _counted_in_time(connection: Connection, filters: Filters) -> Count:
    number = 0
    for group in _groups(connection, filters, Order()):
        some = (
            sa.select(sa.literal(1))
            .where(*_of_group(group), *filters.of_time(dead_letter))
            .order_by(*Order().columns(dead_letter))  # or they are looked for wherever they may lie
            .limit(COUNTED + 1 - number)
            .subquery()
        )
        number += connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
        if number > COUNTED:
            return Count(COUNTED, exact=False)
    return Count(number, exact=True)


def _groups(
    connection: Connection, filters: Filters, order: Order, after: Cursor | None = None, limit: int | None = None
) -> list[_Group]:
    """Give the groups that have letters which are meant, by their first letter in order."""
    there = groups_in(*filters.states)
    above, below = order.between(after, filters.since, filters.until)
    first = (
        order.first_of(connection, Group(there.c.fingerprint, there.c.state), above=above, below=below)
        .correlate(there)
        .scalar_subquery()
    )
    groups = sa.select(there, first.label("first")).cte("groups_with_first").prefix_with("MATERIALIZED")
    rows = connection.execute(
        sa.select(groups.c.fingerprint, groups.c.state, groups.c.letters, dead_letter.c.created_at, dead_letter.c.id)
        .join(dead_letter, dead_letter.c.id == groups.c.first)
        .where(*filters.of_group(dead_letter))
        .order_by(*order.columns(dead_letter))
        .limit(limit)
    )
    return [_Group(row.fingerprint, row.state, int(row.letters), Cursor(row.created_at, row.id)) for row in rows]


def _of_group(group: _Group) -> list[sa.ColumnElement[bool]]:
    return [dead_letter.c.fingerprint == group.fingerprint, dead_letter.c.state == group.state]
