"""The incoming folder seen from outside: which batches lie there whole, and a wait that ends when one comes.

Linux tells (inotify) what this machine itself does in a folder, and nothing of what another one does to a
network mount. So the folder is listed now and then all the same: being told only makes it sooner, and a
folder that went, was mounted over or came back is watched anew. Nothing is opened, moved or trusted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import sys
import time
from collections import defaultdict
from pathlib import Path

from exchange.files.folder import held
from exchange.format.names import parse_file_name

_GATHER_SECONDS = 0.02
"""Files come in crowds: whoever is told of the first one waits so long for the others."""
_IN_CLOSE_WRITE, _IN_MOVED_TO = 0x8, 0x80
_IN_ONLYDIR, _IN_DONT_FOLLOW = 0x0100_0000, 0x0200_0000
_EVENT_BYTES = 64 * 1024

Arrived = tuple[str, int, int]
"""A file's name, its size in bytes and when it was written, in nanoseconds."""


class WatchedFolder:
    """One folder that a carrier brings files to. Close it in the end."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; it need not be there yet."""
        self.folder = folder
        self._teller = _Inotify.open()

    def look(self) -> frozenset[Arrived]:
        """List the files of every batch whose manifest and data are both there. Raises OSError if the folder isn't.

        A file that grew since the last listing is another one.
        """
        if self._teller is not None:
            self._teller.watch(self.folder)
        batches = defaultdict(set)
        found = set()
        with held(self.folder) as folder, folder.entries() as entries:
            for entry in entries:
                parsed = parse_file_name(entry.name)
                if parsed is not None:
                    batches[parsed[0]].add((parsed[1], entry))
            for files in batches.values():
                if len({kind for kind, _ in files}) > 1:
                    for _, entry in files:
                        with contextlib.suppress(FileNotFoundError):  # an import took it meanwhile
                            known = entry.stat(follow_symlinks=False)
                            found.add((entry.name, known.st_size, known.st_mtime_ns))
        return frozenset(found)

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until a file came; tell whether one did."""
        if self._teller is None:
            time.sleep(seconds)
            return False
        return self._teller.wait(seconds)

    def close(self) -> None:
        """Watch no longer. May be repeated."""
        if self._teller is not None:
            self._teller.close()
        self._teller = None


class _Inotify:
    """Linux's own word that a file is complete: closed after writing, or renamed to where it is."""

    def __init__(self, library: ctypes.CDLL, descriptor: int) -> None:
        self._library = library
        self._descriptor = descriptor

    @classmethod
    def open(cls) -> _Inotify | None:
        """Give None where the system has no such thing, or no more of it."""
        if sys.platform != "linux":
            return None
        library = ctypes.CDLL(None)
        descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        return None if descriptor < 0 else cls(library, descriptor)

    def watch(self, folder: Path) -> None:
        """Watch the folder that lies there now; may be repeated, and has to be: it may be another one than before."""
        wanted = _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_ONLYDIR | _IN_DONT_FOLLOW
        self._library.inotify_add_watch(self._descriptor, os.fsencode(folder), wanted)

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until files came; tell whether some did."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return False
        time.sleep(_GATHER_SECONDS)
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _EVENT_BYTES)
        return True

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)
