"""Both sides are told to compare, and a person reads how they agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database.locks import reading, writing
from exchange.database.tables import Direction, RepairState, ResyncState, repair, resync
from exchange.format.control import Part
from exchange.link import reconcile, send_requests
from exchange.link.reconcile import DIFFERENT, EQUAL, NOT_YET, REPAIRED, StreamAgreement
from exchange.outgoing import checkpoint, seal
from exchange.tables.bucket_digests import digest
from tests.crossing import shop
from tests.crossing.forging import Forger, account
from tests.crossing.shop import note
from tests.crossing.sides import Link, Side

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

FORTH = shop.channels[0]


def compare(link: Link) -> None:
    """Have the first side's rows compared with the second one's, as a person would."""
    reconcile.request_checkpoints(link.one.site, "forth")
    for row in link.one.all(sa.select(resync).where(resync.c.state == ResyncState.ASKED)):
        assert checkpoint.seal_checkpoint(link.one.site, FORTH, row)
    seal.publish_sealed(link.one.site, "forth")
    link.there.carry()
    link.other.take_in()


def standing(side: Side, stream: str = "account") -> StreamAgreement:
    """Give how one stream agrees."""
    (found,) = [one for one in reconcile.report_agreement(side.site) if one.stream == stream]
    return found


def test_of_both_ways_the_sender_is_to_begin_and_asking_again_asks_once(small: Link) -> None:
    reconcile.request_checkpoints(small.one.site, reason="a doubt")
    asked = reconcile.request_checkpoints(small.one.site, reason="another")

    assert [(one.channel, one.direction) for one in asked] == [("forth", Direction.OUT), ("back", Direction.IN)]
    assert small.one.all(sa.select(resync.c.channel, resync.c.want, resync.c.reason)) == [
        ("forth", "checkpoint", "a doubt")
    ]
    assert small.one.all(sa.select(repair.c.channel, repair.c.want, repair.c.reason)) == [
        ("back", "checkpoint", "a doubt")
    ]


def test_a_channel_of_which_enough_is_asked_for_already_is_left_to_its_turn_and_the_others_are_asked(
    small: Link,
) -> None:
    with writing(small.one.engine) as connection:
        for number in range(send_requests.MOST_OPEN):
            send_requests.add_request(connection, channel="forth", want="snapshot", buckets=[number], reason="a test")

    forth, back = reconcile.request_checkpoints(small.one.site)

    assert forth.message == "channel forth: 16 snapshots and checkpoints are asked for already; they come first"
    assert "is asked with the next control batch" in back.message
    assert [one for (one,) in small.one.all(sa.select(resync.c.want))] == ["snapshot"] * send_requests.MOST_OPEN


def test_a_tick_begins_only_what_this_side_sends(small: Link) -> None:
    asked = reconcile.request_checkpoints(small.one.site, incoming=False)

    assert [one.channel for one in asked] == ["forth"]
    assert small.one.all(sa.select(repair.c.name)) == []


def test_where_nothing_goes_back_the_other_side_has_to_begin(small: Link) -> None:
    small.one.site = replace(small.one.site, one_way=True)

    (asked,) = reconcile.request_checkpoints(small.one.site, "back")

    assert "`exchange reconcile` over there" in asked.message
    assert small.one.all(sa.select(repair.c.name)) == []


def test_a_checkpoint_that_comes_answers_whoever_asked_for_one(small: Link) -> None:
    reconcile.request_checkpoints(small.other.site, "forth")

    compare(small)

    assert [one.state for one in small.other.all(sa.select(repair.c.state))] == [RepairState.ANSWERED]


def test_a_person_reads_how_many_rows_agree_and_since_when_they_do_not(alike: Link) -> None:
    assert standing(alike.other).state == NOT_YET
    alike.one.execute("INSERT INTO account (id, name) VALUES (1, 'one'), (2, 'two')")
    alike.round()
    compare(alike)
    equal = standing(alike.other)
    assert (equal.state, equal.rows, equal.equal, equal.missing, equal.extra, equal.different, equal.since) == (
        *(EQUAL, 2, 2, 0, 0, 0),
        None,
    )

    alike.other.execute("UPDATE account SET name = 'other' WHERE id = 2")
    compare(alike)
    found = standing(alike.other)
    assert (found.state, found.rows, found.buckets, found.equal, found.missing) == (DIFFERENT, 2, 1, None, None)
    assert found.since == found.compared_at
    assert {one.stream for one in reconcile.report_agreement(alike.other.site, "back")} == {note.name}


def test_after_a_repair_a_person_reads_which_rows_it_put_right(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, 1), account(2, 2)])
    quick_receiver.take_in()
    with reading(quick_receiver.engine) as connection:
        good = digest(connection, FORTH.stream("account")).as_data()
    send_digest(quick_forger, good)
    assert standing(quick_receiver).state == EQUAL
    quick_receiver.execute("UPDATE account SET name = 'by hand' WHERE id = 2")
    send_digest(quick_forger, good)
    (asked,) = quick_receiver.all(sa.select(repair.c.name))
    part = Part("snap", 100, 1, last=True, streams=("account",), answers=asked.name)

    quick_forger.send([account(1, 100), account(2, 100)], claims={"kind": "snapshot", "snapshot": part.as_data()})
    quick_receiver.take_in()

    found = standing(quick_receiver)
    assert (found.state, found.equal, found.missing, found.extra, found.different) == (REPAIRED, 1, 0, 0, 1)
    assert found.keys == ({"what": "different", "key": {"id": 2}},)
    send_digest(quick_forger, good)
    found = standing(quick_receiver)
    assert (found.state, found.equal, found.different, found.since) == (EQUAL, 2, 0, None)
    assert found.keys == ({"what": "different", "key": {"id": 2}},)


def send_digest(forger: Forger, data: dict[str, Any]) -> None:
    """Send a checkpoint and let it be compared."""
    record = {"stream": "_digest", "op": "upsert", "version": 1, "data": data}
    forger.send([record], claims={"kind": "checkpoint"})
    forger.receiver.take_in()
