"""A channel in shards: its rows cross as those of any other, beside each other, whatever the number of shards."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, check
from exchange.database import tables as database_tables
from exchange.database.locks import join, locked, reading
from exchange.database.tables import BatchState, GapState, RepairState, gap
from exchange.dead_letters import retry
from exchange.files.shared_folders import MARKER
from exchange.format.errors import Verdict
from exchange.incoming import apply, importer
from exchange.link import reconcile
from exchange.outgoing import exporter
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres
from tests.crossing.healing import go_round
from tests.crossing.processes import KILLED, fork, run_killed_at, until
from tests.crossing.processes import join as wait_for
from tests.crossing.shop import account, everything, node, note, place, seat, visit
from tests.crossing.sides import Link, Side
from tests.databases import Databases

SPLIT = {"everything", "account"}


def in_shards(number: int) -> tuple[Channel, ...]:
    """Declare the shop's channels, the first one in shards."""
    forth, back = shop.channels
    return (Channel(forth.name, forth.source, forth.target, forth.streams, shards=number), back)


def reshard(side: Side, number: int) -> None:
    """Declare another number of shards from now on."""
    side.site = replace(side.site, channels=in_shards(number))


@pytest.fixture
def shards(tmp_path: Path, databases: Databases) -> Iterator[Callable[..., Link]]:
    """Give a function that makes two networks, on a kind of database each, with the first channel in shards."""
    sides: list[Side] = []

    def make(number: int, one: str = "sqlite", other: str = "sqlite") -> Link:
        check(in_shards(number))
        sides.append(Side("one", "two", databases, one, tmp_path / "one", in_shards(number), metadata=shop.metadata))
        sides.append(Side("two", "one", databases, other, tmp_path / "two", in_shards(number), metadata=shop.metadata))
        return Link(sides[0], sides[1])

    yield make
    for side in sides:
        side.engine.dispose()


def alike(link: Link) -> bool:
    tables = [one for one in shop.FORTH if one is not account]
    names = [[(row["id"], row["name"]) for row in side.rows(account)] for side in (link.one, link.other)]
    return names[0] == names[1] and all(link.one.rows(table) == link.other.rows(table) for table in tables)


def verdicts(link: Link) -> set[tuple[Verdict, int]]:
    return {(seen.verdict, seen.records.parked) for seen in link.other.take_in().batches}


def carried_by(side: Side) -> dict[str, set[str]]:
    """Say which streams each channel of the files has carried."""
    found: dict[str, set[str]] = {}
    for channel, line in side.all(sa.select(database_tables.batch.c.channel, database_tables.batch.c.manifest)):
        found.setdefault(channel, set()).update(json.loads(line)["records"])
    return found


