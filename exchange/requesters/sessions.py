"""Sessions of requesters: each lives by a refresh token, of which the second half is another one after each use.

Who shows a second half that was used before has an old copy, as a thief or a victim has: the session ends for both.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database import clock
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing_at_once
from exchange.database.tables import requester_session as table
from exchange.format.as_dict import AsDict
from exchange.people.sessions import digest_of, new_secret
from exchange.reference.models import User
from exchange.requesters import directory

LASTS = timedelta(days=30)
"""So long after it was last renewed a session ends."""
LONGEST = timedelta(days=365)
"""And so long after it began, however often it was renewed."""
MOST_OF_A_USER = 20
"""So many sessions a user has at most: the oldest ends where one more begins."""
_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class Renewed:
    """A session and what renews it the next time."""

    id: str
    user_id: int
    refresh_token: str
    expires_at: datetime


class NotRenewed(Exception):  # noqa: N818 - an answer to whoever asks
    """A refresh token that is good for nothing; ``reused`` names the user whose session ended because of it."""

    def __init__(self, reused: int | None = None) -> None:
        self.reused = reused
        said = "it was used before, so its session has ended" if reused is not None else "it is good for nothing"
        super().__init__(f"the refresh token: {said}; sign in")


@dataclass(frozen=True)
class RequesterSession(AsDict):
    """One as people see it."""

    id: str
    user: str
    begun_at: datetime
    renewed_at: datetime
    expires_at: datetime
    address: str


def begin(connection: Connection, user_id: int, address: str) -> Renewed:
    """Begin a session. Writes in the caller's transaction."""
    moment, family, fresh, number = now(), new_secret(), new_secret(), secrets.token_hex(16)
    values = {
        "id": number,
        "user_id": user_id,
        "family": digest_of(family),
        "digest": digest_of(fresh),
        "begun_at": moment,
        "renewed_at": moment,
        "expires_at": moment + LASTS,
        "address": address[:63],
    }
    connection.execute(sa.insert(table).values(values))
    newest = sa.select(table.c.id).where(table.c.user_id == user_id)
    newest = newest.order_by(table.c.begun_at.desc(), table.c.id).limit(MOST_OF_A_USER)
    older = (table.c.user_id == user_id, table.c.id.not_in(newest.scalar_subquery()))
    connection.execute(sa.delete(table).where(*older))
    return Renewed(number, user_id, f"{family}.{fresh}", moment + LASTS)


def renew(engine: Engine, shown: str) -> tuple[Renewed, str]:
    """Take a refresh token and give the next one, with the user's name. Raises NotRenewed, Busy, TransientError.

    Commits a transaction of its own: that a token was used twice, or its user is none any more, ends its session
    whatever comes after.
    """
    family, _, half = shown[:_LONGEST_SHOWN].partition(".")
    moment, fresh, user, reused = now(), new_secret(), None, None
    known = {"shown_family": digest_of(family), "shown_digest": digest_of(half), **bounds()}
    renewed = {"new_digest": digest_of(fresh), "new_renewed_at": moment, "new_expires_at": moment + LASTS}
    with transient_errors(), writing_at_once(engine) as connection:
        row = connection.execute(_RENEWING, known | renewed).one_or_none()
        if row is None:
            # Only whoever had a token of this session knows its first half.
            of_family = (table.c.family == digest_of(family), table.c.ended_at.is_(None))
            ending = sa.update(table).where(*of_family, _goes_on(moment)).values(ended_at=moment)
            reused = connection.scalar(ending.returning(table.c.user_id))
        elif (user := directory.by_id(connection, row.user_id)) is None:
            end(connection, row.id)
    if row is None or user is None:
        raise NotRenewed(reused)
    return Renewed(row.id, row.user_id, f"{family}.{fresh}", moment + LASTS), user.name


def bounds() -> dict[str, datetime]:
    """Give what ``GOES_ON`` is to be run with, as of now."""
    moment = now()
    return {"who_moment": moment, "who_ahead": moment + clock.SKEW, "who_begun": moment - LONGEST}


def end(connection: Connection, number: str) -> bool:
    """End one; tell whether it went on. Writes in the caller's transaction."""
    ending = sa.update(table).where(table.c.id == number, table.c.ended_at.is_(None)).values(ended_at=now())
    return connection.scalar(ending.returning(table.c.id)) is not None


def end_of(connection: Connection, user_id: int | None) -> int:
    """End all of a user, or of everybody; give how many. Writes in the caller's transaction."""
    moment = now()
    ending = sa.update(table).where(_goes_on(moment)).values(ended_at=moment).returning(table.c.id)
    return len(connection.execute(ending if user_id is None else ending.where(table.c.user_id == user_id)).all())


def listed(engine: Engine, user_id: int | None = None) -> list[RequesterSession]:
    """Give those that go on, last renewed first, of one user or all. Raises TransientError."""
    columns = (table.c.id, User.name, table.c.begun_at, table.c.renewed_at, table.c.expires_at, table.c.address)
    query = sa.select(*columns).join(User, User.id == table.c.user_id).where(_goes_on(now()), User.active)
    query = query.order_by(table.c.renewed_at.desc(), table.c.id)
    with transient_errors(), reading(engine) as connection:
        rows = connection.execute(query if user_id is None else query.where(table.c.user_id == user_id))
        return [RequesterSession(*row) for row in rows]


def sweep(connection: Connection) -> int:
    """Remove what goes on no more; give how many rows went. Writes in the caller's transaction."""
    over = sa.not_(_goes_on(now()))
    return len(connection.execute(sa.delete(table).where(over).returning(table.c.id)).all())


def _goes_on(moment: datetime) -> sa.ColumnElement[bool]:
    return _between(*(sa.literal(one, _MOMENT) for one in (moment, moment + clock.SKEW, moment - LONGEST)))


def _between(
    moment: sa.ColumnElement[Any], ahead: sa.ColumnElement[Any], begun: sa.ColumnElement[Any]
) -> sa.ColumnElement[bool]:
    """Say that a session is not over; one of a clock that was ahead is."""
    return sa.and_(
        table.c.ended_at.is_(None),
        table.c.expires_at > moment,
        table.c.renewed_at < ahead,
        table.c.begun_at.between(begun, ahead),
    )


_MOMENT = table.c.expires_at.type
GOES_ON = _between(*(sa.bindparam(name, type_=_MOMENT) for name in ("who_moment", "who_ahead", "who_begun")))
"""The same with bounds that are given each time: made once, as it is asked with every request."""

_RENEWING = (
    sa.update(table)
    .where(table.c.family == sa.bindparam("shown_family"), table.c.digest == sa.bindparam("shown_digest"), GOES_ON)
    .values({name: sa.bindparam(f"new_{name}") for name in ("digest", "renewed_at", "expires_at")})
    .returning(table.c.id, table.c.user_id)
)
