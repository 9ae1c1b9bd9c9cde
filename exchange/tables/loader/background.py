"""The background worker: one piece of work after the other, by another thread where the caller can go on meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures

INTERRUPT_SECONDS = 0.5
"""How long what was interrupted has to end before it is interrupted once more."""


class BackgroundWorker:
    """Does what it is given, in order; at most one piece is under way while the caller makes the next.

    A thread helps where the work is waiting for another process. SQLite works in ours, row by row, and would fight
    over the interpreter with whoever makes the next rows: reading ahead beside it was tried and gave nothing.
    """

    def __init__(self, *, threaded: bool) -> None:
        """Work in a thread, or at once."""
        self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="exchange-load") if threaded else None
        self._under_way: futures.Future[None] | None = None
        self._latest: futures.Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Do it, when the piece before it is done. Raises what that one raised; then this one is not begun."""
        self.wait()
        if self._pool is None:
            work()
        else:
            self._latest = self._under_way = self._pool.submit(work)

    def wait(self) -> None:
        """Wait until nothing is under way. Raises what that raised."""
        done, self._under_way = self._under_way, None
        if done is not None:
            done.result()

    def close(self, interrupt: Callable[[], object] | None = None) -> None:
        """Wait for what is under way, whatever comes of it, and let the thread end; ``interrupt`` is to end it sooner.

        Raises nothing.
        """
        if self._pool is None:
            return
        while interrupt is not None and self._latest is not None and not self._latest.done():
            interrupt()
            futures.wait([self._latest], INTERRUPT_SECONDS)
        self._pool.shutdown(wait=True)
