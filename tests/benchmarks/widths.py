"""How rates grow with what rows are like: their width, many columns, indexes and foreign keys of their table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks import widths_steps
from tests.benchmarks.bars import Bar, Outcome, work
from tests.benchmarks.measuring import Measured, Series, Step, interleave, note
from tests.benchmarks.widths_steps import Shape
from tests.benchmarks.workshop import Workshop

SHAPES = (
    Shape("100 bytes", 1, 60),
    Shape("1 KB", 1, 1_000),
    Shape("10 KB", 1, 10_000),
    Shape("200 columns", 200, 5),
    Shape("100 bytes, 2 indexes", 1, 60, indexes=2),
    Shape("100 bytes, 5 indexes", 1, 60, indexes=5),
    Shape("100 bytes, 2 foreign keys", 1, 60, parents=2),
    Shape("100 bytes, 5 foreign keys", 1, 60, parents=5),
)


class _Made(NamedTuple):
    """What the contenders of one shape work with."""

    here: str
    there: str
    batches: Path
    ready: Path
    rows: int


def widths(shop: Workshop) -> Outcome:
    """Export and import rows of each shape, beside COPY of ready rows into the same table."""
    contenders: dict[str, Callable[[], Measured]] = {}
    for shape in SHAPES:
        made = _make(shop, shape)
        contenders |= {
            f"{shape.name}, out": partial(_send, shop, shape, made),
            f"{shape.name}, in": partial(_take, shop, shape, made),
            f"{shape.name}, COPY": partial(_copy, shop, shape, made),
        }
    series = interleave(contenders, shop.sizes.rounds)
    return Outcome((*map(partial(_bar, series), SHAPES),), series)


def _bar(series: dict[str, Series], shape: Shape) -> Bar:
    found = [series[f"{shape.name}, {what}"] for what in ("in", "COPY", "out")]
    bar = work(f"rows of {shape.name}, import: processor of both / COPY of ready rows", None, found[0], found[1])
    out = found[2][0]
    return Bar(bar.what, None, bar.values, f"{bar.ours}; export {out.work:.1f} us, {out.rate:,.0f} rows/s", bar.beside)


def _make(shop: Workshop, shape: Shape) -> _Made:
    rows = max(50, min(shop.sizes.records, shop.sizes.records * 100 // shape.width))
    note(f"  making {rows:,} rows of {shape.name}")
    here, there = shop.new_database(), shop.new_database()
    widths_steps.make(here, shape, "request", rows)
    widths_steps.make(there, shape, "response", 0)
    ready = shop.path(".copy")
    widths_steps.write_ready(here, shape, ready)
    for url in (here, there):
        shop.tidy(url)
    with shop.copy_of(here) as url:
        home = shop.home()
        _step("send", shape, url=url, home=home)
    return _Made(here, there, home / "outgoing", ready, rows)


def _step(name: str, shape: Shape, **arguments: Any) -> Measured:
    given = json.dumps({"shape": shape, **arguments}, default=str)
    return Step("tests.benchmarks.widths_steps", (name, given)).run()


def _send(shop: Workshop, shape: Shape, made: _Made) -> Measured:
    home = shop.home()
    measured = shop.in_copy(made.here, lambda url: _step("send", shape, url=url, home=home))
    shutil.rmtree(home)
    return measured


def _take(shop: Workshop, shape: Shape, made: _Made) -> Measured:
    home = shop.home(made.batches)
    measured = shop.in_copy(made.there, lambda url: _step("take", shape, url=url, home=home))
    shutil.rmtree(home)
    return measured


def _copy(shop: Workshop, shape: Shape, made: _Made) -> Measured:
    return shop.in_copy(made.there, lambda url: _step("copy_ready", shape, url=url, file=made.ready))
