import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from exchange.operating import broker
from exchange.operating.service_manager import Listener, Manager
from tests.celery.calling import signing_client
from tests.celery.conftest import START_SECONDS, Side, new_side, until

pytestmark = [pytest.mark.processes, pytest.mark.valkey]

PATIENCE_SECONDS = 1.0

HURRIED = """
import sys
from exchange.operating import supervisor
from exchange.cli import main
supervisor.HUNG_SECONDS = 4.0
main()
"""


@pytest.fixture
def side(tmp_path: Path, forked_python: Path) -> Iterator[Side]:
    made = new_side(tmp_path, forked_python)
    yield made
    made.stop()


@contextmanager
def manager_of(side: Side) -> Iterator[socket.socket]:
    """Be who starts processes, as systemd is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        address = f"\0exchange-test-{os.urandom(8).hex()}"
        ours.bind(address)
        ours.settimeout(START_SECONDS)
        side.environment |= {
            "NOTIFY_SOCKET": f"@{address[1:]}",
            "WATCHDOG_USEC": str(int(PATIENCE_SECONDS * 1_000_000)),
        }
        yield ours


def hear_until(ours: socket.socket, word: str) -> None:
    while word not in ours.recv(4096).decode().split("\n"):
        pass


def falls_silent(ours: socket.socket) -> bool:
    """Tell whether the watchdog would act: nothing comes for as long as it is patient, once."""
    ours.settimeout(PATIENCE_SECONDS)
    try:
        for _ in range(20):
            ours.recv(4096)
    except TimeoutError:
        return True
    finally:
        ours.settimeout(START_SECONDS)
    return False


@pytest.mark.thorough
def test_nudge_says_when_it_is_ready_that_it_works_and_that_it_stops(side: Side, valkey_url: str) -> None:
    side.environment["EXCHANGE_BROKER_URL"] = valkey_url
    side.run("migrate")
    with manager_of(side) as ours:
        nudge, log = side.start("nudge", "-m", "exchange", "nudge", forked=True)
        hear_until(ours, "READY=1")
        hear_until(ours, "WATCHDOG=1")
        (alive,) = (side.home / "run/alive").iterdir()
        hanging = psutil.Process(int(alive.name.rpartition("-")[2]))
        hanging.suspend()
        assert falls_silent(ours)
        hanging.resume()
        hear_until(ours, "WATCHDOG=1")
        hanging.kill()  # as systemd then does
        nudge.wait()
        again, _ = side.start("nudge", "-m", "exchange", "nudge", forked=True)
        hear_until(ours, "READY=1")
        assert "restarted message=" in log.read_text()
        again.send_signal(signal.SIGTERM)
        hear_until(ours, "STOPPING=1")
        assert again.wait(START_SECONDS) == 0
        assert not list((side.home / "run/alive").iterdir())


def test_what_was_started_speaks_and_nothing_that_it_starts() -> None:
    listener = Listener(60)
    os.environ.update(listener.environment)
    manager = Manager()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & os.environ.keys()
    child = os.fork()
    if child == 0:
        manager.ready("a child")
        os._exit(0)
    os.waitpid(child, 0)
    listener.hear()
    assert not listener.is_ready
    manager.ready("ready")
    listener.hear()
    assert (listener.is_ready, listener.status, listener.hangs) == (True, "ready", False)
    listener.close()
    manager.works()  # to nobody


@pytest.mark.thorough
@pytest.mark.parametrize("stopped", ["the worker", "its child"])
def test_a_worker_that_hangs_falls_silent(side: Side, valkey_url: str, stopped: str) -> None:
    side.environment["EXCHANGE_BROKER_URL"] = valkey_url
    side.run("migrate")
    with manager_of(side) as ours:
        side.start("worker", "-m", "celery", "-A", "exchange", "worker", forked=True)
        hear_until(ours, "READY=1")
        (alive,) = (side.home / "run/alive").iterdir()
        worker = psutil.Process(int(alive.name.rpartition("-")[2]))
        client = signing_client(side.home, valkey_url)
        if stopped == "the worker":
            worker.suspend()
        else:
            for child in worker.children():
                child.suspend()
            client.send_task("exchange.prune", queue="exchange-response")
        assert falls_silent(ours)
        for one in (worker, *worker.children()):
            one.resume()
        hear_until(ours, "WATCHDOG=1")


@pytest.mark.thorough
def test_up_starts_again_what_hangs(side: Side) -> None:
    # Beat ticks as often as there is something to do, and at least each ten seconds.
    side.environment |= {"EXCHANGE_NUDGE": "true", "EXCHANGE_IMPORT_EVERY": "1"}
    with manager_of(side) as ours:
        up, log = side.start("up", "-c", HURRIED, "up", forked=True)
        hear_until(ours, "READY=1")
        for process in ("beat", "nudge"):
            (alive,) = (side.home / "run/alive").glob(f"{process}-*")
            psutil.Process(int(alive.name.rpartition("-")[2])).suspend()
        until(lambda: log.read_text().count("hangs: no sign of life of it for 4 s; killing it") == 2)
        until(lambda: log.read_text().count(" restarted message=") == 2)
        assert broker.running(side.home / "broker") is not None
        hear_until(ours, "WATCHDOG=1")
        up.send_signal(signal.SIGTERM)
        hear_until(ours, "STOPPING=1")
        assert up.wait(START_SECONDS) == 0, log.read_text()
