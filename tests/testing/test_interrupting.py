"""A run of the tests that is interrupted, in whichever way, leaves nothing behind and says what had failed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.networks import until

pytestmark = [pytest.mark.processes, pytest.mark.valkey]

ROOT = Path(__file__).parents[2]

TESTS = """
import json, os, subprocess, time
from pathlib import Path

def test_that_fails():
    assert False

def test_that_is_interrupted(valkey_url, tmp_path, forked_python):
    sleeping = subprocess.Popen(["sleep", "600"], start_new_session=True)
    said = Path(os.environ["SAYS"])
    said.with_suffix(".new").write_text(json.dumps([os.getpid(), sleeping.pid, valkey_url, str(tmp_path)]))
    said.with_suffix(".new").rename(said)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Give a function that starts a run of two tests as ``make test &`` in a script does: Ctrl-C is not for it."""
    tests = tmp_path / "test_left.py"
    tests.write_text(TESTS)
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        words = ["-p", "tests.conftest", "-n", "1", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "pytest", *words, str(tests)],
                cwd=ROOT,
                env=os.environ | {"SAYS": str(tmp_path / "said")},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509 - nothing else is done
            )
        )
        return started[0]

    yield start
    for process in started:
        process.kill()
        process.wait()


def to_main(process: subprocess.Popen[str]) -> None:
    process.terminate()


def to_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


def out_of_the_blue(process: subprocess.Popen[str]) -> None:
    process.kill()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "interrupt",
    [
        to_main,
        pytest.param(to_group, marks=pytest.mark.torture),
        pytest.param(out_of_the_blue, marks=pytest.mark.torture),
    ],
    ids=lambda how: how.__name__,
)
def test_an_interrupted_run_leaves_nothing_and_says_what_had_failed(
    tmp_path: Path, run: Callable[[], subprocess.Popen[str]], interrupt: Callable[[subprocess.Popen[str]], None]
) -> None:
    process = run()
    until((tmp_path / "said").exists)
    worker, sleeping, broker, folder = json.loads((tmp_path / "said").read_text())
    port = int(broker.rpartition(":")[2].partition("/")[0])
    assert Path(folder).is_dir()

    interrupt(process)
    said, _ = process.communicate(timeout=120)

    if interrupt is not out_of_the_blue:
        assert process.returncode == pytest.ExitCode.INTERRUPTED, said
        assert re.search(r"^FAILED .*test_left.py::test_that_fails", said, re.MULTILINE), said
    until(lambda: not any(map(psutil.pid_exists, (worker, sleeping))), said.__str__)
    until(lambda: not Path(folder).parents[2].exists(), said.__str__)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
