"""Files that settings name: one line with a password, or a list."""

from __future__ import annotations

import os
from pathlib import Path

from exchange.files.ownership import WrongOwner, read_ours
from exchange.format.errors import printable

_LONGEST_PASSWORD = 4096


def one_line(file: Path) -> str:
    """Read the one line of a file. Raises ValueError, without a word of what is in it."""
    try:
        # A FIFO that nobody writes to would be waited for.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            line = os.read(descriptor, _LONGEST_PASSWORD + 2).removesuffix(b"\n").removesuffix(b"\r").decode()
        finally:
            os.close(descriptor)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(
            f"expected a file whose one line is the password, but {printable(str(file))}: {reason}"
        ) from None
    if not line or not line.isprintable() or len(line) > _LONGEST_PASSWORD:
        raise ValueError(
            f"expected one line of at most {_LONGEST_PASSWORD} printable characters, the password, found something else"
            f" in {printable(str(file))} (not shown)"
        )
    return line


def lines(file: Path) -> list[str]:
    """Read the lines of a file of URLs that are no comments. Raises ValueError, without a word of what is in it."""
    try:
        text = read_ours(file)
    except (OSError, WrongOwner) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"expected a file of URLs, but {printable(str(file))}: {reason}") from None
    if text is None:
        raise ValueError(f"expected a file of URLs, found none at {printable(str(file))}")
    try:
        lines = [line.strip() for line in text.decode().splitlines()]
    except UnicodeError:
        raise ValueError(f"expected a file of URLs, but {printable(str(file))}: it is not UTF-8") from None
    return [line for line in lines if line and not line.startswith("#")]
