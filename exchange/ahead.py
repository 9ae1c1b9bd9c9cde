"""Work ahead: an iterator runs in a thread of its own while its consumer waits for something else.

For work between which Python holds no lock anyway: reading a file, decompressing and hashing it, while the
consumer waits for the database.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")

DEPTH = 4
"""How many items may wait for the consumer."""

_PATIENCE_SECONDS = 0.05


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Give the items of ``items``, made in a thread a few at a time; what it raises is raised here.

    A consumer that stops early, for whatever reason, ends the thread before this returns.
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
