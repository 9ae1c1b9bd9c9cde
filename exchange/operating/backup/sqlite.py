"""A SQLite database copied while others write to it, by SQLite's own online backup."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

PAGES_AT_ONCE = 2_000
"""So many pages are copied until somebody may interrupt it."""


def dump(connection: Connection, file: Path) -> None:
    """Copy the database as the caller's transaction sees it, into a new file.

    What that transaction sees stays as it is, however much others commit: so the copying neither begins anew with their
    commits, nor waits for them, nor they for it. Raises sqlite3.Error and OSError.
    """
    driver: Any = connection.connection.driver_connection
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(file)) as copy:
        driver.backup(copy, pages=PAGES_AT_ONCE, progress=lambda *_: None, sleep=0)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with no log beside it


def restore(dump: Path, file: Path) -> None:
    """Make a database file of a copy, whole and on the disk. Raises OSError and sqlite3.Error."""
    with closing(sqlite3.connect(f"file:{_quoted(dump)}?mode=ro&immutable=1", uri=True)) as source:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(file)) as target:
            source.backup(target, pages=PAGES_AT_ONCE, progress=lambda *_: None, sleep=0)


def version() -> str:
    """Say what copies."""
    return f"SQLite {sqlite3.sqlite_version}"


def _quoted(file: Path) -> str:
    from urllib.parse import quote  # noqa: PLC0415 - a millisecond of every start

    return quote(str(file))
