"""Contests of exports and of whole crossings: beside COPY TO, of large tables, and in bounded memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from tests.benchmarks.bars import Bar, Outcome, at_least, at_most, megabytes, peaks, rates, times, work
from tests.benchmarks.contenders import OURS
from tests.benchmarks.data import COLUMNS
from tests.benchmarks.measuring import Measured, Series, Step, interleave, note, our_step
from tests.benchmarks.workshop import UNCUT, Workshop

TAKE_JOIN_JSON = "take, join and JSON by the database alone, thrown away"
SELECT_JSON = "SELECT json_object, thrown away"


def export(shop: Workshop) -> Outcome:
    """All rows are new, PostgreSQL."""
    pending = shop.pending(shop.sizes.records)
    series = interleave(
        {
            OURS: lambda: shop.in_copy(pending, lambda url: shop.export(url)[0]),
            TAKE_JOIN_JSON: lambda: shop.in_copy(pending, lambda url: our_step("take_join_and_write", url=url).run()),
        },
        shop.sizes.rounds,
    )
    say = "export, PostgreSQL: "
    bars = (
        work(f"{say}processor of both / {TAKE_JOIN_JSON}", None, series[OURS], series[TAKE_JOIN_JSON]),
        rates(f"{say}rate / {TAKE_JOIN_JSON}", at_least(0.80), series[OURS], series[TAKE_JOIN_JSON]),
    )
    return Outcome(bars, series)


def export_from_sqlite(shop: Workshop) -> Outcome:
    """All rows are new, SQLite."""
    pending = shop.pending(shop.sizes.records, "sqlite")
    series = interleave(
        {
            OURS: lambda: shop.in_copy(pending, lambda url: shop.export(url)[0]),
            SELECT_JSON: lambda: our_step("select_json", url=pending).run(),
        },
        shop.sizes.rounds,
    )
    bar = rates(f"export, SQLite: rate / {SELECT_JSON}", at_least(0.50), series[OURS], series[SELECT_JSON])
    return Outcome((bar,), series)


def small_batches(shop: Workshop) -> Outcome:
    """Many batches of few rows: what each of them costs, whatever is in it."""
    count, rows = shop.sizes.small_batches
    pending, empty = shop.pending(count * rows), shop.empty("response")
    carried: list[Path] = []

    def send(url: str) -> Measured:
        measured, batches = shop.export(url, batch_records=rows)
        carried.append(batches)
        return measured

    series = interleave(
        {
            f"exchange, export of {count:,} batches": lambda: shop.in_copy(pending, send),
            f"exchange, import of {count:,} batches": lambda: shop.in_copy(
                empty, lambda url: shop.take_in(url, carried.pop())
            ),
        },
        shop.sizes.rounds,
    )
    bars = []
    for name, side in series.items():
        took = tuple(1000 * (one.cpu_seconds + one.server_seconds) / count for one in side)
        own, server = (1000 * median(column) / count for column in zip(*_processor(side), strict=True))
        ours = f"{own:.2f} ms and the server {server:.2f}"
        bars.append(Bar(f"{name} of {rows} rows: processor a batch", at_most(5, "ms"), took, ours))
    return Outcome(tuple(bars), series)


def _processor(series: Series) -> list[tuple[float, float]]:
    return [(one.cpu_seconds, one.server_seconds) for one in series]


def export_few(shop: Workshop) -> Outcome:
    """A few rows of a table change: the table's size must not matter."""
    few, (small, large) = shop.sizes.few, shop.sizes.few_of
    tables = {of: shop.filled(of, captured=False) for of in (small, large)}

    def change_and_export(of: int) -> Measured:
        return our_step("export_few", url=tables[of], home=shop.home(), keys=shop.keys, few=few, of=of).run()

    names = {of: f"exchange, {few} changed of {of:,}" for of in tables}
    series = interleave({names[of]: partial(change_and_export, of) for of in tables}, shop.sizes.rounds)
    what = f"export of {few} changed rows of a table of {large:,} / of {small:,}: time"
    return Outcome((times(what, at_most(1.5), series[names[large]], series[names[small]]),), series)


def capture(shop: Workshop) -> Outcome:
    """Bulk inserts into a table with our triggers and one without them."""
    captured, uncaptured = shop.empty("request"), shop.empty("response")
    rows = shop.ready(shop.pending(shop.sizes.records), COLUMNS)
    steps: dict[str, Callable[..., Step]] = {
        "INSERT SELECT": partial(our_step, "insert_in_bulk", file=rows),
        "COPY": partial(our_step, "copy_in", file=rows, columns=COLUMNS),
    }

    def insert(statement: str, table: str) -> Measured:
        return shop.in_copy(table, lambda url: steps[statement](url=url).run())

    series = interleave(
        {
            f"{statement}, {how}": partial(insert, statement, table)
            for statement in steps
            for how, table in (("captured", captured), ("uncaptured", uncaptured))
        },
        shop.sizes.rounds,
    )
    bars = [
        times(
            f"bulk insert ({statement}) into a captured table / an uncaptured one, PostgreSQL: time",
            at_most(1.20),
            series[f"{statement}, captured"],
            series[f"{statement}, uncaptured"],
        )
        for statement in steps
    ]
    return Outcome(tuple(bars), series)


def memory(shop: Workshop) -> Outcome:
    """Peak memory of each side, of few records and of very many: once each, as it does not vary."""
    series: dict[str, Series] = {}
    few, many = shop.sizes.memory
    for count in (few, many):
        source = shop.filled(count)
        exported, batches = shop.export(source)
        shop.drop(source)
        with shop.copy_of(shop.empty("response")) as target:
            taken = shop.take_in(target, batches)
        shutil.rmtree(batches.parent)
        for side, measured in (("export", exported), ("import", taken)):
            series[f"{side} of {count:,}"] = [measured]
            note(f"  {side} of {count:,}: {measured.peak_bytes / 1e6:.0f} MB")
    bars = []
    for side in ("export", "import"):
        ours, beside = series[f"{side} of {many:,}"], series[f"{side} of {few:,}"]
        what = f"peak memory, {side} of {many:,} records"
        bars.append(peaks(f"{what} / of {few:,}", at_most(1.1), ours, beside))
        bars.append(Bar(what, at_most(150, "MB"), megabytes(ours)))
    return Outcome(tuple(bars), series)


def one_batch(shop: Workshop) -> Outcome:
    """One large batch from commit to commit, both sides on PostgreSQL, everything on."""
    pending, count = shop.pending(shop.sizes.one_batch), shop.sizes.one_batch
    carried: list[Path] = []

    def send(url: str) -> Measured:
        measured, batches = shop.export(url, **UNCUT)
        carried.append(batches)
        return measured

    series = interleave(
        {
            "exchange, export": lambda: shop.in_copy(pending, send),
            "exchange, import": lambda: shop.in_copy(
                shop.empty("response"), lambda url: shop.take_in(url, carried.pop())
            ),
        },
        shop.sizes.rounds,
    )
    both = list(zip(*series.values(), strict=True))
    rate = tuple(count / sum(one.seconds for one in sides) for sides in both)
    out, back = (median(one.seconds for one in side) for side in series.values())
    what = f"one batch of {count:,} records from commit to commit, two networks on PostgreSQL, everything on"
    return Outcome((Bar(what, at_least(45_000, "rows/s"), rate, f"export {out:.1f} s, import {back:.1f} s"),), series)
