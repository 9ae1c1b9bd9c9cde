"""Memory does not grow with the size of a batch, in either direction."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exchange.database.engine import SQLITE_CACHE_KIB
from exchange.database.locks import reading
from exchange.format.errors import Verdict
from exchange.tables import bucket_digests
from tests.crossing.processes import fork, join
from tests.crossing.shop import channels
from tests.crossing.sides import Link, Side

SHARE_CHANGED = 4
"""Changes cost more time than new rows: so much fewer of them."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.same_on("postgresql")
@pytest.mark.parametrize("few", [3_000, pytest.param(40_000, marks=pytest.mark.torture)])
def test_ten_times_the_records_need_no_more_memory(alike: Link, tmp_path: Path, few: int) -> None:
    many = 10 * few
    for side in (alike.one, alike.other):
        side.limit(batch_records=10 * many, batch_bytes=2**30)
    peaks: dict[str, list[int]] = {}
    for what, change in (("new", insert_rows), ("changed", change_rows)):
        for number in (few, many) if what == "new" else (few // SHARE_CHANGED, many // SHARE_CHANGED):
            change(alike.one, number)
            sent = peak_of(alike.one, lambda: export(alike.one, number), tmp_path)  # noqa: B023
            alike.there.carry()
            taken = peak_of(alike.other, lambda: take_in(alike.other, number), tmp_path)  # noqa: B023
            digested = peak_of(alike.other, lambda: digest(alike.other), tmp_path)
            peaks.setdefault(f"digest after {what} rows", []).append(digested)
            peaks.setdefault(f"export of {what} rows", []).append(sent)
            peaks.setdefault(f"import of {what} rows", []).append(taken)
    cache = SQLITE_CACHE_KIB if alike.one.engine.dialect.name == "sqlite" else 0  # a small database does not fill it
    for of_few, of_many in peaks.values():
        assert of_many < 1.15 * of_few + cache, peaks


def insert_rows(side: Side, number: int) -> None:
    """Insert accounts, made by the database itself: those of other numbers don't meet."""
    numbers = f"WITH RECURSIVE n (id) AS (SELECT {number} UNION ALL SELECT id + 1 FROM n WHERE id < {2 * number - 1})"
    side.execute(f"INSERT INTO account (id, name) {numbers} SELECT n.id, 'a name of some length ' || n.id FROM n")


def change_rows(side: Side, number: int) -> None:
    """Change the newest of them."""
    newest = f"SELECT id FROM account ORDER BY id DESC LIMIT {number}"
    side.execute(f"UPDATE account SET name = name || '!' WHERE id IN ({newest})")


def export(side: Side, number: int) -> None:
    assert [one.records for one in side.export().batches] == [number]


def take_in(side: Side, number: int) -> None:
    assert [(one.verdict, one.records.applied) for one in side.take_in().batches] == [(Verdict.APPLIED, number)]


def digest(side: Side) -> None:
    with reading(side.engine) as connection:
        assert bucket_digests.digest(connection, channels[0].stream("account")).rows


def peak_of(side: Side, work: Callable[[], None], folder: Path) -> int:
    """Run work in a child process; give the most memory it had at once, in KiB."""
    answer = folder / "peak"

    def measured() -> None:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the process that we come from
        work()
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        answer.write_text(found[1])

    assert join(fork(measured, side)) == os.EX_OK
    return int(answer.read_text())
