"""Garbage: a process of ours looks for it seldom, and not at all when it ends.

Most of what a command makes is what it imports, which is no garbage. Python would look through all of that again and
again while it imports, and twice more at the end: a third of what a short command, a worker or beat takes to start and
stop.
"""

from __future__ import annotations

import atexit
import gc

YOUNG_OBJECTS = 50_000
"""So many new objects are looked through at once: ten megabytes or so."""


def collect_seldom() -> None:
    """Set this for a process that is ours alone; its first module calls it, before the others are imported."""
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
