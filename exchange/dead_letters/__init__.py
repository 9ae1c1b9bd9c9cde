"""Dead letters: records that did not take effect, kept with why, until a person or a later batch settles them.

This package keeps, finds and shows them; retrying one is the ``retry`` workflow's.
"""

from __future__ import annotations

from exchange.dead_letters.backlog import Backlog, backlog
from exchange.dead_letters.counting import count_in, count_parked, fold
from exchange.dead_letters.filters import Filters, key_texts
from exchange.dead_letters.finding import Brief, Parked, find, history
from exchange.dead_letters.grouping import Group, grouped
from exchange.dead_letters.keeping import Letter, park
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.ordering import Order, Place
from exchange.dead_letters.paging import counted, page, place
from exchange.dead_letters.retiring import SETTLED, forget_selections, retire
from exchange.dead_letters.searching import Count, Page
from exchange.dead_letters.settling import Outcome, Taken, discard, restore, settle, supersede, take
from exchange.dead_letters.showing import View, view
from exchange.dead_letters.superseding import Superseding, parked_sent, supersede_sent

__all__ = [
    "SETTLED",
    "Backlog",
    "Brief",
    "Count",
    "Filters",
    "Group",
    "Letter",
    "Mask",
    "Order",
    "Outcome",
    "Page",
    "Parked",
    "Place",
    "Superseding",
    "Taken",
    "View",
    "backlog",
    "count_in",
    "count_parked",
    "counted",
    "discard",
    "find",
    "fold",
    "forget_selections",
    "grouped",
    "history",
    "key_texts",
    "page",
    "park",
    "parked_sent",
    "place",
    "restore",
    "retire",
    "settle",
    "supersede",
    "supersede_sent",
    "take",
    "view",
]
