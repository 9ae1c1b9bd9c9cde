"""Databases with many dead letters, of every kind that a filter tells apart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange import migrate
from exchange.models import DeadLetterState, dead_letter

NOW = datetime(2026, 11, 22, 6, 15, tzinfo=UTC)
STATES = tuple(DeadLetterState)
ERRORS = ("schema", "foreign_key", "unique")
MANY = 700


def letter(number: int, **values: Any) -> dict[str, Any]:
    """Make a row; the times of several letters are equal, as those of one batch are."""
    return {
        "direction": "out" if number % 5 == 0 else "in",
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
        "fingerprint": f"{number % 30:016x}",
        "state": STATES[number % 7 % 4],
        "created_at": NOW - timedelta(minutes=(number * 7919 % MANY) // 3),
        "updated_at": NOW,
        **values,
    }


@pytest.fixture
def migrated(engine: Engine) -> Engine:
    """Give an engine on a database with the exchange's tables, of each kind in turn."""
    migrate.upgrade(engine, network="two")
    return engine


@pytest.fixture
def connection(migrated: Engine) -> Iterator[Connection]:
    """Give a transaction on a database without letters."""
    with migrated.begin() as connection:
        yield connection


@pytest.fixture
def many(connection: Connection) -> Connection:
    """Give one with many letters."""
    connection.execute(sa.insert(dead_letter), [letter(number) for number in range(MANY)])
    return connection
