"""Databases with the exchange's tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from exchange import models
from exchange.database import make_engine
from tests.capture.lab import Lab


@pytest.fixture
def lab(engine: Engine) -> Lab:
    """Give such a database, of each kind in turn."""
    models.metadata.create_all(engine)
    return Lab(engine)


@pytest.fixture
def postgres_lab(postgres_url: str) -> Iterator[Lab]:
    """Give such a PostgreSQL database."""
    yield from _lab(postgres_url)


@pytest.fixture
def sqlite_lab(sqlite_url: str) -> Iterator[Lab]:
    """Give such a SQLite database."""
    yield from _lab(sqlite_url)


def _lab(url: str) -> Iterator[Lab]:
    engine = make_engine(url)
    models.metadata.create_all(engine)
    yield Lab(engine)
    engine.dispose()
