"""Attempts at batches that ended in order, and that a database which was away counts still: a file beside the spool."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from exchange.files.folder import OUR_MODE

_ENDING = ".ended"


class EndedAttempts:
    """A file of no bytes for each of them, so that the next process knows of it."""

    def __init__(self, folder: Path) -> None:
        """Keep them in ``folder``."""
        self._folder = folder

    def note(self, key: str) -> None:
        """Write one down. Raises OSError."""
        path = self._folder / f"{key}.{secrets.token_hex(8)}{_ENDING}"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, OUR_MODE))

    def count(self, key: str) -> int:
        """Say how many there are of a batch. Raises OSError."""
        return len(self._of(key))

    def forget(self, key: str) -> None:
        """Remove those of a batch, once the database counts them no more. Raises OSError."""
        for path in self._of(key):
            path.unlink(missing_ok=True)

    def _of(self, key: str) -> list[Path]:
        with os.scandir(self._folder) as entries:
            return [Path(one) for one in entries if one.name.startswith(f"{key}.") and one.name.endswith(_ENDING)]
