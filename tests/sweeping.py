"""A run of the tests leaves nothing behind, however it ends: processes, folders and mounts.

Whatever a run starts inherits a word in its environment. A process of its own waits for the run's end, be it killed,
then ends all that still has this word, and removes the run's folder with whatever is mounted in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

WORD = "TESTS_OF_EXCHANGE"
"""The variable that everything started by a run has. Tests take away those that begin with EXCHANGE_."""

PATIENCE_SECONDS = 10.0
"""So long may what is left take to end by itself: servers stop when the run that they belong to is gone."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - the memory file system; a folder of our own is made there
_ENOUGH_BYTES = 4 * 1024**3


class Run:
    """One run's folder, and the process that cleans up after it."""

    def __init__(self) -> None:
        word = secrets.token_hex(8)
        os.environ[WORD] = word
        self.folder = Path(tempfile.mkdtemp(prefix="exchange-tests-", dir=_place()))
        self.folder.chmod(0o711)  # some tests are about what other users can see
        self._sweeper = subprocess.Popen(
            [sys.executable, __file__, word, str(self.folder)],
            stdin=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != WORD},
            start_new_session=True,
        )

    def end(self) -> None:
        """Wait until nothing is left."""
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.close()
        self._sweeper.wait()


def _place() -> str | None:
    """Give the memory file system, if programs may be run from it and it has room; else None."""
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return None
    usable = found.f_bavail * found.f_frsize >= _ENOUGH_BYTES and not found.f_flag & os.ST_NOEXEC
    return str(_MEMORY) if usable and os.access(_MEMORY, os.W_OK) else None


def processes(word: str, folder: str) -> Iterator[psutil.Process]:
    """Find what a run has started and what works in its folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and (
                process.environ().get(WORD) == word or Path(process.cwd()).is_relative_to(folder)
            ):
                yield process


def _sweep(word: str, folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes(word, folder):
            with contextlib.suppress(psutil.Error):
                end(process)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (left := list(processes(word, folder))) and time.monotonic() < deadline:
            psutil.wait_procs(left, timeout=0.1)
    for mounted in sorted(_mounts(folder), reverse=True):
        subprocess.run(["umount", "--lazy", mounted], check=False)  # noqa: S607 - whoever mounted it had it, too
    shutil.rmtree(folder, ignore_errors=True)


def _mounts(folder: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError), Path("/proc/self/mountinfo").open() as lines:
        places = [line.split()[4] for line in lines]
        return [place for place in places if Path(place).is_relative_to(folder)]
    return []


if __name__ == "__main__":
    _sweep(*sys.argv[1:])
