"""Measured steps: each is a process of its own, so that its peak memory is its own too.

Needs nothing but the standard library, because the peers' environments use it as well.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]

OUR_PYTHON = Path(os.environ.get("BENCH_PYTHON") or sys.executable)
"""What runs our own steps. A trial that measures nothing may have a quicker one."""


@dataclass(frozen=True)
class Measured:
    """What one step took. ``peak_bytes`` is the most memory that its process had at once.

    ``cpu_seconds`` is the processor's time of its process, ``server_seconds`` that of the database's server meanwhile.
    """

    seconds: float
    records: int
    peak_bytes: int
    cpu_seconds: float = 0.0
    server_seconds: float = 0.0

    @property
    def work(self) -> float:
        """Microseconds of the processor a record, ours and the server's."""
        return 1e6 * (self.cpu_seconds + self.server_seconds) / self.records

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


class StepFailed(Exception):  # noqa: N818 - reads as what happened
    """A step ended with an error; the text is what it said."""


class Clock:
    """Times the block that it is entered for. ``waits``: begin only when our parent says so.

    ``server`` is the process id of the database's server, if there is one: then its time is taken, too.
    """

    def __init__(self, *, waits: bool = False, server: int | None = None) -> None:
        self.seconds = self.cpu_seconds = self.server_seconds = 0.0
        self._waits = waits
        self._server = server
        self._began = self._cpu_before = self._server_before = 0.0

    def __enter__(self) -> Self:
        if self._waits:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            sys.stdin.readline()
        self._server_before = _processor_seconds(self._server)
        self._cpu_before = time.process_time()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = time.process_time() - self._cpu_before
        self.server_seconds = _processor_seconds(self._server) - self._server_before


def _processor_seconds(server: int | None) -> float:
    """Give the processor's seconds that a server and its children took so far, to a hundredth of a second."""
    if server is None:
        return 0.0
    ticks = 0
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    for process in (str(server), *children):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:  # it ended just now, and counts as one of the server's own
            continue
        # Its own, and for the server those of children that ended.
        ticks += sum(map(int, fields[11:15] if process == str(server) else fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def answer(clock: Clock, records: int) -> None:
    """Tell our parent what this process measured; the last thing that a step says."""
    took = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "server_seconds": clock.server_seconds}
    sys.stdout.write("\n" + json.dumps({**took, "records": records, "peak_bytes": peak_bytes()}) + "\n")


def peak_bytes() -> int:
    """Give this process's peak resident memory. On Linux getrusage would count its parent's, from before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass(frozen=True)
class Step:
    """A process to measure: a module of ours, run by our Python or by that of a peer's environment."""

    module: str
    words: tuple[str, ...] = ()
    python: Path = OUR_PYTHON
    environment: Mapping[str, str] | None = None

    def run(self) -> Measured:
        """Run it. Raises StepFailed."""
        process = self.start()
        return _result(process, *process.communicate())

    def start(self) -> subprocess.Popen[str]:
        """Start it; what it measured is for whoever waits for it."""
        return subprocess.Popen(
            [str(self.python), "-m", self.module, *self.words],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def our_step(name: str, *, waits: bool = False, **arguments: Any) -> Step:
    """Give a step of ``steps.py`` with its arguments."""
    flags = ("--wait",) if waits else ()
    return Step("tests.benchmarks.steps", (*flags, name, json.dumps(arguments, default=str)))


def run_together(steps: Sequence[Step]) -> Measured:
    """Run steps that wait at once: all records, in the time of the slowest one, with the largest one's memory."""
    processes = [step.start() for step in steps]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [_result(process, *process.communicate()) for process in processes]
    return Measured(
        max(one.seconds for one in results),
        sum(one.records for one in results),
        max(one.peak_bytes for one in results),
        sum(one.cpu_seconds for one in results),
        max(one.server_seconds for one in results),
    )


def _result(process: subprocess.Popen[str], said: str, complained: str) -> Measured:
    if process.returncode:
        raise StepFailed(f"{process.args!r}\n{said}{complained}")
    return Measured(**json.loads(said.splitlines()[-1]))


Series = list[Measured]
"""One contender's results, round by round."""


def interleave(contenders: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, Series]:
    """Run every contender once a round, in turn: what else the machine does then hits all alike."""
    results: dict[str, Series] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name, run in contenders.items():
            result = run()
            results[name].append(result)
            note(f"  {number} of {rounds}: {name}: {result.seconds:.2f} s")
    return results


def note(sentence: str) -> None:
    """Say what is going on: the run takes a while."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
