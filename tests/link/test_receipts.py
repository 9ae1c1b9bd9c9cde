"""Receipts: what became of a batch is known where it was sent."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from exchange.database import positions
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.database.tables import (
    BatchState,
    Direction,
    GapState,
    RepairState,
    batch,
    event,
    gap,
    network,
    peer,
    repair,
    resync,
)
from exchange.dead_letters import store
from exchange.dead_letters.store import Letter
from exchange.format.errors import Problem, Reason, Verdict
from exchange.incoming import release
from exchange.link import peer_state
from exchange.operating import batch_pages, prune, status
from exchange.operating.batch_pages import BatchFilters
from exchange.outgoing import control_batch
from tests.crossing import shop
from tests.crossing.forging import EPOCH, Forger, account
from tests.crossing.sides import Link, Side
from tests.crossing.talking import CONTROL, add, controls, cross, states, take_in, tell, told
from tests.performance.watching import watched

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")


def test_a_batch_is_acknowledged_once_its_receiver_says_so(alike: Link) -> None:
    add(alike.one, 1, 2, 3)
    assert set(states(alike.one).values()) == {BatchState.PUBLISHED}
    cross(alike)
    assert states(alike.one) == dict.fromkeys((1, 2, 3), BatchState.ACKNOWLEDGED)
    said = told(alike.one)
    assert (said["through"], said["applied"], said["missing"], said["refused"]) == (3, 3, [], [])
    events = alike.one.all(sa.select(event.c.cause).where(event.c.to_state == BatchState.ACKNOWLEDGED))
    assert [row.cause for row in events] == ["two has it: applied through 3"] * 3


def test_an_import_run_writes_one_control_batch_however_many_batches_it_took_in(small: Link) -> None:
    add(small.one, *range(1, 8))
    small.there.carry()
    take_in(small.other)
    assert controls(small.other) == 1


def test_control_batches_alone_are_never_answered(small: Link) -> None:
    add(small.one, 1)
    for _ in range(4):
        cross(small)
    assert controls(small.other) == 1
    assert controls(small.one) == 0


def test_a_batch_that_came_twice_is_answered_again(small: Link) -> None:
    add(small.one, 1)
    cross(small)
    [manifest] = small.one.site.spool.folders.sealed.glob("forth*.manifest.jsonl")
    for file in (manifest, manifest.with_name(manifest.name.replace(".manifest.jsonl", ".jsonl.zst"))):
        (small.other.site.spool.folders.incoming / file.name).write_bytes(file.read_bytes())
    [outcome] = take_in(small.other).batches
    assert outcome.verdict is Verdict.DUPLICATE
    assert controls(small.other) == 2


def test_a_batch_in_the_way_is_rejected_at_its_sender_with_the_reason(small: Link) -> None:
    small.other.limit(invalid_records=0)
    add(small.one, 1)
    cross(small)
    small.other.execute(sa.insert(shop.seat).values(id=9, code="taken"))
    small.one.execute(sa.insert(shop.seat).values(id=1, code="taken"))
    small.one.export()
    add(small.one, 3)
    cross(small)
    assert states(small.one) == {1: BatchState.ACKNOWLEDGED, 2: BatchState.REJECTED, 3: BatchState.PUBLISHED}
    [row] = small.one.all(sa.select(batch.c.reason, batch.c.message).where(batch.c.state == BatchState.REJECTED))
    assert row.reason == Reason.REJECTED
    assert row.message.startswith("two refused it: ")
    with reading(small.one.engine) as connection:
        said = list(peer_state.read_peer_state(small.one.site, connection).troubles())
        [listed] = batch_pages.newest(small.one.site, connection, BatchFilters(state=BatchState.REJECTED))
    assert said[0].startswith("forth: two refused batch 2 (rejected): ")
    assert listed.message == row.message


def test_a_rejected_batch_that_a_person_let_in_after_all_is_acknowledged(small: Link) -> None:
    small.other.limit(invalid_records=0)
    small.other.execute(sa.insert(shop.seat).values(id=9, code="taken"))
    small.one.execute(sa.insert(shop.seat).values(id=1, code="taken"))
    small.one.export()
    cross(small)
    assert states(small.one) == {1: BatchState.REJECTED}
    [stem] = [row.stem for row in small.other.all(sa.select(batch.c.stem).where(batch.c.state == "quarantined"))]
    done = release.release_batch(small.other.site, stem, park=True)
    assert done.verdict is Verdict.APPLIED
    tell(small.other)
    small.back.carry()
    take_in(small.one)
    assert states(small.one) == {1: BatchState.ACKNOWLEDGED}


def test_parked_records_are_told_with_key_and_cause_and_never_a_value(alike: Link) -> None:
    alike.other.execute(sa.insert(shop.seat).values(id=9, code="hush"))
    alike.one.execute(sa.insert(shop.seat).values(id=1, code="hush"))
    alike.one.export()
    cross(alike)
    said = told(alike.one)
    assert (said["parked"], said["parked_now"]) == (1, 1)
    [letter] = said["letters"]
    assert (letter["stream"], letter["key"], letter["error"]) == ("seat", {"id": 1}, "unique")
    assert "hush" not in json.dumps(said["letters"])
    with reading(alike.one.engine) as connection:
        sentences = list(peer_state.read_peer_state(alike.one.site, connection).troubles())
    assert sentences[0] == "forth: two has parked 1 records that it could not take, among them"
    assert sentences[1].startswith('forth: seat {"id": 1}: unique')


def test_letters_of_every_cause_are_told_though_one_has_thousands(small: Link) -> None:
    with small.other.engine.begin() as connection:
        many = Letter(
            Direction.IN, "forth", b"{}", "value", "no", pointer="/data/age", stream="account", key='{"id":1}'
        )
        store.park(connection, [replace(many, key=f'{{"id":{number}}}') for number in range(500)], "test")
        store.park(connection, [replace(many, key='{"id":500}', error="unique", cause="seat_code")], "test")
    add(small.one, 1)
    cross(small)
    said = told(small.one)
    assert said["parked_now"] == 501
    assert len(said["letters"]) <= 20
    assert {one["message"] for one in said["letters"]} == {
        "value at /data/age",
        "unique at /data/age (seat_code)",
    }


def test_a_batch_the_receiver_does_not_have_stays_published_and_is_named_once_it_is_late(alike: Link) -> None:
    alike.other.limit(gap_seconds=60)
    add(alike.one, 1, 2, 3)
    lose(alike.one, 2)
    alike.there.carry()
    alike.other.take_in()
    notice(alike.other, 2, age=0)
    take_in(alike.other)
    tell(alike.other)
    alike.back.carry()
    take_in(alike.one)
    assert states(alike.one) == {1: BatchState.ACKNOWLEDGED, 2: BatchState.PUBLISHED, 3: BatchState.PUBLISHED}
    assert told(alike.one)["missing"] == []
    alike.other.execute(sa.update(gap).values(noticed_at=now() - timedelta(seconds=61)))
    tell(alike.other)
    alike.back.carry()
    take_in(alike.one)
    assert told(alike.one)["missing"] == [[2, 2]]
    assert states(alike.one)[2] is BatchState.PUBLISHED


def test_a_late_batch_of_a_forgotten_history_leaves_its_place_to_what_its_sender_has_there(small: Link) -> None:
    for side in (small.one, small.other):
        side.limit(gap_seconds=0)
    add(small.one, 1)
    cross(small)
    epoch = small.one.all(sa.select(network.c.epoch))[0].epoch
    Forger(small.other, small.one.key, epoch=epoch, sequence=1, previous="0" * 64).send([account(9, 1)])
    assert [one.reason for one in take_in(small.other).batches] == [Reason.FORK]
    add(small.one, 2)
    lose(small.one, 2)
    add(small.one, 3)
    for _ in range(2):
        cross(small)
        tell(small.other)
    cross(small)
    assert states(small.one) == dict.fromkeys((1, 2, 3), BatchState.ACKNOWLEDGED)


def lose(side: Side, sequence: int) -> None:
    for file in side.site.spool.folders.outgoing.glob(f"forth-*-{sequence:010d}.*"):
        file.unlink()


def notice(side: Side, sequence: int, age: float, state: GapState = GapState.MISSING) -> None:
    """Write the row of a gap, as the scan of what arrived does."""
    with reading(side.engine) as connection:
        at = positions.current_position(connection, Direction.IN, "forth")
    moment = now() - timedelta(seconds=age)
    values = {"channel": "forth", "epoch": at.epoch if at else EPOCH, "sequence": sequence}
    side.execute(sa.delete(gap).where(gap.c.sequence == sequence))
    side.execute(sa.insert(gap).values(**values, state=state, noticed_at=moment))


def test_a_place_that_was_given_up_is_rejected_at_its_sender_for_good(small: Link) -> None:
    add(small.one, 1, 2)
    cross(small)
    small.one.execute(sa.update(batch).where(batch.c.sequence == 1).values(state=BatchState.PUBLISHED))
    notice(small.other, 1, age=0, state=GapState.ACCEPTED)
    tell(small.other)
    small.back.carry()
    take_in(small.one)
    assert states(small.one) == {1: BatchState.REJECTED, 2: BatchState.ACKNOWLEDGED}
    small.other.execute(sa.delete(gap))  # long ago: it is told no more
    tell(small.other)
    small.back.carry()
    take_in(small.one)
    assert states(small.one)[1] is BatchState.REJECTED


def test_what_the_sender_has_no_more_is_named_in_its_heartbeat(small: Link) -> None:
    add(small.one, 1, 2, 3)
    gone = {"state": BatchState.REJECTED, "reason": Reason.LOST}
    small.one.execute(sa.update(batch).where(batch.c.sequence == 2).values(gone))
    tell(small.one)
    small.there.carry()
    take_in(small.other)
    [row] = small.other.all(sa.select(peer.c.said))
    [sent] = json.loads(row.said)["sent"]
    assert (sent["channel"], sent["through"], sent["lost"]) == ("forth", 3, [[2, 2]])


# Heartbeats


def test_a_side_with_nothing_to_send_gives_a_sign_of_life_every_period(small: Link) -> None:
    small.one.limit(period_seconds=300)
    assert control_batch.after_export(small.one.site) is None
    assert control_batch.after_export(small.one.site) is None
    assert controls(small.one) == 1  # there was one just now
    small.one.execute(sa.update(batch).values(created_at=now() - timedelta(seconds=200)))
    assert control_batch.after_export(small.one.site) is None
    assert controls(small.one) == 2
    small.there.carry()
    run = take_in(small.other)
    assert {one.verdict for one in run.batches} == {Verdict.APPLIED}
    [row] = small.other.all(sa.select(peer))
    assert row.sequence == 2
    assert abs(row.heard_at - now()) < timedelta(seconds=60)
    with reading(small.other.engine) as connection:
        there = peer_state.read_peer_state(small.other.site, connection)
    assert there.life is not None
    assert there.life.period_seconds == 300
    assert list(there.alarms(now())) == []
    assert "nothing was heard of one for 20 min" in str(there.silence(now() + timedelta(minutes=20)))


def test_a_clock_that_runs_ahead_or_behind_is_seen_within_what_is_known(small: Link) -> None:
    for side in (small.one, small.other):
        tell(side)
    small.there.carry()
    small.back.carry()
    take_in(small.one)
    take_in(small.other)
    tell(small.other)
    small.back.carry()
    take_in(small.one)

    def difference(sent_at: timedelta) -> Problem | None:
        small.one.execute(sa.update(peer).values(sent_at=now() + sent_at))
        with reading(small.one.engine) as connection:
            return peer_state.read_peer_state(small.one.site, connection).clocks()

    assert difference(timedelta(seconds=-1)) is None
    assert "1 h" in str(difference(timedelta(hours=1, seconds=30)))
    assert "behind this one" in str(difference(timedelta(hours=-2)))


def test_control_batches_that_were_heard_are_acknowledged(small: Link) -> None:
    for _ in range(3):
        tell(small.one)
    small.there.carry()
    take_in(small.other)
    tell(small.other)
    small.back.carry()
    take_in(small.one)
    assert states(small.one, CONTROL) == dict.fromkeys((1, 2, 3), BatchState.ACKNOWLEDGED)


def test_a_receiver_on_a_one_way_link_says_nothing_and_a_sender_only_that_it_lives(small: Link) -> None:
    for side in (small.one, small.other):
        side.site = replace(side.site, one_way=True)
    only = replace(small.other.site, channels=(shop.channels[0],))
    small.other.site = only
    add(small.one, 1)
    tell(small.one)
    small.there.carry()
    take_in(small.other)
    assert controls(small.other) == 0
    assert len(small.other.all(sa.select(peer))) == 1
    found = {one.channel: one for one in status.read_status(small.one.site).channels if one.direction is Direction.OUT}
    assert (found["forth"].published, found["forth"].unconfirmable) == (0, 1)
    with reading(small.one.engine) as connection:
        [row] = batch_pages.newest(small.one.site, connection, BatchFilters(channel="forth"))
    assert row.as_dict()["state"] == "unconfirmable"


# Requests


def test_what_a_side_asks_for_is_asked_until_it_came_and_noted_once(small: Link) -> None:
    small.other.execute(
        sa.insert(repair).values(
            name="ask-1",
            channel="forth",
            want="snapshot",
            streams='["account"]',
            buckets="[3]",
            reason="differs",
            who="me",
            state=RepairState.OPEN,
            asked_at=now(),
        )
    )
    for _ in range(2):
        tell(small.other)
        small.back.carry()
        take_in(small.one)
    [row] = small.one.all(sa.select(resync))
    assert (row.channel, row.want, row.answers, row.who) == ("forth", "snapshot", "ask-1", "two")
    assert row.reason == "two asks: differs"


# Pruning


def sealed(side: Side, channel: str = "forth") -> int:
    return len(list(side.site.spool.folders.sealed.glob(f"{channel}-*.manifest.jsonl")))


def test_nothing_is_pruned_before_it_is_acknowledged(small: Link) -> None:
    add(small.one, 1, 2)
    cross(small)
    add(small.one, 3)
    small.one.execute(sa.update(batch).values(updated_at=now() - timedelta(days=99)))
    assert prune.prune_expired(small.one.site).sealed == 2
    assert sealed(small.one) == 1
    assert prune.prune_expired(small.one.site).sealed == 0


def test_on_a_one_way_link_what_is_published_goes_when_its_time_has_come(small: Link) -> None:
    small.one.site = replace(small.one.site, one_way=True)
    add(small.one, 1, 2)
    assert prune.prune_expired(small.one.site).sealed == 0
    small.one.execute(sa.update(batch).values(updated_at=now() - timedelta(days=99)))
    assert prune.prune_expired(small.one.site).sealed == 2
    assert sealed(small.one) == 0


def test_control_batches_go_after_a_day_as_newer_ones_say_it_all(small: Link) -> None:
    for _ in range(3):
        tell(small.one)
    old = sa.update(batch).where(batch.c.sequence < 3)
    small.one.execute(old.values(updated_at=now() - timedelta(days=2)))
    assert prune.prune_expired(small.one.site).sealed == 2
    assert sealed(small.one, CONTROL) == 1


# At what cost


def test_a_receipt_is_one_small_batch_whatever_waits_and_however_much_is_parked(small: Link) -> None:
    """Of thousands of waiting batches and of letters, which none of them may read one by one."""
    side, batches, letters = small.other, 1_000, 4_000
    add(small.one, 1)
    cross(small)
    add(small.one, 2)
    [place] = side.all(sa.select(batch).where(batch.c.direction == Direction.IN, batch.c.channel == "forth"))
    waiting = {**place._mapping, "state": BatchState.WAITING, "reason": Reason.GAP}
    del waiting["id"]
    letter = Letter(Direction.IN, "forth", b"{}", "value", "no", pointer="/data/age", stream="account", key='{"id":1}')
    with side.engine.begin() as connection:
        connection.execute(
            sa.insert(batch),
            [{**waiting, "sequence": number, "stem": f"forth-{number}"} for number in range(3, batches)],
        )
        store.park(connection, [replace(letter, key=f'{{"id":{number}}}') for number in range(letters)], "test")
    notice(side, 2, age=9999)
    with watched(side.engine) as seen:
        tell(side)
    assert seen.steps < 6 * (letters + batches)  # each is counted in an index: to read one takes more than that
    newest = max(side.site.spool.folders.sealed.glob("control-*.jsonl.zst"))
    assert newest.stat().st_size < 4096
    small.back.carry()
    take_in(small.one)
    said = told(small.one)
    assert (said["through"], said["missing"], said["parked_now"]) == (1, [[2, 2]], letters)
