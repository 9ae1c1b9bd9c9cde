from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from exchange.database.engine import now
from exchange.reference.models import ProfileType, Request, RequestStatus, Response, ResponseStatus, User


def _request(database: Engine, user: str) -> uuid.UUID:
    with Session(database) as session, session.begin():
        asker = session.scalars(sa.select(User).where(User.name == user)).one()
        request = Request(user_id=asker.id, kind="k", query="q")
        session.add(request)
        session.flush()
        return request.id


def test_a_row_written_by_hand_gets_the_defaults(database: Engine, ada: str) -> None:
    key = uuid.uuid4()
    with database.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO request (id, user_id, kind, query) VALUES (:id, 1, 'k', 'q')"),
            {"id": key if database.dialect.name == "postgresql" else key.hex},
        )
    with Session(database) as session:
        request = session.get_one(Request, key)
        assert (request.status, request.priority, request.parameters) == (RequestStatus.PENDING, 5, {})
        assert abs((now() - request.created_at).total_seconds()) < 60


def test_a_request_has_one_response(database: Engine, ada: str) -> None:
    request_id = _request(database, ada)

    def response() -> Response:
        return Response(
            request_id=request_id,
            status=ResponseStatus.ANSWERED,
            result=1,
            processed_by="test",
            started_at=now(),
            finished_at=now(),
        )

    with Session(database) as session, session.begin():
        session.add(response())
    with pytest.raises(IntegrityError), Session(database) as session, session.begin():
        session.add(response())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE profile_type SET daily_limit = -1",
        "UPDATE profile_type SET priority = 10",
        "UPDATE profile_type SET name = ''",
        "UPDATE \"user\" SET email = ''",
        'UPDATE "user" SET profile_type_id = 99',
        "UPDATE request SET status = 'answered'",
        "UPDATE request SET priority = -1",
        "UPDATE request SET kind = ''",
        "UPDATE request SET user_id = 99",
        'DELETE FROM "user"',
        "DELETE FROM profile_type",
    ],
)
def test_the_database_itself_refuses(database: Engine, ada: str, statement: str) -> None:
    _request(database, ada)
    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(sa.text(statement))


def test_a_failed_response_has_an_error_and_an_answer_has_none(database: Engine, ada: str) -> None:
    request_id = _request(database, ada)
    for status, error in ((ResponseStatus.FAILED, None), (ResponseStatus.ANSWERED, "no")):
        with pytest.raises(IntegrityError), Session(database) as session, session.begin():
            session.add(
                Response(
                    request_id=request_id,
                    status=status,
                    error=error,
                    processed_by="test",
                    started_at=now(),
                    finished_at=now(),
                )
            )


@pytest.mark.parametrize("column", ["name", "email"])
def test_names_and_addresses_are_unique(database: Engine, ada: str, column: str) -> None:
    other = {"name": "grace", "email": "grace@example.org", "profile_type_id": 1}
    other[column] = {"name": "ada", "email": "ada@example.org"}[column]
    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(sa.insert(User).values(**other))


def test_a_deleted_users_id_is_never_given_again(database: Engine, ada: str) -> None:
    with Session(database) as session:
        with session.begin():
            session.execute(sa.delete(User))
        with session.begin():
            profile = session.scalars(sa.select(ProfileType)).one()
            grace = User(name="grace", email="grace@example.org", profile_type=profile)
            session.add(grace)
            session.flush()
            assert grace.id == 2
