"""What bulk work needs of Python: a collector that keeps out of the way."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Stop looking for cycles for a while: records are many, short-lived and have none.

    Without this a third of an import went into looking. What has no cycle is freed as ever.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
