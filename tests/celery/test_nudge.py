"""Nudges with real processes: whole networks, and ``exchange nudge`` by itself with a broker and no worker."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import exchange
from exchange.database.engine import make_engine
from exchange.database.locks import reading
from exchange.operating import broker
from exchange.reference.models import ProfileType, Request, User
from exchange.reference.submit import submit
from tests.networks import two_networks

from .conftest import Side, until

PACKAGE = Path(exchange.__file__).parent

pytestmark = [pytest.mark.processes, pytest.mark.valkey]

STEM = "requests-4f1c0a9be2d7-0000000042"


def add_user(engine: Engine, name: str) -> None:
    with Session(engine) as session, session.begin():
        profile = ProfileType(name=f"profile of {name}", daily_limit=9)
        session.add(User(name=name, email=f"{name}@example.org", profile_type=profile))


def has(engine: Engine, query: sa.Select[str]) -> Callable[[], bool]:
    """Ask whether a query finds a row."""

    def there() -> bool:
        with reading(engine) as connection:
            return connection.execute(query).first() is not None

    return there


def holder(side: Side) -> str:
    """Say who nudges on a side: its name ends with the number of its process."""
    return (side.home / "run" / "nudge.lock").read_text()


def user(name: str) -> sa.Select[str]:
    return sa.select(User.name).where(User.name == name)


# Whole networks


@pytest.mark.thorough
@pytest.mark.postgres
def test_nudges_alone_bring_a_row_across_both_ways_and_go_on_after_the_broker_died(
    tmp_path: Path, postgres_url: str, forked_python: Path
) -> None:
    urls = {"response": postgres_url, "request": f"sqlite:///{tmp_path}/request.db"}
    with two_networks(tmp_path, urls, forked_python, EXCHANGE_NUDGE="true") as networks:
        owner, asker = networks["response"], networks["request"]
        add_user(owner.engine, "alice")
        until(has(asker.engine, user("alice")))
        with Session(asker.engine) as session, session.begin():
            submit(session, "alice", "lookup", "how warm is it?", {})
        until(has(owner.engine, sa.select(Request.kind)))

        findings = [json.loads(line) for line in owner.exchange("doctor", "--json").splitlines()]
        assert {one["level"] for one in findings if one["check"] == "nudge"} == {"ok"}

        for network in (owner, asker):
            network.kill_broker()
        add_user(owner.engine, "bob")
        until(has(asker.engine, user("bob")))
    for network in networks.values():
        said = network.log.read_text()
        # Kombu's own may be there: a worker that has a message while its broker dies falls over, and is started again.
        assert f'File "{PACKAGE}/' not in said, said
        assert said.count("nudge    | ") <= 3, said  # it began; the broker was away and back, if it was missed
        assert said.index("stopping nudge") < said.index("stopping worker")


def test_what_a_process_that_hangs_did_not_nudge_for_beat_finds(side: Side) -> None:
    side.environment |= {
        "EXCHANGE_NUDGE": "true",
        "EXCHANGE_EXPORT_EVERY": "1",
        "EXCHANGE_REQUIRE_SIGNATURE": "false",
    }
    _, log = side.up(forked=True)
    until(lambda: " nudging imports" in log.read_text())
    hanging = psutil.Process(int(holder(side).rpartition(" ")[2]))
    hanging.suspend()
    engine = make_engine(f"sqlite:///{side.home}/exchange.db")
    add_user(engine, "alice")
    engine.dispose()
    until(lambda: list((side.home / "outgoing").glob("directory-*.manifest.jsonl")))
    hanging.resume()


# By itself


@pytest.fixture
def nudged(side: Side, valkey_url: str) -> redis.Redis:
    """Give the broker of a side whose worker does not run."""
    side.environment["EXCHANGE_BROKER_URL"] = valkey_url
    return broker.connect(valkey_url)


def prepare(side: Side) -> None:
    side.run("migrate")


def start(side: Side, name: str = "nudge") -> Path:
    _, log = side.start(name, "-m", "exchange", "nudge", forked=True)
    return log


def commit(side: Side) -> None:
    database = sqlite3.connect(side.home / "exchange.db", timeout=10)
    with database:
        database.execute("INSERT INTO exchange_change (stream, op, key) VALUES ('user', 'I', '{}')")
    database.close()


def bring(side: Side, stem: str = STEM) -> None:
    for ending in (".jsonl.zst", ".manifest.jsonl"):
        (side.home / "incoming" / f"{stem}{ending}").touch()


def take(queue: redis.Redis) -> str | None:
    """Take the oldest task as a worker would; give its name."""
    message = queue.rpop("exchange-response")
    return str(json.loads(str(message, "utf-8"))["headers"]["task"]) if isinstance(message, bytes) else None


def test_an_export_follows_a_commit_and_an_import_a_whole_batch(side: Side, nudged: redis.Redis) -> None:
    prepare(side)
    start(side)
    commit(side)
    until(lambda: take(nudged) == "exchange.export")
    (side.home / "incoming" / f"{STEM}.jsonl.zst").touch()
    bring(side)
    until(lambda: take(nudged) == "exchange.import")


def test_nudges_do_not_pile_up_where_no_worker_takes_them(side: Side, nudged: redis.Redis) -> None:
    prepare(side)
    log = start(side)
    until(lambda: " nudging imports" in log.read_text())
    stems = (f"{STEM[:-2]}{number:02}" for number in itertools.count())

    def waiting() -> int:
        """Bring more to nudge for, and count the nudges."""
        commit(side)
        bring(side, next(stems))
        return len(nudged.lrange("exchange-response", 0, -1))

    def looks() -> int:
        """Count how often somebody asked how long a queue is."""
        return int(nudged.info("commandstats").get("cmdstat_llen", {"calls": 0})["calls"])

    until(waiting)
    began = looks()
    lengths = []

    def looked_again() -> bool:
        lengths.append(waiting())
        return looks() >= began + 3

    until(looked_again)
    assert 1 <= max(*lengths, waiting()) <= 2
    message = nudged.rpop("exchange-response")
    assert isinstance(message, bytes)
    assert json.loads(message)["headers"]["expires"]


_IMPATIENT = (
    "from exchange.celery import nudge; from exchange.cli.app import app; nudge.AWAY_SECONDS = 0.2; app(['nudge'])"
)


def test_what_is_away_is_said_once_and_gone_on_with_when_it_is_back(side: Side, nudged: redis.Redis) -> None:
    _, log = side.start("nudge", "-c", _IMPATIENT, forked=True)
    away = ' away what="{}"'.format
    until(lambda: log.read_text().count(" away what=") == 2)
    (side.home / "incoming").mkdir(parents=True)
    for number in range(2):  # between two imports the database is asked again and again
        bring(side, f"{STEM[:-1]}{number}")
        until(lambda: take(nudged) == "exchange.import")
    prepare(side)
    commit(side)
    until(lambda: take(nudged) == "exchange.export")
    assert log.read_text().count(" back what=") == 2

    shutil.move(side.home / "incoming", side.home / "elsewhere")
    until(lambda: log.read_text().count(away("the incoming folder")) == 2)
    for _ in range(2):  # and between two exports the folder
        commit(side)
        until(lambda: take(nudged) == "exchange.export")
    shutil.move(side.home / "elsewhere", side.home / "incoming")
    bring(side, f"{STEM[:-1]}3")
    until(lambda: take(nudged) == "exchange.import")
    said = log.read_text()
    assert (said.count(away("the database")), said.count(away("the incoming folder"))) == (1, 2), said
    assert said.count(" back what=") == 3
    assert "Traceback" not in said


def test_a_second_process_waits_for_the_first(side: Side, nudged: redis.Redis) -> None:
    prepare(side)
    first_log = start(side)
    until(lambda: " nudging imports" in first_log.read_text())
    first = side.processes[-1]
    second_log = start(side, "second")
    until(lambda: f"{holder(side)} nudges here" in second_log.read_text())
    first.terminate()
    until(lambda: " nudging imports" in second_log.read_text())


def test_without_the_embedded_broker_a_sentence_says_how_to_get_one(side: Side) -> None:
    log = start(side)
    assert side.processes[-1].wait(60) == 1
    assert log.read_text().strip() == (
        f"no broker runs in {side.home}/broker; start `exchange up`, or set EXCHANGE_BROKER_URL"
    )


def test_ctrl_c_ends_it_in_silence(side: Side, nudged: redis.Redis) -> None:
    prepare(side)
    log = start(side)
    until(lambda: " nudging imports" in log.read_text())
    side.processes[-1].send_signal(signal.SIGINT)
    assert side.processes[-1].wait(30) == 0
    assert len(log.read_text().splitlines()) == 1
