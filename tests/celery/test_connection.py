"""A worker goes on after whatever happens to its broker, however it was started."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy.orm import Session

from exchange.database import make_engine
from exchange.operating.broker import Address, EmbeddedBroker
from exchange.reference.models import ProfileType, Request, User

from .calling import signing_client
from .conftest import START_SECONDS, Side, until

WAITING = """
import pathlib
import time

def answer(question):
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.05)
    return 1
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path / "broker") as made:
        yield made


def ask(side: Side) -> None:
    engine = make_engine(f"sqlite:///{side.home}/exchange.db")
    with Session(engine) as session, session.begin():
        user = User(name="u", email="u@example.org", profile_type=ProfileType(name="p", daily_limit=9))
        session.add(user)
        session.flush()
        session.add(Request(user_id=user.id, kind="k", query="q", parameters={}))
    engine.dispose()


def told(client: Celery) -> str:
    """Call an import, and give what it says."""
    called = client.send_task("exchange.import", queue="exchange-response")
    return str(called.get(timeout=START_SECONDS)["message"])


@pytest.mark.thorough
@pytest.mark.processes
def test_a_worker_goes_on_after_its_broker_died_was_read_only_or_full(side: Side, broker: EmbeddedBroker) -> None:
    assert broker.address is not None
    assert broker.process is not None
    address: Address = broker.address
    (side.folder / "waiting.py").write_text(WAITING)
    side.environment |= {"EXCHANGE_BROKER_URL": address.url, "EXCHANGE_HANDLER": "waiting:answer"}
    side.run("migrate")
    ask(side)
    worker, log = side.start("worker", "-m", "celery", "-A", "exchange", "worker", "-l", "INFO", forked=True)
    client = signing_client(side.home, address.url)
    client.send_task("exchange.answer_requests", queue="exchange-response")
    until((side.folder / "begun").exists)

    broker.process.kill()  # while the worker holds a message
    broker.process.wait()
    until(lambda: "Connection to broker lost" in log.read_text())
    (side.folder / "go").touch()
    until(lambda: "result not kept" in log.read_text())
    broker.start()
    assert told(client) == "nothing to import"

    read_only, replicated = ["REPLICAOF", "127.0.0.1", "1"], ["CONFIG", "SET", "min-replicas-to-write", "1"]
    with address.client(5) as server:
        server.execute_command(*read_only)
        until(lambda: "can't write against a read only replica" in log.read_text())
        refused = side.celery("call", "exchange.import")
        assert refused.returncode == 1
        assert refused.stderr.startswith("the broker refuses the call: You can't write against a read only replica.")
        assert len(refused.stderr.splitlines()) == 1
        server.execute_command("REPLICAOF", "NO", "ONE")
        assert told(client) == "nothing to import"
        server.execute_command(*replicated)
        until(lambda: "Not enough good replicas to write" in log.read_text())
        server.execute_command(*replicated[:-1], "0")
        assert told(client) == "nothing to import"
    client.close()
    assert worker.poll() is None
    # A home of the same network's name, which a test has, say, is not served by the same broker.
    side.environment |= {"EXCHANGE_HOME": str(side.folder / "second")}
    side.run("migrate")
    second, second_log = side.start("second", "-m", "celery", "-A", "exchange", "worker", forked=True)
    assert second.wait(START_SECONDS) == 1
    assert f"this broker serves the home {socket.gethostname()}:{side.home}, whose network" in second_log.read_text()
    assert "this broker serves the home" in side.doctor()
    assert worker.poll() is None
    assert log.read_text().count(" away what=") < 6
    assert "Unrecoverable" not in log.read_text()
