"""Dead letters: records that did not take effect, kept with why, until a person or a later batch settles them.

What takes a Connection works in the caller's transaction and commits nothing; what takes a Site or an Engine begins
and commits its own.
"""

from __future__ import annotations

from exchange.dead_letters.counts import Backlog, backlog, count_in, count_parked, fold
from exchange.dead_letters.filters import Filters, key_texts
from exchange.dead_letters.groups import Group, grouped
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.order import Cursor, Order
from exchange.dead_letters.pages import counted, cursor, page
from exchange.dead_letters.retention import SETTLED, forget_selections, retire
from exchange.dead_letters.search import Count, Page
from exchange.dead_letters.show import View, view
from exchange.dead_letters.store import Brief, Letter, Parked, find, history, park
from exchange.dead_letters.supersede import Superseding, parked_sent, supersede_sent
from exchange.dead_letters.transitions import Outcome, Taken, settle, take

__all__ = [
    "SETTLED",
    "Backlog",
    "Brief",
    "Count",
    "Cursor",
    "Filters",
    "Group",
    "Letter",
    "Mask",
    "Order",
    "Outcome",
    "Page",
    "Parked",
    "Superseding",
    "Taken",
    "View",
    "backlog",
    "count_in",
    "count_parked",
    "counted",
    "cursor",
    "find",
    "fold",
    "forget_selections",
    "grouped",
    "history",
    "key_texts",
    "page",
    "park",
    "parked_sent",
    "retire",
    "settle",
    "supersede_sent",
    "take",
    "view",
]
