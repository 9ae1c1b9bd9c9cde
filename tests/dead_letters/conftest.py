"""Databases with many dead letters, of every kind that a filter tells apart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database import make_engine
from exchange.database.tables import DeadLetterState, dead_letter
from exchange.operating import migrate
from tests.crossing.conftest import alike, forger, quick_forger, quick_receiver, receiver, small
from tests.databases import Databases, Templates

__all__ = ["alike", "forger", "quick_forger", "quick_receiver", "receiver", "small"]

NOW = datetime(2026, 11, 22, 6, 15, tzinfo=UTC)
STATES = tuple(DeadLetterState)
ERRORS = ("schema", "foreign_key", "unique")
MANY = 220
KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


def letter(number: int, **values: Any) -> dict[str, Any]:
    """Make a row, one of twelve fingerprints; the times of several letters are equal, as those of one batch are."""
    return {
        "direction": "out" if number % 12 < 6 else "in",
        "channel": f"channel_{number % 3}",
        "batch": f"channel_{number % 3}-0123456789ab-{number // 10:010}",
        "line": number,
        "stream": f"stream_{number % 2}",
        "op": "upsert",
        "key": f'{{"id":{number // 4}}}',
        "version": number,
        "record": b"{}",
        "record_bytes": 2,
        "pointer": "",
        "error": ERRORS[number % 3],
        "message": f"number {number} is Bad" if number % 11 else f"100% of_{number} is worse",
        "fingerprint": f"{number % 12:016x}",
        "state": STATES[number % 7 % 4],
        "created_at": NOW - timedelta(minutes=(number * 7919 % MANY) // 3),
        "updated_at": NOW,
        **values,
    }


def _migrate(url: str) -> None:
    engine = make_engine(url)
    migrate.upgrade(engine, network="two")
    engine.dispose()


def _fill(url: str) -> None:
    _migrate(url)
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.insert(dead_letter), [letter(number) for number in range(MANY)])
    engine.dispose()


@pytest.fixture(params=KINDS)
def migrated(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Engine]:
    """Give an engine on a database with the exchange's tables, of each kind in turn."""
    engine = make_engine(databases.fresh(request.param, "letters", _migrate))
    yield engine
    engine.dispose()


@pytest.fixture
def connection(migrated: Engine) -> Iterator[Connection]:
    """Give a transaction on a database without letters."""
    with migrated.begin() as connection:
        yield connection


@pytest.fixture(scope="module", params=KINDS)
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, templates: Templates
) -> Iterator[Engine]:
    """Give an engine on a database with many letters, which no test changes, of each kind in turn."""
    databases = Databases(
        tmp_path_factory.mktemp("many"), templates, lambda: request.getfixturevalue("postgres_cluster")
    )
    engine = make_engine(databases.fresh(request.param, "many letters", _fill))
    yield engine
    engine.dispose()
    databases.give_back()


@pytest.fixture
def many(filled: Engine) -> Iterator[Connection]:
    """Give a transaction there, which is undone after the test."""
    with filled.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()
