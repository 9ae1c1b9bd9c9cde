"""Users of the directory sign in by a password that was set on this side, and stay so by a token that renews itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database import audit_log
from exchange.database.dialects import upsert
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.tables import requester
from exchange.files.token_keys import TokenKeys
from exchange.people import passwords
from exchange.people.attempts import TooOften, begin_attempt, forget_attempts
from exchange.people.sign_in import LONGEST_TYPED, NotSignedIn
from exchange.requesters import access_tokens, directory, sessions
from exchange.requesters.directory import DirectoryUser
from exchange.requesters.sessions import NotRenewed, Renewed

__all__ = ["Access", "NotRenewed", "NotSignedIn", "TooOften", "renew", "revoke", "set_password", "sign_in", "sign_out"]

_ORIGIN = "requests over HTTP"


@dataclass(frozen=True)
class Access:
    """What whoever signed in shows from now on."""

    user: str
    access_token: str
    refresh_token: str
    lasts: timedelta
    refresh_lasts: timedelta


def sign_in(engine: Engine, keys: TokenKeys, network: str, typed: str, password: str, address: str) -> Access:
    """Begin a session of whoever gives the right password; a name that is not there takes as long as a wrong one.

    Raises NotSignedIn, TooOften, Busy, TransientError, TokenKeyFault. A failure is in the audit as a bounded number of
    others is; who signed in from where stays with the session. Begin it outside of any transaction.
    """
    typed = typed.strip()[:LONGEST_TYPED]
    counted = f"requester {typed}"  # by itself: no failure here keeps out whoever has this name in the console
    number = begin_attempt(engine, counted, address)
    with transient_errors(), reading(engine) as connection:
        user = directory.by_name(connection, typed)
        kept = _hash_of(connection, user) if user is not None and user.active else None
    if not passwords.is_right(kept, password, of_many=True) or kept is None or user is None:
        claimed = "no user of the directory" if user is None else user.name
        audit_log.write_refusal(
            engine, "requester_sign_in", claimed, origin=f"{_ORIGIN}, {address}", sentence=str(NotSignedIn())
        )
        raise NotSignedIn
    is_old = passwords.is_outdated(kept, of_many=True)
    renewed = {"hash": passwords.hash_anew(password, of_many=True)} if is_old else {}
    with transient_errors(), writing(engine) as connection:
        same = (requester.c.user_id == user.id, requester.c.hash == kept)
        signed = sa.update(requester).where(*same).values(signed_in_at=now(), **renewed).returning(requester.c.user_id)
        if connection.scalar(signed) is None or directory.by_id(connection, user.id) is None:  # changed in between
            raise NotSignedIn
        forget_attempts(connection, number, counted)
        began = sessions.begin(connection, user.id, address)
    return _access(keys, network, user.name, began)


def renew(engine: Engine, keys: TokenKeys, network: str, refresh_token: str, address: str) -> Access:
    """Give new tokens for a refresh token, which is good for nothing from then on.

    One that was used before ends its session, which is in the audit. Raises NotRenewed, Busy, TransientError,
    TokenKeyFault.
    """
    try:
        again, name = sessions.renew(engine, refresh_token)
    except NotRenewed as refused:
        if refused.reused is not None:
            origin, claimed = f"{_ORIGIN}, {address}", f"user {refused.reused}"
            audit_log.write_refusal(engine, "requester_refresh", claimed, origin=origin, sentence=str(refused))
        raise
    return _access(keys, network, name, again)


def sign_out(engine: Engine, session: str) -> bool:
    """End a session and with it all its tokens, at once; tell whether it went on. Raises Busy, TransientError."""
    with transient_errors(), writing(engine) as connection:
        return sessions.end(connection, session)


def set_password(engine: Engine, typed: str, password: str) -> tuple[DirectoryUser, int]:
    """Have a user of the directory sign in by a password, and end all sessions; give how many.

    Raises WeakPassword, and TransientError if there is no such user. Commits a transaction of its own.
    """
    with transient_errors(), reading(engine) as connection:
        user = directory.known(connection, typed)
    kept = passwords.hash_password(password, user.name, of_many=True)
    with transient_errors(), writing(engine) as connection:
        upsert(connection, requester, {"user_id": user.id}, {"hash": kept, "changed_at": now()})
        return user, sessions.end_of(connection, user.id)


def revoke(engine: Engine, typed: str | None, *, password: bool = False) -> int:
    """End the sessions of a user, or of everybody; with ``password`` that user can't sign in again until one is set.

    Gives how many ended. Raises Busy, and TransientError if there is no such user. Commits a transaction of its own.
    """
    with transient_errors(), writing(engine) as connection:
        user = None if typed is None else directory.known(connection, typed)
        if password and user is not None:
            connection.execute(sa.delete(requester).where(requester.c.user_id == user.id))
        return sessions.end_of(connection, None if user is None else user.id)


def _access(keys: TokenKeys, network: str, name: str, session: Renewed) -> Access:
    token = access_tokens.issue(keys, network, session.user_id, session.id)
    return Access(name, token, session.refresh_token, access_tokens.LASTS, sessions.LASTS)


def _hash_of(connection: Connection, user: DirectoryUser) -> str | None:
    return connection.scalar(sa.select(requester.c.hash).where(requester.c.user_id == user.id))
