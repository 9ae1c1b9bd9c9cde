"""With nothing to do an export and an import cost the same, however much was done before. No clock is read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database import clock, tables
from exchange.files.folder import Folder
from exchange.format.errors import Reason, Verdict
from exchange.format.signing import TrustedKeys
from exchange.outgoing import control_batch
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres
from tests.crossing.forging import Forger, account
from tests.crossing.sides import Link, Side
from tests.databases import Databases
from tests.performance.history import analyse, live
from tests.performance.watching import Watched, watched

FEW, MANY = 1_500, 15_000
FIRST = 1_700_000_000_000_000


def idle(side: Side) -> tuple[Watched, Watched]:
    """Run an export and an import that find nothing, and say what each cost."""
    side.export()
    side.take_in()
    with watched(side.engine) as export:
        assert side.export().batches == ()
    with watched(side.engine) as imported:
        assert side.take_in().trouble is None
    return export, imported


def declared(channels: int, streams: int) -> tuple[tuple[Channel, ...], sa.MetaData]:
    """Declare so many channels each way, each of so many streams, the first one in shards."""
    metadata = sa.MetaData()
    made = []
    for source, target in (("one", "two"), ("two", "one")):
        for number in range(channels):
            names = [f"from_{source}_{number}_{one}" for one in range(streams)]
            tables = [sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True)) for name in names]
            shards = 1 + 2 * (number == 0)
            made.append(Channel(f"{source}_{number}", source, target, map(Stream, tables), shards=shards))
    return tuple(made), metadata


@pytest.mark.same_on("postgresql")
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def test_an_idle_tick_asks_the_database_as_little_however_much_is_declared(
    kind: str, tmp_path: Path, databases: Databases
) -> None:
    asked = []
    for size in (1, 3):
        channels, metadata = declared(size, size)
        one, two = (
            Side(name, peer, databases, kind, tmp_path / f"{size}{name}", channels, metadata=metadata)
            for name, peer in (("one", "two"), ("two", "one"))
        )
        link = Link(one, two)
        one.execute(sa.insert(metadata.tables["from_one_0_0"]), [{"id": number} for number in range(9)])
        for _ in range(2):
            assert sum(batch.records for batch in one.export().batches) in {0, 9}
            for side in (one, two):
                control_batch.publish_control_batch(side.site)
            link.there.carry()
            link.back.carry()
            assert [one.take_in().trouble, two.take_in().trouble] == [None, None]
        export, imported = idle(one)
        with watched(one.engine) as control:
            assert control_batch.after_export(one.site) is None
        asked.append([export.statements, control.statements, imported.statements])
        one.execute(
            f"DROP TRIGGER exchange_capture_insert{'_from_one_0_0' if kind == 'sqlite' else ' ON from_one_0_0'}"
        )
        assert "triggers" in str(one.export().faults)
        one.engine.dispose()
        two.engine.dispose()

    assert asked[0] == asked[1]
    assert sum(asked[0]) < 66


@pytest.mark.same_on("postgresql")
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def test_an_idle_tick_costs_the_same_after_ten_times_the_history(
    kind: str, tmp_path: Path, databases: Databases
) -> None:
    costs = []
    for batches in (FEW, MANY):
        home = tmp_path / str(batches)
        side = Side("two", "one", databases, kind, home, shop.channels, metadata=shop.metadata)
        live(side, batches)
        without_statistics = idle(side)
        analyse(side)
        costs.append([tick.cost for tick in (*without_statistics, *idle(side))])
        side.engine.dispose()

    assert costs[0] == costs[1]


def test_an_idle_tick_reads_nothing_that_grows_from_end_to_end(receiver: Side) -> None:
    live(receiver, FEW)
    analyse(receiver)
    growing = ("exchange_batch", "exchange_event", "exchange_change", "exchange_dead_letter", "exchange_tombstone")

    for tick in idle(receiver):
        assert tick.statements
        assert tick.read_whole(*growing) == []


def test_an_idle_tick_lists_two_folders_once_each_and_opens_no_file(quick_receiver: Side) -> None:
    live(quick_receiver, FEW)
    for number in range(100):
        (quick_receiver.site.spool.folders.incoming / f"holiday-{number}.jpg").touch()

    export, imported = idle(quick_receiver)

    assert (export.listed, dict(export.files)) == ([], {})
    assert (imported.listed, dict(imported.files)) == (["work", "incoming"], {})


def test_a_log_that_was_nearly_empty_when_a_worker_began_costs_no_more_once_it_is_full(receiver: Side) -> None:
    def tick() -> tuple[object, ...]:
        before = seen.statements, seen.steps
        receiver.export()
        return seen.statements - before[0], seen.steps - before[1]

    analyse(receiver)
    receiver.execute(sa.insert(tables.change).values(stream="elsewhere", op="I", key="{}"))  # as ``live`` has them
    with watched(receiver.engine) as seen:
        for _ in range(15):  # a driver that keeps plans has made its own by now
            receiver.export()
        cost = tick()
        live(receiver, FEW)
        receiver.export()

        assert tick() == cost


# What waits


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file be known as soon as it is seen, as if it had lain there for a minute."""
    monkeypatch.setenv(clock.AHEAD, "60")