@pytest.mark.postgres
@pytest.mark.parametrize("one, other", [("sqlite", "postgresql"), ("postgresql", "sqlite")])
def test_shards_cross_with_deletes_changed_keys_and_linked_streams(
    shards: Callable[..., Link], one: str, other: str
) -> None:
    link = shards(3, one, other)
    ids = [uuid.uuid5(uuid.NAMESPACE_OID, str(number)) for number in range(20)]
    link.one.execute(sa.insert(account), [{"id": n, "name": f"n{n}"} for n in range(60)])
    link.one.execute(sa.insert(everything), [shop.one_of_everything(n) for n in range(30)])
    link.one.execute(sa.insert(place), [{"country": "at", "number": n, "name": "p"} for n in range(20)])
    link.one.execute(sa.insert(visit), [{"id": n, "country": "at", "number": n} for n in range(20)])
    link.one.execute(
        sa.insert(node), [{"id": ids[n], "parent": ids[n // 2] if n else None, "name": str(n)} for n in range(20)]
    )
    link.one.execute(sa.insert(seat), [{"id": n, "code": str(n)} for n in range(20)])
    assert link.one.export().trouble is None
    linked = {"place", "visit", "node", "seat"}
    assert carried_by(link.one) == {"forth_0": SPLIT | linked, "forth_1": SPLIT, "forth_2": SPLIT}
    link.there.carry()
    assert verdicts(link) == {(Verdict.APPLIED, 0)}
    assert alike(link)
    assert len(link.other.rows(account)) == 60

    link.one.execute(sa.update(account).where(account.c.id < 20).values(name="changed"))
    link.one.execute(sa.update(account).where(account.c.id.between(20, 29)).values(id=account.c.id + 1000))
    link.one.execute(sa.delete(account).where(account.c.id.between(30, 39)))
    link.one.execute(sa.delete(visit).where(visit.c.id < 5))
    link.one.execute(sa.delete(place).where(place.c.number < 5))
    link.one.execute(sa.update(seat).where(seat.c.id == 1).values(code="gone"))
    link.one.execute(sa.insert(seat).values(id=99, code="1"))
    link.other.execute(sa.insert(note), [{"id": n, "account": n, "text": "hello"} for n in range(3)])
    back, there = link.round()
    assert {(seen.verdict, seen.records.parked) for seen in (*back.batches, *there.batches)} == {(Verdict.APPLIED, 0)}
    assert alike(link)
    assert len(link.one.rows(note)) == 3
    assert link.one.export().batches == ()


def test_a_shard_is_a_channel_of_its_own_and_the_declared_name_means_all_of_them(shards: Callable[..., Link]) -> None:
    link = shards(3)
    link.one.limit(batch_records=5)
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(60)])
    only = exporter.export(link.one.site, channel="forth_1", stopping=importer.never).batches
    assert {batch.channel for batch in only} == {"forth_1"}
    assert [batch.sequence for batch in only] == list(range(1, len(only) + 1))
    rest = exporter.export(link.one.site, channel="forth", stopping=importer.never).batches
    assert {batch.channel for batch in rest} == {"forth_0", "forth_2"}
    assert sum(batch.records for batch in (*only, *rest)) == 60
    link.there.carry()
    assert {seen.channel for seen in importer.import_batches(link.other.site, channel="forth_2").batches} == {"forth_2"}
    assert {seen.channel for seen in importer.import_batches(link.other.site, channel="forth").batches} == {
        "forth_0",
        "forth_1",
    }
    assert alike(link)
    channels = {name for (name,) in link.other.all(sa.select(database_tables.success.c.channel))}
    assert channels == {"forth_0", "forth_1", "forth_2"}


@pytest.mark.parametrize("order", list(itertools.permutations(["forth_0", "forth_1", "forth_2"])), ids=str)
def test_in_whatever_order_shards_are_applied_no_child_overtakes_its_parent(
    shards: Callable[..., Link], order: tuple[str, ...]
) -> None:
    link = shards(3)
    link.one.execute(sa.insert(place), [{"country": "at", "number": n, "name": "p"} for n in range(30)])
    link.one.execute(sa.insert(visit), [{"id": n, "country": "at", "number": n} for n in range(30)])
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(30)])
    link.one.export()
    link.there.carry()
    for name in order:
        assert {seen.records.parked for seen in importer.import_batches(link.other.site, channel=name).batches} == {0}
    assert alike(link)


@pytest.mark.parametrize("numbers", [(1, 3), (3, 1), (2, 5)], ids=str)
def test_another_number_of_shards_loses_nothing_and_no_older_record_wins(
    shards: Callable[..., Link], numbers: tuple[int, int]
) -> None:
    before, after = numbers
    link = shards(before)
    link.one.execute(sa.insert(account), [{"id": n, "name": "old"} for n in range(60)])
    link.one.export()  # under way while the number changes
    link.one.execute(sa.update(account).where(account.c.id < 40).values(name="pending"))
    reshard(link.one, after)
    link.one.execute(sa.delete(account).where(account.c.id < 10))
    link.one.execute(sa.update(account).where(account.c.id.between(10, 19)).values(name="new"))
    link.one.export()
    link.there.carry()
    arrived = link.other.site.spool.list_arrivals().batches
    new = [seen.stem for seen in arrived if seen.name.channel in {part.name for part in in_shards(after)[0].in_files()}]
    reshard(link.other, after)
    for stem in [*new, *(seen.stem for seen in arrived if seen.stem not in new)]:
        importer.import_batches(link.other.site, stem=stem)
    assert verdicts(link) <= {(Verdict.APPLIED, 0)}
    assert alike(link)
    assert {state for (state,) in link.other.all(sa.select(database_tables.batch.c.state))} == {"applied"}
    assert link.other.all(sa.select(sa.func.sum(database_tables.batch.c.stale)))[0][0] > 0


