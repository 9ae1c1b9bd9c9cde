"""Whether a process of this home that ran before ended in order: each leaves a file while it lives, and holds it.

One that was killed, or was hung and started again, leaves its file behind: the next one on this machine says so.
"""

from __future__ import annotations

import atexit
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from exchange.database import clock
from exchange.database.locks import try_lock
from exchange.database.processes import this_host
from exchange.files.folder import make_private
from exchange.format.errors import printable
from exchange.format.moments import in_words
from exchange.settings import Settings

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
                since = printable(file.read(), 80)
                path.unlink()
                who = f"the {process} that began {since}" if since else f"an earlier {process}"
                sentences.append(
                    f"{who} (process {path.name.rpartition('-')[2]}) was killed, or its machine fell; nothing is lost"
                )
    path = folder / f"{process}-{this_host()}-{os.getpid()}"
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.write(in_words(clock.now()))
    file.flush()
    _held.append((os.getpid(), file, path))
    return sentences


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
