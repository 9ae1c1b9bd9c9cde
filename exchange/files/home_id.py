"""A home's own number: a file that says which one it is, wherever it is moved to or mounted. It is no secret."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from exchange.files import durable

FILE = "home"
_BYTES = 8


def path_of(home: Path) -> Path:
    """Say where it lies."""
    return home / "markers" / FILE


def read(home: Path) -> str | None:
    """Give the number of a home, None if it has none. Raises OSError."""
    try:
        return path_of(home).read_text(encoding="ascii", errors="replace").strip()[:32] or None
    except FileNotFoundError:
        return None


def write(home: Path, number: str | None = None) -> str:
    """Give a home a number, or the one that it lost; of two processes that do so at once the first one counts.

    Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        text = number or secrets.token_hex(_BYTES)
        durable.write(path_of(home), f"{text}\n".encode(), mode=0o600, replace=False)
    return str(read(home))
