"""When a backup was last made here, and why the last one failed: what alarms watch. A file of the home keeps it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from exchange.database import clock
from exchange.files import durable
from exchange.format.moments import from_rfc3339, to_rfc3339

FILE = "backup.json"


@dataclass(frozen=True)
class LastBackup:
    """The last backup that was made, ``at`` and where, and since when and why others failed since."""

    at: datetime | None = None
    folder: str | None = None
    failed_at: datetime | None = None
    message: str | None = None


def read_last(home: Path) -> LastBackup:
    """Give what is known of this home's last backup; nothing if that can't be understood. Raises OSError."""
    try:
        said = json.loads((home / FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return LastBackup()
    known = LastBackup()
    if isinstance(said, dict):
        with suppress(ValueError, KeyError):
            known = replace(known, at=from_rfc3339(said["at"]), folder=str(said["folder"]))
        with suppress(ValueError, KeyError):
            known = replace(known, failed_at=from_rfc3339(said["failed_at"]), message=str(said["message"]))
    return known


def note_made(home: Path, folder: Path) -> None:
    """Write down that one was made. Raises OSError."""
    _write(home, {"at": to_rfc3339(clock.now()), "folder": str(folder)})


def note_failed(home: Path, message: str) -> None:
    """Write down why one was not made; since when is that of the first that failed. Raises nothing."""
    with suppress(OSError):
        last = read_last(home)
        said = {"failed_at": to_rfc3339(last.failed_at or clock.now()), "message": message}
        if last.at and last.folder:
            said |= {"at": to_rfc3339(last.at), "folder": last.folder}
        _write(home, said)


def _write(home: Path, said: dict[str, str]) -> None:
    durable.write(home / FILE, json.dumps(said).encode() + b"\n", mode=0o600)
