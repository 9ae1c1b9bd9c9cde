"""A request is made over HTTP: checked as its stream's schema has it, once a key, and within limits over all processes.

All of it is one transaction, under a lock of the user's profile: what was counted is what is there. It is begun and
takes its locks by one message to the server, reads by a second one all that decides, and writes by a third.
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
from functools import cache
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from exchange.channels.schemas import Checker
from exchange.database import clock
from exchange.database.dialects import insert_together
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import lock_statement, requests_lock, writing_at_once
from exchange.database.tables import asked, idempotency
from exchange.format.errors import TransientError, printable
from exchange.format.moments import to_rfc3339
from exchange.people.roles import Forbidden
from exchange.reference.models import ProfileType, Request
from exchange.reference.submit import (
    DayIsFull,
    SubmitRefused,
    check_request,
    choose_priority,
    new_request,
    refuse_full_day,
    refuse_inactive,
    start_of_day,
)
from exchange.requesters.callers import Asker, Caller, caller_of
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
    engine: Engine,
    checker: Checker,
    limits: Limits,
    asker: Asker,
    seen: DirectoryUser | None,
    wish: Wish,
    key: str | None,
    scope: str,
) -> tuple[Caller, dict[str, Any], bool]:
    """Make a request; give who asks, what they are told or were told before under this key, and whether it is new.

    It is committed when this returns. ``seen`` is whose it was when it was looked last: it says which locks to take
    before anything is read, and who is somebody else by now is asked for again. Raises Unknown, Forbidden without the
    scope, SubmitRefused (DayIsFull), OverLimit, KeyTaken, RecordError for what the schema refuses, Busy,
    TransientError.
    """
    check_request(wish.kind, wish.query, dict(wish.parameters))
    for _ in range(_MOVES):
        if seen is None:
            caller = caller_of(engine, asker)
            caller.refuse(scope)
            seen = caller.user
            if seen is None:
                raise Forbidden(f"{caller.name} is no user's of the directory; nothing was done")
        held = lock_statement(requests_lock(seen.profile_type_id)), _HOLD_USER.format(seen.id)
        with transient_errors(), writing_at_once(engine, *held) as connection:
            facts = _facts(connection, limits, asker, key)
            caller = asker.caller(facts)
            caller.refuse(scope)
            if (caller.user and (caller.user.id, caller.user.profile_type_id)) == (seen.id, seen.profile_type_id):
                assert facts is not None
                known = _known(connection, facts, wish, key)
                if known is not None:
                    return caller, known, False
                return caller, _made(connection, checker, limits, facts, wish, key), True
        seen = caller.user
    raise TransientError("the user's profile changes again and again; ask again in a moment")


_HOLD_USER = 'SELECT 1 FROM "user" WHERE id = {:d} FOR NO KEY UPDATE'
"""Who writes requests in another way holds the user's row: two of one user are counted one after the other."""


def _facts(connection: Connection, limits: Limits, asker: Asker, key: str | None) -> Row[Any] | None:
    """Read all that decides about a request, by one statement; None if whoever asks is nobody."""
    places = {"user_place": max(limits.of_user - 1, 0), "profile_place": max(limits.of_profile - 1, 0), "key": key}
    return connection.execute(
        _deciding(asker.who()), {**_moments(limits.seconds), **places, **asker.binds()}
    ).one_or_none()


def _moments(window: float) -> dict[str, Any]:
    moment = now()
    since, midnight = moment - timedelta(seconds=window), start_of_day(moment)
    return {
        "asked_moment": moment,
        "asked_since": since,
        "asked_ahead": moment + clock.SKEW,
        "asked_old": since - timedelta(seconds=window),
        "today": midnight,
        "tomorrow": midnight + timedelta(days=1),
    }


@cache
def _deciding(who: sa.Select[Any]) -> sa.Select[Any]:
    """Put the query together once for each way of asking."""
    asker = who.cte("who")
    mine = sa.and_(
        idempotency.c.user_id == asker.c.who_user, idempotency.c.key == sa.bindparam("key", type_=sa.String())
    )
    old = sa.select(asked.c.id).where(
        asked.c.profile_type_id == asker.c.who_profile, asked.c.at <= _moment("asked_old")
    )
    today = sa.select(sa.func.count()).select_from(Request)
    today = today.where(
        Request.user_id == asker.c.who_user, Request.created_at.between(_moment("today"), _moment("tomorrow"))
    )
    return (
        sa.select(
            *asker.c,
            _moment("asked_moment").label("moment"),
            ProfileType.name.label("profile"),
            ProfileType.daily_limit,
            ProfileType.priority.label("most_urgent"),
            _oldest(asked.c.user_id, asker.c.who_user, "user").label("oldest_of_user"),
            _oldest(asked.c.profile_type_id, asker.c.who_profile, "profile").label("oldest_of_profile"),
            old.limit(1).scalar_subquery().label("old"),
            today.scalar_subquery().label("made_today"),
            *(idempotency.c.body, idempotency.c.answer, idempotency.c.at.label("answered_at")),
        )
        .select_from(asker)
        .outerjoin(ProfileType, ProfileType.id == asker.c.who_profile)
        .outerjoin(idempotency, mine)
    )


