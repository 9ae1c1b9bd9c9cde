"""The wheel, installed: everything it needs travels in it, and it works from any folder without the source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.wheels import ROOT, built_once

PROGRAM = "import sys; from exchange.cli import main; sys.argv[0] = 'exchange'; main()"

Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [pytest.mark.processes, pytest.mark.thorough]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Give the wheel."""
    return built_once(tmp_path_factory, shared=worker_id != "master")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a folder; its dependencies are those of this environment."""
    target = tmp_path_factory.mktemp("installed")
    quietly = ("--quiet", "--disable-pip-version-check")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *quietly, "--no-index", "--no-deps", "--target", str(target), wheel],
        check=True,
        capture_output=True,
    )
    return target


@pytest.fixture
def exchange(installed: Path, tmp_path: Path) -> Run:
    """Give the installed command, run in a folder that has nothing to do with the source tree."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    settings = {"EXCHANGE_NETWORK": "response", "EXCHANGE_PEER": "request", "PYTHONPATH": str(installed)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words],
            cwd=elsewhere,
            env=clean | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_the_wheel_carries_migrations_schemas_and_types_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("migrations", "schemas"):
        ours = {
            f"exchange/_data/{path.relative_to(ROOT)}"
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert ours
        assert ours <= names
    assert "exchange/py.typed" in names
    assert not {name for name in names if name.startswith(("tests", "deploy")) or "__pycache__" in name}


def test_an_installed_copy_says_its_version_and_lies_where_it_was_installed(exchange: Run, installed: Path) -> None:
    assert exchange("--version").stdout.startswith("exchange ")
    where = subprocess.run(
        [sys.executable, "-c", "import exchange; print(exchange.__file__)"],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed)


def test_an_installed_copy_migrates_from_any_folder(exchange: Run) -> None:
    migrated = json.loads(exchange("migrate", "--json").stdout)
    branches = {revision.rpartition("_")[0] for revision in migrated["revisions"]}
    assert branches == {"core", "reference"}
    assert migrated["epoch"]


def test_an_installed_copy_has_the_schemas_that_its_models_say(exchange: Run, installed: Path) -> None:
    exchange("schema", "--check", str(installed / "exchange" / "_data" / "schemas"))


def test_an_installed_copy_verifies_the_golden_batches(exchange: Run) -> None:
    golden = ROOT / "tests" / "golden" / "1"
    lines = exchange("verify", "--json", "--trust", str(golden / "golden-2026a.pem"), str(golden)).stdout.splitlines()
    assert len(lines) == len(list(golden.glob("*.manifest.jsonl"))) > 0
    assert {json.loads(line)["verdict"] for line in lines} == {"ok"}
