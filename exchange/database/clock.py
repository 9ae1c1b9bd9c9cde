"""The wall clock of this side, read nowhere else: it may be wrong, and tests can turn it.

What lasts is measured by ``time.monotonic``, which nobody sets. ARCHITECTURE.md lists what each reading decides.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

AHEAD = "_EXCHANGE_CLOCK_AHEAD"
"""A variable that only tests set: by so many seconds this process takes the clock to be ahead (below 0: behind)."""


def seconds() -> float:
    """The time in seconds since 1970."""
    return time.time() + float(os.environ.get(AHEAD, "0"))


def now() -> datetime:
    """The time, aware and UTC."""
    return datetime.fromtimestamp(seconds(), UTC)


SKEW = timedelta(hours=1)
"""By so much the clocks of machines that work over one database may differ without anybody's noticing."""


def since(moment: datetime, present: datetime | None = None) -> timedelta:
    """Say how long ago a moment of ours was, at ``present`` (now); endless if it lies ahead.

    A clock that was ahead wrote that one down, and what waits for it would wait as long as that clock was ahead.
    """
    ago = (present or now()) - moment
    return ago if ago > -SKEW else timedelta.max
