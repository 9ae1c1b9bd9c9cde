"""Who asks, and what they may: by an access token of a user who signed in, or by a program's key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Engine

from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.files.token_keys import TokenKeys
from exchange.people import api_keys
from exchange.people.api_keys import READ, STREAMS, WRITE
from exchange.people.roles import Forbidden
from exchange.requesters import access_tokens, directory, sessions
from exchange.requesters.directory import DirectoryUser

LONGEST_SHOWN = 4096


class Means(StrEnum):
    """By what somebody is known."""

    TOKEN = "access token"  # noqa: S105 - words, not a secret
    KEY = "API key"


@dataclass(frozen=True)
class Caller:
    """Whoever asks. ``user`` is of the directory; a key that only writes streams is nobody's there."""

    name: str
    scopes: frozenset[str]
    means: Means
    address: str
    user: DirectoryUser | None = None
    session: str | None = None

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


def caller_of(
    engine: Engine, keys: TokenKeys, network: str, shown: str, address: str, *, directory_is_here: bool
) -> Caller | None:
    """Give who shows an access token or an API key; None if it is neither, or good for nothing any more.

    A user who is not in the directory, or not active, is nobody, from the moment that the row says so. Without a
    directory (another application's side) keys of nobody are all there is. Raises TransientError, TokenKeyFault.
    """
    if len(shown) > LONGEST_SHOWN:
        return None
    if shown.startswith(api_keys.PREFIX):
        return _by_key(engine, shown, address, directory_is_here=directory_is_here)
    claims = access_tokens.read(keys, network, shown) if directory_is_here else None
    if claims is None:
        return None
    with transient_errors(), reading(engine) as connection:
        user = sessions.user_of(connection, claims.session, claims.user_id)
    if user is None:
        return None
    return Caller(user.name, _OF_A_USER, Means.TOKEN, address, user, claims.session)


def _by_key(engine: Engine, shown: str, address: str, *, directory_is_here: bool) -> Caller | None:
    with transient_errors(), reading(engine) as connection:
        found = api_keys.find_shown(connection, shown)
        if found is None:
            return None
        is_somebodys = found.user_id is not None
        user = directory.by_id(connection, found.user_id) if found.user_id and directory_is_here else None
        if is_somebodys and user is None:
            return None
    api_keys.note_use(engine, found, address)
    return Caller(f"API key {found.name}", frozenset(found.scopes), Means.KEY, address, user)
