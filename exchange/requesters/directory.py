"""The directory as this side knows it: users whose rows the other side owns, read at each request anew."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.format.errors import TransientError, printable
from exchange.reference.models import User


@dataclass(frozen=True)
class DirectoryUser:
    """One of them, as a value."""

    id: int
    name: str
    active: bool
    profile_type_id: int


COLUMNS = (User.id, User.name, User.active, User.profile_type_id)


def by_id(connection: Connection, user_id: int) -> DirectoryUser | None:
    """Find a user by the id, if the row is there and active. Reads in the caller's transaction."""
    row = connection.execute(sa.select(*COLUMNS).where(User.id == user_id, User.active)).one_or_none()
    return None if row is None else DirectoryUser(*row)


def by_name(connection: Connection, typed: str) -> DirectoryUser | None:
    """Find the only user with this name or e-mail, active or not. Reads in the caller's transaction."""
    if "\0" in typed:
        return None
    named = sa.or_(User.name == typed, User.email == typed)
    rows = connection.execute(sa.select(*COLUMNS).where(named).order_by(User.id).limit(2)).all()
    return DirectoryUser(*rows[0]) if len(rows) == 1 else None


class NoSuchUser(TransientError):  # noqa: N818 - an answer to whoever asks
    """The directory has no user of this name, or more than one."""


def known(connection: Connection, typed: str) -> DirectoryUser:
    """Find the same for a person who names one. Raises NoSuchUser."""
    found = by_name(connection, typed)
    if found is None:
        shown = printable(repr(typed), 80)
        raise NoSuchUser(
            f"no one user has the name or e-mail {shown}; new users arrive with the directory channel's next batch"
        )
    return found
