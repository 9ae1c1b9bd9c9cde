"""Contests of files that people drop: beside COPY, ``sqlite3 .import`` and other tools, with bad rows, of any size."""
# ruff: noqa: B019 - there is one of each in a run

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.benchmarks import dropping_data
from tests.benchmarks.bars import Bar, Outcome, at_least, at_most, megabytes, not_measured, peaks, rates, work
from tests.benchmarks.contenders import OURS
from tests.benchmarks.dropping_data import EVERY
from tests.benchmarks.measuring import Measured, Series, Step, interleave, note
from tests.benchmarks.workshop import Workshop

COPY, COPY_TO, SQLITE = "COPY FROM csv", "COPY TO csv", "sqlite3 .import"
PEERS = {"pandas to_sql": "pandas", "csvsql": "csvkit", "dlt append": "dlt"}
_MODULES = {"pandas": "with_pandas", "csvkit": "with_csvsql", "dlt": "with_dlt_csv"}
MEBIBYTE = 1024 * 1024
SIZES = (10, 100, 1000)
"""MB of the files by which memory is measured, in proportion to the records; ``--large`` adds 5,000."""


class _Drops:
    """Files and databases of these contests, made when first wanted."""

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop

    @cache
    def empty(self, kind: str = "postgresql") -> str:
        """Give a database with the tables, and no readings."""
        url = self.shop.new_database(kind)
        dropping_data.make(url)
        self.shop.tidy(url)
        return url

    @cache
    def file(self, count: int, *, spoilt: bool = False) -> Path:
        """Give a file of so many readings."""
        path = self.shop.path(".csv")
        note(f"  writing {count:,} readings")
        dropping_data.write(path, count, spoilt=spoilt)
        return path

    def step(self, name: str, url: str, **arguments: Any) -> Measured:
        """Run one of the steps on a database."""
        import json  # noqa: PLC0415

        given = json.dumps({"url": url, **arguments}, default=str)
        return Step("tests.benchmarks.dropping_steps", (name, given)).run()

    def drop_in(self, kind: str, file: Path, parked: int = 0) -> Measured:
        """Have ours take in a file."""
        home = self.shop.home()
        measured = self.shop.in_copy(
            self.empty(kind), lambda url: self.step("drop_in", url, home=home, file=file, parked=parked)
        )
        shutil.rmtree(home)
        return measured

    def beside(self, kind: str, name: str, file: Path) -> Measured:
        """Have a database's own means do it."""
        return self.shop.in_copy(self.empty(kind), lambda url: self.step(name, url, file=file))


def new_rows(shop: Workshop) -> Outcome:
    """All rows are good and new, PostgreSQL; and one in a hundred is bad."""
    drops, count = _Drops(shop), shop.sizes.one_batch
    clean, spoilt, few = drops.file(count), drops.file(count, spoilt=True), drops.file(shop.sizes.peer_records)
    bad = "exchange, 1% bad"
    peers = {name: python for name, env in PEERS.items() if (python := shop.environments.python(env)) is not None}
    contenders: dict[str, Callable[[], Measured]] = {
        OURS: partial(drops.drop_in, "postgresql", clean),
        COPY: partial(drops.beside, "postgresql", "copy_csv", clean),
        bad: partial(drops.drop_in, "postgresql", spoilt, count // EVERY),
        **{name: partial(_peer, drops, PEERS[name], python, few) for name, python in peers.items()},
    }
    series = interleave(contenders, shop.sizes.rounds)
    say = "a file of CSV into PostgreSQL: rate / "
    bars = [
        rates(say + COPY, at_least(0.6), series[OURS], series[COPY]),
        work(f"the same: processor's time a row / {COPY}", None, series[OURS], series[COPY]),
        rates(
            "a file of CSV, 1% of rows bad for five reasons: rate / " + COPY, at_least(0.4), series[bad], series[COPY]
        ),
    ]
    for name, environment in PEERS.items():
        missing = shop.environments.missing.get(environment, "")
        bars.append(
            rates(say + name, None, series[OURS], series[name])
            if name in series
            else not_measured(say + name, None, missing)
        )
    return Outcome(tuple(bars), series)


def _peer(drops: _Drops, environment: str, python: Path, file: Path) -> Measured:
    module = f"tests.benchmarks.peers.{_MODULES[environment]}"

    def load(url: str) -> Measured:
        return Step(module, (url.replace("@", ":none@"), str(file), str(drops.shop.path())), python).run()

    return drops.shop.in_copy(drops.empty(), load)


def new_rows_on_sqlite(shop: Workshop) -> Outcome:
    """All rows are good and new, SQLite."""
    what, goal = "a file of CSV into SQLite: rate / " + SQLITE, at_least(0.5)
    drops = _Drops(shop)
    file = drops.file(shop.sizes.one_batch)
    contenders: dict[str, Callable[[], Measured]] = {OURS: partial(drops.drop_in, "sqlite", file)}
    if shutil.which("sqlite3"):
        contenders[SQLITE] = partial(drops.beside, "sqlite", "sqlite_import", file)
    series = interleave(contenders, shop.sizes.rounds)
    if SQLITE not in series:
        return Outcome((not_measured(what, goal, "the program sqlite3 is not installed"),), series)
    return Outcome((rates(what, goal, series[OURS], series[SQLITE]),), series)


def memory(shop: Workshop) -> Outcome:
    """Peak memory by the size of the file: once each, as it does not vary."""
    drops = _Drops(shop)
    row = len("".join(dropping_data.lines(1000))) / 1000
    scale = shop.sizes.one_batch / 1_000_000
    sizes = [one * scale for one in (*SIZES, *((5000,) if shop.sizes.large else ()))]
    series: dict[str, Series] = {}
    for size in sizes:
        file = drops.file(max(1000, round(size * 1_000_000 / row)))
        series[f"{size:g} MB"] = [drops.drop_in("postgresql", file)]
        note(f"  {size:g} MB: {series[f'{size:g} MB'][0].peak_bytes / 1e6:.0f} MB of memory")
        file.unlink()
        drops.file.cache_clear()
    least, *_, most = series
    what = f"peak memory, a file of {most}"
    return Outcome(
        (
            peaks(f"{what} / of {least}", at_most(1.1), series[most], series[least]),
            Bar(what, at_most(200, "MB"), megabytes(series[most])),
        ),
        series,
    )


def extract(shop: Workshop) -> Outcome:
    """A table's rows written to a file of CSV."""
    drops = _Drops(shop)
    file, out = drops.file(shop.sizes.one_batch), shop.path(".csv")
    full = shop.duplicate(drops.empty())
    drops.step("copy_csv", full, file=file)
    shop.tidy(full)

    def ours() -> Measured:
        out.unlink(missing_ok=True)
        return drops.step("extract_csv", full, home=shop.home(), file=out)

    series = interleave(
        {OURS: ours, COPY_TO: partial(drops.step, "copy_to_csv", full, file=shop.path(".csv"))}, shop.sizes.rounds
    )
    say = "extract to CSV, PostgreSQL: rate / "
    bars = (
        rates(say + COPY_TO, None, series[OURS], series[COPY_TO]),
        work(f"the same: processor's time a row / {COPY_TO}", None, series[OURS], series[COPY_TO]),
    )
    return Outcome(bars, series)
