"""Signing in by a password, and what the audit has of it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Engine

from exchange.database import audit_log
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.tables import session, user
from exchange.people import passwords, sessions
from exchange.people.attempts import TooOften, begin_attempt, forget_attempts
from exchange.people.roles import Person, Role, Via
from exchange.people.sessions import Lifetime
from exchange.people.users import find_user

__all__ = ["NotSignedIn", "SignedIn", "TooOften", "person_by_proxy", "person_of_session", "sign_in", "sign_out"]

LONGEST_TYPED = 200
"""So much of what was typed as a name is looked at."""


class NotSignedIn(Exception):  # noqa: N818 - an answer to a person
    """The name or the password is not right: which of them nobody is told."""

    def __init__(self) -> None:
        super().__init__("the name or the password is not right")


@dataclass(frozen=True)
class SignedIn:
    """Who is signed in, and what the cookie is to hold."""

    person: Person
    secret: str


def sign_in(engine: Engine, name: str, password: str, address: str, *, before: str | None = None) -> SignedIn:
    """Begin a session of whoever gives the right password, and end the one that the cookie ``before`` is of.

    A name that is not there takes as long as a wrong password. Raises NotSignedIn, TooOften, Busy, TransientError. It
    is in the audit, a failure as a bounded number of others is. Begin it outside of any transaction.
    """
    typed = name.strip().lower()[:LONGEST_TYPED]
    number = begin_attempt(engine, typed, address)
    with transient_errors(), reading(engine) as connection:
        row = connection.execute(sa.select(user).where(user.c.name == typed)).one_or_none()
    kept: str | None = row.hash if row is not None and row.disabled_at is None else None
    origin = f"console, {address}"
    if not passwords.is_right(kept, password) or kept is None:
        claimed = "no user of ours" if row is None else typed  # who knows what was typed there: a password was before
        audit_log.write_refusal(engine, "sign_in", claimed, origin=origin, sentence=str(NotSignedIn()))
        raise NotSignedIn
    values = {"signed_in_at": now()}
    renewed = {"hash": passwords.hash_anew(password)} if passwords.is_outdated(kept) else {}
    with audit_log.audited(engine, "sign_in", {}, who=typed, origin=origin) as act:
        with transient_errors(), writing(engine) as connection:
            same = (user.c.name == typed, user.c.hash == kept, user.c.disabled_at.is_(None))
            found = connection.execute(
                sa.update(user).where(*same).values(**values, **renewed).returning(user.c.role, user.c.sees_sensitive)
            ).one_or_none()
            if found is None:  # changed in between
                raise NotSignedIn
            forget_attempts(connection, number, typed)
            if before:
                connection.execute(sa.delete(session).where(session.c.digest == sessions.digest_of(before)))
            secret = sessions.begin_session(connection, typed, address)
        act.came_to({"role": found.role})
    return SignedIn(Person(typed, Role(found.role), found.sees_sensitive, Via.PASSWORD, address), secret)


def sign_out(engine: Engine, person: Person, secret: str) -> None:
    """End a session; it is in the audit. Raises Busy, TransientError."""
    with audit_log.audited(engine, "sign_out", {}, who=person.name, origin=f"console, {person.address}") as act:
        act.came_to({"ended": sessions.end_session(engine, secret)})


def person_of_session(engine: Engine, secret: str, address: str, lifetime: Lifetime) -> Person | None:
    """Give who is signed in by a cookie, with the role of this moment; None if nobody. Raises TransientError.

    Notes now and then that the session is used, in a transaction of its own.
    """
    with transient_errors(), reading(engine) as connection:
        found = sessions.find_session(connection, secret, lifetime)
        known = find_user(connection, found.name) if found else None
    if found is None or known is None or known.disabled_at is not None:
        return None
    sessions.note_use(engine, secret, found, lifetime)
    return Person(known.name, known.role, known.sees_sensitive, Via.PASSWORD, address)


def person_by_proxy(engine: Engine, said: str, address: str, default: Role | None) -> Person | None:
    """Give whom a trusted proxy names: a user of ours, or one with the ``default`` role if there is one.

    None for one who is disabled, or unknown where there is no default. Raises TransientError.
    """
    name = said.strip().lower()
    if not name.isprintable() or not 0 < len(name) <= audit_log.MAX_NAME_CHARACTERS:
        return None
    with transient_errors(), reading(engine) as connection:
        known = find_user(connection, name)
    if known is None:
        return None if default is None else Person(name, default, sees_sensitive=False, via=Via.PROXY, address=address)
    if known.disabled_at is not None:
        return None
    return Person(name, known.role, known.sees_sensitive, Via.PROXY, address)
