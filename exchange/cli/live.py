"""A screen that is drawn again and again in place, until somebody presses q or Ctrl-C; in a pipe it is printed anew."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from types import FrameType
from typing import TextIO

from exchange.cli import output
from exchange.cli.runtime import explained
from exchange.database import clock
from exchange.format.moments import in_table

_OWN_SCREEN, _SCREEN_BEFORE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_TOP, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_ENDS = {"q", "Q", "\x03", "\x04", ""}


class _Frame(io.StringIO):
    """What a command prints, kept instead of shown; for the rest it is the terminal."""

    encoding = "utf-8"

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        """Say that it is a terminal."""
        return True

    def fileno(self) -> int:
        """Give the terminal's number, of which its size is asked."""
        return self._terminal.fileno()


def watch(draw: Callable[[], None], seconds: float, *, as_json: bool) -> None:
    """Call what prints a screen, every so many seconds, until it is ended.

    What goes wrong meanwhile is said above the last good screen, and it goes on; a fault of our own is raised.
    """
    if as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
        _in_a_pipe(draw, seconds, blank=not as_json)
    else:
        _at_a_terminal(draw, seconds)


def _in_a_pipe(draw: Callable[[], None], seconds: float, *, blank: bool) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                draw()
            except Exception as error:
                sentences, _ = explained(error)
                if not sentences:
                    raise
                for sentence in sentences:
                    output.print_error(sentence)
            if blank:
                output.tell("")
            time.sleep(seconds)


def _at_a_terminal(draw: Callable[[], None], seconds: float) -> None:
    terminal = sys.stdout
    shown: list[str] = []
    since: datetime | None = None
    with _screen(terminal), contextlib.suppress(KeyboardInterrupt):
        while True:
            trouble: list[str] = []
            try:
                shown, since = _drawn(terminal, draw), None
            except Exception as error:
                sentences, _ = explained(error)
                if not sentences:
                    raise
                since = since or clock.now()
                trouble = _drawn(terminal, partial(_say_trouble, sentences, since))
            _put(terminal, [*trouble, *shown], f"{clock.now():%H:%M:%S}Z, every {seconds:g} s; q ends")
            if _ended(seconds):
                return


def _say_trouble(sentences: Sequence[str], since: datetime) -> None:
    for sentence in sentences:
        output.print_error(sentence)
    output.warn(f"what is below is as it was before {in_table(since)}")
    output.tell("")


def _drawn(terminal: TextIO, draw: Callable[[], None]) -> list[str]:
    frame = _Frame(terminal)
    with contextlib.redirect_stdout(frame), contextlib.redirect_stderr(frame):
        draw()
    return frame.getvalue().splitlines()


def _put(terminal: TextIO, lines: list[str], last: str) -> None:
    """Write a screen over the one before, in one piece and without a blank between: nothing flickers."""
    height = os.get_terminal_size(terminal.fileno()).lines or 24
    room = height - 1
    if len(lines) > room:
        lines = [line for line in lines if line]
    if len(lines) > room:
        last = f"{len(lines) - room + 1} more lines than there is room for; {last}"
        lines = lines[: room - 1]
    text = "".join(f"{line}{_REST_OF_LINE}\n" for line in lines)
    terminal.write(f"{_TOP}{text}{_REST_OF_SCREEN}{output.styled(last, dim=True)}{_REST_OF_LINE}")
    terminal.flush()


@contextlib.contextmanager
def _screen(terminal: TextIO) -> Iterator[None]:
    """Take the terminal's other screen, without a cursor, and keys as they are pressed; give all back at the end."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before, keys = signal.signal(signal.SIGTERM, end), termios.tcgetattr(sys.stdin.fileno())
    try:
        tty.setcbreak(sys.stdin.fileno())
        terminal.write(_OWN_SCREEN)
        terminal.flush()
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, keys)
        terminal.write(_SCREEN_BEFORE)
        terminal.flush()
        signal.signal(signal.SIGTERM, before)


def _ended(seconds: float) -> bool:
    """Wait so long for a key; say whether it is one that ends."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], left)
        if ready and os.read(sys.stdin.fileno(), 1).decode(errors="replace") in _ENDS:
            return True
    return False
