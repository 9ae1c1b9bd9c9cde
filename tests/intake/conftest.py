"""A side that loads files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crossing import shop
from tests.crossing.sides import Side
from tests.databases import Databases
from tests.intake.lines import Loads


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def loads(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Loads]:
    """Give one on each kind of database."""
    yield from _loads(databases, request.param, tmp_path)


@pytest.fixture
def quick(tmp_path: Path, databases: Databases) -> Iterator[Loads]:
    """Give one on SQLite."""
    yield from _loads(databases, "sqlite", tmp_path)


def _loads(databases: Databases, kind: str, folder: Path) -> Iterator[Loads]:
    side = Side("one", "two", databases, kind, folder / "home", shop.channels, metadata=shop.metadata)
    yield Loads(side, folder)
    side.engine.dispose()
