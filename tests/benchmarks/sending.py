"""Contests of exports and of whole crossings: beside COPY TO, of large tables, and in bounded memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from tests.benchmarks.bars import Bar, Outcome, at_least, at_most, megabytes, peaks, rates, times
from tests.benchmarks.contenders import OURS
from tests.benchmarks.data import COLUMNS
from tests.benchmarks.measuring import Measured, Series, Step, interleave, note, our_step
from tests.benchmarks.workshop import UNCUT, Workshop

COPY_TO, FETCHALL = "COPY TO a file", "SELECT and fetchall"


def export(shop: Workshop) -> Outcome:
    """All rows are new, PostgreSQL."""
    pending, file = shop.pending(shop.sizes.records), shop.path(".copy")
    series = interleave(
        {
            OURS: lambda: shop.in_copy(pending, lambda url: shop.export(url)[0]),
            COPY_TO: lambda: shop.in_copy(pending, lambda url: our_step("copy_out", url=url, file=file).run()),
        },
        shop.sizes.rounds,
    )
    bar = rates("export, PostgreSQL: rate / COPY TO", at_least(0.40), series[OURS], series[COPY_TO])
    return Outcome((bar,), series)


def export_from_sqlite(shop: Workshop) -> Outcome:
    """All rows are new, SQLite."""
    pending = shop.pending(shop.sizes.records, "sqlite")
    series = interleave(
        {
            OURS: lambda: shop.in_copy(pending, lambda url: shop.export(url)[0]),
            FETCHALL: lambda: our_step("fetch_all", url=pending).run(),
        },
        shop.sizes.rounds,
    )
    return Outcome((rates("export, SQLite: rate / SELECT and fetchall", None, series[OURS], series[FETCHALL]),), series)


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
            at_most(1.25),
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
        bars.append(Bar(what, at_most(200, "MB"), megabytes(ours)))
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
