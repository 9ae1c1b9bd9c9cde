"""A database with the core's and the reference application's tables, on each kind in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.database import make_engine, tables
from exchange.reference.models import Base, ProfileType, User
from tests.databases import Databases


def _prepare(url: str) -> None:
    engine = make_engine(url)
    tables.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """Give the URL of a database with all tables and no rows, of each kind in turn."""
    return databases.fresh(request.param, "reference", _prepare)


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def ada(database: Engine) -> str:
    """Make a user with three requests a day, of priority 5."""
    with Session(database) as session, session.begin():
        profile = ProfileType(name="three", daily_limit=3, priority=5)
        session.add(User(name="ada", email="ada@example.org", profile_type=profile))
    return "ada"


@pytest.fixture
def count(database: Engine) -> Callable[[type[Base]], int]:
    """Give a function that counts a table's rows."""

    def counted(table: type[Base]) -> int:
        with database.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

    return counted