def wait(forger: Forger, count: int) -> None:
    """Deliver batches that follow on a missing one, and let the receiver see them."""
    forger.make()
    for number in range(count):
        forger.send([account(number, FIRST + number)])
    forger.receiver.take_in()


@pytest.mark.same_on("postgresql")
@pytest.mark.usefixtures("settled")
def test_batches_behind_a_gap_are_neither_opened_nor_asked_for_one_by_one(receiver: Side, forger: Forger) -> None:
    costs = []
    for more in (10, 90):
        wait(forger, more)
        _, imported = idle(receiver)
        assert not imported.files["open"]
        costs.append(imported.statements)
    run = receiver.take_in()

    assert costs[0] == costs[1]
    assert [(one.verdict, one.reason, one.changed) for one in run.batches] == [
        (Verdict.WAITING, Reason.GAP, False)
    ] * 100


@pytest.mark.usefixtures("settled")
def test_what_waited_is_applied_once_the_missing_batch_comes(quick_receiver: Side, quick_forger: Forger) -> None:
    missing = quick_forger.make([account(100, FIRST)])
    wait_behind = [quick_forger.send([account(number, FIRST + 1 + number)]) for number in range(5)]
    for _ in range(3):
        assert {one.verdict for one in quick_receiver.take_in().batches} == {Verdict.WAITING}
    quick_forger.deliver(missing)

    outcomes = {one.batch: one.verdict for one in quick_receiver.take_in().batches}

    assert outcomes == dict.fromkeys([missing.stem, *wait_behind], Verdict.APPLIED)


@pytest.mark.usefixtures("settled")
def test_a_manifest_put_in_the_place_of_a_known_one_is_read(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.make()
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch)
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.WAITING]
    path = quick_receiver.site.spool.folders.incoming / f"{batch.stem}.manifest.jsonl"
    replaced(path, path.read_bytes().replace(b'"changes"', b'"chAnges"'))

    (outcome,) = quick_receiver.take_in().batches

    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, Reason.UNTRUSTED)


def replaced(path: Path, content: bytes) -> None:
    """Put another file of the same size and times in a file's place."""
    found = path.stat()
    assert len(content) == found.st_size
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.usefixtures("settled")
def test_a_batch_whose_key_is_trusted_no_longer_is_judged_anew(quick_receiver: Side, quick_forger: Forger) -> None:
    wait(quick_forger, 1)
    quick_receiver.site = replace(quick_receiver.site, trusted=TrustedKeys.from_pems({}))

    (outcome,) = quick_receiver.take_in().batches

    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, Reason.UNTRUSTED)


def test_a_manifest_that_was_written_just_now_is_read_again(quick_receiver: Side, quick_forger: Forger) -> None:
    wait(quick_forger, 1)

    _, imported = idle(quick_receiver)

    assert imported.files["open"]


# The same batch once more


def test_a_duplicate_is_not_read_whatever_its_size(quick_receiver: Side, quick_forger: Forger) -> None:
    costs = []
    quick_receiver.take_in()  # has the database from then on
    for count in (1, 2_000):
        batch = quick_forger.make([account(number, FIRST + number) for number in range(count)])
        quick_forger.deliver(batch)
        assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.APPLIED]
        quick_forger.deliver(batch)
        with watched(quick_receiver.engine) as seen:
            assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.DUPLICATE]
        costs.append((seen.statements, seen.steps, seen.files["open"]))

    assert costs[0] == costs[1]


def test_a_batch_that_comes_a_thousand_times_is_put_aside_in_a_few_steps(
    quick_receiver: Side, quick_forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch)
    quick_receiver.take_in()
    archive = quick_receiver.site.spool.folders.archive
    for number in range(2, 1_000):
        (archive / f"{batch.stem}~{number}.manifest.jsonl").touch()
    quick_forger.deliver(batch)
    asked = 0
    has = Folder.has

    def counted(folder: Folder, name: str) -> bool:
        nonlocal asked
        asked += folder.path == archive
        return has(folder, name)

    monkeypatch.setattr(Folder, "has", counted)
    quick_receiver.take_in()

    assert (archive / f"{batch.stem}~1000.manifest.jsonl").is_file()
    assert 0 < asked < 25
