"""The lock of an open file."""

from __future__ import annotations

import fcntl
from typing import IO, Any


def try_lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock a file until it is closed, or give False if another process has locked it.

    The kernel lets go of it however the process ends. Any number of processes may have it ``shared``. Raises
    OSError.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
