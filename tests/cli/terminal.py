"""A real terminal for a command: a pseudo-terminal of a given size, and a fork of this process at its other end."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
import traceback
from collections.abc import Mapping

from exchange.cli import main


def on_terminal(
    words: list[str], environment: Mapping[str, str], columns: int = 80, lines: int = 24, *, typed: str = ""
) -> str:
    """Run a command at a terminal of this size; give all that was written to it. ``typed`` is what is typed there."""
    pid, terminal = pty.fork()
    if pid == 0:
        _become(words, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    os.write(terminal, f"\n{typed}".encode())  # it is as large as it is to be
    written = b""
    try:
        while piece := os.read(terminal, 65536):
            written += piece
    except OSError:  # how Linux says that the last writer has closed a terminal
        pass
    os.close(terminal)
    os.waitpid(pid, 0)
    return written.decode().replace("\r\n", "\n").removeprefix("\n")


def _become(words: list[str], environment: Mapping[str, str]) -> None:
    """Be the command, and end as it does."""
    code = 1
    try:
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "r" if number == 0 else "w") for number in range(3))
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
