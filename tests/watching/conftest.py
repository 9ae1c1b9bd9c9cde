"""Sides as the tests of crossings and of commands have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exchange.database import make_engine, tables
from exchange.settings import Settings
from tests.cli.conftest import _elsewhere, any_pair, pair, parked, seeded
from tests.crossing.conftest import alike, small

__all__ = ["_elsewhere", "alike", "any_pair", "pair", "parked", "seeded", "small"]

SECRET = "correct horse battery staple 0123456789"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "notify.secret"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def make_settings(tmp_path: Path, database_url: str, secret_file: Path) -> Callable[..., Settings]:
    """Give a function that makes settings; the database has our tables."""
    engine = make_engine(database_url)
    tables.metadata.create_all(engine)
    engine.dispose()

    def make(**values: Any) -> Settings:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        fixed: dict[str, Any] = {"network": "request", "peer": "response", "home": home, "database_url": database_url}
        return Settings(**fixed | {"notify_secret_file": secret_file} | values)

    return make
