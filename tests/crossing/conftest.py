"""Two networks, on each pair of databases or on two of a kind."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exchange.format.signing import SigningKey, TrustedKeys
from tests.conftest import Cluster
from tests.crossing import shop
from tests.crossing.forging import Forger
from tests.crossing.sides import Link, Side

NewUrl = Callable[[str], str]
needs_postgres = pytest.mark.postgres


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewUrl]:
    """Give a function that makes a fresh database of a kind and gives its URL."""
    numbers = itertools.count(1)
    made: list[tuple[Cluster, str]] = []

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/side-{next(numbers)}.db"
        cluster: Cluster = request.getfixturevalue("postgres_cluster")
        url = cluster.create()
        made.append((cluster, url))
        return url

    yield make
    for cluster, url in made:
        cluster.drop(url)


def shop_link(tmp_path: Path, new_url: NewUrl, one: str, other: str) -> Iterator[Link]:
    """Make both sides of the shop, on a kind of database each."""
    first = Side("one", "two", new_url(one), tmp_path / "one", shop.channels, metadata=shop.metadata)
    second = Side("two", "one", new_url(other), tmp_path / "two", shop.channels, metadata=shop.metadata)
    yield Link(first, second)
    first.engine.dispose()
    second.engine.dispose()


@pytest.fixture(
    params=[
        "sqlite-sqlite",
        pytest.param("postgresql-postgresql", marks=needs_postgres),
        pytest.param("sqlite-postgresql", marks=needs_postgres),
        pytest.param("postgresql-sqlite", marks=needs_postgres),
    ]
)
def link(request: pytest.FixtureRequest, tmp_path: Path, new_url: NewUrl) -> Iterator[Link]:
    """Give two networks on every pair of databases."""
    yield from shop_link(tmp_path, new_url, *request.param.split("-"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def alike(request: pytest.FixtureRequest, tmp_path: Path, new_url: NewUrl) -> Iterator[Link]:
    """Give two networks on one kind of database, each kind in turn."""
    yield from shop_link(tmp_path, new_url, request.param, request.param)


@pytest.fixture
def postgresql_link(tmp_path: Path, new_url: NewUrl) -> Iterator[Link]:
    """Give two networks on PostgreSQL."""
    yield from shop_link(tmp_path, new_url, "postgresql", "postgresql")


@pytest.fixture
def small(tmp_path: Path, new_url: NewUrl) -> Iterator[Link]:
    """Give two networks on SQLite, for what no database has a say in."""
    yield from shop_link(tmp_path, new_url, "sqlite", "sqlite")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def receiver(request: pytest.FixtureRequest, tmp_path: Path, new_url: NewUrl) -> Iterator[Side]:
    """Give the receiving side alone, on each kind of database."""
    side = Side("two", "one", new_url(request.param), tmp_path / "two", shop.channels, metadata=shop.metadata)
    yield side
    side.engine.dispose()


@pytest.fixture
def forger(receiver: Side) -> Forger:
    """Give somebody whom the receiver trusts and who writes batches by hand."""
    return trusted_forger(receiver)


@pytest.fixture
def quick_receiver(tmp_path: Path, new_url: NewUrl) -> Iterator[Side]:
    """Give the receiving side alone, on SQLite."""
    side = Side("two", "one", new_url("sqlite"), tmp_path / "two", shop.channels, metadata=shop.metadata)
    yield side
    side.engine.dispose()


@pytest.fixture
def quick_forger(quick_receiver: Side) -> Forger:
    """Give somebody whom the SQLite receiver trusts."""
    return trusted_forger(quick_receiver)


def trusted_forger(receiver: Side) -> Forger:
    """Make a sender by hand and let the receiver trust it."""
    key = SigningKey.generate("by-hand")
    receiver.site = replace(receiver.site, trusted=TrustedKeys.from_pems({key.name: key.public_pem()}))
    return Forger(receiver, key)
