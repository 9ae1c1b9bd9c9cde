"""A night shift: three kinds of fault in ten batches, and one person at a terminal who mends them all."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from exchange.cli.app import app
from exchange.database import make_engine
from tests.databases import Databases
from tests.networks import until
from tests.operating.works import TABLES, Badge, Base, Machine, Reading

ROOT = Path(__file__).parents[2]
PEERS = {"plant": "office", "office": "plant"}
HOUR = "3600"


@dataclass
class Network:
    """One side: its commands, and its application's own sessions."""

    name: str
    home: Path
    environment: dict[str, str]
    engine: Engine
    log: Path
    python: Path

    def exchange(self, *words: str) -> list[dict[str, Any]]:
        """Run a command as a person would, and give what it printed for scripts."""
        done = CliRunner().invoke(app, [*words, "--json"], env=self.environment)
        assert done.exit_code == 0, f"exchange {' '.join(words)}: {done.output}{done.exception!r}"
        return [json.loads(line) for line in done.stdout.splitlines()]

    def call(self, task: str, **arguments: Any) -> None:
        """Have the worker do something."""
        self.run("celery", "-A", "exchange", "call", f"exchange.{task}", "--kwargs", json.dumps(arguments))

    def run(self, program: str, *words: str) -> None:
        """Run a program of ours to its end."""
        command = [str(self.python), "-m", program, *words]
        done = subprocess.run(command, env=self.environment, cwd=self.home, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{program} {' '.join(words)}: {done.stdout}{done.stderr}"

    @contextlib.contextmanager
    def application(self) -> Iterator[Session]:
        """Do what the application does all day: it knows nothing of the exchange."""
        with Session(self.engine) as session, session.begin():
            yield session

    def rows(self, table: type[Base]) -> dict[int, tuple[object, ...]]:
        """Give a table's rows by their ids."""
        columns = [column for column in table.__table__.columns if column.name != "exchange_version"]
        with self.engine.connect() as connection:
            return {row.id: tuple(row) for row in connection.execute(sa.select(*columns))}


@dataclass
class Night:
    """Both networks; the office's worker runs."""

    plant: Network
    office: Network
    batches: int = 0

    def send(self, *rows: Base) -> None:
        """Let the plant's application commit rows, and send them as one batch."""
        with self.plant.application() as session:
            for row in rows:
                session.merge(row)
        self.export()

    def export(self) -> None:
        """Send what is pending at the plant: one batch. It lies in the office's folder then."""
        assert len(self.plant.exchange("export")) == 1
        self.batches += 1

    def take_in(self) -> None:
        """Have the office's worker import what arrived."""
        self.office.call("import")
        until(lambda: self._states() == {"applied": self.batches}, self.office.log.read_text)

    def _states(self) -> Counter[str]:
        return Counter(line["state"] for line in self.office.exchange("batches"))


@pytest.fixture
def night(tmp_path: Path, databases: Databases, forked_python: Path) -> Iterator[Night]:
    """Give both networks on PostgreSQL, the office with broker, worker and beat."""
    networks = {name: _network(tmp_path, name, databases.fresh("postgresql"), forked_python) for name in PEERS}
    made = {name: one.exchange("init")[0] for name, one in networks.items()}
    for one in networks.values():
        one.exchange("migrate")
    for one in networks.values():
        key = made[PEERS[one.name]]
        one.exchange("keys", "trust", key["public_key"], "--fingerprint", key["fingerprint"])
        one.run("tests.operating.works")
    with _up(networks["office"]):
        yield Night(networks["plant"], networks["office"])
    for one in networks.values():
        one.engine.dispose()


def _network(folder: Path, name: str, url: str, python: Path) -> Network:
    home = folder / name
    home.mkdir(mode=0o700)
    (folder / f"from-{name}").mkdir()
    clean = {word: value for word, value in os.environ.items() if not word.startswith(("EXCHANGE_", "CELERY_"))}
    ours = {
        "NETWORK": name,
        "PEER": PEERS[name],
        "HOME": str(home),
        "DATABASE_URL": url,
        "OUTGOING": str(folder / f"from-{name}"),
        "INCOMING": str(folder / f"from-{PEERS[name]}"),
        "APP": "tests.operating.works:channels",
        # Some of these batches are all bad, and beat is to leave them to us.
        "INVALID_SHARE": "1",
        "EXPORT_EVERY": HOUR,
        "IMPORT_EVERY": HOUR,
        "WORKER_CONCURRENCY": "1",
    }
    environment = clean | {f"EXCHANGE_{word}": value for word, value in ours.items()} | {"PYTHONPATH": str(ROOT)}
    return Network(name, home, environment, make_engine(url), folder / f"{name}.log", python)


@contextlib.contextmanager
def _up(network: Network) -> Iterator[None]:
    with network.log.open("wb") as out:
        process = subprocess.Popen(
            [str(network.python), "-m", "exchange", "up"],
            env=network.environment,
            cwd=network.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        until(lambda: " ready." in network.log.read_text(), network.log.read_text)
        yield
    finally:
        process.kill()  # and what it started with it
        process.wait()


def readings(machine: int, numbers: Sequence[int]) -> list[Reading]:
    return [Reading(id=number, machine_id=machine, celsius=Decimal(number)) for number in numbers]


def badges(numbers: Sequence[int], first: int) -> list[Badge]:
    return [Badge(id=number, number=first + number, holder=f"holder {number}") for number in numbers]


def before_midnight(night: Night) -> None:
    """Let ten batches come, and three kinds of fault with them."""
    with night.office.application() as session:  # visitors have badges 111 to 150
        session.add_all(badges(range(1011, 1051), first=-900))
    night.send(*(Machine(id=n, name=f"machine {n}", limit=Decimal(200)) for n in range(1, 6)))
    night.send(*badges(range(1, 11), first=100), *readings(1, range(1, 11)))
    night.send(*badges(range(11, 51), first=100))  # taken over there
    night.send(Machine(id=6, name="machine 6", limit=Decimal(2500)))  # somebody mistyped 250.0
    night.send(Machine(id=7, name="TEST", limit=Decimal(9999)), *readings(2, range(11, 16)))  # somebody played
    night.send(*readings(6, range(21, 31)))  # nobody knows machine 6 there
    night.send(*readings(6, range(31, 36)), *readings(3, range(36, 41)))
    night.send(*badges(range(51, 61), first=100))
    night.send(Machine(id=8, name="machine 8", limit=Decimal(300)))
    night.send(*readings(8, range(41, 46)))
    night.take_in()


@pytest.mark.thorough  # each step has its tests in tests/cli
@pytest.mark.processes
@pytest.mark.postgres
def test_one_person_finds_and_mends_all_that_went_wrong_in_a_night(night: Night) -> None:
    before_midnight(night)
    office, nora = night.office, ("--as", "nora")

    # Is something wrong? What, how much, since when, whose fault, what to do?
    assert office.exchange("status")[0]["dead_letters"]["parked"] == 57
    groups = {group["error"]: group for group in office.exchange("dead-letters")}
    assert {error: group["letters"] for error, group in groups.items()} == {
        "unique": 40,
        "foreign_key": 15,
        "constraint": 2,
    }
    assert all(group["next"] and group["fault"] and sum(group["trend"]) for group in groups.values())
    assert groups["foreign_key"]["stream"] == "reading"

    # Two machines break a constraint: one was mistyped, the other is no machine.
    broken = office.exchange("dead-letters", "list", "--fingerprint", groups["constraint"]["fingerprint"])
    [mistyped] = [line["id"] for line in broken if line["key"] == '{"id":6}']
    [played] = [line["id"] for line in broken if line["key"] == '{"id":7}']
    assert "machine_limit" in json.dumps(office.exchange("dead-letters", "show", str(mistyped)))
    mended = ("--set", '/data/limit="250.0"', "--reason", "the foreman says 250.0")
    office.exchange("dead-letters", "edit", str(mistyped), *mended, *nora)
    office.exchange("dead-letters", "retry", str(mistyped), "--reason", "mended", *nora)
    office.exchange("dead-letters", "discard", str(played), "--reason", "a test at the plant", *nora)
    assert office.rows(Machine)[6] == (6, "machine 6", Decimal("250.0"))

    # Its readings waited for that machine: they go with the next batch, whatever that brings.
    assert set(range(21, 36)).isdisjoint(office.rows(Reading))
    night.send(*readings(4, range(46, 51)))
    night.take_in()
    until(lambda: set(range(21, 36)) <= set(office.rows(Reading)), office.log.read_text)

    # The visitors are gone and the reception takes their badges back: all forty can be retried.
    chosen = ("--name", "badges", "--fingerprint", groups["unique"]["fingerprint"])
    assert office.exchange("dead-letters", "select", *chosen, *nora)[0]["letters"] == 40
    dry = office.exchange("dead-letters", "retry", "--selection", "badges", "--dry-run")
    assert Counter(line.get("state") for line in dry if "id" in line) == {"parked": 40}
    with office.application() as session:
        for badge in session.scalars(sa.select(Badge).where(Badge.id > 1000)):
            session.delete(badge)
    dry = office.exchange("dead-letters", "retry", "--selection", "badges", "--dry-run")
    assert Counter(line.get("state") for line in dry if "id" in line) == {"applied": 40}
    pace = ("--canary", "5", "--stop-after", "3", "--rate", "1000", "--reason", "their badges are back")
    done = office.exchange("dead-letters", "retry", "--selection", "badges", *pace, *nora)
    assert (done[-1]["tried"], done[-1]["applied"], done[-1]["stopped"]) == (40, 40, None)

    # Did it work?
    assert office.exchange("status")[0]["dead_letters"]["parked"] == 0
    assert office.exchange("dead-letters") == []
    differing = {table: office.rows(table).items() ^ night.plant.rows(table).items() for table in TABLES}
    assert differing == {
        Machine: {
            (6, (6, "machine 6", Decimal("250.0"))),
            (6, (6, "machine 6", Decimal("2500.0"))),
            (7, (7, "TEST", Decimal("9999.0"))),
        },
        Reading: set(),
        Badge: set(),
    }
    with night.plant.application() as session:  # in the morning the plant corrects its own
        session.merge(Machine(id=6, name="machine 6", limit=Decimal(250)))
        session.delete(session.get_one(Machine, 7))
    night.export()
    night.take_in()
    assert [office.rows(table) for table in TABLES] == [night.plant.rows(table) for table in TABLES]

    # What did I change?
    entries = office.exchange("audit", "--who", "nora")[::-1]
    assert [(entry["action"], entry["why"]) for entry in entries] == [
        ("edit_dead_letter", "the foreman says 250.0"),
        ("retry_dead_letter", "mended"),
        ("discard_dead_letter", "a test at the plant"),
        ("select_dead_letters", None),
        ("retry_dead_letter", "their badges are back"),
    ]
    assert all(entry["result"] and "failed" not in entry["result"] for entry in entries)
    by_itself = office.exchange("dead-letters", "show", str(groups["foreign_key"]["example"]))
    assert by_itself[0]["state"] == "applied"
    assert "by itself" in json.dumps(by_itself)
