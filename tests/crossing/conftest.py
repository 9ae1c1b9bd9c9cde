"""Two networks: on databases of both kinds where a database has a say, on SQLite where none has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exchange.format.signing import SigningKey, TrustedKeys
from tests.crossing import shop
from tests.crossing.forging import Forger
from tests.crossing.sides import Link, Side
from tests.databases import Databases

needs_postgres = pytest.mark.postgres


def shop_link(tmp_path: Path, databases: Databases, one: str, other: str) -> Iterator[Link]:
    """Make both sides of the shop, on a kind of database each."""
    first = Side("one", "two", databases, one, tmp_path / "one", shop.channels, metadata=shop.metadata)
    second = Side("two", "one", databases, other, tmp_path / "two", shop.channels, metadata=shop.metadata)
    yield Link(first, second)
    first.engine.dispose()
    second.engine.dispose()


_EACH_TO_THE_OTHER = ("sqlite-postgresql", "postgresql-sqlite")

every_pair = pytest.mark.parametrize(
    "link",
    [
        "sqlite-sqlite",
        *(pytest.param(kinds, marks=needs_postgres) for kinds in ("postgresql-postgresql", *_EACH_TO_THE_OTHER)),
    ],
    indirect=True,
)
"""Two of a kind as well, which ``link`` leaves out."""


@pytest.fixture(params=[pytest.param(kinds, marks=needs_postgres) for kinds in _EACH_TO_THE_OTHER])
def link(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give two networks, so that each kind of database sends to the other: there are but files between them."""
    yield from shop_link(tmp_path, databases, *request.param.split("-"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def alike(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give two networks on one kind of database, each kind in turn."""
    yield from shop_link(tmp_path, databases, request.param, request.param)


@pytest.fixture
def postgresql_link(tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give two networks on PostgreSQL."""
    yield from shop_link(tmp_path, databases, "postgresql", "postgresql")


@pytest.fixture
def small(tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give two networks on SQLite, for what no database has a say in."""
    yield from shop_link(tmp_path, databases, "sqlite", "sqlite")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def receiver(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Side]:
    """Give the receiving side alone, on each kind of database."""
    side = Side("two", "one", databases, request.param, tmp_path / "two", shop.channels, metadata=shop.metadata)
    yield side
    side.engine.dispose()


@pytest.fixture
def forger(receiver: Side) -> Forger:
    """Give somebody whom the receiver trusts and who writes batches by hand."""
    return trusted_forger(receiver)


@pytest.fixture
def quick_receiver(tmp_path: Path, databases: Databases) -> Iterator[Side]:
    """Give the receiving side alone, on SQLite."""
    side = Side("two", "one", databases, "sqlite", tmp_path / "two", shop.channels, metadata=shop.metadata)
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
