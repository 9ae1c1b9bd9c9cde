"""Tokens for programs: shown once, kept as a digest, with a role and an end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from exchange.database import clock
from exchange.database.dialects import insert_new
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import token
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError
from exchange.people.roles import Person, Role, Via
from exchange.people.sessions import digest_of, new_secret
from exchange.people.users import user_name

PREFIX = "exchange_"
"""What a token begins with: who finds one in a file sees what it is."""
LONGEST = timedelta(days=3660)
NOTED = timedelta(minutes=5)
"""So often it is noted that a token is used."""


@dataclass(frozen=True)
class Token(AsDict):
    """A token as people see it, without what is shown by it."""

    name: str
    role: Role
    sees_sensitive: bool
    made_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    used_at: datetime | None
    used_from: str | None

    @property
    def is_good(self) -> bool:
        """Whether it is neither revoked nor past its end."""
        return self.revoked_at is None and now() < self.expires_at


def add_token(
    engine: Engine, name: str, role: Role, lasts: timedelta, made_by: str, *, sees_sensitive: bool = False
) -> tuple[Token, str]:
    """Make a token; what is to be shown by it is given here alone. Raises ValueError, Busy, TransientError.

    Commits a transaction of its own.
    """
    name, moment, secret = user_name(name), now(), PREFIX + new_secret()
    if not timedelta(0) < lasts <= LONGEST:
        raise ValueError(f"expires: expected at most {LONGEST.days} days, found {lasts}")
    row = {
        "name": name,
        "digest": digest_of(secret),
        "role": role.value,
        "sees_sensitive": sees_sensitive,
        "made_by": made_by,
        "created_at": moment,
        "expires_at": moment + lasts,
    }
    with transient_errors(), writing(engine) as connection:
        if not insert_new(connection, token, row):
            raise ValueError(f"there is a token {name} already, or was one lately; give it another name")
        return _token(connection.execute(sa.select(token).where(token.c.name == name)).one()), secret


def list_tokens(engine: Engine) -> list[Token]:
    """Give all tokens by their names, those that ended lately among them. Raises TransientError."""
    with transient_errors(), reading(engine) as connection:
        return [_token(row) for row in connection.execute(sa.select(token).order_by(token.c.name))]


def revoke_token(engine: Engine, name: str) -> Token:
    """End a token at once. Raises Busy, and TransientError if there is none. Commits a transaction of its own."""
    with transient_errors(), writing(engine) as connection:
        connection.execute(
            sa.update(token).where(token.c.name == name, token.c.revoked_at.is_(None)).values(revoked_at=now())
        )
        row = connection.execute(sa.select(token).where(token.c.name == name)).one_or_none()
    if row is None:
        raise TransientError(f"there is no token {name}; `exchange tokens list` shows all")
    return _token(row)


def person_of_token(engine: Engine, secret: str, address: str) -> Person | None:
    """Give who shows a token; None if it is none, or not good any more. Raises TransientError.

    Notes now and then that it was used, in a transaction of its own.
    """
    if not secret.startswith(PREFIX):
        return None
    with transient_errors(), reading(engine) as connection:
        row = connection.execute(sa.select(token).where(token.c.digest == digest_of(secret))).one_or_none()
    if row is None or not (found := _token(row)).is_good:
        return None
    if found.used_at is None or clock.since(found.used_at) >= NOTED:
        _note_use(engine, found.name, address)
    return Person(f"token {found.name}", found.role, found.sees_sensitive, Via.TOKEN, address, behind=found.made_by)


def _note_use(engine: Engine, name: str, address: str) -> None:
    try:
        with transient_errors(), writing(engine, patience_seconds=0.2) as connection:
            connection.execute(
                sa.update(token).where(token.c.name == name).values(used_at=now(), used_from=address[:63])
            )
    except (Busy, TransientError):
        return


def sweep_tokens(connection: Connection, before: datetime) -> int:
    """Remove tokens that ended before a moment; give how many. Writes in the caller's transaction."""
    over = sa.or_(token.c.revoked_at < before, token.c.expires_at < before)
    return len(connection.execute(sa.delete(token).where(over).returning(token.c.name)).all())


def _token(row: Row[Any]) -> Token:
    return Token(
        row.name,
        Role(row.role),
        row.sees_sensitive,
        row.made_by,
        row.created_at,
        row.expires_at,
        row.revoked_at,
        row.used_at,
        row.used_from,
    )