def test_the_receiver_takes_whatever_number_of_shards_the_sender_has(shards: Callable[..., Link]) -> None:
    link = shards(4)
    reshard(link.other, 1)
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(40)])
    link.one.export()
    link.there.carry()
    assert verdicts(link) == {(Verdict.APPLIED, 0)}
    assert alike(link)


def test_what_was_asked_of_shards_that_the_sender_has_no_more_is_withdrawn_once_it_shows_that(
    shards: Callable[..., Link],
) -> None:
    link, repair = shards(2), database_tables.repair
    reshard(link.one, 1)
    reconcile.request_checkpoints(link.other.site, "forth")
    reconcile.request_checkpoints(link.one.site, "forth")
    link.round()
    open_of = {row.channel: row.state for row in link.other.all(sa.select(repair))}
    assert open_of == {"forth_0": RepairState.WITHDRAWN, "forth_1": RepairState.WITHDRAWN}


def test_what_lies_sealed_of_a_shard_that_is_no_more_is_published(shards: Callable[..., Link]) -> None:
    link = shards(3)
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(60)])
    for part in link.one.site.outgoing():
        link.one.seal(part)
    reshard(link.one, 2)
    assert link.one.export().trouble is None
    link.there.carry()
    assert verdicts(link) == {(Verdict.APPLIED, 0)}
    assert alike(link)


def test_nothing_is_missing_of_a_shard_that_is_no_more_whose_last_batch_is_gone_for_good(
    shards: Callable[..., Link],
) -> None:
    link = shards(2)
    for side in (link.one, link.other):
        side.limit(gap_seconds=0, period_seconds=1e-6)
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(20)])
    link.one.export()
    folders = link.one.site.spool.folders
    for path in (*folders.outgoing.glob("forth_1-*"), *folders.sealed.glob("forth_1-*")):
        path.unlink()
    reshard(link.one, 1)
    states = set()
    for _ in range(6):
        go_round(link)
        states |= {(row.channel, row.state) for row in link.other.all(sa.select(gap.c.channel, gap.c.state))}
    assert states == {("forth_1", GapState.MISSING), ("forth_1", GapState.LEFT)}
    assert not link.other.all(sa.select(gap.c.channel).where(gap.c.state == GapState.MISSING))
    reconcile.request_checkpoints(link.one.site, "forth")
    for _ in range(4):
        go_round(link)
    assert alike(link)


def test_a_batch_of_a_shard_that_is_no_more_does_not_wait_for_ever_behind_one_that_is_gone_for_good(
    shards: Callable[..., Link],
) -> None:
    link = shards(2)
    for side in (link.one, link.other):
        side.limit(gap_seconds=0, period_seconds=1e-6)
    folders = link.one.site.spool.folders
    for name in ("a", "b"):
        link.one.execute(sa.insert(account), [{"id": 100 * ord(name) + n, "name": name} for n in range(9)])
        link.one.export()
    late = [(path.name, path.read_bytes()) for path in folders.outgoing.glob("forth_1-*-0000000002.*")]
    for path in (*folders.outgoing.glob("forth_1-*"), *folders.sealed.glob("forth_1-*")):
        path.unlink()
    reshard(link.one, 1)
    for _ in range(4):  # it is no longer spoken of
        go_round(link)
    for name, content in late:
        (link.other.site.spool.folders.incoming / name).write_bytes(content)
    for _ in range(4):
        go_round(link)
    waits = database_tables.batch.c.state == BatchState.WAITING
    assert not link.other.all(sa.select(database_tables.batch.c.stem).where(waits))
    places = link.other.all(sa.select(gap.c.sequence, gap.c.state))
    assert {tuple(row) for row in places} == {(1, GapState.LOST), (2, GapState.LEFT)}  # and then the late one came


