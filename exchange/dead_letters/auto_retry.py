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
from exchange.database import pauses
from exchange.database.locks import Busy, reading
from exchange.database.tables import DeadLetterState, Direction, dead_letter, is_orphan, position
from exchange.dead_letters import retry
from exchange.dead_letters.retry import RetryOptions
from exchange.results import Retried
from exchange.site import Site
from exchange.tables.loader.checks import FOREIGN_KEY

ORPHAN_RETRIED = "retried by itself, as what it refers to has come"

RIVALS_RETRIED = "retried by itself, together with those that are in its way"


def channels_with_letters(site: Site) -> list[Channel]:
    """Give the channels by which something ever came, as it was split then, as far as they are declared and not paused.

    Reads in a transaction of its own.
    """
    with reading(site.engine) as connection:
        came = sa.select(position.c.channel).where(position.c.direction == Direction.IN).distinct()
        names = {*connection.scalars(came)}
        stopped = pauses.paused(connection, site.off)
    channels = [
        *site.incoming(),
        *(site.channel(name) for name in sorted(names - {one.name for one in site.incoming()})),
    ]
    mine = [one for one in channels if one is not None and one.target == site.network]
    return [one for one in mine if (Direction.IN, one.declared) not in stopped]


def retry_orphans(
    site: Site, channels: Iterable[Channel], stopping: Callable[[], bool], *, everything: bool
) -> list[Retried]:
    """Retry the letters whose missing rows have come; give those that were tried. Leaves out a channel that is busy.

    Goes on as long as some are found. Of more than ``orphans_at_once`` it stops at so many of which none can be
    applied, unless it is to look at ``everything``; it begins anywhere.
    """
    retried: list[Retried] = []
    for channel in channels:
        with suppress(Busy):  # whoever works on it looks himself when he is done
            while (found := _retry_some(site, channel, stopping, everything=everything)) and not stopping():
                retried += found
            retried += found
    return retried


def _retry_some(site: Site, channel: Channel, stopping: Callable[[], bool], *, everything: bool) -> list[Retried]:
    """Look once at the orphans of a channel, from anywhere among them and round; give those that were tried."""
    with reading(site.engine) as connection:
        begin = _anywhere(site, connection, channel)
    retried: list[Retried] = []
    for first, last in ((begin, None), (None, begin)):
        at = first
        while begin is not None:
            with reading(site.engine) as connection:
                headers = _orphans(site, connection, channel, at, last)
            ready = _retry_ready(site, headers, FOREIGN_KEY, ORPHAN_RETRIED, stopping)
            retried += ready
            if len(headers) < site.limits.orphans_at_once or stopping():
                break
            if not ready and not everything:
                return retried
            at = headers[-1].id + 1
    return retried


def retry_rivals(site: Site, channels: Iterable[Channel], stopping: Callable[[], bool]) -> list[Retried]:
    """Retry together the letters of rows that stand in each other's way; give those that were tried.

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
    letter = dead_letter.c
    parked = (letter.state == DeadLetterState.PARKED, letter.channel == channel.name, letter.error == "unique")
    usable = (letter.direction == Direction.IN, letter.attempts <= site.limits.poison_after)
    asking = sa.select(*retry.HEADER).where(*parked, *usable).order_by(letter.id).limit(site.limits.orphans_at_once)
    return [retry.header_of(row) for row in connection.execute(asking)]


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


def _orphans(
    site: Site, connection: Connection, channel: Channel, first: int | None, before: int | None
) -> list[retry.Header]:
    """Give the next of the orphans of a channel, of those with an id from ``first`` on and less than ``before``."""
    letter = dead_letter.c
    usable = (letter.direction == Direction.IN, letter.attempts <= site.limits.poison_after)
    asking = sa.select(*retry.HEADER).where(letter.channel == channel.name, is_orphan(dead_letter), *usable)
    if first is not None:
        asking = asking.where(letter.id >= first)
    if before is not None:
        asking = asking.where(letter.id < before)
    return [
        retry.header_of(row)
        for row in connection.execute(asking.order_by(letter.id).limit(site.limits.orphans_at_once))
    ]


def _anywhere(site: Site, connection: Connection, channel: Channel) -> int | None:
    """Give the id at which a look at the orphans of a channel begins: anywhere among many; None if there are none."""
    letter = dead_letter.c
    mine = (letter.channel == channel.name, is_orphan(dead_letter))
    most = site.limits.orphans_at_once
    some = sa.select(letter.id).where(*mine).limit(most + 1).subquery()
    number = connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
    if number <= most:
        return 0 if number else None
    first, last = connection.execute(sa.select(sa.func.min(letter.id), sa.func.max(letter.id)).where(*mine)).one()
    return int(first) + secrets.randbelow(last - first + 1)
