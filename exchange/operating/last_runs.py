"""Whether a process of this home that ran before ended in order: each leaves a file while it lives, and holds it.

One that was killed, or was hung and started again, leaves its file behind: the next one on this machine says so. One
that is told to stop leaves word of that.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from exchange.database import clock
from exchange.database.locks import try_lock
from exchange.database.processes import this_host
from exchange.files import durable
from exchange.files.folder import make_private
from exchange.files.pid_lock import held
from exchange.format.errors import printable
from exchange.format.moments import from_rfc3339, in_words, to_rfc3339
from exchange.settings import Settings

_begun_bytes = 0
_held: list[tuple[int, IO[str], Path]] = []


def begin(settings: Settings, process: str) -> list[str]:
    """Leave word that this process lives, and give a sentence for each of its kind here that did not end in order.

    Raises OSError.
    """
    folder = settings.run_folder / "alive"
    make_private(folder)
    sentences = []
    for path in sorted(folder.glob(f"{process}-{this_host()}-*")):
        with suppress(OSError), path.open("r+") as file:
            if try_lock(file):
                since = printable(file.readline().strip(), 80)
                path.unlink()
                note_restart(settings, process)
                who = f"the {process} that began {since}" if since else f"an earlier {process}"
                sentences.append(
                    f"{who} (process {path.name.rpartition('-')[2]}) was killed, or its machine fell; nothing is lost"
                )
    path = folder / f"{process}-{this_host()}-{os.getpid()}"
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    global _begun_bytes  # noqa: PLW0603 - a process begins once
    _begun_bytes = file.write(f"{in_words(clock.now())}\n")
    file.flush()
    _held.append((os.getpid(), file, path))
    return sentences


MOST_KEPT = 20
"""The times of so many restarts of a kind are kept, the newest; of all there is the count."""


@dataclass(frozen=True)
class Restarts:
    """How often processes of a kind did not end in order before the next one began, and when that was lately."""

    count: int = 0
    at: tuple[datetime, ...] = ()


def note_restart(settings: Settings, process: str) -> None:
    """Count a process that did not end in order. Raises OSError."""
    before = restarts(settings).get(process, Restarts())
    at = [to_rfc3339(one) for one in (*before.at, clock.now())][-MOST_KEPT:]
    said = {"count": before.count + 1, "at": at}
    folder = settings.run_folder / "restarts"
    make_private(folder)
    durable.write(folder / process, json.dumps(said).encode(), mode=0o600)


def restarts(settings: Settings) -> dict[str, Restarts]:
    """Give the restarts of this home by kind of process; what can't be understood is none. Raises OSError."""
    found, folder = {}, settings.run_folder / "restarts"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(ValueError, KeyError, TypeError):
            said = json.loads(path.read_bytes())
            found[path.name] = Restarts(int(said["count"]), tuple(from_rfc3339(one) for one in said["at"]))
    return found


def note_stopped(settings: Settings, process: str) -> None:
    """Leave word that a process was told to stop. Raises OSError."""
    folder = settings.run_folder / "stopped"
    make_private(folder)
    durable.write(folder / process, to_rfc3339(clock.now()).encode(), mode=0o600)


def stopped(settings: Settings, process: str, begun: datetime) -> datetime | None:
    """Say when the last process of a kind was told to stop, which began then; None if it was not, or another one fell.

    Ask of a kind of which none lives. Raises OSError.
    """
    with suppress(FileNotFoundError, ValueError):
        at = from_rfc3339((settings.run_folder / "stopped" / process).read_text())
        fell = any((settings.run_folder / "alive").glob(f"{process}-*"))
        return at if at >= begun and not fell else None
    return None


def answer(said: dict[str, Any]) -> None:
    """Leave an answer for whoever asked the processes of this home something; the last one stands."""
    for pid, file, _ in _held:
        if pid == os.getpid():
            # In one write, so that nobody reads half of it.
            file.truncate(_begun_bytes)
            os.pwrite(file.fileno(), json.dumps(said).encode(), _begun_bytes)


@dataclass(frozen=True)
class Living:
    """A process of this home that lives, on this machine or another, and its last answer."""

    process: str
    host: str
    pid: int
    answer: dict[str, Any]


def living(settings: Settings) -> list[Living]:
    """List them. Raises OSError."""
    found = []
    folder = settings.run_folder / "alive"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        process, _, rest = path.name.partition("-")
        host, _, pid = rest.rpartition("-")
        if not pid.isdigit() or not held(path):
            continue
        said = path.read_text().split("\n", 1)[-1]
        found.append(Living(process, host, int(pid), json.loads(said) if said else {}))
    return found


@atexit.register
def end() -> None:
    """Take that word back, as this process ends in order."""
    while _held:
        pid, file, path = _held.pop()
        if pid == os.getpid():
            with suppress(OSError):
                path.unlink()
        file.close()


def _forget() -> None:
    while _held:
        _held.pop()[1].close()


# A child that outlives its worker is no worker. Closed here, the kernel's lock stays: the parent has the file, too.
os.register_at_fork(after_in_child=_forget)
