"""Other processes that export or import: forked, so that they can be killed at a chosen step."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.crossing.sides import Side

KILLED = 99


def fork(work: Callable[[], object], *sides: Side) -> int:
    """Start ``work`` in a child process that shares no connection; give its id."""
    for side in sides:
        side.engine.dispose()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the test's own threads only wait
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - nothing of the child may come back into pytest
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def join(child: int) -> int:
    """Wait for a child; give its exit code, negative for a signal."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def run_killed_at(step: int, side: Side, work: Callable[[], object]) -> int:
    """Run ``work`` in a child that dies at a step: before or after each rename, link, sync, unlink and commit."""

    def doomed() -> None:
        with _steps(side, step):
            work()

    return join(fork(doomed, side))


@contextmanager
def _steps(side: Side, last: int) -> Iterator[None]:
    seen = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            nonlocal seen
            _maybe_die()
            done = function(*values, **named)
            _maybe_die()
            return done

        return call

    def _maybe_die() -> None:
        nonlocal seen
        seen += 1
        if seen == last:
            os._exit(KILLED)

    dialect: Any = side.engine.dialect
    calls = ("rename", "link", "unlink", "fsync")
    places: list[tuple[Any, str]] = [*((os, call) for call in calls), (dialect, "do_commit")]
    originals = [getattr(owner, name) for owner, name in places]
    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, counted(original))
    yield


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
