"""Dead letters: records that did not take effect, kept with why, until a person or a later batch settles them.

This package keeps and finds them; retrying one is the ``retry`` workflow's.
"""

from __future__ import annotations

from exchange.dead_letters.finding import Parked, count_parked, find, history, listed
from exchange.dead_letters.keeping import Letter, park
from exchange.dead_letters.settling import Outcome, Taken, discard, restore, settle, supersede, take
from exchange.dead_letters.superseding import Superseding

__all__ = [
    "Letter",
    "Outcome",
    "Parked",
    "Superseding",
    "Taken",
    "count_parked",
    "discard",
    "find",
    "history",
    "listed",
    "park",
    "restore",
    "settle",
    "supersede",
    "take",
]
