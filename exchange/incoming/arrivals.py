"""What lies in ``incoming/`` beside batches: what carriers made of files, told by its cause, however many there are."""

from __future__ import annotations

from collections import defaultdict

from exchange.database import clock
from exchange.files import batch_files
from exchange.files.batch_files import Listing
from exchange.format.errors import printable
from exchange.limits import Limits
from exchange.results import LeftAloneFiles

MOST_SAMPLES = 3
"""So many files of a cause are named."""


def left_alone(listing: Listing, limits: Limits) -> tuple[LeftAloneFiles, ...]:
    """Group what a listing found by its cause. What a carrier may still be at work on is told after the grace period.

    The clock only decides when something is told: it moves and removes nothing.
    """
    by_cause: dict[str, list[batch_files.LeftAlone]] = defaultdict(list)
    for one in sorted(listing.left_alone):
        # A time in the future is as good as an old one: some clock was wrong.
        if not one.passing or abs(clock.seconds() - one.changed_at) >= limits.grace_seconds:
            by_cause[one.found].append(one)
    return tuple(_group(found, some) for found, some in by_cause.items())


def _group(found: str, some: list[batch_files.LeftAlone]) -> LeftAloneFiles:
    samples = tuple(printable(one.file, 120) for one in some[:MOST_SAMPLES])
    if len(some) == 1:
        message = f"{samples[0]} in incoming {found}"
    else:
        message = f"{len(some)} files in incoming, such as {', '.join(samples)}: each {found}"
    missed = not (some[0].passing or some[0].spare)
    return LeftAloneFiles(len(some), samples, f"{message}; it is left alone", some[0].remedy, missed)
