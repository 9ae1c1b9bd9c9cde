"""What costs something to find, kept for whoever asks next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")

AT_MOST = 0.01
"""This share of the time goes into finding it, however long it takes."""


class Kept(Generic[Found]):
    """Finds something and keeps it for so many seconds, longer if it takes long; for any number of threads.

    One of them finds it, and the others have what was found before meanwhile.
    """

    def __init__(self, find: Callable[[], Found], seconds: float) -> None:
        """Take what finds it."""
        self._find, self._seconds = find, seconds
        self._lock = threading.Lock()
        self._found: tuple[Found, float] | None = None

    def get(self) -> Found:
        """Give it. Raises what finding it raises."""
        found = self._found
        if found is not None and (time.monotonic() < found[1] or not self._lock.acquire(blocking=False)):
            return found[0]
        if found is None:
            self._lock.acquire()
        try:
            if self._found is None or self._found is found:
                began = time.monotonic()
                new = self._find()
                now = time.monotonic()
                self._found = new, now + max(self._seconds, (now - began) / AT_MOST)
            return self._found[0]
        finally:
            self._lock.release()
