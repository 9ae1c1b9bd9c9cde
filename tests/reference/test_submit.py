from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.database.engine import now
from exchange.reference.models import Base, ProfileType, Request, RequestStatus, User
from exchange.reference.submit import SubmitRefused, submit


def _submit(database: Engine, user: str = "ada", **given: Any) -> uuid.UUID:
    with Session(database) as session, session.begin():
        return submit(session, user, **({"kind": "look", "query": "up"} | given))


@pytest.mark.parametrize("who", ["ada", "ada@example.org"])
def test_a_user_submits_by_name_or_address(database: Engine, ada: str, who: str) -> None:
    request_id = _submit(database, who, parameters={"deep": [1, None, "ü"]})
    with Session(database) as session:
        request = session.get_one(Request, request_id)
        assert (request.user.name, request.kind, request.query) == ("ada", "look", "up")
        assert request.parameters == {"deep": [1, None, "ü"]}
        assert (request.priority, request.status) == (5, RequestStatus.PENDING)


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"user": "nobody"}, "no user has the name or e-mail 'nobody'"),
        ({"user": "a\0b"}, "no U+0000"),
        ({"user": "\x1b[2Jada"}, "\\x1b[2Jada"),
        ({"kind": ""}, "the kind has 0 characters, 1 to 64 are expected"),
        ({"kind": "k" * 65}, "the kind has 65 characters"),
        ({"query": "a\0b"}, "the request's query can't cross"),
        ({"query": "\ud800"}, "the request's query is no plain JSON"),
        ({"query": "q" * 2_000_000}, "the request's query has 2000"),
        ({"parameters": {"x": math.nan}}, "the request's parameters is no plain JSON"),
        ({"parameters": {"x": now()}}, "the request's parameters is no plain JSON"),
        ({"parameters": {"x": 2**64}}, "the request's parameters is no plain JSON"),
        ({"parameters": {"x": 2**63}}, "the request's parameters can't cross"),
        ({"parameters": {1: "x"}}, "the request's parameters is no plain JSON"),
        ({"priority": 10}, "the priority is 10, 0 to 9"),
        ({"priority": -1}, "the priority is -1, 0 to 9"),
        ({"priority": 6}, "the priority is 6, the profile 'three' allows at most 5"),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(
    database: Engine, ada: str, count: Callable[[type[Base]], int], given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SubmitRefused) as refused:
        _submit(database, **given)
    assert sentence in str(refused.value)
    assert str(refused.value).isprintable()
    assert count(Request) == 0


def test_an_inactive_user_is_refused(database: Engine, ada: str) -> None:
    with database.begin() as connection:
        connection.execute(sa.update(User).values(active=False))
    with pytest.raises(SubmitRefused, match="inactive"):
        _submit(database)


def test_a_name_that_is_anothers_address_is_refused(database: Engine, ada: str) -> None:
    with database.begin() as connection:
        connection.execute(sa.insert(User).values(name="ada@example.org", email="x@y", profile_type_id=1))
    with pytest.raises(SubmitRefused, match="one user's name and another's e-mail"):
        _submit(database, "ada@example.org")


def test_the_daily_limit_counts_todays_requests_cancelled_ones_too(database: Engine, ada: str) -> None:
    for _ in range(3):
        _submit(database)
    with database.begin() as connection:
        connection.execute(sa.update(Request).values(status=RequestStatus.CANCELLED))
    with pytest.raises(SubmitRefused, match="has made 3 of 3 requests today"):
        _submit(database)


def test_yesterdays_requests_do_not_count(database: Engine, ada: str, count: Callable[[type[Base]], int]) -> None:
    for _ in range(3):
        _submit(database)
    midnight = now().replace(hour=0, minute=0, second=0, microsecond=0)
    with database.begin() as connection:
        connection.execute(sa.update(Request).values(created_at=midnight - timedelta(microseconds=1)))
    _submit(database)
    assert count(Request) == 4


def test_another_users_requests_do_not_count(database: Engine, ada: str, count: Callable[[type[Base]], int]) -> None:
    for _ in range(3):
        _submit(database)
    with Session(database) as session, session.begin():
        profile = session.scalars(sa.select(ProfileType)).one()
        session.add(User(name="grace", email="grace@example.org", profile_type=profile))
    _submit(database, "grace")
    assert count(Request) == 4


def test_two_at_once_never_pass_the_limit_together(
    database: Engine, ada: str, count: Callable[[type[Base]], int]
) -> None:
    together = threading.Barrier(6)

    def is_refused(_number: int) -> bool:
        together.wait()
        try:
            _submit(database)
        except SubmitRefused:
            return True
        return False

    with ThreadPoolExecutor(6) as threads:
        refused = sum(threads.map(is_refused, range(6)))
    assert (count(Request), refused) == (3, 3)
