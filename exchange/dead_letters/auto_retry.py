"""Automatic retry: letters parked because a row lacked that they refer to, tried again once it may have come.

Done after an import that applied something. A look costs a letter nothing: only those whose parents are there now
are tried, and of those that fail too often none is tried again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database.locks import Busy, reading
from exchange.database.tables import DeadLetterState, Direction, dead_letter, is_orphan
from exchange.dead_letters import retry
from exchange.dead_letters.retry import RetryOptions
from exchange.format.record import Op
from exchange.results import Retried
from exchange.site import Site

ORPHAN_RETRIED = "retried by itself, as what it refers to has come"

RIVALS_RETRIED = "retried by itself, together with those that are in its way"


def retry_orphans(site: Site, channels: Iterable[Channel], stopping: Callable[[], bool]) -> list[Retried]:
    """Retry the letters whose missing rows have come; give those that were tried. Leaves out a channel that is busy."""
    retried: list[Retried] = []
    for channel in channels:
        with suppress(Busy):  # whoever works on it looks himself when he is done
            with reading(site.engine) as connection:
                headers = _orphans(site, connection, channel)
            retried += _retry_ready(site, headers, "foreign_key", ORPHAN_RETRIED, stopping)
    return retried


def retry_rivals(site: Site, channels: Iterable[Channel], stopping: Callable[[], bool]) -> list[Retried]:
    """Retry together the newest letters of rows that stand in each other's way; give those that were tried.

    Rows may pass unique values round in a ring. Where a batch ended in the middle of it none of them could be written;
    a snapshot has brought all. Leaves out a channel that is busy.
    """
    retried: list[Retried] = []
    for channel in channels:
        with suppress(Busy):
            with reading(site.engine) as connection:
                headers = _rivals(site, connection, channel)
            retried += _retry_ready(site, headers, "unique", RIVALS_RETRIED, stopping)
    return retried


def _rivals(site: Site, connection: Connection, channel: Channel) -> list[retry.Header]:
    letter, newer = dead_letter.c, dead_letter.alias("newer").c
    parked = (letter.state == DeadLetterState.PARKED, letter.channel == channel.name, letter.error == "unique")
    same_key = (newer.stream == letter.stream, newer.key == letter.key, newer.state == DeadLetterState.PARKED)
    newest = ~sa.exists().where(*same_key, newer.id > letter.id)
    usable = (letter.direction == Direction.IN, letter.attempts <= site.limits.poison_after)
    asking = sa.select(*retry.HEADER).where(*parked, *usable, newest).order_by(letter.id)
    some = asking.limit(site.limits.orphans_at_once)
    return [retry.header_of(row) for row in connection.execute(some)]


def _retry_ready(
    site: Site, headers: Iterable[retry.Header], error: str, how: str, stopping: Callable[[], bool]
) -> list[Retried]:
    """Retry letters, but leave those as they are that are refused for the same error again."""
    retried: list[Retried] = []
    for group in retry.group_letters(site, headers, {}):
        if stopping():
            break
        # Most looks find none, and then write nothing.
        ready = [
            one.id
            for one in retry.retry_group(site, group, RetryOptions(spared=(error,), rehearse=True))
            if one.changed
        ]
        if ready:
            retried += retry.retry_group(site, group._replace(ids=ready), RetryOptions(spared=(error,), how=how))
    return [one for one in retried if one.changed]


def _orphans(site: Site, connection: Connection, channel: Channel) -> list[retry.Header]:
    letter = dead_letter.c
    mine = (letter.channel == channel.name, is_orphan(dead_letter))
    most = site.limits.orphans_at_once
    some = sa.select(letter.id).where(*mine).limit(most + 1).subquery()
    number = connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
    begin = _anywhere(connection, mine) if number > most else 0
    usable = (letter.direction == Direction.IN, letter.op == Op.UPSERT, letter.attempts <= site.limits.poison_after)
    asking = sa.select(*retry.HEADER).where(*mine, *usable, letter.id >= begin).order_by(letter.id).limit(most)
    return [retry.header_of(row) for row in connection.execute(asking)] if number else []


def _anywhere(connection: Connection, mine: tuple[sa.ColumnElement[bool] | sa.TextClause, ...]) -> int:
    asking = sa.select(sa.func.min(dead_letter.c.id), sa.func.max(dead_letter.c.id)).where(*mine)
    first, last = connection.execute(asking).one()
    return int(first) + secrets.randbelow(last - first + 1)