def test_a_delete_of_most_rows_is_held_though_each_shard_has_but_a_part_of_it(shards: Callable[..., Link]) -> None:
    link = shards(3)
    link.other.limit(deleted_rows=5)
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(90)])
    link.round()
    link.one.execute(sa.delete(account).where(account.c.id < 70))
    link.one.export()
    link.there.carry()
    held = link.other.take_in().batches
    assert {seen.verdict for seen in held} == {Verdict.HELD}
    assert "of 30 rows of account that one of 3 shards has, more than the set share of 50%" in held[0].message
    for seen in held:
        importer.import_batches(link.other.site, stem=seen.batch, release=True)
    assert alike(link)


def test_a_dead_letter_of_a_shard_that_is_no_more_is_retried(shards: Callable[..., Link]) -> None:
    link = shards(3)
    link.other.execute(
        "CREATE TRIGGER picky BEFORE INSERT ON account WHEN NEW.id = 50 BEGIN SELECT RAISE(ABORT, 'not 50'); END"
    )
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(60)])
    link.round()
    link.other.execute("DROP TRIGGER picky")
    [(number, channel)] = link.other.all(
        sa.select(database_tables.dead_letter.c.id, database_tables.dead_letter.c.channel)
    )
    assert channel.startswith("forth_")
    reshard(link.other, 1)
    [tried] = retry.retry_letters(link.other.site, [number])
    assert tried.state is database_tables.DeadLetterState.APPLIED
    assert alike(link)


# Beside each other


@pytest.mark.postgres
def test_two_processes_apply_two_shards_at_the_same_time(
    shards: Callable[..., Link], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = shards(2, "postgresql", "postgresql")
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(60)])
    assert len(link.one.export().batches) == 2
    link.there.carry()
    apply_records = apply.apply_records

    def both_are_here(site: Any, connection: Any, arrival: Any, data: Any) -> Any:
        counts = apply_records(site, connection, arrival, data)
        (tmp_path / f"{arrival.channel.name}.inside").touch()
        until(lambda: len(list(tmp_path.glob("*.inside"))) == 2)  # neither has committed
        return counts

    monkeypatch.setattr(apply, "apply_records", both_are_here)
    # Both begin with all channels: whoever finds one taken goes to the next.
    children = [fork(link.other.take_in, link.other, link.one) for _ in range(2)]
    assert [wait_for(child) for child in children] == [0, 0]
    assert alike(link)
    assert link.other.all(sa.select(sa.func.sum(database_tables.batch.c.applied)))[0][0] == 60


@pytest.mark.postgres
def test_shards_of_another_number_wait_for_each_other(shards: Callable[..., Link]) -> None:
    link = shards(2, "postgresql", "postgresql")
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(60)])
    link.one.export()
    link.there.carry()
    with locked(link.other.engine, "import forth_9") as connection:
        join(connection, "import forth", alone=False)
        reshard(link.other, 3)
        assert {seen.verdict for seen in link.other.take_in().batches} == {Verdict.BUSY}
        reshard(link.other, 2)
        assert verdicts(link) == {(Verdict.APPLIED, 0)}
    assert link.other.all(sa.select(database_tables.attempt)) == []


@pytest.mark.postgres
def test_two_exporters_take_each_change_once(shards: Callable[..., Link]) -> None:
    link = shards(4, "postgresql", "postgresql")
    link.one.limit(batch_records=20)
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(200)])

    def export() -> None:
        deadline = time.monotonic() + 60
        while (run := link.one.export()).busy:
            assert run.trouble is None
            assert time.monotonic() < deadline

    assert [wait_for(child) for child in [fork(export, link.one, link.other) for _ in range(2)]] == [0, 0]
    link.there.carry()
    assert verdicts(link) == {(Verdict.APPLIED, 0)}
    columns = database_tables.batch.c
    assert link.other.all(sa.select(sa.func.sum(columns.applied), sa.func.sum(columns.duplicate)))[0] == (200, 0)
    assert alike(link)


