"""Real databases and a real broker for every test that asks for one.

One PostgreSQL cluster and one Valkey per test process, started when first wanted; a fresh database per test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import Engine

from exchange.database import make_engine
from exchange.testing import servers

_numbers = itertools.count(1)


class Cluster:
    """A PostgreSQL server on which databases are made and dropped."""

    def __init__(self, url: str) -> None:
        self._base = url.rpartition("/")[0]
        self._admin = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        self._templates: dict[str, str] = {}

    def create(self, template: str = "template0") -> str:
        """Make a database and give its URL."""
        name = f"test_{next(_numbers)}"
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
        return f"{self._base}/{name}"

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected."""
        self._admin.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def template(self, name: str, prepare: Callable[[str], None]) -> str:
        """Prepare a database once per process, to make others from; ``prepare`` gets its URL."""
        if name not in self._templates:
            url = self.create()
            prepare(url)
            self._templates[name] = url.rpartition("/")[2]
        return self._templates[name]

    def close(self) -> None:
        """Let go of the server."""
        self._admin.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start processes: they mostly wait, and the others fill the time."""
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """Give this test process's PostgreSQL. What it knows of its tables is what a test lets it know."""
    with servers.postgres(shared_buffers="64MB", max_wal_size="4GB", autovacuum="off") as url:
        cluster = Cluster(url)
        yield cluster
        cluster.close()


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """Give the URL of a fresh, empty PostgreSQL database."""
    url = postgres_cluster.create()
    yield url
    postgres_cluster.drop(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Give the URL of a SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path}/fresh-{next(_numbers)}.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Give the URL of a fresh, empty database, of each kind in turn."""
    url: str = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param])
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Give an engine on a fresh, empty database, of each kind in turn."""
    made = make_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture(scope="session")
def _valkey() -> Iterator[str]:
    with servers.valkey() as url:
        yield url


@pytest.fixture
def valkey_url(_valkey: str) -> str:
    """Give the URL of an empty Valkey."""
    with redis.Redis.from_url(_valkey) as client:
        client.flushall()
    return _valkey
