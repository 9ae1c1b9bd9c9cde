"""Dead letters: records that did not take effect, kept with why, until a person or a later batch settles them.

This package keeps and finds them; retrying one is the ``retry`` workflow's.
"""

from __future__ import annotations

from exchange.dead_letters.backlog import Backlog, backlog
from exchange.dead_letters.finding import Parked, count_parked, find, history, listed
from exchange.dead_letters.keeping import Letter, park
from exchange.dead_letters.retiring import SETTLED, forget_selections, retire
from exchange.dead_letters.settling import discard, settle

__all__ = [
    "SETTLED",
    "Backlog",
    "Letter",
    "Parked",
    "backlog",
    "count_parked",
    "discard",
    "find",
    "forget_selections",
    "history",
    "listed",
    "park",
    "retire",
    "settle",
]
