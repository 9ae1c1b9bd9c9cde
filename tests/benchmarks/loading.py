"""Contests of imports: beside the databases' own bulk loads, beside the peers, and with bad or known input."""

from __future__ import annotations

import inspect
from functools import partial

from exchange.channels import Channel
from tests.benchmarks.bars import Bar, Outcome, at_least, at_most, not_measured, rates, show_time, work
from tests.benchmarks.contenders import (
    DLT,
    DLT_TUNED,
    OURS,
    SQLITE_UTILS,
    TARGET,
    against,
    postgres_peers,
    sqlite_peers,
)
from tests.benchmarks.measuring import Measured, interleave, our_step
from tests.benchmarks.workshop import Workshop

COPY, UPSERT = "COPY of ready rows", "COPY of ready rows to a temporary table, then upsert"
SHARDS = (1, 2, 4)
EXECUTEMANY = "executemany of ready tuples, with as much page cache"


def new_rows(shop: Workshop) -> Outcome:
    """All rows are new, PostgreSQL."""
    empty, batches = shop.empty("response"), shop.carriage.new
    ready = shop.ready(shop.loaded(batches, empty))
    series = interleave(
        {
            OURS: lambda: shop.in_copy(empty, lambda url: shop.take_in(url, batches)),
            COPY: lambda: shop.in_copy(empty, lambda url: our_step("copy_in", url=url, file=ready).run()),
            **postgres_peers(shop, shop.carriage.new_rows),
        },
        shop.sizes.rounds,
    )
    say = "import, PostgreSQL, all rows new: "
    bars = (
        work(f"{say}processor of both / {COPY}", at_most(1.35), series[OURS], series[COPY]),
        rates(f"{say}rate / {COPY}", shop.on_two(at_least(0.85)), series[OURS], series[COPY]),
    )
    return Outcome((*bars, *against(shop, f"{say}rate / ", (DLT, DLT_TUNED, TARGET), series)), series)


def changed_rows(shop: Workshop) -> Outcome:
    """All rows are there and differ, PostgreSQL."""
    before, batches = shop.loaded(shop.carriage.new, shop.empty("response")), shop.carriage.changed
    ready = shop.ready(shop.loaded(batches, before))
    series = interleave(
        {
            OURS: lambda: shop.in_copy(before, lambda url: shop.take_in(url, batches)),
            UPSERT: lambda: shop.in_copy(before, lambda url: our_step("copy_and_upsert", url=url, file=ready).run()),
            **postgres_peers(shop, shop.carriage.changed_rows, before=shop.carriage.new_rows),
        },
        shop.sizes.rounds,
    )
    say = "import, PostgreSQL, all rows changed: "
    bars = (
        work(f"{say}processor of both / {UPSERT}", None, series[OURS], series[UPSERT]),
        rates(f"{say}rate / {UPSERT}", at_least(0.90), series[OURS], series[UPSERT]),
    )
    return Outcome((*bars, *against(shop, f"{say}rate / ", (DLT, DLT_TUNED, TARGET), series)), series)


def new_rows_on_sqlite(shop: Workshop) -> Outcome:
    """All rows are new, SQLite."""
    empty, batches = shop.empty("response", "sqlite"), shop.carriage.new
    loaded = shop.loaded(batches, empty)

    floor = partial(our_step, "executemany", loaded=loaded)
    series = interleave(
        {
            OURS: lambda: shop.in_copy(empty, lambda url: shop.take_in(url, batches)),
            EXECUTEMANY: lambda: shop.in_copy(empty, lambda url: floor(url=url).run()),
            **sqlite_peers(shop, shop.carriage.new_rows),
        },
        shop.sizes.rounds,
    )
    say = "import, SQLite, all rows new: "
    bars = (
        work(f"{say}processor / {EXECUTEMANY}", None, series[OURS], series[EXECUTEMANY]),
        rates(f"{say}rate / {EXECUTEMANY}", at_least(0.60), series[OURS], series[EXECUTEMANY]),
    )
    return Outcome((*bars, *against(shop, f"{say}rate / ", (SQLITE_UTILS,), series)), series)


def bad_rows(shop: Workshop) -> Outcome:
    """One record in a hundred is bad, for five different reasons."""
    strict, (spoilt, bad) = shop.strict(), shop.spoilt
    dirty, clean = "exchange, 1% bad", "exchange, none bad"
    series = interleave(
        {
            dirty: lambda: shop.in_copy(strict, lambda url: shop.take_in(url, spoilt, parked=bad)),
            clean: lambda: shop.in_copy(strict, lambda url: shop.take_in(url, shop.carriage.new)),
        },
        shop.sizes.rounds,
    )
    what = "import, PostgreSQL, 1% of rows bad for five reasons: rate / clean rate"
    return Outcome((rates(what, at_least(0.8), series[dirty], series[clean]),), series)


def known_batch(shop: Workshop) -> Outcome:
    """A batch that is applied already comes again."""

    def again(count: int) -> Measured:
        batch = shop.one_batch(count)
        url = shop.loaded(batch, shop.empty("response"))
        return our_step("take_in_again", url=url, home=shop.home(), keys=shop.keys, batches=batch).run()

    names = {count: f"exchange, a batch of {count:,} again" for count in shop.sizes.again}
    series = interleave({name: partial(again, count) for count, name in names.items()}, shop.sizes.rounds)
    what = "import again of the same batch (duplicate), the slowest size"
    worst = tuple(1000 * max(one.seconds for one in rounds) for rounds in zip(*series.values(), strict=True))
    ours = "; ".join(f"{count:,}: {show_time(series[name])}" for count, name in names.items())
    return Outcome((Bar(what, at_most(50, "ms"), worst, ours),), series)


def sharded(shop: Workshop) -> Outcome:
    """One table's load by several workers, each with a shard of it."""
    what, goal = "import, PostgreSQL: rate of two shards with two workers / of one shard", at_least(1.4)
    if "shards" not in inspect.signature(Channel).parameters:
        return Outcome((not_measured(what, goal, "this version has no shards"),))

    def load(shards: int) -> Measured:
        batches = shop.sharded(shards)
        return shop.in_copy(shop.empty("response"), lambda url: shop.take_in_shards(url, batches, shards))

    names = {shards: f"exchange, shards and workers: {shards}" for shards in SHARDS}
    series = interleave({name: partial(load, shards) for shards, name in names.items()}, shop.sizes.rounds)
    one = series[names[1]]
    more = [
        rates(
            what if shards == 2 else f"the same with {shards} shards and workers",
            goal if shards == 2 else None,
            series[name],
            one,
        )
        for shards, name in names.items()
        if shards > 1
    ]
    return Outcome(tuple(more), series)
