"""Dead letters: records that did not take effect, kept with why, until a person or a later batch settles them.

This package keeps, finds and shows them; retrying one is the ``retry`` workflow's.
"""

from __future__ import annotations

from exchange.dead_letters.counting import count_parked, counted, fold
from exchange.dead_letters.filters import Filters, key_texts
from exchange.dead_letters.finding import Brief, Parked, find, history
from exchange.dead_letters.grouping import Group, grouped
from exchange.dead_letters.keeping import Letter, park
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.ordering import Order, Place
from exchange.dead_letters.paging import page, place
from exchange.dead_letters.searching import Count, Page
from exchange.dead_letters.settling import discard, settle
from exchange.dead_letters.showing import View, view

__all__ = [
    "Brief",
    "Count",
    "Filters",
    "Group",
    "Letter",
    "Mask",
    "Order",
    "Page",
    "Parked",
    "Place",
    "View",
    "count_parked",
    "counted",
    "discard",
    "find",
    "fold",
    "grouped",
    "history",
    "key_texts",
    "page",
    "park",
    "place",
    "settle",
    "view",
]
