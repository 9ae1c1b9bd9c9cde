"""A process killed at any step: the next run carries on, and nothing is lost, twice or half."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.files.shared_folders import MARKER
from exchange.files.spool import Spool
from exchange.format.errors import Reason, Verdict
from exchange.incoming import apply, replay
from exchange.results import ImportRun
from tests.crossing.conftest import needs_postgres
from tests.crossing.processes import KILLED, fork, join, run_killed_at
from tests.crossing.shop import account
from tests.crossing.sides import Link, Side


def take_in_after_a_crash(side: Side) -> ImportRun:
    """Import; the database may need a moment to see that its client is dead."""
    while True:
        run = side.take_in()
        assert run.trouble is None
        if not any(one.verdict is Verdict.BUSY for one in run.batches):
            return run


def export_after_a_crash(side: Side) -> None:
    """Export; the same."""
    while (run := side.export()).busy:
        assert run.trouble is None


def sums(side: Side, direction: str) -> tuple[int, int, int]:
    """Give records, applied ones and batches of the ledger in one direction."""
    columns = tables.batch.c
    total = sa.func.coalesce
    query = sa.select(total(sa.func.sum(columns.records), 0), total(sa.func.sum(columns.applied), 0), sa.func.count())
    return tuple(map(int, side.all(query.where(columns.direction == direction))[0]))  # type: ignore[return-value]


def names(side: Side) -> list[Any]:
    return [(row["id"], row["name"]) for row in side.rows(account)]


each_step = pytest.mark.parametrize(
    "alike, stride",
    [
        # Some of the steps, others in each run. On SQLite test_nth_fault.py has them all, and faults beside.
        pytest.param("postgresql", 8, marks=needs_postgres),
        pytest.param("postgresql", 1, marks=[needs_postgres, pytest.mark.torture]),
    ],
    indirect=["alike"],
)


@each_step
def test_an_export_killed_at_any_step_is_carried_on(alike: Link, stride: int, seed: int) -> None:
    one, other = alike.one, alike.other
    first = 1 + seed % stride
    step, code = first - stride, KILLED
    while code == KILLED:
        step += stride
        one.execute(sa.insert(account).values(id=step, name=f"step {step}"))
        code = run_killed_at(step, one, one.export)
        assert code in {0, KILLED}
        export_after_a_crash(one)
        alike.there.carry()
        assert {seen.verdict for seen in take_in_after_a_crash(other).batches} == {Verdict.APPLIED}
        assert names(one) == names(other)
    assert step > 20
    turns = 1 + (step - first) // stride
    assert sums(one, "out") == (turns, 0, turns)
    assert sums(other, "in") == (turns, turns, turns)
    assert {row[0] for row in one.all(sa.select(tables.batch.c.state))} == {"published"}
    folders = one.site.spool.folders
    assert {path.name for path in folders.sealed.iterdir()} | {MARKER} == {p.name for p in folders.outgoing.iterdir()}


@each_step
def test_an_import_killed_at_any_step_is_carried_on(alike: Link, stride: int, seed: int) -> None:
    one, other = alike.one, alike.other
    first = 1 + seed % stride
    step, code = first - stride, KILLED
    while code == KILLED:
        step += stride
        one.execute(sa.insert(account).values(id=step, name=f"step {step}"))
        assert one.export().trouble is None
        alike.there.carry()
        code = run_killed_at(step, other, other.take_in)
        assert code in {0, KILLED}
        verdicts = {seen.verdict for seen in take_in_after_a_crash(other).batches}
        assert verdicts <= {Verdict.APPLIED, Verdict.DUPLICATE}
        assert names(one) == names(other)
    assert step > 10
    turns = 1 + (step - first) // stride
    assert sums(other, "in") == (turns, turns, turns)
    assert {row[0] for row in other.all(sa.select(tables.batch.c.state))} == {"applied"}
    assert other.all(sa.select(tables.attempt)) == []
    folders = other.site.spool.folders
    assert {path.name for path in folders.incoming.iterdir()} == {MARKER}
    assert list(folders.work.iterdir()) == []
    assert len(list(folders.archive.iterdir())) == 2 * turns


@pytest.mark.same_on("postgresql")
def test_the_third_crash_on_a_batch_quarantines_it_and_a_replay_tries_again(
    alike: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike.one.execute(sa.insert(account).values(id=1, name="a"))
    alike.one.export()
    alike.there.carry()

    def die(*_: Any) -> Any:
        os._exit(KILLED)

    with monkeypatch.context() as patched:
        patched.setattr(apply, "apply_records", die)
        for crash in range(3):
            assert join(fork(alike.other.take_in, alike.other)) == KILLED, crash
            [attempts] = alike.other.all(sa.select(tables.attempt.c.attempts))
            assert attempts == (crash + 1,)
        [outcome] = take_in_after_a_crash(alike.other).batches  # unopened: it would take this process along
    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, Reason.CRASHED)
    assert "3 times" in outcome.message
    assert alike.other.all(sa.select(tables.attempt)) == []
    assert names(alike.other) == []
    assert replay.replay_batches(alike.other.site, outcome.batch).batches[0].verdict is Verdict.APPLIED


def test_a_disk_that_fails_is_no_crash_of_the_batch(small: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    small.one.execute(sa.insert(account).values(id=1, name="a"))
    small.one.export()
    small.there.carry()

    def fail(*_: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error", "the data file")

    with monkeypatch.context() as patched:
        patched.setattr(Spool, "open_data", fail)
        for _ in range(5):
            run = small.other.take_in()
            assert [one.verdict for one in run.batches] == [Verdict.WAITING]
            assert "Input/output error" in (run.trouble or "")
    assert small.other.all(sa.select(tables.attempt)) == []
    assert [one.verdict for one in small.other.take_in().batches] == [Verdict.APPLIED]


def test_a_disk_that_fails_on_export_leaves_the_changes_pending(small: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    small.one.execute(sa.insert(account).values(id=1, name="a"))

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        for _ in range(3):
            run = small.one.export()
            assert "No space left" in (run.trouble or "")
    assert list(small.one.site.spool.folders.tmp.iterdir()) == []
    assert small.one.all(sa.select(tables.batch)) == []
    _, there = small.round()
    assert [one.verdict for one in there.batches] == [Verdict.APPLIED]
    assert sums(small.one, "out")[2] == 1
