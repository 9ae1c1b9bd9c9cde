"""Users of our own: who may sign in, with which role. Nobody is there until somebody is added."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from exchange.database.dialects import insert_new
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.tables import session, user
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError, printable
from exchange.people.passwords import hash_password
from exchange.people.roles import Role

_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,62}")


@dataclass(frozen=True)
class User(AsDict):
    """One of those who may sign in; the hash of the password is told nobody."""

    name: str
    role: Role
    sees_sensitive: bool
    has_password: bool
    disabled_at: datetime | None
    created_at: datetime
    changed_at: datetime
    signed_in_at: datetime | None
    sessions: int = field(default=0)


def user_name(text: str) -> str:
    """Give a name as it is kept: small letters alone, so that no two look like one. Raises ValueError."""
    name = text.strip().lower()
    if not _NAME.fullmatch(name):
        raise ValueError(
            "name: expected at most 63 letters, digits and . _ @ + - that begin with a letter or digit, found"
            f" {printable(repr(text), 80)}"
        )
    return name


def role_named(text: str) -> Role:
    """Read a role. Raises ValueError."""
    try:
        return Role(text)
    except ValueError:
        raise ValueError(f"role: expected {', '.join(Role)}, found {printable(repr(text), 80)}") from None


def add_user(engine: Engine, name: str, role: Role, password: str | None, *, sees_sensitive: bool = False) -> User:
    """Let somebody in; without a password only one whom a proxy vouches for. Raises ValueError, TransientError.

    Commits a transaction of its own.
    """
    name = user_name(name)
    kept = None if password is None else hash_password(password, name)
    moment = now()
    made = {"name": name, "hash": kept, "role": role.value, "sees_sensitive": sees_sensitive}
    with transient_errors(), writing(engine) as connection:
        if not insert_new(connection, user, {**made, "created_at": moment, "changed_at": moment}):
            raise ValueError(f"there is a user {name} already; `exchange users change {name}` changes it")
        return _found(connection, name)


def change_user(
    engine: Engine,
    name: str,
    *,
    role: Role | None = None,
    password: str | None = None,
    sees_sensitive: bool | None = None,
    disabled: bool | None = None,
) -> User:
    """Change what is given, and end all sessions of that user, who signs in anew. Raises ValueError, TransientError.

    Commits a transaction of its own.
    """
    name = user_name(name)
    values: dict[str, Any] = {
        "role": role and role.value,
        "hash": None if password is None else hash_password(password, name),
        "sees_sensitive": sees_sensitive,
    }
    values = {column: value for column, value in values.items() if value is not None}
    if disabled is not None:
        values["disabled_at"] = now() if disabled else None
    with transient_errors(), writing(engine) as connection:
        _found(connection, name)
        connection.execute(sa.update(user).where(user.c.name == name).values(**values, changed_at=now()))
        connection.execute(sa.delete(session).where(session.c.name == name))
        return _found(connection, name)


def remove_user(engine: Engine, name: str) -> None:
    """Remove a user with all sessions. Raises ValueError, TransientError. Commits a transaction of its own."""
    name = user_name(name)
    with transient_errors(), writing(engine) as connection:
        _found(connection, name)
        connection.execute(sa.delete(session).where(session.c.name == name))
        connection.execute(sa.delete(user).where(user.c.name == name))


def list_users(engine: Engine) -> list[User]:
    """Give all users by their names, each with how many sessions it has. Raises TransientError."""
    with transient_errors(), reading(engine) as connection:
        counted = connection.execute(sa.select(session.c.name, sa.func.count()).group_by(session.c.name))
        counts = {row[0]: row[1] for row in counted}
        rows = connection.execute(sa.select(user).order_by(user.c.name)).all()
    return [_user(row, counts.get(row.name, 0)) for row in rows]


def find_user(connection: Connection, name: str) -> User | None:
    """Find a user by the name as it is kept. Reads in the caller's transaction."""
    row = connection.execute(sa.select(user).where(user.c.name == name)).one_or_none()
    return None if row is None else _user(row)


def anybody(connection: Connection) -> bool:
    """Tell whether there is any user. Reads in the caller's transaction."""
    return bool(connection.scalar(sa.select(sa.exists(sa.select(user.c.name)))))


def _found(connection: Connection, name: str) -> User:
    found = find_user(connection, name)
    if found is None:
        raise TransientError(f"there is no user {name}; `exchange users list` shows all")
    return found


def _user(row: Row[Any], sessions: int = 0) -> User:
    return User(
        row.name,
        Role(row.role),
        row.sees_sensitive,
        row.hash is not None,
        row.disabled_at,
        row.created_at,
        row.changed_at,
        row.signed_in_at,
        sessions,
    )
