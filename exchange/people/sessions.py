"""Sessions: who is signed in, from when to when. The database knows the digest of a cookie alone."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database import clock
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import session
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError

MOST_OF_A_USER = 20
"""So many sessions a user has at most: the oldest ends where one more begins."""
NOTED_SHARE = 0.1
"""After such a share of the idle time it is noted anew that a session is used: not with each request."""


@dataclass(frozen=True)
class Lifetime:
    """How long a session lasts unused, and at all."""

    idle: timedelta
    longest: timedelta


@dataclass(frozen=True)
class Session(AsDict):
    """One that goes on: whose, since when, last used when, and from where it began."""

    name: str
    begun_at: datetime
    seen_at: datetime
    address: str


def new_secret() -> str:
    """Draw what a cookie or a token holds: 256 bits."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """Give what is kept of a secret. It is long and drawn at random: nobody finds it from a plain digest."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def csrf_token(secret: str) -> str:
    """Give what the forms of a session carry, which no other page can read or make up."""
    return hmac.new(secret.encode("utf-8", "surrogateescape"), b"exchange form", hashlib.sha256).hexdigest()


def is_csrf_token(secret: str, shown: str) -> bool:
    """Tell whether a form is of this session."""
    return hmac.compare_digest(csrf_token(secret).encode(), shown.encode("utf-8", "surrogateescape"))


def begin_session(connection: Connection, name: str, address: str) -> str:
    """Begin a session and give what its cookie holds. Writes in the caller's transaction."""
    secret, moment = new_secret(), now()
    values = {"digest": digest_of(secret), "name": name, "begun_at": moment, "seen_at": moment, "address": address}
    connection.execute(sa.insert(session).values(**values))
    kept = sa.select(session.c.digest).where(session.c.name == name)
    kept = kept.order_by(session.c.begun_at.desc(), session.c.digest).limit(MOST_OF_A_USER)
    connection.execute(
        sa.delete(session).where(session.c.name == name, session.c.digest.not_in(kept.scalar_subquery()))
    )
    return secret


def find_session(connection: Connection, secret: str, lifetime: Lifetime) -> Session | None:
    """Find the session of a cookie unless its time is over. Reads in the caller's transaction."""
    row = connection.execute(sa.select(session).where(session.c.digest == digest_of(secret))).one_or_none()
    if row is None:
        return None
    found = Session(row.name, row.begun_at, row.seen_at, row.address)
    return None if is_over(found, lifetime) else found


def is_over(found: Session, lifetime: Lifetime) -> bool:
    """Tell whether a session was left alone, or has lasted, too long; one of the future has, too."""
    return clock.since(found.seen_at) >= lifetime.idle or clock.since(found.begun_at) >= lifetime.longest


def note_use(engine: Engine, secret: str, found: Session, lifetime: Lifetime) -> None:
    """Note that a session is used, if that was not done lately; where the database is busy, the next time.

    Commits a transaction of its own.
    """
    if clock.since(found.seen_at) < lifetime.idle * NOTED_SHARE:
        return
    try:
        with transient_errors(), writing(engine, patience_seconds=0.2) as connection:
            connection.execute(sa.update(session).where(session.c.digest == digest_of(secret)).values(seen_at=now()))
    except (Busy, TransientError):
        return


def end_session(engine: Engine, secret: str) -> bool:
    """End one session; tell whether it was there. Raises Busy, TransientError. Commits a transaction of its own."""
    with transient_errors(), writing(engine) as connection:
        gone = connection.execute(
            sa.delete(session).where(session.c.digest == digest_of(secret)).returning(session.c.name)
        )
        return gone.first() is not None


def end_sessions(engine: Engine, name: str | None) -> int:
    """End all sessions of a user, or of all; give how many. Raises Busy, TransientError. Commits a transaction."""
    ending = sa.delete(session).returning(session.c.name)
    with transient_errors(), writing(engine) as connection:
        return len(connection.execute(ending if name is None else ending.where(session.c.name == name)).all())


def list_sessions(engine: Engine, lifetime: Lifetime, name: str | None = None) -> list[Session]:
    """Give the sessions that go on, of one user or all, last used first. Raises TransientError."""
    query = sa.select(session).order_by(session.c.seen_at.desc(), session.c.digest)
    with transient_errors(), reading(engine) as connection:
        rows = connection.execute(query if name is None else query.where(session.c.name == name)).all()
    found = (Session(row.name, row.begun_at, row.seen_at, row.address) for row in rows)
    return [one for one in found if not is_over(one, lifetime)]


def sweep_sessions(connection: Connection, lifetime: Lifetime) -> int:
    """Remove the sessions whose time is over; give how many. Writes in the caller's transaction."""
    moment = now()
    over = sa.or_(
        session.c.seen_at < moment - lifetime.idle,
        session.c.begun_at < moment - lifetime.longest,
        session.c.seen_at > moment + clock.SKEW,
        session.c.begun_at > moment + clock.SKEW,
    )
    return len(connection.execute(sa.delete(session).where(over).returning(session.c.name)).all())
