"""Automatic retry: letters parked because a row lacked that they refer to, tried again once it may have come.

Done after an import that applied something. A look costs a letter nothing: only those whose parents are there now
are tried, and of those that fail too often none is tried again. Beside that, what may heal by itself is tried at
moments of its own, further and further apart (``schedule``): its parents or its unique value may come by another way.
"""

from __future__ import annotations

import secrets
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import pauses
from exchange.database.engine import among, in_parts, now
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import (
    DeadLetterState,
    Direction,
    dead_letter,
    is_of_intake,
    is_orphan,
    is_scheduled,
    position,
)
from exchange.dead_letters import retry, schedule
from exchange.dead_letters.retry import RetryOptions
from exchange.results import Retried
from exchange.site import Site
from exchange.tables.loader.checks import FOREIGN_KEY

ORPHAN_RETRIED = "retried by itself, as what it refers to has come"

TIME_RETRIED = "retried by itself, as its next try was due"

RIVALS_RETRIED = "retried by itself, together with those that are in its way"


def channels_with_letters(site: Site) -> list[Channel]:
    """Give the channels by which something ever came, as it was split then, as far as they are declared and not paused.

    Those too whose rows this side writes, and of which rows of people's files wait for others.

    Reads in a transaction of its own.
    """
    with reading(site.engine) as connection:
        names = {*connection.scalars(_CAME)}
        # Rows of people's files are this side's own: they go by channels on which nothing comes.
        loaded = {*connection.scalars(_OF_FILES)}
        stopped = pauses.paused(connection, site.off)
    channels = [
        *site.incoming(),
        *(site.channel(name) for name in sorted((names | loaded) - {one.name for one in site.incoming()})),
    ]
    mine = [one for one in channels if one is not None and (one.target == site.network or one.name in loaded)]
    return [one for one in mine if (Direction.IN, one.declared) not in stopped]


_CAME = sa.select(position.c.channel).where(position.c.direction == Direction.IN).distinct()
_OF_FILES = sa.select(dead_letter.c.channel).where(is_orphan(dead_letter), is_of_intake(dead_letter)).distinct()


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
    # Of few the look begins at the first one: there is nothing before it.
    for first, last in ((begin, None), (None, begin)) if begin else ((begin, None),):
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


def retry_due(site: Site, stopping: Callable[[], bool]) -> list[Retried]:
    """Retry letters whose next try is due; give those that were tried and changed. Leaves out a channel that is busy.

    What fails for the same error again is as it was, but for its next try, which is later; after ``MOST_TRIES`` there
    is none. A look at an index where none is due. Raises TransientError; then the next run tries the same again.
    """
    with reading(site.engine) as connection:
        due = _due(site, connection)
    poison = [one.header.id for one in due if one.attempts > site.limits.poison_after]
    if poison:
        with suppress(Busy), writing(site.engine) as connection:
            some = among(connection, dead_letter.c.id, poison)
            connection.execute(sa.update(dead_letter).where(some).values(next_try_at=None))
    tried = [one for one in due if one.attempts <= site.limits.poison_after]
    retried: list[Retried] = []
    for error in dict.fromkeys(one.error for one in tried):
        headers = sorted((one.header for one in tried if one.error == error), key=lambda one: (one.channel, one.id))
        for group in retry.group_letters(site, headers, {}):
            if stopping():
                return retried
            options = RetryOptions(spared=(error,), how=TIME_RETRIED, left=_put_off)
            with suppress(Busy):
                retried += [one for one in retry.retry_group(site, group, options) if one.changed]
    return retried


class _Due(NamedTuple):
    """A letter that is due, its class of error and how often it was tried by anybody."""

    header: retry.Header
    error: str
    attempts: int


def _due(site: Site, connection: Connection) -> list[_Due]:
    """Give the letters of running channels that are due, those that wait longest first; so many as one group has."""
    found = _due_but(site, connection, ())
    stopped = {name for way, name in pauses.paused(connection, site.off) if way is Direction.IN} if found else set()
    return (
        _due_but(site, connection, [one for name in stopped for one in site.names_in_files(name)]) if stopped else found
    )


