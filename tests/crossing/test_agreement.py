"""Both sides see whether their rows agree, at one place of a channel's sequence, and which of them do not."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import pytest
import sqlalchemy as sa

from exchange.channels.stream import HIDDEN
from exchange.database import tables
from exchange.database.engine import now
from exchange.database.locks import Busy, import_lock, locked, reading
from exchange.database.tables import Direction, RepairState, ResyncState, agreement, dead_letter, repair, resync
from exchange.dead_letters import retry
from exchange.format.buckets import bucket_of
from exchange.format.control import BUCKETS, CHECKPOINT, DIGEST, SNAPSHOT, Part
from exchange.format.errors import Verdict
from exchange.link import asked_requests, gaps, reconcile
from exchange.operating.doctor import batches
from exchange.operating.doctor.finding import Level
from exchange.operating.status import read_status
from exchange.outgoing import seal
from exchange.outgoing.checkpoint import seal_checkpoint
from exchange.outgoing.seal import Sealed
from exchange.results import Imported
from exchange.tables import bucket_digests
from tests.crossing import shop
from tests.crossing.forging import EPOCH, Forger, account
from tests.crossing.shop import account as accounts
from tests.crossing.shop import everything, node, one_of_everything, place
from tests.crossing.sides import Link, Side
from tests.crossing.talking import tell

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")

FORTH = shop.channels[0]


def ask(side: Side, channel: str = "forth") -> sa.Row[Any]:
    """Ask a side for a checkpoint, as the other side or a person would; give the row."""
    moment = now()
    with side.engine.begin() as connection:
        row = {"channel": channel, "want": CHECKPOINT, "reason": "a test", "who": "test", "state": ResyncState.ASKED}
        made = connection.execute(sa.insert(resync).values(**row, created_at=moment, updated_at=moment))
        number = made.inserted_primary_key[0]  # type: ignore[index]
        return connection.execute(sa.select(resync).where(resync.c.id == number)).one()


def checkpoint(side: Side) -> Sealed:
    """Seal and publish a checkpoint."""
    sealed = seal_checkpoint(side.site, FORTH, ask(side))
    assert sealed is not None
    seal.publish_sealed(side.site, "forth")
    return sealed


def compared(link: Link) -> Imported:
    """Let the second side compare itself with the first one, and give what became of the checkpoint."""
    checkpoint(link.one)
    link.there.carry()
    return link.other.take_in().batches[-1]


def differing(side: Side) -> dict[str, tuple[int, int, int]]:
    """Give, by stream, how many buckets differ, and how many rows were sent and received."""
    rows = side.all(sa.select(agreement).where(agreement.c.direction == Direction.IN))
    return {row.stream: (len(json.loads(row.buckets)), row.sent, row.received) for row in rows}


def some_of_everything(side: Side) -> None:
    """Fill tables with values of every type, keys of several columns, and rows below each other."""
    side.execute(sa.insert(everything), [one_of_everything(number, empty=number == 2) for number in range(1, 4)])
    side.execute(sa.insert(place), [{"country": "at", "number": n, "name": f"place {n}"} for n in range(5)])
    top = uuid.uuid4()
    side.execute(sa.insert(node), [{"id": top, "parent": None, "name": "top"}])
    side.execute(sa.insert(node), [{"id": uuid.uuid4(), "parent": top, "name": f"leaf {n}"} for n in range(5)])
    side.execute(sa.insert(accounts), [{"id": n, "name": f"account {n}", "password": "secret"} for n in range(1, 1001)])


@pytest.mark.same_on("sqlite-postgresql")
def test_rows_of_every_type_agree_between_databases_of_each_kind(link: Link) -> None:
    some_of_everything(link.one)
    link.one.execute("UPDATE everything SET document = 'null' WHERE id = 3")  # JSON's, where row 2 has SQL's
    link.round()

    done = compared(link)

    assert (done.verdict, done.records.applied, done.records.parked) == (Verdict.APPLIED, len(FORTH.streams), 0)
    assert differing(link.other) == {
        "everything": (0, 3, 3),
        "place": (0, 5, 5),
        "visit": (0, 0, 0),
        "node": (0, 6, 6),
        "team": (0, 0, 0),
        "person": (0, 0, 0),
        "seat": (0, 0, 0),
        "account": (0, 1000, 1000),
    }
    assert link.other.all(sa.select(repair.c.name)) == []
    link.other.execute("UPDATE everything SET document = NULL WHERE id = 3 AND CAST(document AS text) = 'null'")
    compared(link)
    assert differing(link.other)["everything"] == (1, 3, 3)


def test_a_row_changed_by_hand_one_removed_and_one_added_are_found_and_their_buckets_asked_for(alike: Link) -> None:
    some_of_everything(alike.one)
    alike.round()
    alike.other.execute("UPDATE account SET name = 'other' WHERE id = 7")
    alike.other.execute("DELETE FROM account WHERE id = 8")
    alike.other.execute("INSERT INTO place (country, number, name) VALUES ('de', 1, 'mine')")

    compared(alike)

    assert differing(alike.other)["account"] == (2, 1000, 999)
    assert differing(alike.other)["place"] == (1, 5, 6)
    (asked,) = alike.other.all(sa.select(repair))
    assert (asked.channel, asked.want, asked.prune, asked.state) == ("forth", SNAPSHOT, 1, RepairState.OPEN)
    assert json.loads(asked.streams) == ["place", "account"]
    assert len(json.loads(asked.buckets)) in {2, 3}


def test_what_is_pending_goes_before_the_checkpoint_and_what_comes_later_is_not_in_it(alike: Link) -> None:
    alike.one.execute("INSERT INTO account (id, name) VALUES (1, 'one')")
    sealed = checkpoint(alike.one)
    assert [one.records for one in sealed.before] == [1]
    alike.one.execute("INSERT INTO account (id, name) VALUES (2, 'two')")
    alike.one.export()
    alike.there.carry()

    alike.other.take_in()

    assert differing(alike.other)["account"] == (0, 1, 1)
    assert len(alike.other.rows(accounts)) == 2


@pytest.mark.same_on
def test_nobody_is_kept_from_writing_while_rows_are_digested(alike: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    alike.one.execute("INSERT INTO account (id, name) VALUES (1, 'one')")
    alike.round()
    digest = bucket_digests.digest

    def meanwhile(side: Side, number: int) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            if arguments[1].name == "account":
                side.execute("INSERT INTO account (id, name) VALUES (:id, 'meanwhile')", {"id": number})
            return digest(*arguments)

        return slow

    monkeypatch.setattr(bucket_digests, "digest", meanwhile(alike.one, 2))
    checkpoint(alike.one)
    monkeypatch.setattr(bucket_digests, "digest", meanwhile(alike.other, 3))
    alike.there.carry()
    alike.other.take_in()

    sent = alike.other.all(sa.select(agreement.c.sent).where(agreement.c.stream == "account"))
    assert sent == [(1,)]
    assert len(alike.one.rows(accounts)) == len(alike.other.rows(accounts)) == 2


def test_a_checkpoint_is_sealed_once_for_each_time_it_was_asked_for(small: Link) -> None:
    row = ask(small.one)

    assert seal_checkpoint(small.one.site, FORTH, row)
    assert seal_checkpoint(small.one.site, FORTH, row) is None
    (batch,) = small.one.all(sa.select(tables.batch.c.records).where(tables.batch.c.direction == Direction.OUT))
    assert batch.records == len(FORTH.streams)


def test_the_same_buckets_are_asked_for_twice_and_no_more(small: Link) -> None:
    small.one.execute("INSERT INTO account (id, name) VALUES (1, 'one')")
    small.round()
    small.other.execute("UPDATE account SET name = 'other'")

    for times in (1, 2, 2):
        compared(small)
        names = small.other.all(sa.select(repair.c.name).where(repair.c.want == SNAPSHOT))
        assert len(names) == times
        with small.other.engine.begin() as connection:
            for name in names:
                asked_requests.close_answered(small.other.site, connection, name.name)

    # Nor are they asked for with others that begin to differ, however often that is.
    for number in (2, 3, 4):
        small.other.execute(sa.insert(accounts).values(id=number, name="mine"))
        compared(small)
        *names, last = small.other.all(sa.select(repair).order_by(repair.c.id).where(repair.c.want == SNAPSHOT))
        assert (len(names), len(json.loads(last.buckets))) == (number, 1)
        with small.other.engine.begin() as connection:
            asked_requests.close_answered(small.other.site, connection, last.name)


MEDDLING = {
    "sqlite": "CREATE TRIGGER meddle AFTER UPDATE ON account WHEN new.id = 1 AND new.name <> 'mine'"
    " BEGIN UPDATE account SET name = 'mine', age = 7 WHERE id = 1; END",
    "postgresql": "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.id = 1 THEN"
    " new.name := 'mine'; new.age := 7; END IF; RETURN new; END $$;"
    " CREATE TRIGGER meddle BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION meddle()",
}


@pytest.mark.thorough
def test_a_row_that_is_changed_after_each_repair_is_left_after_two_and_the_others_of_its_bucket_are_repaired(
    small: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = small.one, small.other
    monkeypatch.setattr(FORTH.stream("account"), "sensitive", frozenset({"age"}))
    bucket = bucket_of({"id": 1}, BUCKETS)
    beside = next(number for number in range(2, 100_000) if bucket_of({"id": number}, BUCKETS) == bucket)
    one.execute(sa.insert(accounts), [{"id": number, "name": "there"} for number in (1, beside)])
    small.round()
    other.execute(MEDDLING[other.engine.dialect.name])
    other.execute("UPDATE account SET age = 1 WHERE id = 1")

    def agree() -> tuple[int, list[str], list[dict[str, Any]]]:
        for _ in range(4):
            compared(small)
            tell(other)
            small.round()
            small.round()
        asked = other.all(sa.select(repair.c.id).where(repair.c.want == SNAPSHOT))
        (said,) = (one for one in reconcile.report_agreement(other.site, "forth") if one.stream == "account")
        rows = {row["id"]: row["name"] for row in other.rows(accounts)}
        return len(asked), [rows[1], rows[beside]], list(said.left)

    times, names, left = agree()
    assert (times, names) == (2, ["mine", "there"])
    difference = [{"column": "name", "there": '"there"', "here": '"mine"'}]
    difference.append({"column": "age", "there": HIDDEN, "here": HIDDEN})
    assert left == [
        {"what": "different", "key": {"id": 1}, "repairs": 2, "since": ANY, "difference": difference, "letter": False}
    ]
    (found,) = batches.check_agreement(None, other.site)  # type: ignore[arg-type]
    assert "1 of its rows were repaired in vain and are left" in found.message
    assert [(one.stream, one.rows) for one in read_status(other.site).left_rows] == [("account", 1)]

    other.execute(f"UPDATE account SET name = 'wrong' WHERE id = {beside}")
    assert agree()[:2] == (3, ["mine", "there"])

    one.execute("UPDATE account SET name = 'new' WHERE id = 1")  # a change at its source sets it going again
    times, names, left = agree()
    assert (times, names, left[0]["repairs"]) == (5, ["mine", "there"], 2)

    other.execute("DROP TRIGGER meddle" + (" ON account" if other.engine.dialect.name == "postgresql" else ""))
    assert agree()[:2] == (5, ["mine", "there"])
    reconcile.request_checkpoints(other.site, "forth")  # and so does a person
    assert agree() == (6, ["new", "there"], [])


def test_rows_that_wait_as_dead_letters_are_no_difference_that_is_warned_of_on_either_side(small: Link) -> None:
    one, other = small.one, small.other
    other.execute("CREATE TRIGGER strict BEFORE INSERT ON account WHEN new.id = 1 BEGIN SELECT RAISE(ABORT, 'no'); END")
    one.execute(sa.insert(accounts), [{"id": number, "name": "there"} for number in (1, 2)])
    for _ in range(4):
        small.round()
        compared(small)
        tell(other)
        small.round()

    def levels(side: Side) -> dict[str, Level]:
        found = batches.check_agreement(None, side.site)  # type: ignore[arg-type]
        return {one.message: one.level for one in found if "account" in one.message}

    for side in (one, other):
        ((said, level),) = levels(side).items()
        assert (level, "dead letters here or there explain all of it" in said) == (Level.OK, True), said
    (row,) = (row for found in reconcile.report_agreement(other.site, "forth") for row in found.left)
    assert row["letter"]

    other.execute("UPDATE account SET name = 'mine' WHERE id = 2")
    compared(small)
    tell(other)
    small.round()
    assert [*levels(one).values(), *levels(other).values()] == [Level.WARNING] * 2


def test_while_an_answer_is_under_way_nothing_is_asked_for_again(small: Link) -> None:
    small.one.execute("INSERT INTO account (id, name) VALUES (1, 'one')")
    small.round()
    small.other.execute("UPDATE account SET name = 'other'")
    compared(small)
    compared(small)
    assert len(small.other.all(sa.select(repair.c.name))) == 1

    small.other.execute(sa.update(repair).values(asked_at=now() - 2 * asked_requests.PATIENCE))
    compared(small)
    states = small.other.all(sa.select(repair.c.state).order_by(repair.c.id))
    assert [one.state for one in states] == [RepairState.WITHDRAWN, RepairState.OPEN]


@pytest.mark.parametrize("how", [{"repair": False}, {"one_way": True}])
def test_a_difference_is_only_reported_where_that_is_set_or_nothing_goes_back(small: Link, how: dict[str, Any]) -> None:
    small.other.site = replace(small.other.site, **how)
    small.other.execute("INSERT INTO account (id, name) VALUES (1, 'mine')")

    compared(small)

    assert differing(small.other)["account"] == (1, 0, 1)
    assert small.other.all(sa.select(repair.c.name)) == []


def test_a_difference_is_known_since_it_was_first_seen_and_forgotten_when_it_is_gone(small: Link) -> None:
    small.other.execute("INSERT INTO account (id, name) VALUES (1, 'mine')")
    seen = []
    for statement in ("UPDATE account SET name = 'still'", "DELETE FROM account", "DELETE FROM account"):
        compared(small)
        seen.append(small.other.all(sa.select(agreement.c.since).where(agreement.c.stream == "account"))[0].since)
        small.other.execute(statement)

    assert seen[0] is not None
    assert seen[1] == seen[0]
    assert seen[2] is None


def test_a_snapshot_that_was_asked_for_tells_which_rows_differed_before_it_is_applied(
    receiver: Side, forger: Forger
) -> None:
    forger.send([account(number, number) for number in (1, 2, 3)])
    receiver.take_in()
    receiver.execute("UPDATE account SET name = 'by hand' WHERE id = 2")
    receiver.execute("DELETE FROM account WHERE id = 3")
    receiver.execute("INSERT INTO account (id, name) VALUES (4, 'mine')")
    name = _compared_before(receiver)
    part = Part("snap", 100, 1, last=False, streams=("account",), prune=("account",), answers=name)

    forger.send([account(1, 100), account(2, 100)], claims=_claims(part))
    forger.send([account(3, 100)], claims=_claims(replace(part, part=2, last=True)))
    verdicts = [one.verdict for one in receiver.take_in().batches]

    assert verdicts == [Verdict.APPLIED] * 2
    (row,) = receiver.all(sa.select(agreement.c.found))
    found = json.loads(row.found)
    assert {what: found[what] for what in ("missing", "extra", "different")} == {
        "missing": 1,
        "extra": 1,
        "different": 1,
    }
    assert sorted((one["what"], one["key"]["id"]) for one in found["keys"]) == [
        ("different", 2),
        ("extra", 4),
        ("missing", 3),
    ]


def test_a_snapshot_that_nobody_asked_for_is_not_looked_at_more_closely(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    _compared_before(quick_receiver)
    part = Part("snap", 100, 1, last=True, streams=("account",), answers="somebody-else")
    quick_forger.send([account(1, 100)], claims=_claims(part))
    quick_receiver.take_in()

    assert quick_receiver.all(sa.select(agreement.c.found)) == [(None,)]


def test_a_digest_that_can_not_be_meant_is_parked_and_the_others_are_compared(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    with reading(quick_receiver.engine) as connection:
        good = bucket_digests.digest(connection, FORTH.stream("account")).as_data()
    bad = [
        {**good, "stream": "nothing"},
        {**good, "counts": [1, 2]},
        {**good, "rows": 5},
        {**good, "counts": [0] * 3, "digests": ["0" * 32] * 3},
        good,
    ]
    lines = [digested(data) for data in [good, *bad]]

    quick_forger.send(lines, claims={"kind": "checkpoint"})
    (done,) = quick_receiver.take_in().batches

    assert (done.verdict, done.records.applied, done.records.parked) == (Verdict.APPLIED, 1, 5)
    assert differing(quick_receiver) == {"account": (0, 0, 0)}
    errors = quick_receiver.all(sa.select(dead_letter.c.error).order_by(dead_letter.c.line))
    assert [one.error for one in errors] == ["absurd", "schema", "schema", "absurd", "absurd"]


def test_a_checkpoint_full_of_nonsense_is_refused_whole(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(invalid_records=3)
    quick_forger.send([digested({"stream": "account"})] * 4, claims={"kind": "checkpoint"})

    (done,) = quick_receiver.take_in().batches

    assert (done.verdict, done.reason) == (Verdict.QUARANTINED, "rejected")
    assert quick_receiver.all(sa.select(agreement)) == []


def test_a_checkpoint_that_came_to_another_number_of_buckets_is_compared_in_those(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.execute("INSERT INTO account (id, name) VALUES (1, 'mine')")
    with reading(quick_receiver.engine) as connection:
        good = bucket_digests.folded(bucket_digests.digest(connection, FORTH.stream("account")), 8)
    quick_forger.send([digested(good.as_data())], claims={"kind": "checkpoint"})
    quick_receiver.take_in()
    assert differing(quick_receiver) == {"account": (0, 1, 1)}

    quick_receiver.execute("UPDATE account SET name = 'changed'")
    quick_forger.send([digested(good.as_data())], claims={"kind": "checkpoint"})
    quick_receiver.take_in()
    assert differing(quick_receiver) == {"account": (BUCKETS // 8, 1, 1)}


def test_where_the_sides_know_other_versions_of_a_stream_rows_are_only_counted(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.execute("INSERT INTO account (id, name) VALUES (1, 'mine')")
    with reading(quick_receiver.engine) as connection:
        good = bucket_digests.digest(connection, FORTH.stream("account"))
    quick_receiver.execute("UPDATE account SET name = 'other'")
    quick_forger.send([digested(replace(good, schema_version=2).as_data())], claims={"kind": "checkpoint"})
    quick_receiver.take_in()

    assert differing(quick_receiver) == {"account": (0, 1, 1)}


def test_a_row_that_can_not_be_sent_counts_and_never_seems_to_agree(small: Link) -> None:
    small.one.execute("INSERT INTO account (id, name) VALUES (1, 'one')")
    small.round()
    small.one.execute("UPDATE account SET name = CAST(x'ff' AS TEXT)")
    small.one.export()

    compared(small)

    assert differing(small.other)["account"] == (1, 1, 1)


def test_a_shard_is_compared_by_itself(small: Link) -> None:
    channels = (
        type(FORTH)("forth", "one", "two", FORTH.streams, shards=3),
        shop.channels[1],
    )
    for side in (small.one, small.other):
        side.site = replace(side.site, channels=channels)
    some_of_everything(small.one)
    small.round()
    for part in channels[0].in_files():
        assert seal_checkpoint(small.one.site, part, ask(small.one, part.name))
        seal.publish_sealed(small.one.site, part.name)
    small.there.carry()
    small.other.take_in()

    rows = small.other.all(sa.select(agreement).where(agreement.c.stream == "account"))
    assert sorted(row.channel for row in rows) == ["forth_0", "forth_1", "forth_2"]
    assert {row.buckets for row in rows} == {"[]"}
    assert sum(row.sent for row in rows) == sum(row.received for row in rows) == 1000
    (whole,) = small.other.all(sa.select(agreement).where(agreement.c.stream == "node"))
    assert (whole.channel, whole.buckets) == ("forth_0", "[]")


def test_in_a_channel_without_order_a_checkpoint_counts_only_where_all_before_it_came(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    forth = type(FORTH)("forth", "one", "two", FORTH.streams, ordered=False)
    quick_receiver.site = replace(quick_receiver.site, channels=(forth, shop.channels[1]))
    with reading(quick_receiver.engine) as connection:
        empty = bucket_digests.digest(connection, FORTH.stream("account"))
    first, second, third = (
        quick_forger.make([account(1, 1)]),
        quick_forger.make([digested(empty.as_data())], claims={"kind": "checkpoint"}),
        quick_forger.make([digested(empty.as_data())], claims={"kind": "checkpoint"}),
    )

    quick_forger.deliver(second)
    (done,) = quick_receiver.take_in().batches
    assert (done.verdict, done.records.stale) == (Verdict.APPLIED, 1)
    assert differing(quick_receiver) == {}
    for batch in (first, third):
        quick_forger.deliver(batch)
        quick_receiver.take_in()
    assert differing(quick_receiver)["account"] == (1, 0, 1)


def test_in_a_channel_without_order_what_was_given_up_is_waited_for_by_no_checkpoint(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    forth = type(FORTH)("forth", "one", "two", FORTH.streams, ordered=False)
    quick_receiver.site = replace(quick_receiver.site, channels=(forth, shop.channels[1]))
    with reading(quick_receiver.engine) as connection:
        empty = bucket_digests.digest(connection, FORTH.stream("account"))
    quick_forger.make([account(1, 1)])  # nobody will ever see it
    second = quick_forger.make([account(2, 2)])
    checkpoints = [quick_forger.make([digested(empty.as_data())], claims={"kind": "checkpoint"}) for _ in range(2)]

    for batch in (second, checkpoints[0]):
        quick_forger.deliver(batch)
        quick_receiver.take_in()
    assert differing(quick_receiver) == {}
    with locked(quick_receiver.engine, import_lock("forth")) as connection:
        gaps.accept_missing(connection, gaps.Flow("forth", EPOCH), 1, 1, "it is gone")
    quick_forger.deliver(checkpoints[1])
    quick_receiver.take_in()

    assert differing(quick_receiver)["account"] == (1, 0, 1)


def test_two_checkpoints_at_once_do_not_meet(small: Link) -> None:
    rows = [ask(small.one) for _ in range(2)]

    def work(row: sa.Row[Any]) -> bool:
        with suppress(Busy):
            return isinstance(seal_checkpoint(small.one.site, FORTH, row), Sealed)
        return False

    with ThreadPoolExecutor() as threads:
        sealed = sum(threads.map(work, rows))
    positions = small.one.all(sa.select(tables.position.c.sequence).where(tables.position.c.channel == "forth"))
    assert positions == [(sealed,)]


def digested(data: dict[str, Any]) -> dict[str, Any]:
    """Give the record of a digest."""
    return {"stream": DIGEST, "op": "upsert", "version": 1, "data": data}


def _compared_before(receiver: Side) -> str:
    """Leave a stream that was compared, and ask for its rows."""
    with receiver.engine.begin() as connection:
        connection.execute(
            sa.insert(agreement).values(
                direction=Direction.IN,
                channel="forth",
                stream="account",
                epoch="0123456789ab",
                sequence=1,
                compared_at=now(),
                sent=1,
                received=1,
                buckets="[1]",
            )
        )
        name = asked_requests.ask_peer(
            receiver.site, connection, channel="forth", want=SNAPSHOT, streams=["account"], reason="a test", who="test"
        )
        assert name is not None
        return name


def _claims(part: Part) -> dict[str, Any]:
    return {"kind": "snapshot", "snapshot": part.as_data()}


def test_a_parked_digest_stays_parked_when_it_is_retried(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([digested({"stream": "nothing"})], claims={"kind": "checkpoint"})
    quick_receiver.take_in()
    (letter,) = quick_receiver.all(sa.select(dead_letter.c.id))

    (retried,) = retry.retry_letters(quick_receiver.site, [letter.id])

    assert retried.failed
    assert DIGEST in retried.message
