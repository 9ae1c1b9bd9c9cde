"""Rollouts: a stream goes to a share of its keys first, then to more, then to all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.channel import rollout_cautions
from exchange.channels.schemas import Checker
from exchange.database import rollouts
from exchange.database.locks import reading
from exchange.database.tables import Direction, agreement, change, dead_letter, repair, resync
from exchange.format.buckets import share_of_buckets
from exchange.link import send_requests
from exchange.operating.channels import list_channels
from exchange.operating.check.oracle import judge
from exchange.operating.status import read_status
from exchange.outgoing.rollout import refusals, settle_rollouts
from tests.crossing import shop
from tests.crossing.processes import KILLED, run_killed_at
from tests.crossing.sides import Link, Side


def accounts(first: int, last: int) -> list[dict[str, Any]]:
    """Give rows."""
    return [{"id": number, "name": f"account {number}", "age": number % 90} for number in range(first, last + 1)]


def declare(link: Link, share: int | None, version: int = 1) -> None:
    """Have both sides declare the accounts with a rollout; only their source heeds it."""
    upgrades = {1: dict} if version > 1 else {}
    stream = Stream(shop.account, rollout=share, schema_version=version, upgrades=upgrades)
    channels = (Channel("forth", "one", "two", [stream, Stream(shop.place)], on_invalid="park"),)
    for side in (link.one, link.other):
        checkers = {one.name: Checker(one) for one in channels[0].streams}
        side.site = replace(side.site, channels=channels, checkers=checkers)


def inside(side: Side) -> set[int]:
    """Give the ids that are in the share."""
    with reading(side.engine) as connection:
        share = rollouts.read(connection).get("account")
    ids = {row["id"] for row in side.rows(shop.account)}
    return {one for one in ids if share is None or share.has(b'{"id":%d}' % one)}


def turn(link: Link) -> None:
    """Send all there is."""
    link.one.export()
    link.there.carry()
    link.other.take_in()


def compare(link: Link) -> int:
    """Have the channel compared; give how many streams were."""
    with link.one.engine.begin() as connection:
        send_requests.add_request(connection, channel="forth", want="checkpoint", reason="a test")
    turn(link)
    here = agreement.c.direction == Direction.IN
    found = link.other.all(sa.select(agreement.c.stream, agreement.c.buckets, agreement.c.compared_at).where(here))
    assert not [one for one in found if one.buckets != "[]"]
    assert not link.other.all(sa.select(repair))
    link.other.execute(sa.delete(agreement))
    return len(found)


def write(side: Side, number: int) -> None:
    """Insert, change, delete rows and change a key, inside the share and outside."""
    side.execute(sa.insert(shop.account), accounts(1_000 * number, 1_000 * number + 20))
    side.execute(f"UPDATE account SET name = 'changed in {number}' WHERE id % 7 = {number}")
    side.execute(f"DELETE FROM account WHERE id % 11 = {number}")
    side.execute(f"UPDATE account SET id = id + 500 WHERE id < 500 AND id % 13 = {number}")


def agree(link: Link, compared: int = 2) -> set[int]:
    """See that the other side has what is in the share and no more, and that nothing waits; give the ids."""
    sent = inside(link.one)
    assert {row["id"] for row in link.other.rows(shop.account)} == sent
    assert judge(link.one.site, link.other.site) == []
    assert not link.one.all(sa.select(change))
    assert compare(link) == compared
    assert not link.other.all(sa.select(dead_letter))
    return sent


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.thorough])])
def sides(request: pytest.FixtureRequest) -> Link:
    """Give both sides on one kind of database."""
    link: Link = request.getfixturevalue("small" if request.param == "sqlite" else "postgresql_link")
    return link


def test_a_new_stream_goes_to_a_share_then_to_more_then_to_all(sides: Link) -> None:
    one = sides.one
    one.execute(sa.insert(shop.account), accounts(1, 80))
    few: set[int] = set()
    for number, share in enumerate([10, 50, None], 1):
        declare(sides, share)
        turn(sides)
        write(one, number)
        turn(sides)
        sent = agree(sides)
        assert one.export().batches == ()
        gone = few - {row["id"] for row in one.rows(shop.account)}
        assert few - gone <= sent
        few = sent
        if share:
            assert 0 < len(sent) < len(one.rows(shop.account)) * (share + 20) // 100
            assert list_channels(one.site)[0].rollouts == {"account": share}
            assert f"to {share} % of its keys" in read_status(one.site).channels[0].rollouts[0]
    assert sides.other.rows(shop.account) == one.rows(shop.account)
    with reading(one.engine) as connection:
        assert rollouts.read(connection) == {}
    assert [row.who for row in one.all(sa.select(resync)) if row.want == "snapshot"] == ["rollout", "rollout"]


def test_a_share_never_becomes_smaller_once_something_was_sent(small: Link) -> None:
    one = small.one
    declare(small, 50)
    one.export()  # nothing is there
    declare(small, 20)
    one.execute(sa.insert(shop.account), accounts(1, 60))
    one.execute(sa.insert(shop.place), {"country": "at", "number": 1, "name": "p"})
    turn(small)
    sent = agree(small)
    declare(small, 10)
    one.execute("UPDATE account SET name = 'waits'")
    one.execute("UPDATE place SET name = 'goes on'")
    done = one.export()
    assert [said for said in done.faults if "a share never becomes smaller; declare rollout=20" in said]
    with reading(one.engine) as connection:
        assert list(refusals(one.site, connection)) == ["account"]
    assert len(one.all(sa.select(change))) == 60
    turn(small)
    assert small.other.rows(shop.place) == one.rows(shop.place)
    declare(small, 20)
    turn(small)
    assert agree(small) == sent

    declare(small, 30)
    one.export()  # that it was sent is not noted yet
    declare(small, None)
    settle_rollouts(one.site, one.site.outgoing())
    with one.engine.begin() as connection:  # by whom it may be: it is asked for again
        send_requests.cancel_requests(connection, "forth")
    turn(small)
    [first, *_] = json.loads(one.all(sa.select(resync).where(resync.c.want == "snapshot"))[-1].buckets)["buckets"]
    assert first == share_of_buckets(30, 1024)
    agree(small)
    declare(small, 20)  # all of it was sent
    assert [said for said in one.export().faults if "100 % of its keys were sent" in said]


def test_a_new_schema_version_leaves_the_rest_as_it_was_until_all_goes(sides: Link) -> None:
    one, two = sides.one, sides.other
    declare(sides, None)
    one.execute(sa.insert(shop.account), accounts(1, 80))
    turn(sides)
    assert two.rows(shop.account) == one.rows(shop.account)
    for number, share in enumerate([10, 50], 1):
        declare(sides, share, version=2)
        write(one, number)
        turn(sides)
        assert judge(one.site, two.site) == []
        there = {row["id"]: row for row in two.rows(shop.account)}
        here = {row["id"]: row for row in one.rows(shop.account)}
        sent = inside(one)
        assert {key: there[key] for key in sent} == {key: here[key] for key in sent}
        assert there != here
        assert len(there.keys() - here.keys()) > 0  # deletes of the rest wait, too
        with one.engine.begin() as connection:
            send_requests.add_request(connection, channel="forth", want="snapshot", prune=True, reason="a test")
        assert compare(sides) == 1  # place
        assert two.rows(shop.account) == [there[key] for key in sorted(there)]
        assert "so does every comparison" in read_status(one.site).channels[0].rollouts[0]
    declare(sides, None, version=2)
    turn(sides)
    write(one, 3)
    turn(sides)
    agree(sides)
    assert two.rows(shop.account) == one.rows(shop.account)


@pytest.mark.torture
def test_a_rollout_that_is_killed_at_any_step_goes_on(sides: Link) -> None:
    one = sides.one
    one.limit(batch_records=20)
    one.execute(sa.insert(shop.account), accounts(1, 150))
    killed = 0
    for number, share in enumerate([10, 50, None], 1):
        declare(sides, share)
        write(one, number)
        step = 1
        while (code := run_killed_at(step, one, one.export)) == KILLED:
            killed, step = killed + 1, step + 4
        assert code == 0
        turn(sides)
        agree(sides)
    assert killed > 10


def test_the_buckets_of_a_larger_share_hold_those_of_a_smaller_one() -> None:
    firsts = [share_of_buckets(percent, 1024) for percent in range(1, 101)]
    assert firsts == sorted(firsts)
    assert (firsts[0], firsts[-1]) == (11, 1024)


def test_what_refers_to_a_share_is_said_and_what_is_no_share_refused() -> None:
    declared = [Channel("forth", "one", "two", [Stream(shop.place, rollout=10), Stream(shop.visit)])]
    [said] = rollout_cautions(declared, "one")
    assert "place is declared with rollout=10, and visit refers to it" in str(said)
    assert not [*rollout_cautions(declared, "two")]
    for wrong in (0, 101, True, 2.5):
        assert "rollout must be a whole number" in Stream(shop.place, rollout=wrong).faults[0]  # type: ignore[arg-type]
