"""The real command line, as its user runs it: settings in the environment, real databases, real folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from exchange.cli.app import app
from exchange.database import make_engine, tables
from tests.databases import Databases

PEERS = {"request": "response", "response": "request"}


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (only,) = self.lines
        return only


@dataclass
class Side:
    """One network and its commands."""

    network: str
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment |= {
            "EXCHANGE_NETWORK": self.network,
            "EXCHANGE_PEER": PEERS[self.network],
            "EXCHANGE_HOME": str(self.home),
        }

    @property
    def database_url(self) -> str:
        return self.environment.get("EXCHANGE_DATABASE_URL", f"sqlite:///{self.home}/exchange.db")

    def run(self, *words: str, **environment: str) -> Done:
        """Run a command; a traceback fails the test."""
        result = CliRunner().invoke(app, list(words), env={**self.environment, **environment})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def do(self, *words: str, **environment: str) -> Done:
        """Run a command that must succeed."""
        done = self.run(*words, **environment)
        assert done.code == 0, done.err
        return done

    def refused(self, *words: str, code: int, **environment: str) -> str:
        """Run a command that must fail with one sentence, and give the sentence."""
        done = self.run(*words, **environment)
        assert done.code == code, done.err
        assert "Traceback" not in done.err
        (sentence,) = done.err.splitlines()
        return sentence

    def execute(self, statement: str) -> None:
        """Change data as an application would."""
        engine = make_engine(self.database_url)
        with engine.begin() as connection:
            connection.execute(sa.text(statement))
        engine.dispose()


@dataclass
class Pair:
    """Both networks, initialised, migrated and trusting each other."""

    request: Side
    response: Side

    def carry(self) -> None:
        """Carry everything across, both ways."""
        for here, there in ((self.request, self.response), (self.response, self.request)):
            for path in sorted((here.home / "outgoing").iterdir()):
                if not path.name.startswith("."):
                    shutil.copy(path, there.home / "incoming" / path.name)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, without this machine's own settings."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def side(tmp_path: Path) -> Side:
    """Give a response network where nothing was done yet."""
    return Side("response", tmp_path / "response")


@pytest.fixture
def pair(tmp_path: Path, databases: Databases) -> Pair:
    """Give two networks on SQLite."""
    return paired(tmp_path, databases, "sqlite")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def any_pair(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Pair:
    """Give two networks on each kind of database in turn."""
    return paired(tmp_path, databases, request.param)


@pytest.fixture
def seeded(tmp_path: Path, databases: Databases) -> Pair:
    """Give two networks on SQLite of which the response network has exported its first rows."""
    pair = paired(tmp_path, databases, "sqlite", seed=True)
    pair.response.do("export")
    return pair


@pytest.fixture
def stem(seeded: Pair) -> str:
    """Give the stem of the one batch that was exported."""
    (manifest,) = (seeded.response.home / "outgoing").glob("directory-*.manifest.jsonl")
    return manifest.name.removesuffix(".manifest.jsonl")


@pytest.fixture
def parked(seeded: Pair) -> Callable[[], int]:
    """Give a function that leaves one dead letter on the request network and gives its id."""

    def park() -> int:
        seeded.request.execute("INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (99, 'own', 1, 1)")
        seeded.request.execute(
            'INSERT INTO "user" (id, name, email, profile_type_id, active)'
            " VALUES (99, 'administrator', 'own@example.org', 99, true)"
        )
        seeded.carry()
        seeded.request.do("import")
        letter = seeded.request.do("dead-letters", "list", "--json").line["id"]
        assert isinstance(letter, int)
        return letter

    return park


def paired(folder: Path, databases: Databases, kind: str, app: str | None = None, *, seed: bool = False) -> Pair:
    """Set up two networks below a folder, each with a database that ``exchange migrate`` has made.

    Without an ``app`` it is the reference application, whose response network has its first rows with ``seed``.
    """
    environment = {"EXCHANGE_APP": app} if app else {}

    def make(below: Path) -> None:
        sides = [Side(name, below / name, dict(environment)) for name in PEERS]
        made = {one.network: one.do("init", "--json").line for one in sides}
        for one in sides:
            key = made[PEERS[one.network]]
            one.do("keys", "trust", key["public_key"], "--fingerprint", key["fingerprint"])

    was = databases.templates.copy_folder(("a pair", app), make, folder)
    request, response = sides = [Side(name, folder / name, dict(environment)) for name in PEERS]
    for one in sides:
        for marker in (one.home / "markers").iterdir():  # two of them say which folder was marked
            marker.write_text(marker.read_text().replace(str(was), str(folder)))
        commands = ["migrate", "seed"] if seed and one is response else ["migrate"]
        settle(one, databases, *commands, kind=kind)
    return Pair(request, response)


def settle(side: Side, databases: Databases, *commands: str, kind: str = "sqlite") -> None:
    """Give a side that is initialised a database which these commands have made."""
    shape = (side.network, side.environment.get("EXCHANGE_APP"), *commands)
    url = databases.fresh(kind, shape, partial(_made_by, side, commands))
    if kind == "sqlite":
        Path(url.removeprefix("sqlite:///")).rename(side.home / "exchange.db")
    else:
        side.environment["EXCHANGE_DATABASE_URL"] = url


def _made_by(side: Side, commands: tuple[str, ...], url: str) -> None:
    for command in commands:
        side.do(*command.split(), EXCHANGE_DATABASE_URL=url)
    engine = make_engine(url)
    with engine.begin() as connection:  # its copies are for other homes
        connection.execute(sa.update(tables.network).values(home=None, home_place=None))
    engine.dispose()
