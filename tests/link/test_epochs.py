"""A restored database begins a new epoch, and both sides agree again; a one-way link sends all on a schedule."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database.engine import now
from exchange.database.locks import Busy, locked, reading
from exchange.database.network import halted
from exchange.database.tables import BatchState, ResyncState, batch, dead_letter, network, resync
from exchange.format.errors import Reason, Verdict
from exchange.link import epochs
from exchange.tables import capture
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres
from tests.crossing.sides import Link, Side
from tests.crossing.test_snapshot import accounts, ask, cross, export, forget
from tests.databases import Databases

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")


def names(side: Side) -> list[tuple[int, str]]:
    """Give the accounts."""
    return [(row["id"], row["name"]) for row in side.rows(shop.account)]


@pytest.mark.same_on
def test_a_new_epoch_numbers_anew_gives_greater_versions_and_asks_for_all_channels(alike: Link) -> None:
    side = alike.one
    side.execute(sa.insert(shop.account), accounts(1, 1))
    first = export(side).batches[0]
    begun = epochs.begin_epoch(side.site, "a restore")
    side.execute(sa.insert(shop.account), accounts(2, 2))
    with side.engine.begin() as connection:
        version = capture.draw_version(connection)

    second = export(side).batches[0]

    assert (begun.before, begun.epoch) == (first.epoch, second.epoch)
    assert (first.sequence, second.sequence) == (1, 1)
    assert version >= int((now() - timedelta(minutes=1)).timestamp() * 1_000_000)
    assert begun.channels == ("forth",)
    assert [(row.prune, row.state) for row in side.all(sa.select(resync))] == [(1, ResyncState.DONE)]


@pytest.mark.same_on
def test_the_counter_never_goes_back(alike: Link) -> None:
    side = alike.one
    far = int((now() + timedelta(days=400)).timestamp() * 1_000_000)
    with side.engine.begin() as connection:
        capture.raise_counter(connection, far)
    epochs.begin_epoch(side.site, "the clock was wrong once")
    side.execute(sa.insert(shop.account), accounts(1, 1))

    with locked(side.engine, "a test", isolation_level="REPEATABLE READ") as connection:
        capture.claim(connection, side.site.channels[0].streams, 10)
        assert connection.scalar(sa.select(sa.func.min(capture.CLAIMED.c.version))) > far


def test_what_a_lost_life_sent_is_undone_on_the_other_side(alike: Link) -> None:
    alike.one.execute(sa.insert(shop.account), accounts(1, 6))
    cross(alike)
    before = alike.one.rows(shop.account)
    alike.one.execute("UPDATE account SET name = 'of a lost life' WHERE id < 3")
    alike.one.execute("DELETE FROM account WHERE id = 6")
    alike.one.execute(sa.insert(shop.account), accounts(7, 9))
    cross(alike)
    # The application's rows as they were in the copy; and what triggers would not have noted.
    alike.one.execute(sa.delete(shop.account))
    alike.one.execute(sa.insert(shop.account), before)
    forget(alike.one)

    epochs.begin_epoch(alike.one.site, "restored")
    assert set(cross(alike)) == {Verdict.APPLIED}

    assert names(alike.other) == names(alike.one)
    assert not alike.other.all(sa.select(dead_letter))


def test_a_batch_of_the_epoch_before_is_refused_once_a_newer_one_was_adopted(small: Link) -> None:
    small.one.execute(sa.insert(shop.account), accounts(1, 1))
    late = export(small.one).batches[0]
    epochs.begin_epoch(small.one.site, "restored")
    export(small.one)
    for path in sorted(small.one.site.spool.folders.outgoing.iterdir()):
        if late.batch not in path.name and not path.name.startswith("."):
            small.there.deliver_again(path.name)
    small.other.take_in()
    small.there.carry()

    (refused,) = small.other.take_in().batches

    assert (refused.verdict, refused.reason) == (Verdict.QUARANTINED, Reason.STALE_EPOCH)


def test_what_was_sealed_and_not_published_is_discarded_with_its_epoch(small: Link) -> None:
    side = small.one
    side.execute(sa.insert(shop.account), accounts(1, 3))
    side.seal(side.site.outgoing()[0])
    done = epochs.begin_epoch(side.site, "restored")

    assert done.discarded == 1
    assert [row.state for row in side.all(sa.select(batch.c.state))] == [BatchState.DISCARDED]
    assert set(cross(small)) == {Verdict.APPLIED}
    assert names(small.other) == names(side)


def test_what_was_being_sent_begins_anew_in_the_new_epoch(small: Link) -> None:
    side = small.one
    side.execute(sa.insert(shop.account), accounts(1, 3))
    ask(side, answers="two-1")
    epochs.begin_epoch(side.site, "restored")

    states = [(row.state, row.answers) for row in side.all(sa.select(resync).order_by(resync.c.id))]

    assert states == [(ResyncState.CANCELLED, None), (ResyncState.ASKED, None)]
    assert ask(side, answers="two-1")


@needs_postgres
def test_an_epoch_does_not_begin_beside_an_export(postgresql_link: Link) -> None:
    site = postgresql_link.one.site
    with locked(site.engine, "export forth"), pytest.raises(Busy):
        epochs.begin_epoch(site, "restored")


def test_a_halted_database_exports_again_in_a_new_epoch(small: Link) -> None:
    side = small.one
    side.execute(sa.insert(shop.account), accounts(1, 1))
    side.execute(sa.update(network).values(halted_because="they know more than we do", halted_at=now()))
    run = side.export()
    assert (run.trouble, run.batches) == ("they know more than we do", ())

    epochs.begin_epoch(side.site, "restored")

    assert export(side).batches
    with reading(side.engine) as connection:
        assert halted(connection) is None
        assert [one.current for one in epochs.list_epochs(connection)] == [True, False]


def test_a_one_way_link_sends_everything_anew_on_a_schedule(small: Link) -> None:
    side = small.one
    side.site = replace(side.site, one_way=True)
    side.limit(snapshot_days=7)
    small.other.execute(sa.insert(shop.account), accounts(8, 9))
    side.execute(sa.insert(shop.account), accounts(1, 3))
    export(side)
    assert not side.all(sa.select(resync))

    side.execute(sa.update(network).values(created_at=now() - timedelta(days=8)))
    cross(small)
    export(side)

    assert [row.state for row in side.all(sa.select(resync))] == [ResyncState.DONE]
    assert names(small.other) == names(side)
    side.execute(sa.update(resync).values(created_at=now() - timedelta(days=8)))
    cross(small)
    assert len(side.all(sa.select(resync))) == 2


def test_a_shard_is_sent_and_pruned_by_itself(tmp_path: Path, databases: Databases) -> None:
    metadata = sa.MetaData()
    thing = sa.Table("thing", metadata, sa.Column("id", sa.Text, primary_key=True), sa.Column("name", sa.Text))
    channels = (Channel("forth", "one", "two", [Stream(thing)], shards=3),)
    first = Side("one", "two", databases, "sqlite", tmp_path / "one", channels, metadata=metadata)
    second = Side("two", "one", databases, "sqlite", tmp_path / "two", channels, metadata=metadata)
    link = Link(first, second)
    rows = [{"id": f"thing {n}", "name": str(n)} for n in range(30)]
    first.execute(sa.insert(thing), rows)
    cross(link)
    second.execute(sa.insert(thing), [{"id": f"other {n}", "name": "by hand"} for n in range(30)])

    epochs.begin_epoch(first.site, "restored")
    assert set(cross(link)) == {Verdict.APPLIED}

    assert second.rows(thing) == first.rows(thing)
    first.engine.dispose()
    second.engine.dispose()
