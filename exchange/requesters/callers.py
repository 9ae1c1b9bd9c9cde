"""Who asks, and what they may: by an access token of a user who signed in, or by a program's key.

What is shown is read first, which asks no database. Whether it counts is a part of the statement that answers: ``who``
gives its row. So whoever is signed out or revoked is nobody from that commit on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import glancing
from exchange.database.tables import api_key, requester_session
from exchange.files.token_keys import TokenKeys
from exchange.people import api_keys
from exchange.people.api_keys import READ, STREAMS, WRITE
from exchange.people.roles import Forbidden
from exchange.people.sessions import digest_of
from exchange.reference.models import User
from exchange.requesters import access_tokens, sessions
from exchange.requesters.directory import DirectoryUser

LONGEST_SHOWN = 4096


class Means(StrEnum):
    """By what somebody is known."""

    TOKEN = "access token"  # noqa: S105 - words, not a secret
    KEY = "API key"


class Unknown(Exception):  # noqa: N818 - an answer to whoever asks
    """What was shown is good for nothing any more."""

    def __init__(self) -> None:
        super().__init__("what was shown is good for nothing any more")


@dataclass(frozen=True)
class KeyUse:
    """Which key was shown, and when that was noted last."""

    name: str
    used_at: datetime | None


@dataclass(frozen=True)
class Caller:
    """Whoever asks. ``user`` is of the directory; a key that only writes streams is nobody's there."""

    name: str
    scopes: frozenset[str]
    means: Means
    address: str
    user: DirectoryUser | None = None
    session: str | None = None
    key: KeyUse | None = None

    def refuse(self, scope: str) -> None:
        """See that they may; one that ends with a colon is any that begins so. Raises Forbidden."""
        if not any(one == scope or (scope.endswith(":") and one.startswith(scope)) for one in self.scopes):
            listed = ", ".join(sorted(self.scopes))
            raise Forbidden(f"this needs the scope {scope}, and {self.name} has {listed}; nothing was done")

    def refuse_stream(self, stream: str) -> None:
        """See that they may write rows of a stream. Raises Forbidden."""
        self.refuse(f"{STREAMS}{stream}")


_OF_A_USER = frozenset({READ, WRITE})
"""What whoever signed in may do; rows in bulk are for keys."""


class Asker(Protocol):
    """Somebody in whose name a statement asks."""

    def who(self) -> sa.Select[Any]:
        """Give the query of their row, of which there is none for nobody; its ``who_user`` is the user's id."""

    def binds(self) -> Mapping[str, Any]:
        """Give what that query is to be run with."""

    def caller(self, row: Row[Any] | None) -> Caller:
        """Read such a row. Raises Unknown where there is none."""


@dataclass(frozen=True)
class Shown:
    """What somebody shows, read and believed as far as it proves itself: a session's id, or the digest of a key."""

    means: Means
    name: str
    user_id: int
    """As a token says; of a key 0."""
    address: str = field(compare=False)
    directory_is_here: bool = True

    def who(self) -> sa.Select[Any]:
        """Give the query of whose it is: one row, or none if it is good for nothing."""
        return _who(self.means, directory_is_here=self.directory_is_here)

    def binds(self) -> Mapping[str, Any]:
        """Give what that query is to be run with, as of now."""
        if self.means is Means.KEY:
            return {"who_shown": self.name, "who_moment": now()}
        return {"who_shown": self.name, "who_id": self.user_id, **sessions.bounds()}

    def caller(self, row: Row[Any] | None) -> Caller:
        """Read its row. Raises Unknown."""
        if row is None:
            raise Unknown
        user = None
        if row.who_user is not None:
            user = DirectoryUser(row.who_user, row.who_name, row.who_active, row.who_profile)
        if self.means is Means.TOKEN and user is not None:
            return Caller(user.name, _OF_A_USER, self.means, self.address, user, self.name)
        if row.who_keys_user is not None and user is None:
            raise Unknown
        use, scopes = KeyUse(row.who_key, row.who_used_at), frozenset(row.who_scopes.split())
        return Caller(f"API key {row.who_key}", scopes, self.means, self.address, user, key=use)


