import json
import os
import re
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery

from exchange.operating import broker
from tests.celery.calling import signing_client
from tests.celery.conftest import START_SECONDS, Side, until

pytestmark = [pytest.mark.processes, pytest.mark.valkey]

HURRIED = f"""
import sys
sys.executable = {sys.executable!r}
from exchange.operating import supervisor
from exchange.cli import main
supervisor.LONGEST_BACKOFF_SECONDS = 0.1
supervisor.MOST_FALSE_STARTS = 2
main()
"""


def ready(log: Path, times: int = 1) -> bool:
    return log.read_text().count(" ready.") >= times


def client(side: Side) -> Celery:
    """Connect to a side's broker as an application would: quicker than a command for each task."""
    address = broker.running(side.home / "broker")
    assert address is not None
    return signing_client(side.home, address.url)


def result(app: Celery, task: str, **arguments: Any) -> Any:
    return app.send_task(task, kwargs=arguments, queue="exchange-response").get(timeout=START_SECONDS)


def test_up_runs_a_side_that_answers_from_any_folder_and_ctrl_c_leaves_nothing(side: Side) -> None:
    up, log = side.up()
    until(lambda: ready(log))
    app = client(side)
    called = side.celery("call", "exchange.export", "--kwargs", '{"channel": "directory"}')
    assert app.AsyncResult(called.stdout.strip()).get(timeout=START_SECONDS)["message"] == "nothing to export"
    assert result(app, "exchange.import")["batches"] == []
    with pytest.raises(Exception, match=r"channel: expected one that is sent here \(directory, responses\)"):
        result(app, "exchange.export", channel="requests")
    worker = f"exchange-response@{socket.gethostname()}"
    assert "pong" in side.celery("inspect", "ping", "--timeout", str(START_SECONDS), "--destination", worker).stdout

    second, second_log = side.up("second", forked=True)
    assert second.wait(START_SECONDS) == 3
    assert re.search(r"in use by .* pid \d+ since .*; stop that one first", second_log.read_text())

    family = psutil.Process(up.pid).children(recursive=True)
    assert len(family) >= 4  # broker, worker and its child, beat
    up.send_signal(signal.SIGINT)
    assert up.wait(START_SECONDS) == 0, log.read_text()
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    said = log.read_text()
    assert said.index("stopping worker") < said.index("stopping beat") < said.index("nothing is left running")
    assert all(re.match(r"(worker|beat|broker|exchange) +\| ", line) for line in said.splitlines())
    assert "Traceback" not in said
    assert stat.S_IMODE(side.home.stat().st_mode) == 0o711


@pytest.mark.thorough
def test_what_dies_is_started_again_and_nothing_outlives_a_killed_supervisor(side: Side) -> None:
    up, log = side.up()
    until(lambda: ready(log))
    supervisor = psutil.Process(up.pid)
    worker = next(child for child in supervisor.children() if "worker" in child.cmdline())
    server = next(child for child in supervisor.children() if "valkey-server" in child.name())
    server.kill()
    worker.kill()
    until(lambda: ready(log, times=2))
    assert "worker was killed by SIGKILL; starting it again in 1 s" in log.read_text()
    assert result(client(side), "exchange.prune")["message"] == "nothing to prune"

    family = supervisor.children(recursive=True)
    up.kill()
    up.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def without_packaging(side: Side, module: str) -> None:
    """Let a module fail as it does in an installation without what kombu's Redis transport imports."""
    lacking = side.folder / "lacking"
    path = lacking / module
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").touch()
    path.write_text("raise ModuleNotFoundError(\"No module named 'packaging'\")\n")
    side.environment["PYTHONPATH"] = os.pathsep.join([str(lacking), side.environment["PYTHONPATH"]])


def test_up_gives_up_with_a_sentence_when_a_child_never_starts(side: Side) -> None:
    without_packaging(side, "celery/__main__.py")  # at once: a start comes that far only after a second
    up, log = side.start("up", "-c", HURRIED, "up", forked=True)
    assert up.wait(START_SECONDS) == 1
    *before, last = log.read_text().splitlines()
    assert re.fullmatch(
        r"the (worker|beat) can't start: 2 times it ended before it was ready, and at last ended with code 1:"
        r" ModuleNotFoundError: No module named 'packaging'; nothing is left running; mend that .*",
        last,
    )
    assert before[-1] == "exchange | stopped; nothing is left running"
    assert broker.running(side.home / "broker") is None


def test_doctor_says_that_a_worker_can_not_start(side: Side) -> None:
    without_packaging(side, "packaging/__init__.py")
    looked, log = side.start("doctor", "-m", "exchange", "doctor", "--json")
    assert looked.wait(START_SECONDS) == 1
    found = [json.loads(line) for line in log.read_text().splitlines()]
    (fault,) = (one for one in found if one["check"] == "worker")
    assert (fault["level"], fault["message"]) == (
        "fault",
        "worker and beat can't start: ModuleNotFoundError: No module named 'packaging'",
    )
    assert [one["level"] for one in found if one["check"] == "broker"] == ["warning"]