def _moment(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=asked.c.at.type)


def _oldest(column: sa.Column[Any], whose: sa.ColumnElement[Any], place: str) -> sa.ScalarSelect[Any]:
    """Read when the oldest of so many newest within the window was asked; what a clock that was ahead wrote is none."""
    within = asked.c.at > _moment("asked_since"), asked.c.at <= _moment("asked_ahead")
    newest = sa.select(asked.c.at).where(column == whose, *within).order_by(asked.c.at.desc())
    return newest.offset(sa.bindparam(f"{place}_place")).limit(1).scalar_subquery()


def _made(
    connection: Connection, checker: Checker, limits: Limits, facts: Row[Any], wish: Wish, key: str | None
) -> dict[str, Any]:
    _refuse_many(limits, facts)
    refuse_inactive(facts.who_name, active=facts.who_active)
    priority = choose_priority(facts.profile, facts.most_urgent, wish.priority)
    refuse_full_day(facts.who_name, facts.made_today, facts.daily_limit, facts.moment)
    made = new_request(facts.who_user, wish.kind, wish.query, dict(wish.parameters), priority)
    checker.check_data(_as_record(made))
    answer = _told(made)
    rows = {f"made_{name}": value for name, value in made.items()} | {"made_profile_type_id": facts.who_profile}
    if key is not None:
        rows |= {"made_key": key, "made_body": wish.digest, "made_answer": json.dumps(answer)}
    if facts.old is not None:  # now and then, for all that left the window since
        left = facts.moment - timedelta(seconds=limits.seconds)
        over = sa.or_(asked.c.at <= left, asked.c.at > facts.moment + clock.SKEW)
        connection.execute(sa.delete(asked).where(asked.c.profile_type_id == facts.who_profile, over))
    insert_together(connection, _WITH_KEY if key is not None else _WITHOUT_KEY, rows)
    return answer


def _refuse_many(limits: Limits, facts: Row[Any]) -> None:
    """Raise OverLimit if so many are within the window already: the oldest of them has to leave it first."""
    since = facts.moment - timedelta(seconds=limits.seconds)
    named = f"the profile {printable(facts.profile, 80)}"
    each = (("you", limits.of_user, facts.oldest_of_user), (named, limits.of_profile, facts.oldest_of_profile))
    for who, most, oldest in each:
        if most == 0 or oldest is not None:
            wait = limits.seconds if oldest is None else (oldest - since).total_seconds()
            raise OverLimit(who, most, limits.seconds, min(max(math.ceil(wait), 1), math.ceil(limits.seconds)))


def _inserting(table: Any, *names: str, **other: str) -> sa.Insert:
    """Insert a row whose columns have the values of these names, or of ``other`` ones."""
    of = {name: name for name in names} | other
    return sa.insert(table).values({name: sa.bindparam(f"made_{bound}") for name, bound in of.items()})


_WITHOUT_KEY = (
    _inserting(Request, *Request.__table__.c.keys()),
    _inserting(asked, "user_id", "profile_type_id", at="created_at"),
)
_WITH_KEY = (*_WITHOUT_KEY, _inserting(idempotency, "user_id", "key", "body", "answer", at="created_at"))


def _known(connection: Connection, facts: Row[Any], wish: Wish, key: str | None) -> dict[str, Any] | None:
    """Give what was answered under a key. Raises KeyTaken."""
    if facts.answer is None:
        return None
    if clock.since(facts.answered_at) >= KEY_KEPT:
        mine = (idempotency.c.user_id == facts.who_user, idempotency.c.key == key)
        connection.execute(sa.delete(idempotency).where(*mine))
        return None
    if facts.body != wish.digest:
        raise KeyTaken("the Idempotency-Key stands for another request of yours; nothing was submitted")
    answer: dict[str, Any] = json.loads(facts.answer)
    return answer


def _as_record(made: Mapping[str, Any]) -> dict[str, Any]:
    """Give the row as a batch has it."""
    said = {"id": str(made["id"]), "status": made["status"].value}
    return {**made, **said, **{name: to_rfc3339(made[name]) for name in ("created_at", "updated_at")}}


def _told(made: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": str(made["id"]),
        "kind": made["kind"],
        "priority": made["priority"],
        "status": made["status"].value,
        "created_at": to_rfc3339(made["created_at"]),
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
