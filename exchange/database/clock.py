"""The wall clock of this side, read nowhere else: it may be wrong, and tests can turn it.

What lasts is measured by ``time.monotonic``, which nobody sets. ARCHITECTURE.md lists what each reading decides.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

AHEAD = "_EXCHANGE_CLOCK_AHEAD"
"""A variable that only tests set: by so many seconds this process takes the clock to be ahead (below 0: behind)."""


def seconds() -> float:
    """The time in seconds since 1970."""
    return time.time() + float(os.environ.get(AHEAD, "0"))


def now() -> datetime:
    """The time, aware and UTC."""
    return datetime.fromtimestamp(seconds(), UTC)
