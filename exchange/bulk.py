"""What bulk work needs of Python: a thread that reads ahead, and a collector that keeps out of the way."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")

DEPTH = 16
"""How many items may wait for the consumer: enough to go on with while the database ends a statement."""

_PATIENCE_SECONDS = 0.05


@contextmanager
def uncollected() -> Iterator[None]:
    """Stop looking for cycles for a while: records are many, short-lived and have none.

    Without this a fifth of an import goes into looking. What has no cycle is freed as ever.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Give the items of ``items``, made in a thread a few at a time; what it raises is raised here.

    For work during which Python holds no lock anyway, reading, decompressing and hashing a file, while the
    consumer waits for the database. A consumer that stops early, for whatever reason, ends the thread before
    this returns.
    """
    queue: Queue[tuple[Item] | BaseException | None] = Queue(DEPTH)
    left = Event()

    def put(made: tuple[Item] | BaseException | None) -> None:
        while not left.is_set():
            with suppress(Full):
                queue.put(made, timeout=_PATIENCE_SECONDS)
                return

    def work() -> None:
        try:
            for item in items:
                put((item,))
                if left.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - it is the consumer's to handle
            put(error)

    thread = Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while (made := queue.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made[0]
    finally:
        left.set()
        thread.join()
