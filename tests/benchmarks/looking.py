"""The contest of the pages: how soon each page of the console answers on a side that has lived for years.

A million batches in the ledger and 200,000 dead letters; every page that links lead to, each looked at many times.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from statistics import median, quantiles
from typing import Any

import sqlalchemy as sa

from exchange.database import clock, make_engine, tables
from exchange.settings import Settings
from tests.benchmarks.bars import Bar, Outcome, at_most
from tests.benchmarks.measuring import Measured, note
from tests.benchmarks.workshop import Workshop
from tests.console.crawl import crawl
from tests.console.served import Browser, console
from tests.console.trouble import troubled
from tests.crossing.forging import EPOCH
from tests.performance import history

LETTERS_SHARE = 5
"""So many batches of the ledger there are for each dead letter."""
_NOT_TIMED = ("/health/doctor", "/audit/check")
"""Pages that look at everything, and say so."""


def pages(shop: Workshop) -> Outcome:
    """Look at every page, on each database."""
    bars: list[Bar] = []
    series: dict[str, list[Measured]] = {}
    for kind in ("postgresql", "sqlite"):
        urls = {network: shop.new_database(kind) for network in ("plant", "office")}
        named = {name: url.replace("postgresql://", "postgresql+psycopg://") for name, url in urls.items()}
        folder = shop.path()
        folder.mkdir()
        with troubled(folder, named) as (_, settings):
            note(f"  making a ledger of {shop.sizes.ledger:,} batches on {kind}")
            _live_for_years(settings, shop.sizes.ledger)
            took = _times(settings, shop.sizes.looks)
        for url in urls.values():
            shop.drop(url)
        bars.append(_slowest(kind, took))
        series |= {f"{kind} {address}": [Measured(one, 1, 0) for one in times] for address, times in took.items()}
    return Outcome(tuple(bars), series)


def _live_for_years(settings: Settings, batches: int) -> None:
    """Fill the ledger, and park letters, as of the last thirty days."""
    engine = make_engine(settings.database_url)
    begun = clock.now() - timedelta(days=30)
    with engine.begin() as connection:
        days = [begun + timedelta(days=day) for day in range(30)]

        def moment(number: sa.ColumnElement[int]) -> Any:
            which = number * 30 / (batches + 1)
            return sa.case(
                *((which < day + 1, sa.literal(at, tables.UtcDateTime)) for day, at in enumerate(days)), else_=days[-1]
            )

        done = {
            "direction": "in",
            "channel": "notes",
            "state": "applied",
            "manifest": history.MANIFEST,
            "epoch": EPOCH,
            "sequence": lambda number: number + 1_000,
            "digest": "d" * 64,
            "records": 10,
            "bytes": 1_000,
            "created_at": moment,
            "updated_at": moment,
            "stem": lambda number: history.text_of(f"notes-{EPOCH}-", number),
        }
        history.fill(connection, tables.batch, batches, done)
        letters: Mapping[str, Any] = {
            "direction": "in",
            "channel": "notes",
            "stream": "note",
            "key": lambda number: history.text_of('{"code":"old ', number, '"}'),
            "record": b'{"op":"upsert","stream":"note","version":1,"data":{"code":"old","words":"refuse","more":{}}}',
            "record_bytes": 100,
            "error": "constraint",
            "message": "words_of_ours",
            "fingerprint": lambda number: history.text_of("f" * 15, number % 9),
            "created_at": moment,
            "updated_at": moment,
            "state": "parked",
        }
        history.fill(connection, tables.dead_letter, batches // LETTERS_SHARE, letters)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    engine.dispose()


def _times(settings: Settings, looks: int) -> dict[str, list[float]]:
    """Give the seconds that each page took each time it was looked at; the first look at each does not count."""
    with console(settings) as browser:
        addresses = [address for address, _ in crawl(lambda address: _look(browser, address), "/")]
        timed = [one for one in addresses if one not in _NOT_TIMED]
        took: dict[str, list[float]] = {address: [] for address in timed}
        for number, address in ((number, address) for number in range(looks) for address in timed):
            begun = time.perf_counter()
            _look(browser, address)
            took[address].append(time.perf_counter() - begun)
            if number == 0:
                took[address].clear()
    return took


def _look(browser: Browser, address: str) -> str:
    answer = browser.get(address)
    if answer.status != HTTPStatus.OK:
        raise AssertionError(f"{address}: {answer.status}")
    return answer.body


def _slowest(kind: str, took: Mapping[str, list[float]]) -> Bar:
    late = {address: quantiles(times, n=20, method="inclusive")[-1] * 1000 for address, times in took.items()}
    worst = sorted(late, key=lambda address: -late[address])
    for address in worst:
        usual = median(took[address]) * 1000
        note(f"    {late[address]:7.1f} ms of 95 in 100, median {usual:6.1f} ms  {address[:100]}")
    usual = median(one for times in took.values() for one in times) * 1000
    ours = f"{len(took)} pages; the slowest is {worst[0][:60]}, the median of all {usual:.0f} ms"
    return Bar(f"pages, {kind}: the slowest page's 95th percentile", at_most(100, "ms"), (late[worst[0]],), ours)
