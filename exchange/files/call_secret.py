"""The secret with which calls by hand are signed: a file that only this side's user reads, made once.

Who reaches the broker alone does not know it. Whoever has it can call every task of this side.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from exchange.files import durable
from exchange.files.folder import HOME_MODE, make_private
from exchange.format.errors import Problem, printable

FILE = "call.secret"

_BYTES = 32
_TEXT = re.compile(rb"[0-9a-f]{64}\n")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecretFault(Exception):  # noqa: N818 - reads as what it is
    """The secret can't be used; the text is one sentence, without what happens next."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """Keep what is wrong, and what to do if that is known."""
        self.problem = Problem(message, remedy)
        super().__init__(str(self.problem))


def make(home: Path) -> None:
    """Make the secret unless there is one. Raises OSError."""
    path = home / FILE
    if path.exists() or path.is_symlink():
        return
    make_private(home, HOME_MODE)
    with contextlib.suppress(FileExistsError):  # another process was quicker: its secret counts
        durable.write(path, secrets.token_hex(_BYTES).encode() + b"\n", mode=0o600, replace=False)


def read(home: Path) -> bytes:
    """Give the secret. Raises SecretFault."""
    path = home / FILE
    shown = printable(str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        remedy = "`exchange migrate` makes it, this side's user reads it"
        raise SecretFault(f"{shown}: {error.strerror}", remedy) from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & _OTHERS:
            raise SecretFault(
                f"{shown}: expected a file that only its owner reads (0600), found {stat.filemode(found.st_mode)}"
            )
        content = file.read(_BYTES * 2 + 2)
    if not _TEXT.fullmatch(content):
        raise SecretFault(
            f"{shown}: expected {_BYTES * 2} hexadecimal digits", "take it away, `exchange migrate` makes one"
        )
    return bytes.fromhex(content.decode())
