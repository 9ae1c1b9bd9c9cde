"""Databases with the exchange's tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exchange.database import make_engine, tables
from tests.databases import Databases
from tests.tables.lab import Lab


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def lab(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Lab]:
    """Give such a database, of each kind in turn."""
    yield from _lab(databases, request.param)


@pytest.fixture
def postgres_lab(databases: Databases) -> Iterator[Lab]:
    """Give such a PostgreSQL database."""
    yield from _lab(databases, "postgresql")


@pytest.fixture
def sqlite_lab(databases: Databases) -> Iterator[Lab]:
    """Give such a SQLite database."""
    yield from _lab(databases, "sqlite")


def _lab(databases: Databases, kind: str) -> Iterator[Lab]:
    engine = make_engine(databases.fresh(kind, "the exchange's tables", _create_tables))
    yield Lab(engine)
    engine.dispose()


def _create_tables(url: str) -> None:
    engine = make_engine(url)
    tables.metadata.create_all(engine)
    engine.dispose()
