"""A real terminal for a command: a pseudo-terminal of a given size, and a fork of this process at its other end."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from exchange.cli import main

SECONDS = 30.0
MOST_OPEN = 4096


class Terminal:
    """A command that runs at a terminal, and all that was written to it."""

    def __init__(self, pid: int, number: int) -> None:
        self.pid = pid
        self.written = ""
        self.code: int | None = None
        self._number = number

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._number, text.encode())

    def until(self, words: str, times: int = 1) -> None:
        """Wait until these were written so often. Raises AssertionError if that takes too long or it ended before."""
        deadline = time.monotonic() + SECONDS
        while self.written.count(words) < times:
            assert time.monotonic() < deadline, self.written
            assert self._read(), self.written

    def end(self) -> str:
        """Read all that is written until it ends, and keep its exit code."""
        while self._read():
            pass
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.written

    def _read(self) -> bool:
        if not select.select([self._number], [], [], 0.2)[0]:
            return True
        try:
            piece = os.read(self._number, 65536)
        except OSError:  # how Linux says that the last writer has closed a terminal
            return False
        self.written += piece.decode(errors="replace").replace("\r\n", "\n")
        return bool(piece)


@contextmanager
def terminal(
    words: list[str], environment: Mapping[str, str], columns: int = 80, lines: int = 24, *, alone: bool = False
) -> Iterator[Terminal]:
    """Run a command at a terminal of this size; one that still runs at the end is killed.

    ``alone`` closes what this process has open: by that its servers know that somebody needs them. SQLite of a fork
    needs its own.
    """
    pid, number = pty.fork()
    if pid == 0:
        _become(words, environment, alone=alone)
    fcntl.ioctl(number, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    os.write(number, b"\n")  # it is as large as it is to be
    running = Terminal(pid, number)
    try:
        yield running
    finally:
        if running.code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(number)


def on_terminal(
    words: list[str], environment: Mapping[str, str], columns: int = 80, lines: int = 24, *, typed: str = ""
) -> str:
    """Run a command at a terminal of this size; give all that was written to it. ``typed`` is what is typed there."""
    with terminal(words, environment, columns, lines) as running:
        running.type(typed)
        return running.end().removeprefix("\n")


def _become(words: list[str], environment: Mapping[str, str], *, alone: bool) -> None:
    """Be the command, and end as it does."""
    code = 1
    try:
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "r" if number == 0 else "w") for number in range(3))
        if alone:
            os.closerange(3, MOST_OPEN)
        os.read(0, 1)
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            os.environ.pop(name, None)
        os.environ.update({"TERM": "xterm-256color", **environment})
        sys.argv = ["exchange", *words]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - shown, and the fork of a test goes no further
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
