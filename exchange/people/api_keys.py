"""Keys of programs that ask or write rows over HTTP: shown once, kept as a digest, with scopes and an end."""

from __future__ import annotations

import re
from collections.abc import Collection
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
from exchange.database.tables import api_key
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError, printable
from exchange.people.sessions import digest_of, new_secret
from exchange.people.users import user_name

PREFIX = "exchange_key_"
"""What a key begins with: who finds one in a file sees what it is."""
LONGEST = timedelta(days=3660)
NOTED = timedelta(minutes=5)
"""So often it is noted that a key is used."""
READ, WRITE = "requests:read", "requests:write"
"""To look at requests and responses of its user; to make requests in the user's name."""
STREAMS = "streams:"
"""Before a stream's name: to write rows of it."""
_SCOPE = re.compile(r"requests:read|requests:write|streams:[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class ApiKey(AsDict):
    """A key as people see it, without what is shown by it. ``user_id`` is of the directory, whom it asks for."""

    name: str
    user_id: int | None
    scopes: tuple[str, ...]
    made_by: str
    created_at: datetime
    rotated_at: datetime | None
    old_until: datetime | None
    """How long what was shown before the last rotation is good beside what is shown now."""
    expires_at: datetime
    revoked_at: datetime | None
    used_at: datetime | None
    used_from: str | None

    @property
    def is_good(self) -> bool:
        """Whether it is neither revoked nor past its end."""
        return self.revoked_at is None and now() < self.expires_at


def read_scopes(said: Collection[str]) -> tuple[str, ...]:
    """Read scopes, each once. Raises ValueError."""
    if not said:
        raise ValueError(f"scope: expected {READ}, {WRITE} or {STREAMS}NAME, found none")
    if strange := sorted(one for one in said if not _SCOPE.fullmatch(one)):
        shown = printable(repr(strange[0]), 80)
        raise ValueError(f"scope: expected {READ}, {WRITE} or {STREAMS}NAME, found {shown}")
    return tuple(sorted(set(said)))


def add_api_key(
    engine: Engine, name: str, scopes: Collection[str], lasts: timedelta, made_by: str, *, user_id: int | None = None
) -> tuple[ApiKey, str]:
    """Make a key; what is to be shown by it is given here alone. Raises ValueError, Busy, TransientError.

    Commits a transaction of its own.
    """
    name, moment, secret, may = user_name(name), now(), PREFIX + new_secret(), read_scopes(scopes)
    if not timedelta(0) < lasts <= LONGEST:
        raise ValueError(f"expires: expected at most {LONGEST.days} days, found {lasts}")
    if user_id is None and any(not one.startswith(STREAMS) for one in may):
        raise ValueError(f"user: expected one of the directory, whom a key with {READ} or {WRITE} asks for, found none")
    row = {
        "name": name,
        "user_id": user_id,
        "scopes": " ".join(may),
        "digest": digest_of(secret),
        "made_by": made_by,
        "created_at": moment,
        "expires_at": moment + lasts,
    }
    with transient_errors(), writing(engine) as connection:
        if not insert_new(connection, api_key, row):
            raise ValueError(f"there is an API key {name} already, or was one lately; give it another name")
        return _found(connection, name), secret


def rotate_api_key(engine: Engine, name: str, overlap: timedelta, lasts: timedelta | None = None) -> tuple[ApiKey, str]:
    """Have another secret be shown by a key; that before is good for the overlap, one before that no more.

    With ``lasts`` the key itself is good for so long from now on, else until its end as before. Raises ValueError,
    Busy, and TransientError if there is no such key that is good. Commits a transaction of its own.
    """
    if not timedelta(0) <= overlap <= LONGEST:
        raise ValueError(f"overlap: expected at most {LONGEST.days} days, found {overlap}")
    if lasts is not None and not timedelta(0) < lasts <= LONGEST:
        raise ValueError(f"expires: expected at most {LONGEST.days} days, found {lasts}")
    secret, moment = PREFIX + new_secret(), now()
    with transient_errors(), writing(engine) as connection:
        values = {
            "old_digest": api_key.c.digest,
            "old_until": moment + overlap,
            "digest": digest_of(secret),
            "rotated_at": moment,
            **({} if lasts is None else {"expires_at": moment + lasts}),
        }
        good = (api_key.c.name == name, api_key.c.revoked_at.is_(None), api_key.c.expires_at > moment)
        changed = connection.execute(sa.update(api_key).where(*good).values(values))
        found = _found(connection, name)
        if not changed.rowcount:
            raise TransientError(f"the API key {found.name} is revoked or past its end; add another one")
    return found, secret


def revoke_api_key(engine: Engine, name: str) -> ApiKey:
    """End a key at once. Raises Busy, and TransientError if there is none. Commits a transaction of its own."""
    with transient_errors(), writing(engine) as connection:
        there = (api_key.c.name == name, api_key.c.revoked_at.is_(None))
        connection.execute(sa.update(api_key).where(*there).values(revoked_at=now()))
        return _found(connection, name)


def list_api_keys(engine: Engine) -> list[ApiKey]:
    """Give all keys by their names, those that ended lately among them. Raises TransientError."""
    with transient_errors(), reading(engine) as connection:
        return [_key(row) for row in connection.execute(sa.select(api_key).order_by(api_key.c.name))]


def is_good(digest: sa.ColumnElement[str], moment: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Say that a key is shown by what has this digest, and is neither revoked nor past its end."""
    before = sa.and_(api_key.c.old_digest == digest, api_key.c.old_until > moment)
    shown = sa.or_(api_key.c.digest == digest, before)
    return sa.and_(shown, api_key.c.revoked_at.is_(None), api_key.c.expires_at > moment)


def note_use(engine: Engine, name: str, used_at: datetime | None, address: str) -> None:
    """Note that a key is used, if ``used_at`` is not of late; where the database is busy, the next time.

    Commits a transaction of its own.
    """
    if used_at is not None and clock.since(used_at) < NOTED:
        return
    try:
        with transient_errors(), writing(engine, patience_seconds=0.2) as connection:
            used = {"used_at": now(), "used_from": address[:63]}
            connection.execute(sa.update(api_key).where(api_key.c.name == name).values(used))
    except (Busy, TransientError):
        return


def sweep_api_keys(connection: Connection, before: datetime) -> int:
    """Remove keys that ended before a moment; give how many. Writes in the caller's transaction."""
    over = sa.or_(api_key.c.revoked_at < before, api_key.c.expires_at < before)
    return len(connection.execute(sa.delete(api_key).where(over).returning(api_key.c.name)).all())


def _found(connection: Connection, name: str) -> ApiKey:
    row = connection.execute(sa.select(api_key).where(api_key.c.name == name)).one_or_none()
    if row is None:
        raise TransientError(f"there is no API key {printable(name, 63)}; `exchange api-keys list` shows all")
    return _key(row)


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        row.name,
        row.user_id,
        tuple(row.scopes.split()),
        row.made_by,
        row.created_at,
        row.rotated_at,
        row.old_until,
        row.expires_at,
        row.revoked_at,
        row.used_at,
        row.used_from,
    )
