"""The contest of digests: how fast rows are read for a comparison, and in how much memory."""

from __future__ import annotations

from tests.benchmarks.bars import Bar, Outcome, at_least, at_most, peaks, show_peak
from tests.benchmarks.measuring import interleave, our_step
from tests.benchmarks.workshop import Workshop


def digest(shop: Workshop) -> Outcome:
    """All rows of a table, PostgreSQL: of few and of many."""
    few, many = shop.sizes.peer_records, shop.sizes.records
    names = {count: f"digest of {count:,}" for count in (few, many)}
    series = interleave(
        {names[count]: our_step("digest", url=shop.pending(count)).run for count in names}, shop.sizes.rounds
    )
    ours = series[names[many]]
    rate = Bar(
        f"digest of {many:,} rows for a comparison, PostgreSQL",
        at_least(100_000, "rows/s"),
        tuple(one.rate for one in ours),
        show_peak(ours),
    )
    what = f"peak memory, digest of {many:,} rows / of {few:,}"
    return Outcome((rate, peaks(what, at_most(1.1), ours, series[names[few]])), series)
