"""A request comes into being: checked against its user and the day's limit, in the caller's transaction."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from exchange.database.engine import now
from exchange.format.errors import printable
from exchange.reference.models import HIGHEST_PRIORITY, LOWEST_PRIORITY, Request, RequestStatus, User
from exchange.reference.plain import check_plain

LONGEST_KIND = 64


class SubmitRefused(Exception):  # noqa: N818 - an answer to the user
    """The request was not taken; the text says why and what to do."""


class DayIsFull(SubmitRefused):
    """The user has had today's requests: the next one is taken after ``seconds``."""

    def __init__(self, sentence: str, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(sentence)


def submit(
    session: Session,
    user: str,
    kind: str,
    query: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    priority: int | None = None,
) -> uuid.UUID:
    """Add a request for the user with this name or e-mail and give its id; the caller commits.

    Without a priority it gets that of the user's profile. Raises SubmitRefused when the user is unknown,
    inactive or has had today's requests (days are UTC), or when the request itself could not cross.
    """
    asked = {} if parameters is None else dict(parameters)
    check_request(kind, query, asked)
    return submit_as(session, _find_user(session, user), kind, query, asked, priority=priority).id


def submit_as(
    session: Session, asker: User, kind: str, query: str, parameters: dict[str, Any], *, priority: int | None = None
) -> Request:
    """Add a request that was checked for a user whose row this transaction holds; the caller commits.

    Raises SubmitRefused as ``submit`` does.
    """
    moment, profile = now(), asker.profile_type
    refuse_inactive(asker.name, active=asker.active)
    chosen = choose_priority(profile.name, profile.priority, priority)
    today = start_of_day(moment)
    made = session.scalar(
        sa.select(sa.func.count())
        .select_from(Request)
        .where(Request.user_id == asker.id, Request.created_at.between(today, today + timedelta(days=1)))
    )
    refuse_full_day(asker.name, made or 0, profile.daily_limit, moment)
    request = Request(**new_request(asker.id, kind, query, parameters, chosen))
    session.add(request)
    session.flush()
    return request


def new_request(user_id: int, kind: str, query: str, parameters: dict[str, Any], priority: int) -> dict[str, Any]:
    """Give the values of a request's row that is made now."""
    made = now()
    return {
        "id": uuid.uuid4(),
        "user_id": user_id,
        "kind": kind,
        "query": query,
        "parameters": parameters,
        "priority": priority,
        "status": RequestStatus.PENDING,
        "created_at": made,
        "updated_at": made,
    }


def check_request(kind: str, query: str, parameters: dict[str, Any]) -> None:
    """See that a request could cross. Raises SubmitRefused."""
    if not 1 <= len(kind) <= LONGEST_KIND:
        raise SubmitRefused(f"the kind has {len(kind)} characters, 1 to {LONGEST_KIND} are expected")
    for name, value in (("kind", kind), ("query", query), ("parameters", parameters)):
        try:
            check_plain(value)
        except ValueError as error:
            raise SubmitRefused(f"the request's {name} {error}; nothing was submitted") from error
    try:
        check_plain([kind, query, parameters])
    except ValueError as error:
        raise SubmitRefused(f"the request as a whole {error}; nothing was submitted") from error


def _find_user(session: Session, name_or_email: str) -> User:
    """Find the user and hold the row: two requests of one user are counted one after the other."""
    if "\0" in name_or_email:
        raise SubmitRefused("a user's name or e-mail holds no U+0000")
    found = session.scalars(
        sa.select(User)
        .where(sa.or_(User.name == name_or_email, User.email == name_or_email))
        .order_by(User.id)
        .with_for_update(key_share=True)
    ).all()
    shown = printable(name_or_email)
    if not found:
        raise SubmitRefused(
            f"no user has the name or e-mail {shown!r}; new users arrive with the directory channel's next batch"
        )
    if len(found) > 1:
        raise SubmitRefused(f"{shown!r} is one user's name and another's e-mail; give the other of the two")
    return found[0]


def refuse_inactive(name: str, *, active: bool) -> None:
    """See that a user is active. Raises SubmitRefused."""
    if not active:
        raise SubmitRefused(
            f"the user {printable(name)!r} is inactive; an administrator of the response network can change that"
        )


def choose_priority(profile: str, most: int, priority: int | None) -> int:
    """Give the priority of a request: ``most`` is that of the profile with this name. Raises SubmitRefused."""
    if priority is None:
        return most
    if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise SubmitRefused(
            f"the priority is {priority}, {LOWEST_PRIORITY} to {HIGHEST_PRIORITY} (most urgent) are expected"
        )
    if priority > most:
        raise SubmitRefused(f"the priority is {priority}, the profile {printable(profile)!r} allows at most {most}")
    return priority


def refuse_full_day(name: str, made: int, limit: int, moment: datetime) -> None:
    """See that a user who made so many today, cancelled ones included, may make one more. Raises DayIsFull."""
    if made >= limit:
        raise DayIsFull(
            f"the user {printable(name)!r} has made {made} of {limit} requests today; the day begins anew at 00:00 UTC",
            math.ceil((start_of_day(moment) + timedelta(days=1) - moment).total_seconds()),
        )


def start_of_day(moment: datetime) -> datetime:
    """Give the midnight UTC before a moment."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
