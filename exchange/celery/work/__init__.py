"""The tasks' work, for whichever application runs them.

Each checks its arguments, calls one workflow and returns what came of it, as JSON.

They may be called by hand (``celery -A exchange call exchange.import --kwargs '{"channel": "requests"}'``),
as often as one likes, while others run: with nothing to do they say so, and where another one works they
answer ``busy`` with who and since when. What only a person can mend fails with one sentence. Every task also takes
``reason`` and ``who``: what is called by hand is written to the audit. A call is done once: its message may come again
after a worker was killed with it, and is gone on with, but not once it came to its end, nor beside itself.
"""

from exchange.celery.work import batches, dead_letters, files, link, upkeep
from exchange.celery.work.frame import WORK, make_task, refused_call, say_how_far, stopping
from exchange.celery.work.own_side import LENDERS, forget_settings, hold_settings

__all__ = [
    "LENDERS",
    "WORK",
    "batches",
    "dead_letters",
    "files",
    "forget_settings",
    "hold_settings",
    "link",
    "make_task",
    "refused_call",
    "say_how_far",
    "stopping",
    "upkeep",
]
