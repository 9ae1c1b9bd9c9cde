"""The rows that the reference application begins with, on the network that owns them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.database.locks import locked
from exchange.reference.models import HIGHEST_PRIORITY, ProfileType, User
from exchange.reference.passwords import hash_password

OWNER = "response"
"""The network that owns profile types and users; the other receives them."""

ADMINISTRATOR = "administrator"
ADMINISTRATOR_EMAIL = "administrator@exchange.invalid"
SHORTEST_PASSWORD = 12

PROFILE_TYPES = (
    ("basic", 20, 3),
    ("standard", 200, 5),
    ("urgent", 200, 8),
    (ADMINISTRATOR, 2000, HIGHEST_PRIORITY),
)
"""Name, requests a day, priority."""


@dataclass(frozen=True)
class Seeded:
    """What seeding added. ``password`` is set when one was generated: show it once, it is kept nowhere."""

    profile_types: tuple[str, ...] = ()
    administrator: str | None = None
    password: str | None = None


def seed(engine: Engine, network: str, *, password: str | None = None) -> Seeded:
    """Add the profile types and the administrator that are missing; never change one that is there.

    The administrator's password is ``password`` or, when that is None or empty, a generated one. May be
    repeated; on a network that doesn't own these rows it does nothing. Raises ValueError with a sentence if
    the password is too short, Busy if another process is seeding.
    """
    if network != OWNER:
        return Seeded()
    if password and len(password) < SHORTEST_PASSWORD:
        raise ValueError(
            f"the administrator's password has {len(password)} characters, at least {SHORTEST_PASSWORD} are"
            " expected; no administrator was made"
        )
    with locked(engine, "seed") as connection, Session(connection) as session:
        added = _add_profile_types(session)
        administrator, generated = _add_administrator(session, password)
        session.flush()
        return Seeded(added, administrator, generated)


def _add_profile_types(session: Session) -> tuple[str, ...]:
    present = set(session.scalars(sa.select(ProfileType.name)))
    missing = [row for row in PROFILE_TYPES if row[0] not in present]
    session.add_all(ProfileType(name=name, daily_limit=limit, priority=priority) for name, limit, priority in missing)
    session.flush()
    return tuple(name for name, _, _ in missing)


def _add_administrator(session: Session, password: str | None) -> tuple[str | None, str | None]:
    """Add the administrator if there is none; give the name and the password that was generated, if any."""
    profile = session.scalars(sa.select(ProfileType).where(ProfileType.name == ADMINISTRATOR)).one()
    if session.scalar(sa.select(sa.exists().where(User.profile_type_id == profile.id))):
        return None, None
    generated = None if password else secrets.token_urlsafe(18)
    session.add(
        User(
            name=ADMINISTRATOR,
            email=ADMINISTRATOR_EMAIL,
            profile_type=profile,
            password_hash=hash_password(password or str(generated)),
        )
    )
    return ADMINISTRATOR, generated