def _due_but(site: Site, connection: Connection, still: Collection[str]) -> list[_Due]:
    asked = {"moment": now(), "still": still, "most": site.limits.group_letters}
    rows = connection.execute(_DUE, asked).all()
    return [_Due(retry.header_of(row[:7]), row.error, row.attempts) for row in rows]


_DUE = (
    sa.select(*retry.HEADER, dead_letter.c.error, dead_letter.c.attempts)
    .where(
        dead_letter.c.state == DeadLetterState.PARKED,
        is_scheduled(dead_letter),
        dead_letter.c.next_try_at <= sa.bindparam("moment"),
        dead_letter.c.channel.not_in(sa.bindparam("still", expanding=True)),
    )
    .order_by(dead_letter.c.next_try_at)
    .limit(sa.bindparam("most"))
)


def bring_near(connection: Connection) -> None:
    """Let letters be due whose next try lies further ahead than any: it was reckoned by a clock that was ahead.

    Runs in the caller's transaction.
    """
    letter = dead_letter.c
    far = letter.next_try_at > now() + schedule.FURTHEST
    ahead = (letter.state == DeadLetterState.PARKED, is_scheduled(dead_letter), far)
    connection.execute(sa.update(dead_letter).where(*ahead).values(next_try_at=now()))


def _put_off(connection: Connection, ids: Sequence[int]) -> None:
    """Note that letters were tried in vain, in the transaction that tried them: their next try is later."""
    letter, moment = dead_letter.c, now()
    for some in in_parts(ids):
        here = sa.select(letter.id, letter.error, letter.tries).where(among(connection, letter.id, some))
        by_tries: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        for row in connection.execute(here):
            by_tries[row.error, row.tries + 1].append(row.id)
        for (error, tries), alike in by_tries.items():
            values = {"tries": tries, "next_try_at": schedule.next_try(Direction.IN, error, tries, moment)}
            connection.execute(sa.update(dead_letter).where(among(connection, letter.id, alike)).values(values))


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
    between = {"first": -1 if first is None else first, "before": sys.maxsize if before is None else before}
    limits = {"poison": site.limits.poison_after, "most": site.limits.orphans_at_once}
    found = connection.execute(_ORPHANS, {"channel": channel.name, **between, **limits})
    return [retry.header_of(row) for row in found]


_ORPHANS = (
    sa.select(*retry.HEADER)
    .where(
        dead_letter.c.channel == sa.bindparam("channel"),
        is_orphan(dead_letter),
        dead_letter.c.direction == Direction.IN,
        dead_letter.c.attempts <= sa.bindparam("poison"),
        dead_letter.c.id >= sa.bindparam("first"),
        dead_letter.c.id < sa.bindparam("before"),
    )
    .order_by(dead_letter.c.id)
    .limit(sa.bindparam("most"))
)


def _anywhere(site: Site, connection: Connection, channel: Channel) -> int | None:
    """Give the id at which a look at the orphans of a channel begins: anywhere among many; None if there are none."""
    most = site.limits.orphans_at_once
    number = connection.scalar(_HOW_MANY, {"channel": channel.name, "most": most + 1}) or 0
    if number <= most:
        return 0 if number else None
    first, last = connection.execute(_EXTENT, {"channel": channel.name}).one()
    return int(first) + secrets.randbelow(last - first + 1)


_MINE = (dead_letter.c.channel == sa.bindparam("channel"), is_orphan(dead_letter))
_HOW_MANY = sa.select(sa.func.count()).select_from(
    sa.select(dead_letter.c.id).where(*_MINE).limit(sa.bindparam("most")).subquery()
)
_EXTENT = sa.select(sa.func.min(dead_letter.c.id), sa.func.max(dead_letter.c.id)).where(*_MINE)