@dataclass(frozen=True)
class OfUser:
    """Somebody looks at what this user asks, as they may."""

    user_id: int

    def who(self) -> sa.Select[Any]:
        """Give the query of the user's row."""
        return _BY_ID

    def binds(self) -> Mapping[str, Any]:
        """Give what it is to be run with."""
        return {"who_id": self.user_id}

    def caller(self, row: Row[Any] | None) -> Caller:
        """Read it. Raises Unknown."""
        if row is None:
            raise Unknown
        user = DirectoryUser(row.who_user, row.who_name, row.who_active, row.who_profile)
        return Caller(user.name, frozenset({READ}), Means.TOKEN, "", user)


_USER: tuple[Any, ...] = (
    User.id.label("who_user"),
    User.name.label("who_name"),
    User.active.label("who_active"),
    User.profile_type_id.label("who_profile"),
)
_BY_ID = sa.select(*_USER).where(User.id == sa.bindparam("who_id"))
_KEY: tuple[Any, ...] = (
    api_key.c.name.label("who_key"),
    api_key.c.scopes.label("who_scopes"),
    api_key.c.user_id.label("who_keys_user"),
    api_key.c.used_at.label("who_used_at"),
)


@cache
def _who(means: Means, *, directory_is_here: bool) -> sa.Select[Any]:
    """Put the query together once: it is a part of each one that is asked."""
    shown = sa.bindparam("who_shown", type_=sa.String())
    if means is Means.TOKEN:
        owned = User.id == requester_session.c.user_id
        told = sa.select(*_USER).join_from(requester_session, User, owned).where(User.active)
        return told.where(requester_session.c.id == shown, User.id == sa.bindparam("who_id"), sessions.GOES_ON)
    good = api_keys.is_good(shown, sa.bindparam("who_moment", type_=api_key.c.expires_at.type))
    if not directory_is_here:
        nobody: list[Any] = [sa.null().label(one.name) for one in _USER]
        return sa.select(*nobody, *_KEY).where(good)
    owner = sa.and_(User.id == api_key.c.user_id, User.active)
    return sa.select(*_USER, *_KEY).join_from(api_key, User, owner, isouter=True).where(good)


def read_shown(keys: TokenKeys, network: str, text: str, address: str, *, directory_is_here: bool) -> Shown | None:
    """Read an access token or an API key; None if it is neither. It asks no database. Raises TokenKeyFault.

    Without a directory (another application's side) keys of nobody are all there is.
    """
    if len(text) > LONGEST_SHOWN:
        return None
    if text.startswith(api_keys.PREFIX):
        return Shown(Means.KEY, digest_of(text), 0, address, directory_is_here)
    claims = access_tokens.read(keys, network, text) if directory_is_here else None
    return None if claims is None else Shown(Means.TOKEN, claims.session, claims.user_id, address)


def caller_of(engine: Engine, asker: Asker) -> Caller:
    """Say who asks. Raises Unknown, TransientError."""
    with transient_errors(), glancing(engine) as connection:
        return asker.caller(connection.execute(asker.who(), asker.binds()).one_or_none())


def signed_in_still(connection: Connection, shown: Collection[Shown]) -> set[Shown]:
    """Say of which access tokens the session goes on, by one statement. Reads in the caller's transaction."""
    tokens = {(one.name, one.user_id): one for one in shown if one.means is Means.TOKEN}
    binds = {"who_some": [name for name, _ in tokens], **sessions.bounds()}
    return {tokens[row.id, row.user_id] for row in connection.execute(_SOME, binds) if (row.id, row.user_id) in tokens}


_SOME = (
    sa.select(requester_session.c.id, requester_session.c.user_id)
    .join(User, User.id == requester_session.c.user_id)
    .where(User.active, requester_session.c.id.in_(sa.bindparam("who_some", expanding=True)), sessions.GOES_ON)
)