@pytest.mark.postgres
def test_each_channel_with_work_is_handed_over_and_the_rest_is_done_here(shards: Callable[..., Link]) -> None:
    link = shards(2, "postgresql", "postgresql")
    handed: list[str] = []
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(60)])
    run = exporter.export(link.one.site, stopping=importer.never, hand_over=handed.append)
    assert (run.batches, run.handed, handed) == ((), ("forth_0", "forth_1"), ["forth_0", "forth_1"])
    for name in handed:
        assert len(exporter.export(link.one.site, channel=name, stopping=importer.never).batches) == 1
    link.there.carry()
    handed.clear()
    arrived = importer.import_batches(link.other.site, hand_over=handed.append)
    assert (arrived.batches, arrived.handed, handed) == ((), ("forth_0", "forth_1"), ["forth_0", "forth_1"])
    assert link.other.all(sa.select(database_tables.success.c.channel)) == []  # theirs to say
    assert len(importer.import_batches(link.other.site, channel="forth_0").batches) == 1
    handed.clear()
    assert len(importer.import_batches(link.other.site, hand_over=handed.append).batches) == 1  # alone it goes at once
    assert handed == []
    # Of another number than ours they can't go beside each other: they go together.
    link.one.execute(sa.update(account).values(name="b"))
    link.round()
    reshard(link.other, 3)
    link.one.execute(sa.update(account).values(name="c"))
    link.one.export()
    link.there.carry()
    assert len(importer.import_batches(link.other.site, hand_over=handed.append).batches) == 2
    assert handed == []
    assert alike(link)


def test_on_sqlite_nothing_is_handed_over(shards: Callable[..., Link]) -> None:
    link = shards(2)
    link.one.execute(sa.insert(account), [{"id": n, "name": "a"} for n in range(60)])
    handed: list[str] = []
    assert len(exporter.export(link.one.site, stopping=importer.never, hand_over=handed.append).batches) == 2
    link.there.carry()
    assert len(importer.import_batches(link.other.site, hand_over=handed.append).batches) == 2
    assert handed == []


# Killed


@pytest.mark.same_on("postgresql")
@pytest.mark.parametrize(
    "kind, stride",
    [
        ("sqlite", 11),
        pytest.param("postgresql", 23, marks=needs_postgres),
        *(pytest.param(kind, 1, marks=[needs_postgres, pytest.mark.torture]) for kind in ("sqlite", "postgresql")),
    ],
)
def test_shards_killed_at_any_step_take_effect_once(
    shards: Callable[..., Link], kind: str, stride: int, seed: int
) -> None:
    link = shards(2, kind, kind)
    first = 1 + seed % stride
    step, codes = first - stride, {KILLED}
    while KILLED in codes:
        step += stride
        link.one.execute(sa.insert(account), [{"id": step * 100 + n, "name": f"step {step}"} for n in range(8)])
        codes = {run_killed_at(step, link.one, link.one.export)}
        while (run := link.one.export()).busy:  # the database needs a moment to see that its client is dead
            assert run.trouble is None
        link.there.carry()
        codes.add(run_killed_at(step, link.other, link.other.take_in))
        while any(seen.verdict is Verdict.BUSY for seen in link.other.take_in().batches):
            pass
        assert alike(link)
    assert step > 30
    folders = link.other.site.spool.folders
    assert {path.name for path in folders.incoming.iterdir()} == {MARKER}
    assert list(folders.work.iterdir()) == []
    with reading(link.other.engine) as connection:
        applied, parked = connection.execute(
            sa.select(sa.func.sum(database_tables.batch.c.applied), sa.func.sum(database_tables.batch.c.parked))
        ).one()
    assert (applied, parked) == ((1 + (step - first) // stride) * 8, 0)
