"""A request is made over HTTP: checked as its stream's schema has it, once a key, and within limits over all processes.

All of it is one transaction, under a lock of the user's profile: what was counted is what is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, joinedload

from exchange.channels.schemas import Checker
from exchange.database import clock
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import requests_lock, wait_for, writing
from exchange.database.tables import asked, idempotency
from exchange.format.errors import TransientError, printable
from exchange.format.moments import to_rfc3339
from exchange.reference.models import Request, User
from exchange.reference.submit import DayIsFull, SubmitRefused, check_request, submit_as
from exchange.requesters.directory import DirectoryUser

__all__ = [
    "DayIsFull",
    "KeyTaken",
    "Limits",
    "OverLimit",
    "SubmitRefused",
    "Wish",
    "ask",
    "check_key",
    "id_of",
    "sweep_asked",
]

LONGEST_KEY = 255
KEY_KEPT = timedelta(days=1)
"""So long an answer is given again under its key."""
_KEY = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_KEY}}}")
_MOVES = 3
"""So often a user may be put into another profile while a request is made."""


@dataclass(frozen=True)
class Limits:
    """How many requests are taken within a window that slides: of a user, and of all users of a profile."""

    seconds: float
    of_user: int
    of_profile: int


@dataclass(frozen=True)
class Wish:
    """What is asked."""

    kind: str
    query: str
    parameters: Mapping[str, Any]
    priority: int | None = None

    @property
    def digest(self) -> str:
        """Tell it from another one, however it was spelt."""
        said = (self.kind, self.query, dict(self.parameters), self.priority)
        return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


class OverLimit(Exception):  # noqa: N818 - an answer to whoever asks
    """Too much was asked within the window: the next one is taken after ``seconds``."""

    def __init__(self, whose: str, most: int, window: float, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(
            f"{whose}: {most} requests within {window:g} seconds are all that is taken; ask again in {seconds} seconds"
        )


class KeyTaken(Exception):  # noqa: N818 - an answer to whoever asks
    """The Idempotency-Key stands for another request of this user."""


def check_key(key: str) -> str:
    """See that an Idempotency-Key is one. Raises ValueError."""
    if not _KEY.fullmatch(key):
        shown = printable(repr(key), 80)
        raise ValueError(f"Idempotency-Key: expected 1 to {LONGEST_KEY} printable ASCII characters, found {shown}")
    return key


def ask(
    engine: Engine, checker: Checker, limits: Limits, user: DirectoryUser, wish: Wish, key: str | None
) -> tuple[dict[str, Any], bool]:
    """Make a request and give what its user is told, or was told before under this key; and whether it is new.

    It is committed when this returns. Raises SubmitRefused (DayIsFull), OverLimit, KeyTaken, RecordError for what the
    schema refuses, Busy, TransientError.
    """
    check_request(wish.kind, wish.query, dict(wish.parameters))
    profile = user.profile_type_id
    for _ in range(_MOVES):
        with transient_errors(), writing(engine) as connection:
            wait_for(connection, requests_lock(profile))
            with Session(connection) as session:
                asker = session.get(User, user.id, options=[_WITH_PROFILE], with_for_update=_HELD)
                if asker is None:
                    raise SubmitRefused("the user is in the directory no more")
                if asker.profile_type_id != profile:
                    profile = asker.profile_type_id
                    continue
                known = _known(connection, user.id, wish, key)
                if known is not None:
                    return known, False
                return _made(connection, session, checker, limits, asker, wish, key), True
    raise TransientError("the user's profile changes again and again; ask again in a moment")


def _made(
    connection: Connection,
    session: Session,
    checker: Checker,
    limits: Limits,
    asker: User,
    wish: Wish,
    key: str | None,
) -> dict[str, Any]:
    _refuse_many(connection, limits, asker)
    made = submit_as(session, asker, wish.kind, wish.query, dict(wish.parameters), priority=wish.priority)
    checker.check_data(_as_record(made))
    row = {"user_id": asker.id, "profile_type_id": asker.profile_type_id, "at": made.created_at}
    connection.execute(sa.insert(asked), row)
    answer = _told(made)
    if key is not None:
        values = {"user_id": asker.id, "key": key, "body": wish.digest, "answer": json.dumps(answer)}
        connection.execute(sa.insert(idempotency).values(**values, at=made.created_at))
    return answer


def _refuse_many(connection: Connection, limits: Limits, asker: User) -> None:
    """Raise OverLimit if so many are within the window already: the oldest of them has to leave it first."""
    moment, profile = now(), asker.profile_type_id
    since, ahead = moment - timedelta(seconds=limits.seconds), moment + clock.SKEW
    bounds = {"since": since, "ahead": ahead, "old": since - timedelta(seconds=limits.seconds)}
    places = {"user_place": max(limits.of_user - 1, 0), "profile_place": max(limits.of_profile - 1, 0)}
    row = connection.execute(_WINDOWS, {**bounds, **places, "user": asker.id, "profile": profile}).one()
    if row.old is not None:  # now and then, for all that left the window since
        connection.execute(
            sa.delete(asked).where(asked.c.profile_type_id == profile, sa.or_(asked.c.at <= since, asked.c.at > ahead))
        )
    named = f"the profile {printable(asker.profile_type.name, 80)}"
    for who, most, oldest in (("you", limits.of_user, row.user), (named, limits.of_profile, row.profile)):
        if most == 0 or oldest is not None:
            wait = limits.seconds if oldest is None else (oldest - since).total_seconds()
            raise OverLimit(who, most, limits.seconds, min(max(math.ceil(wait), 1), math.ceil(limits.seconds)))


def _oldest(column: sa.Column[Any], what: str) -> sa.ScalarSelect[Any]:
    """Read when the oldest of so many newest within the window was asked; what a clock that was ahead wrote is none."""
    within = asked.c.at > sa.bindparam("since", type_=asked.c.at.type), asked.c.at <= sa.bindparam("ahead")
    newest = sa.select(asked.c.at).where(column == sa.bindparam(what), *within).order_by(asked.c.at.desc())
    return newest.offset(sa.bindparam(f"{what}_place")).limit(1).scalar_subquery()


_OLD = asked.c.at <= sa.bindparam("old", type_=asked.c.at.type)
_WINDOWS = sa.select(
    _oldest(asked.c.user_id, "user").label("user"),
    _oldest(asked.c.profile_type_id, "profile").label("profile"),
    sa.select(asked.c.id)
    .where(asked.c.profile_type_id == sa.bindparam("profile"), _OLD)
    .limit(1)
    .scalar_subquery()
    .label("old"),
)
_WITH_PROFILE = joinedload(User.profile_type, innerjoin=True)
_HELD = {"key_share": True, "of": User}


def _known(connection: Connection, user_id: int, wish: Wish, key: str | None) -> dict[str, Any] | None:
    """Give what was answered under a key. Raises KeyTaken."""
    if key is None:
        return None
    mine = (idempotency.c.user_id == user_id, idempotency.c.key == key)
    row = connection.execute(sa.select(idempotency).where(*mine)).one_or_none()
    if row is None:
        return None
    if clock.since(row.at) >= KEY_KEPT:
        connection.execute(sa.delete(idempotency).where(*mine))
        return None
    if row.body != wish.digest:
        raise KeyTaken("the Idempotency-Key stands for another request of yours; nothing was submitted")
    answer: dict[str, Any] = json.loads(row.answer)
    return answer


def _as_record(made: Request) -> dict[str, Any]:
    """Give the row as a batch has it."""
    return {
        "id": str(made.id),
        "user_id": made.user_id,
        "kind": made.kind,
        "query": made.query,
        "parameters": made.parameters,
        "priority": made.priority,
        "status": made.status.value,
        "created_at": to_rfc3339(made.created_at),
        "updated_at": to_rfc3339(made.updated_at),
    }


def _told(made: Request) -> dict[str, Any]:
    return {
        "id": str(made.id),
        "kind": made.kind,
        "priority": made.priority,
        "status": made.status.value,
        "created_at": to_rfc3339(made.created_at),
    }


def sweep_asked(connection: Connection, longest_seconds: float) -> int:
    """Remove what counts in no window any more, and answers whose keys are forgotten; give how many rows went.

    Writes in the caller's transaction.
    """
    since = now() - timedelta(seconds=longest_seconds)
    over = sa.or_(asked.c.at <= since, asked.c.at > now() + clock.SKEW)
    gone = connection.execute(sa.delete(asked).where(over).returning(asked.c.id)).all()
    old = sa.or_(idempotency.c.at < now() - KEY_KEPT, idempotency.c.at > now() + clock.SKEW)
    return len(gone) + len(connection.execute(sa.delete(idempotency).where(old).returning(idempotency.c.key)).all())


def id_of(text: str) -> uuid.UUID | None:
    """Read a request's id as it is shown; None for anything else."""
    try:
        found = uuid.UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None
