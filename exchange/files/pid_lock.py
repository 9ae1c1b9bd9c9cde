"""A file, or one name in it, that one process holds: the kernel lets go of it, however the process ends."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from exchange.database.locks import try_lock
from exchange.database.whoami import whoami
from exchange.files.folder import make_private


def hold(path: Path, waiting: Callable[[str], object], more: str = "") -> IO[str]:
    """Hold a file until what is given is closed, and leave our name in it, with ``more`` behind it.

    If another process holds it, ``waiting`` is called with what that one left in it, and unless it raises we wait until
    the other one ends. Raises OSError.
    """
    make_private(path.parent)
    with ExitStack() as unless_held:
        file = unless_held.enter_context(path.open("a+"))
        if not try_lock(file):
            file.seek(0)
            waiting(file.read())
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{whoami()}{more}")
        file.flush()
        unless_held.pop_all()
    return file


@contextmanager
def holding_name(path: Path, name: str) -> Iterator[bool]:
    """Hold one of any number of names for the block, or give False if another process holds it. Raises OSError.

    Each name is a byte of the file, which stays empty.
    """
    make_private(path.parent)
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
    with path.open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            yield False
            return
        yield True


def hold_with_others(path: Path) -> IO[bytes]:
    """Hold a file together with others who call this, until what is given is closed. Raises OSError.

    Its time says when the last one took it.
    """
    make_private(path.parent)
    with ExitStack() as unless_held:
        file = unless_held.enter_context(path.open("ab"))
        fcntl.flock(file, fcntl.LOCK_SH)  # whoever asks whether it is held has it for a moment
        os.utime(file.fileno())
        unless_held.pop_all()
    return file


def held(path: Path, *, by_others: bool = False) -> bool:
    """Tell whether a process on this machine holds the file, alone or, ``by_others``, together with others."""
    try:
        with path.open() as file:
            # Shared where it may be: two that ask at once don't take one another for the holder.
            return not try_lock(file, shared=not by_others)
    except OSError:
        return False  # nobody ever held it
