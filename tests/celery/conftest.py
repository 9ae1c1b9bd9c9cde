"""Real ``celery`` and ``exchange up`` processes, each in a group of its own that dies with its test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

SOURCE = Path(__file__).parents[2]
START_SECONDS = 90.0


_UP = """
import sys
from exchange.operating.broker import BrokerFault
from exchange.settings import load_settings
from exchange.operating.supervisor import run_side
try:
    run_side(load_settings())
except BrokerFault as fault:
    print(fault)
    sys.exit(3)
"""


@dataclass
class Side:
    """One network's environment, and the processes that a test started in it."""

    home: Path
    folder: Path
    environment: dict[str, str]
    python: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def celery(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a celery command to its end."""
        return subprocess.run(
            [str(self.python), "-m", "celery", "-A", "exchange", *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    def run(self, *words: str) -> None:
        """Run a command of ours, which must succeed."""
        python = [str(self.python), "-m", "exchange", *words]
        done = subprocess.run(
            python, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def doctor(self) -> str:
        """Give what doctor says, whatever it ends with."""
        command = [str(self.python), "-m", "exchange", "doctor"]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        ).stdout

    def start(self, name: str, *command: str, forked: bool = False) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a Python command that logs to a file; if it is ``forked``, its imports are done."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [str(self.python) if forked else sys.executable, *command],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.processes.append(process)
        return process, log

    def up(self, name: str = "up", *, forked: bool = False) -> tuple[subprocess.Popen[bytes], Path]:
        """Start this side as ``exchange up`` does."""
        return self.start(name, "-c", _UP, forked=forked)

    def stop(self) -> None:
        """End whatever the test left: how that ends in order is a fact of some tests, and takes seconds."""
        for process in self.processes:
            left = [psutil.Process(process.pid)] if process.poll() is None else []
            left += [child for one in left for child in one.children(recursive=True)]
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()


def until(true: Callable[[], object], seconds: float = START_SECONDS) -> None:
    """Wait for something to become true; fails the test if it doesn't."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.05)


@pytest.fixture
def side(tmp_path: Path, forked_python: Path) -> Iterator[Side]:
    """Give the response network, and a folder to run commands in: neither its home nor the source tree."""
    made = new_side(tmp_path, forked_python)
    yield made
    made.stop()


def new_side(below: Path, python: Path) -> Side:
    """Make the response network's environment and folders; whoever starts processes there stops it."""
    folder = below / "elsewhere"
    folder.mkdir()
    home = below / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EXCHANGE_", "CELERY_"))}
    environment |= {
        "EXCHANGE_NETWORK": "response",
        "EXCHANGE_PEER": "request",
        "EXCHANGE_HOME": str(home),
        "EXCHANGE_WORKER_CONCURRENCY": "1",
        "PYTHONPATH": str(SOURCE),
    }
    return Side(home, folder, environment, python)
