"""When a dead letter that may heal by itself is tried again: after pauses that grow, so many times and no more.

That a row which it refers to is not here yet, or that another row has a unique value, time may mend. What a person has
to mend is never tried by itself.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from exchange.database import clock
from exchange.database.tables import Direction
from exchange.tables.loader.checks import FOREIGN_KEY

HEALS = frozenset({FOREIGN_KEY, "unique"})
"""Classes of errors that may go away though nobody mends the record."""

MOST_TRIES = 8
"""So often a letter is tried by time, in some three days. A parent that comes later has it tried all the same."""

FIRST = timedelta(minutes=1)
GROWTH = 4
LONGEST = timedelta(days=1)

JITTER = 0.2
"""By so large a share a pause is longer or shorter, so that letters of one moment don't all come again at one."""

FURTHEST = LONGEST * (1 + JITTER) + clock.SKEW
"""No next try lies further ahead, but one that was reckoned by a clock that was ahead."""


def next_try(direction: Direction | str, error: str, tries: int, moment: datetime) -> datetime | None:
    """Say when a letter that was tried so many times by time is tried again; None: never by time."""
    if direction != Direction.IN or error not in HEALS or tries >= MOST_TRIES:
        return None
    pause: timedelta = min(FIRST * GROWTH**tries, LONGEST)
    later: datetime = moment + pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - nothing secret hangs on it
    return later
