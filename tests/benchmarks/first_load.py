"""A first load: a table that has rows is sent whole, and its rate is the same at the end as in the beginning."""

from __future__ import annotations

import shutil
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from exchange.limits import Limits
from tests.benchmarks.bars import Bar, Outcome, at_least, show_rate
from tests.benchmarks.measuring import Measured, Series, note
from tests.benchmarks.workshop import Workshop

LARGE = 20_000_000
SHARDS = (1, 2)
TENTHS = 10
LEAST_BATCHES = 40
"""So many batches there are at least: by them the rate is told along the way."""


class Mark(NamedTuple):
    """So many records were done by a moment."""

    records: int
    at: float


def first_load(shop: Workshop) -> Outcome:
    """Send a table of many rows for the first time and take it in, by one shard and by two; once each."""
    count = LARGE if shop.sizes.large else shop.sizes.records
    limits = {"batch_records": max(1, min(Limits().batch_records, count // LEAST_BATCHES))}
    bars: list[Bar] = []
    series: dict[str, Series] = {}
    for shards in SHARDS:
        named = f"first load of {count:,} rows, " + (f"{shards} shards" if shards > 1 else "one channel")
        here = shop.filled(count, captured=False)
        there = shop.duplicate(shop.empty("response"))
        out, batches = shop.export(here, shards=shards, **limits)
        taken = shop.take_in_shards_into(there, batches, shards)
        for what, url, done in (("out", here, out), ("in", there, taken)):
            bars.append(_flat(f"{named}, {what}", marks(shop, url, what), done))
            series[f"{named}, {what}"] = [done]
        for url in (here, there):
            shop.drop(url)
        shutil.rmtree(batches.parent)
    return Outcome(tuple(bars), series)


def marks(shop: Workshop, url: str, direction: str) -> list[Mark]:
    """Read in a side's ledger when each of its batches was done: sealed, or applied."""
    moment = "created_at" if direction == "out" else "updated_at"
    rows = shop.sql(
        f"SELECT records, extract(epoch FROM {moment})::float8 FROM exchange_batch"
        f" WHERE direction = '{direction}' AND channel LIKE 'requests%' ORDER BY {moment}, id",
        url,
    )
    done, found = 0, []
    for records, at in rows:
        done += records
        found.append(Mark(done, at))
    return found


def rates_by_tenth(found: list[Mark]) -> list[float]:
    """Give the rate in each tenth of the records, in records a second; the first batch's begin is not known."""
    first, last = found[0], found[-1]
    ends = [first.records + (last.records - first.records) * tenth / TENTHS for tenth in range(TENTHS + 1)]
    moments = [_reached(found, end) for end in ends]
    step = (last.records - first.records) / TENTHS
    return [step / max(after - before, 1e-6) for before, after in pairwise(moments)]


def _reached(found: list[Mark], records: float) -> float:
    for before, after in pairwise(found):
        if records <= after.records:
            share = (records - before.records) / max(after.records - before.records, 1)
            return before.at + share * (after.at - before.at)
    return found[-1].at


def _flat(what: str, found: list[Mark], done: Measured) -> Bar:
    rates = rates_by_tenth(found)
    half = len(rates) // 2
    said = ", ".join(f"{rate:,.0f}" for rate in rates)
    note(f"  {what}: {said} rows/s by each tenth")
    end, begin = median(rates[half:]), median(rates[:half])
    return Bar(
        f"{what}: rate of the second half / of the first",
        at_least(0.9),
        (end / begin,),
        f"{show_rate([done])}; by each tenth {said}",
    )
