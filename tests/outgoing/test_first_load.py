"""The first load: rows that were there before capture cross unasked, once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database.tables import ResyncState, batch, change, dead_letter, first_load, resync
from exchange.link import send_requests
from exchange.operating.check.oracle import disagreements, judge
from exchange.operating.status import read_status
from exchange.outgoing import control_batch, exporter
from exchange.progress import Pace
from exchange.tables import capture
from tests.crossing import shop
from tests.crossing.processes import KILLED, run_killed_at
from tests.crossing.sides import Link, Side


def accounts(first: int, last: int) -> list[dict[str, Any]]:
    """Give rows."""
    return [{"id": number, "name": f"account {number}", "age": number % 90} for number in range(first, last + 1)]


def capture_again(side: Side, *tables: sa.Table, fill: bool = True) -> None:
    """Have capture begin with rows in the tables."""
    with side.engine.begin() as connection:
        for table in tables:
            capture.drop(connection, table.name)
        if fill:
            connection.execute(sa.insert(shop.account), accounts(1, 45))
            connection.execute(sa.insert(shop.place), [{"country": "at", "number": n, "name": "p"} for n in range(5)])
            connection.execute(sa.insert(shop.visit), [{"id": n, "country": "at", "number": n % 5} for n in range(30)])
        for table in tables:
            capture.install(connection, table.name)


@pytest.mark.same_on("postgresql")
def test_rows_from_before_capture_cross_unasked_parents_first_and_once(alike: Link) -> None:
    one, two = alike.one, alike.other
    one.limit(batch_records=10)
    capture_again(one, shop.account, shop.place, shop.visit)
    one.execute("UPDATE account SET name = 'newer' WHERE id = 7")
    one.execute("DELETE FROM account WHERE id = 8")
    one.execute(sa.insert(shop.visit), {"id": 99, "country": "at", "number": 1})

    asked = iter([False, False])
    said: list[str] = []
    with one.site.progress.watched(lambda _: None, said.append):
        first = exporter.export(one.site, stopping=lambda: next(asked, True))
    alike.there.carry()
    two.take_in()
    [sent] = [one.load for one in read_status(one.site).channels if one.load]
    [received] = [one.load for one in read_status(two.site).channels if one.load]
    assert (sent.pace.rows, sent.pace.expected, sent.parts) == (5, 80, 1)
    assert (received.pace.rows, received.pace.expected, received.parts) == (5, 80, 1)
    assert received.as_dict()["share"] == 0.0625
    assert said == [str(load) for load in first.first_loads]
    assert sorted(said) == [
        "first load of account: 44 rows",
        "first load of place: 5 rows",
        "first load of visit: 31 rows",
    ]
    told: list[Pace] = []
    with one.site.progress.watched(told.append):
        assert one.export().first_loads == ()
        assert (one.site.progress.pace().rows, one.site.progress.pace().expected) == (78, 78)
    assert told[0].rows > 0
    one.export()
    assert one.export().batches == ()
    alike.there.carry()
    two.take_in()

    assert not [side for side in (one, two) for channel in read_status(side.site).channels if channel.load]
    for table in (shop.account, shop.place, shop.visit):
        assert two.rows(table) == one.rows(table)
    assert judge(one.site, two.site) == []
    [request] = one.all(sa.select(resync))
    assert (request.state, request.streams, request.who) == (ResyncState.DONE, None, send_requests.FIRST_LOAD)
    assert not one.all(sa.select(first_load).where(first_load.c.done_at.is_(None)))


def test_what_was_sent_or_asked_for_or_is_empty_is_not_sent_by_itself(small: Link) -> None:
    one = small.one
    one.execute(sa.insert(shop.account), accounts(1, 5))
    assert one.export().first_loads == ()  # all of them were captured
    with one.engine.begin() as connection:  # made anew, as by a batch operation on SQLite
        connection.exec_driver_sql("DROP TRIGGER exchange_capture_insert_account")
        capture.install(connection, "account")
    assert one.export().first_loads == ()

    # A stream of a running channel that is captured anew: it alone is sent, behind the changes.
    capture_again(one, shop.node, fill=False)
    with one.engine.begin() as connection:
        capture.drop(connection, "seat")
        connection.execute(sa.insert(shop.seat), [{"id": 1, "code": "a"}])
        capture.install(connection, "seat")
        # An earlier version captured it, and never sent it; this one it sent.
        connection.execute(sa.delete(first_load).where(first_load.c.stream.in_(["place", "person"])))
        connection.execute(sa.insert(shop.place), [{"country": "at", "number": 1, "name": "p"}])
        connection.execute(sa.delete(change).where(change.c.stream == "place"))
    one.site = replace(one.site, first_load=False)
    assert one.export().first_loads == ()
    one.site = replace(one.site, first_load=True)
    assert sorted(one.stream for one in one.export().first_loads) == ["place", "seat"]
    small.there.carry()
    small.other.take_in()
    assert small.other.rows(shop.seat) == one.rows(shop.seat)
    assert small.other.rows(shop.place) == one.rows(shop.place)

    # What a person asks for first is not sent twice.
    capture_again(one, shop.seat, fill=False)
    with one.engine.begin() as connection:
        send_requests.add_request(connection, channel="forth", want="snapshot", prune=True, reason="a test")
    assert one.export().first_loads == ()
    one.export()
    assert [row.done_at is not None for row in one.all(sa.select(first_load).where(first_load.c.stream == "seat"))] == [
        True
    ]


def test_each_shard_sends_its_own_and_another_number_of_shards_all_of_it(small: Link) -> None:
    one, forth = small.one, shop.channels[0]
    one.limit(batch_records=10)

    def declare(shards: int) -> None:
        made = Channel("forth", "one", "two", forth.streams, shards=shards, on_invalid="reject")
        one.site = replace(one.site, channels=(made, *shop.channels[1:]))
        small.other.site = replace(small.other.site, channels=one.site.channels)

    declare(2)
    capture_again(one, shop.account, shop.place, shop.visit)
    one.execute(sa.insert(shop.visit), {"id": 99, "country": "at", "number": 1})
    asked = iter([False, False, False])
    assert len(exporter.export(one.site, stopping=lambda: next(asked, True)).first_loads) == 3
    declare(3)
    assert len(one.export().first_loads) == 3
    assert one.export().batches == ()
    small.there.carry()
    small.other.take_in()

    assert judge(one.site, small.other.site) == []
    for table in (shop.account, shop.place, shop.visit):
        assert small.other.rows(table) == one.rows(table)
    assert not one.all(sa.select(first_load).where(first_load.c.done_at.is_(None)))


@pytest.mark.parametrize("one_way", [False, True])
def test_a_load_waits_until_what_it_refers_to_in_another_channel_is_there(small: Link, one_way: bool) -> None:
    one, two = small.one, small.other
    channels = (Channel("a", "one", "two", [Stream(shop.visit)]), Channel("b", "one", "two", [Stream(shop.place)]))
    for side in (one, two):
        side.site = replace(side.site, channels=channels, one_way=one_way)
    capture_again(one, shop.visit, shop.place)
    loads = []
    for _ in range(3):
        done = one.export()
        loads.append((sorted(load.stream for load in done.first_loads), done.cautions))
        small.there.carry()
        two.take_in()
        if not one_way:
            control_batch.publish_control_batch(two.site)
            small.back.carry()
            if len(loads) > 1:
                one.take_in()

    waits = ("the first load of visit waits until two has place of channel b, which it refers to",)
    later = [(["visit"], ())] if one_way else [([], waits), (["visit"], ())]
    assert loads[: len(later) + 1] == [(["place"], waits), *later]
    assert not two.all(sa.select(dead_letter))
    assert two.rows(shop.visit) == one.rows(shop.visit)


def test_channels_that_refer_to_each_other_wait_for_none(small: Link) -> None:
    channels = (Channel("a", "one", "two", [Stream(shop.team)]), Channel("b", "one", "two", [Stream(shop.person)]))
    small.one.site = replace(small.one.site, channels=channels)
    with small.one.engine.begin() as connection:
        for table in (shop.team, shop.person):
            capture.drop(connection, table.name)
        connection.execute(sa.insert(shop.team), {"id": 1, "name": "t", "leader": 1})
        connection.execute(sa.insert(shop.person), {"id": 1, "name": "p", "team": 1})
        for table in (shop.team, shop.person):
            capture.install(connection, table.name)
    done = small.one.export()
    assert (sorted(load.stream for load in done.first_loads), done.cautions) == (["person", "team"], ())


def test_a_stream_that_is_not_captured_waits_with_those_that_refer_to_it(small: Link) -> None:
    one = small.one
    capture_again(one, shop.account, shop.place, shop.visit)
    one.execute("DROP TRIGGER exchange_capture_insert_place")

    done = one.export()
    assert [load.stream for load in done.first_loads] == ["account"]
    assert "triggers" in done.faults[0]
    with one.engine.begin() as connection:
        capture.install(connection, "place")
    assert [load.stream for load in one.export().first_loads] == ["place", "visit"]
    small.there.carry()
    small.other.take_in()
    assert small.other.rows(shop.visit) == one.rows(shop.visit)


@pytest.mark.thorough
@pytest.mark.parametrize("rows, at_once", [(60, 10), pytest.param(100_000, 20_000, marks=pytest.mark.torture)])
def test_a_load_that_is_killed_goes_on_at_the_part_it_had_reached_and_nothing_comes_twice(
    alike: Link, rows: int, at_once: int
) -> None:
    one, two = alike.one, alike.other
    one.limit(batch_records=at_once)
    with one.engine.begin() as connection:
        capture.drop(connection, "account")
        connection.execute(sa.insert(shop.account), accounts(1, rows))
        capture.install(connection, "account")
    one.execute("UPDATE account SET name = 'newer' WHERE id = 7")

    killed = 0
    for side, work in ((one, one.export), (two, two.take_in)):
        alike.there.carry()
        step = 1
        while (code := run_killed_at(step, side, work)) == KILLED:
            killed, step = killed + 1, step + 3
        assert code == 0
    assert killed > 5

    assert two.rows(shop.account) == one.rows(shop.account)
    assert not two.all(sa.select(dead_letter))
    counted = sa.select(sa.func.sum(batch.c.applied), sa.func.sum(batch.c.stale)).where(batch.c.channel == "forth")
    assert [tuple(map(int, found)) for found in two.all(counted)] == [(rows + 1, 0)]
    assert disagreements(one.site, two.site) == []
