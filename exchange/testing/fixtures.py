"""Fixtures for an application's pytest: ``pytest_plugins = ["exchange.testing.fixtures"]`` in its ``conftest.py``.

``exchange_channels`` is the application's to give; the others may be overridden as any fixture. pytest comes with the
application.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from exchange.channels.channel import Channel
from exchange.testing.sides import MakeTables, Sides, create_tables, two_sides


@pytest.fixture(scope="session")
def exchange_channels() -> Sequence[Channel]:
    """Give the application's channels: override it."""
    raise pytest.UsageError("exchange_channels: define this fixture in conftest.py, and return your channels from it")


@pytest.fixture
def exchange_database_urls() -> dict[str, str]:
    """Give each network's empty database by its name; SQLite files for those that are left out."""
    return {}


@pytest.fixture(scope="session")
def exchange_make_tables(exchange_channels: Sequence[Channel]) -> MakeTables:
    """Give what makes the application's tables; override it to run its migrations."""
    return create_tables(exchange_channels)


@pytest.fixture(scope="session")
def exchange_templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for SQLite files that are made once for all tests of a session."""
    return tmp_path_factory.mktemp("exchange-templates")


@pytest.fixture
def exchange_sides(
    tmp_path: Path,
    exchange_channels: Sequence[Channel],
    exchange_database_urls: dict[str, str],
    exchange_make_tables: MakeTables,
    exchange_templates: Path,
) -> Iterator[Sides]:
    """Give both sides, with empty tables, and a carrier between them."""
    folder = tmp_path / "exchange"
    folder.mkdir()
    with two_sides(
        folder, exchange_channels, exchange_database_urls, exchange_make_tables, exchange_templates
    ) as sides:
        yield sides
