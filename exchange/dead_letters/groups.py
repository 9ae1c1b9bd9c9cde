"""Dead letters by cause: one line for all that have a fingerprint in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.engine import now
from exchange.database.tables import DeadLetterState, Direction, dead_letter, is_seen_again
from exchange.dead_letters.advice import Advice, advice
from exchange.dead_letters.counts import SECONDS_AN_HOUR, TREND_HOURS, groups_in, trends
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.order import Group as Alike
from exchange.dead_letters.order import Order
from exchange.dead_letters.store import brief_columns
from exchange.format.as_dict import AsDict

MAX_GROUPS = 1_000
"""How many groups are shown at most, those with the most letters."""


@dataclass(frozen=True)
class Group(AsDict):
    """The letters of one fingerprint in one state; ``example`` is the newest, ``trend`` goes by hours, oldest first.

    ``seen`` counts the records that they stand for, from the first one to the last.
    """

    fingerprint: str
    state: DeadLetterState
    letters: int
    seen: int
    first_at: datetime
    last_at: datetime
    trend: tuple[int, ...]
    direction: Direction
    channel: str
    stream: str | None
    error: str
    pointer: str | None
    cause: str
    message: str
    example: int
    intake: int | None
    """The file that the example is a row of, if people dropped it."""

    @property
    def advice(self) -> Advice:
        """Say whose fault it is, and what to do."""
        return advice(self.direction, self.error, self.example, of_file=self.intake is not None)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            **super().as_dict(),
            "trend_period_seconds": SECONDS_AN_HOUR,
            "fault": self.advice.fault,
            "next": self.advice.next,
        }


def grouped(connection: Connection, filters: Filters, moment: datetime | None = None) -> list[Group]:
    """Give the groups that ``filters`` mean, those with the most letters first, at most ``MAX_GROUPS``.

    Only what letters of a group have in common may be given, and one state. Raises ValueError.
    """
    if filters.state is None or filters.of_letter(dead_letter) or filters.of_time(dead_letter):
        raise ValueError("groups are told apart by state and by what all their letters have in common")
    there = groups_in(filters.state)
    groups = sa.select(there, _at_end(connection, there, Order()), _at_end(connection, there, Order(oldest_first=True)))
    ends = groups.cte("groups_with_ends").prefix_with("MATERIALIZED")
    oldest = dead_letter.alias("oldest")
    rows = connection.execute(
        sa.select(*brief_columns(dead_letter), ends.c.letters, oldest.c.created_at.label("first_at"))
        .join_from(ends, dead_letter, dead_letter.c.id == ends.c.newest)
        .join(oldest, oldest.c.id == ends.c.oldest)
        .where(*filters.of_group(dead_letter))
        .order_by(ends.c.letters.desc(), dead_letter.c.id.desc())
        .limit(MAX_GROUPS)
    ).all()
    again = _seen_again(connection, filters.state)
    known = trends(connection, filters.state, moment or now()) if rows else {}
    quiet = [0] * TREND_HOURS
    return [
        Group(
            fingerprint=row.fingerprint,
            state=filters.state,
            letters=int(row.letters),
            seen=int(row.letters) + again.get(row.fingerprint, _NEVER).more,
            first_at=min(filter(None, (row.first_at, again.get(row.fingerprint, _NEVER).first))),
            last_at=max(filter(None, (row.created_at, again.get(row.fingerprint, _NEVER).last))),
            trend=tuple(known.get(row.fingerprint, quiet)),
            direction=Direction(row.direction),
            channel=row.channel,
            stream=row.stream,
            error=row.error,
            pointer=row.pointer,
            cause=row.cause,
            message=row.message,
            example=row.id,
            intake=row.intake,
        )
        for row in rows
    ]


class _Again(NamedTuple):
    more: int
    first: datetime | None
    last: datetime | None


_NEVER = _Again(0, None, None)


def _seen_again(connection: Connection, state: DeadLetterState) -> dict[str, _Again]:
    """Say of each fingerprint how often its letters were seen beyond the first time, since when, and when last."""
    letter = dead_letter.c
    rows = connection.execute(
        sa.select(
            letter.fingerprint,
            sa.func.sum(letter.seen - 1),
            sa.func.min(letter.first_seen, type_=letter.first_seen.type),
            sa.func.max(letter.last_seen, type_=letter.last_seen.type),
        )
        .where(letter.state == state, is_seen_again(dead_letter))
        .group_by(letter.fingerprint)
    )
    return {fingerprint: _Again(int(more), first, last) for fingerprint, more, first, last in rows}


def _at_end(connection: Connection, there: sa.CTE, order: Order) -> sa.Label[int]:
    """Find the first letter of each group in an order."""
    first = order.first_of(connection, Alike(there.c.fingerprint, there.c.state)).correlate(there).scalar_subquery()
    return first.label("oldest" if order.oldest_first else "newest")
