"""Snapshots: whole tables cross beside the changes, as of one moment, and what is gone over there goes here."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Stream
from exchange.database.engine import now
from exchange.database.locks import locked
from exchange.database.tables import RepairState, ResyncState, batch, change, dead_letter, repair, resync, tombstone
from exchange.format.batch import ReadLimits
from exchange.format.buckets import bucket_of
from exchange.format.control import SNAPSHOT
from exchange.format.errors import Reason, Verdict
from exchange.incoming import importer
from exchange.link import send_requests
from exchange.operating.doctor import doubts
from exchange.outgoing import compose, exporter, snapshot
from exchange.results import ExportRun
from exchange.tables import capture
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres
from tests.crossing.forging import Forger, account
from tests.crossing.sides import Link, Side


def forget(side: Side) -> None:
    """Forget what capture noted, as if rows had been there before it."""
    side.execute(sa.delete(change))


def ask(side: Side, **wish: Any) -> bool:
    """Ask for a snapshot of what goes forth."""
    with side.engine.begin() as connection:
        return send_requests.add_request(connection, channel="forth", want=SNAPSHOT, reason="a test", **wish)


def export(side: Side) -> ExportRun:
    """Export, and see that nothing was in the way."""
    done = side.export()
    assert done.trouble is None, done.trouble
    return done


def cross(link: Link) -> Sequence[Verdict]:
    """Export, carry and import one way; give the verdicts."""
    export(link.one)
    link.there.carry()
    return [one.verdict for one in link.other.take_in().batches]


def wishes(side: Side) -> list[Any]:
    """Give what was asked for."""
    return side.all(sa.select(resync).order_by(resync.c.id))


def accounts(first: int, last: int) -> list[dict[str, Any]]:
    """Give rows."""
    return [{"id": number, "name": f"account {number}", "age": number % 90} for number in range(first, last + 1)]


def parts(exported: ExportRun, side: Side) -> list[dict[str, Any]]:
    """Give what the manifests of an export's batches say of a snapshot."""
    sealed = side.site.spool.folders.sealed
    lines = [(sealed / f"{one.batch}.manifest.jsonl").read_text().splitlines()[0] for one in exported.batches]
    return [said["snapshot"] for said in map(json.loads, lines) if said["kind"] == "snapshot"]


def test_rows_that_were_there_before_capture_cross_with_a_snapshot(link: Link) -> None:
    link.one.execute(sa.insert(shop.everything), [shop.one_of_everything(1), shop.one_of_everything(2, empty=True)])
    link.one.execute(sa.insert(shop.place), [{"country": "at", "number": n, "name": f"p{n}"} for n in range(5)])
    link.one.execute(sa.insert(shop.visit), [{"id": n, "country": "at", "number": n} for n in range(5)])
    forget(link.one)
    assert ask(link.one)

    assert set(cross(link)) == {Verdict.APPLIED}

    for table in (shop.everything, shop.place, shop.visit):
        assert link.other.rows(table) == link.one.rows(table)
    assert wishes(link.one)[0].state == ResyncState.DONE


def test_all_parts_of_a_snapshot_have_one_version_and_the_last_says_so(small: Link) -> None:
    small.one.limit(batch_records=10)
    small.one.execute(sa.insert(shop.account), accounts(1, 25))
    small.one.execute(sa.insert(shop.place), [{"country": "at", "number": 1, "name": "p"}])
    forget(small.one)
    ask(small.one)

    said = parts(export(small.one), small.one)

    assert [part["part"] for part in said] == [1, 2, 3, 4]
    assert [part["last"] for part in said] == [False, False, False, True]
    assert len({part["version"] for part in said}) == len({part["name"] for part in said}) == 1


def test_a_snapshot_goes_on_where_it_was_interrupted(small: Link) -> None:
    small.one.limit(batch_records=10)
    small.one.execute(sa.insert(shop.account), accounts(1, 45))
    forget(small.one)
    ask(small.one)
    asked = iter([False, False, False])

    first = exporter.export(small.one.site, stopping=lambda: next(asked, True))
    assert 0 < sum(one.records for one in first.batches) < 45
    assert wishes(small.one)[0].state == ResyncState.RUNNING
    second = export(small.one)

    assert sum(one.records for one in first.batches + second.batches) == 45
    small.there.carry()
    small.other.take_in()
    assert len(small.other.rows(shop.account)) == 45


def test_a_late_row_of_a_snapshot_never_overwrites_a_newer_one(small: Link) -> None:
    small.one.limit(batch_records=10)
    small.one.execute(sa.insert(shop.account), accounts(1, 30))
    forget(small.one)
    ask(small.one)
    asked = iter([False, False])
    exporter.export(small.one.site, stopping=lambda: next(asked, True))
    small.one.execute("UPDATE account SET name = 'newer' WHERE id IN (2, 29)")
    small.one.execute("DELETE FROM account WHERE id IN (3, 28)")
    small.one.execute(sa.insert(shop.account), accounts(31, 32))

    export(small.one)
    small.there.carry()
    small.other.take_in()

    assert [row["name"] for row in small.other.rows(shop.account)] == [
        row["name"] for row in small.one.rows(shop.account)
    ]
    assert not small.other.all(sa.select(dead_letter))


def test_changes_go_before_the_part_that_may_rely_on_them(small: Link) -> None:
    small.one.limit(batch_records=3)
    small.one.execute(sa.insert(shop.place), [{"country": "at", "number": n, "name": "p"} for n in range(4)])
    small.one.execute(sa.insert(shop.visit), [{"id": n, "country": "at", "number": n} for n in range(4)])
    forget(small.one)
    ask(small.one)
    asked = iter([False, False, False, False])
    exporter.export(small.one.site, stopping=lambda: next(asked, True))
    small.one.execute(sa.insert(shop.place), [{"country": "aa", "number": 1, "name": "behind the cursor"}])
    small.one.execute(sa.insert(shop.visit), [{"id": 9, "country": "aa", "number": 1}])

    assert set(cross(small)) == {Verdict.APPLIED}

    assert small.other.rows(shop.visit) == small.one.rows(shop.visit)
    assert not small.other.all(sa.select(dead_letter))


@pytest.mark.same_on("postgresql")
def test_rows_that_refer_to_rows_of_their_own_table_come_with_those(alike: Link) -> None:
    alike.one.limit(batch_records=8)
    ids = sorted((uuid.UUID(int=n * 7919) for n in range(1, 31)), key=str, reverse=True)
    rows = [{"id": one, "parent": ids[at // 2 - 1] if at > 1 else None, "name": str(at)} for at, one in enumerate(ids)]
    for row in rows:
        alike.one.execute(sa.insert(shop.node), [row])
    forget(alike.one)
    ask(alike.one)

    assert set(cross(alike)) == {Verdict.APPLIED}

    assert alike.other.rows(shop.node) == alike.one.rows(shop.node)
    assert not alike.other.all(sa.select(dead_letter))


def test_rows_whose_references_run_in_a_circle_come_together(alike: Link) -> None:
    alike.one.limit(batch_records=6)
    with alike.one.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        connection.execute(sa.insert(shop.team), [{"id": n, "name": f"t{n}", "leader": 100 - n} for n in range(12)])
        people = [{"id": 100 - n, "name": f"p{n}", "team": n} for n in range(12)]
        connection.execute(sa.insert(shop.person), people)
    forget(alike.one)
    ask(alike.one)

    assert set(cross(alike)) == {Verdict.APPLIED}

    assert alike.other.rows(shop.team) == alike.one.rows(shop.team)
    assert alike.other.rows(shop.person) == alike.one.rows(shop.person)
    assert not alike.other.all(sa.select(dead_letter))


def test_a_chain_longer_than_a_batch_crosses_and_what_came_too_early_is_reunited(small: Link) -> None:
    small.one.limit(batch_records=3)
    ids = [uuid.UUID(int=1000 - n) for n in range(12)]  # each parent behind its child in the order of keys
    for at, one in enumerate(ids):
        row = {"id": one, "parent": ids[at - 1] if at else None, "name": str(at)}
        small.one.execute(sa.insert(shop.node), [row])
    forget(small.one)
    ask(small.one)

    cross(small)

    assert small.other.rows(shop.node) == small.one.rows(shop.node)


def test_without_prune_rows_that_the_sender_lacks_stay(small: Link) -> None:
    small.other.execute(sa.insert(shop.account), accounts(7, 8))
    small.one.execute(sa.insert(shop.account), accounts(1, 2))
    ask(small.one)

    cross(small)

    assert [row["id"] for row in small.other.rows(shop.account)] == [1, 2, 7, 8]


def test_with_prune_rows_that_the_sender_lacks_go_children_first_and_leave_tombstones(link: Link) -> None:
    for side in (link.one, link.other):
        side.execute(sa.insert(shop.place), [{"country": "at", "number": 1, "name": "p"}])
        side.execute(sa.insert(shop.visit), [{"id": 1, "country": "at", "number": 1}])
    link.other.execute(sa.insert(shop.place), [{"country": "de", "number": 2, "name": "p"}])
    link.other.execute(sa.insert(shop.visit), [{"id": 2, "country": "de", "number": 2}])
    forget(link.one)
    ask(link.one, prune=True)

    assert set(cross(link)) == {Verdict.APPLIED}

    assert link.other.rows(shop.place) == link.one.rows(shop.place)
    assert link.other.rows(shop.visit) == link.one.rows(shop.visit)
    assert {(row.stream, row.version) for row in link.other.all(sa.select(tombstone))} == {
        ("place", wishes(link.one)[0].version),
        ("visit", wishes(link.one)[0].version),
    }
    assert not link.other.all(sa.select(change))


def test_only_the_streams_that_were_asked_for_are_sent_and_pruned(small: Link) -> None:
    for side in (small.one, small.other):
        side.execute(sa.insert(shop.account), accounts(1, 2))
    small.other.execute(sa.insert(shop.account), accounts(3, 3))
    small.other.execute(sa.insert(shop.place), [{"country": "de", "number": 2, "name": "p"}])
    forget(small.one)
    ask(small.one, streams=["account"], prune=True)

    cross(small)

    assert [row["id"] for row in small.other.rows(shop.account)] == [1, 2]
    assert len(small.other.rows(shop.place)) == 1


def test_only_the_buckets_that_were_asked_for_are_sent_and_pruned(small: Link) -> None:
    small.one.execute(sa.insert(shop.account), accounts(1, 60))
    small.other.execute(sa.insert(shop.account), accounts(41, 99))
    small.other.execute("UPDATE account SET name = 'by hand'")
    forget(small.one)
    mine = {n for n in range(1, 100) if bucket_of({"id": n}, 8) in {2, 5}}
    ask(small.one, streams=["account"], buckets=[2, 5], of=8, prune=True)

    cross(small)

    there = {row["id"]: row["name"] for row in small.other.rows(shop.account)}
    assert {n for n in there if n in mine} == {n for n in mine if n <= 60}
    assert {n for n in there if n not in mine} == {n for n in range(41, 100) if n not in mine}
    assert all((there[n] == "by hand") is (n not in mine) for n in there)


def test_a_prune_above_the_share_is_held_for_a_person_and_released_by_one(small: Link) -> None:
    small.other.limit(deleted_rows=5, deleted_share=0.5)
    small.other.execute(sa.insert(shop.account), accounts(1, 20))
    small.one.execute(sa.insert(shop.account), accounts(1, 3))
    ask(small.one, prune=True)
    export(small.one)
    small.there.carry()

    held = [one for one in small.other.take_in().batches if one.verdict is Verdict.HELD]

    assert [one.reason for one in held] == [Reason.DELETES]
    assert "17 or more of 20 rows of account" in held[0].message
    assert len(small.other.rows(shop.account)) == 20
    importer.import_batches(small.other.site, stem=held[0].batch, release=True)
    assert len(small.other.rows(shop.account)) == 3


def test_a_prune_below_the_share_is_not_held(small: Link) -> None:
    small.other.limit(deleted_rows=5, deleted_share=0.5)
    small.other.execute(sa.insert(shop.account), accounts(1, 20))
    small.one.execute(sa.insert(shop.account), accounts(1, 12))
    ask(small.one, prune=True)

    assert set(cross(small)) == {Verdict.APPLIED}

    assert len(small.other.rows(shop.account)) == 12


def test_a_row_that_others_hold_in_place_stays_with_a_dead_letter(alike: Link) -> None:
    alike.other.execute(sa.insert(shop.place), [{"country": "at", "number": n, "name": "p"} for n in (1, 2)])
    alike.other.execute(sa.insert(shop.visit), [{"id": 1, "country": "at", "number": 1}])
    ask(alike.one, streams=["place"], prune=True)

    cross(alike)

    assert [row["number"] for row in alike.other.rows(shop.place)] == [1]
    letters = alike.other.all(sa.select(dead_letter))
    assert [(one.stream, one.op, json.loads(one.key)["number"]) for one in letters] == [("place", "delete", 1)]


def test_a_row_whose_record_was_parked_is_not_pruned(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, 10), account(2, 10)])
    said = {"name": "x-1", "version": 50, "part": 1, "last": True, "streams": ["account"], "buckets": None}
    said |= {"of": 1024, "prune": ["account"], "answers": None}
    bad = account(2, 50, age=500)
    quick_forger.send([bad], claims={"kind": "snapshot", "snapshot": said})

    done = quick_receiver.take_in()
    assert done.trouble is None
    assert [one.verdict for one in done.batches] == [Verdict.APPLIED, Verdict.APPLIED]

    assert [row["id"] for row in quick_receiver.rows(shop.account)] == [2]


@pytest.mark.parametrize("unreadable", [b'{"stream":"account","data":{"id":2,"name":"' + b"x" * 200 + b'"}}', b"{}"])
def test_where_nobody_can_tell_whose_a_record_is_no_row_is_pruned_and_that_is_said(
    quick_receiver: Side, quick_forger: Forger, unreadable: bytes
) -> None:
    quick_receiver.limit(read=ReadLimits(max_record_bytes=190))
    quick_forger.send([account(1, 10), account(2, 10)])
    said = {"name": "x-1", "version": 50, "part": 1, "last": False, "streams": ["account"], "buckets": None}
    said |= {"of": 1024, "prune": [], "answers": None}
    counts = {"account": {"upsert": 1, "delete": 0}}
    claims = {"kind": "snapshot", "schemas": {"account": 1}, "records": counts}
    quick_forger.send([unreadable], claims={**claims, "snapshot": said})
    last = {**said, "part": 2, "last": True, "prune": ["account"]}
    quick_forger.send([account(3, 50)], claims={"kind": "snapshot", "snapshot": last})

    assert quick_receiver.take_in().trouble is None

    assert [row["id"] for row in quick_receiver.rows(shop.account)] == [1, 2, 3]
    (told,) = quick_receiver.all(sa.select(batch.c.message).where(batch.c.message.contains("nothing was removed")))
    assert told.message.startswith("account: nothing was removed, as of 1 records of the snapshot")


def test_nothing_is_pruned_while_a_part_is_missing(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, 10), account(2, 10)])
    said = {"name": "x-1", "version": 50, "part": 3, "last": True, "streams": ["account"], "buckets": None}
    said |= {"of": 1024, "prune": ["account"], "answers": None}
    quick_forger.send([account(3, 50)], claims={"kind": "snapshot", "snapshot": {**said, "part": 1, "last": False}})
    quick_forger.send([], claims={"kind": "snapshot", "snapshot": said})

    assert {one.verdict for one in quick_receiver.take_in().batches} == {Verdict.APPLIED}

    assert [row["id"] for row in quick_receiver.rows(shop.account)] == [1, 2, 3]


def test_a_manifest_that_says_nonsense_of_its_snapshot_is_quarantined(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.send([account(1, 10)], claims={"kind": "snapshot", "snapshot": {"name": "no", "version": "high"}})

    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.QUARANTINED]


def test_what_cannot_be_sent_is_left_by_name_and_all_else_is_pruned(
    alike: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike.other.execute(sa.insert(shop.account), accounts(1, 4))
    alike.other.execute(sa.insert(shop.place), [{"country": "at", "number": 1, "name": "p"}])
    alike.one.execute(sa.insert(shop.account), accounts(1, 1))
    alike.one.execute(sa.insert(shop.account), [{"id": 2, "name": "\x01" * 30, "age": 1}])
    alike.one.execute(sa.insert(shop.place), [{"country": "at", "number": 2, "name": "\x01" * 30}])
    alike.one.limit(read=alike.one.site.limits.read.__class__(max_record_bytes=110))
    forget(alike.one)
    ask(alike.one, prune=True)
    (last,) = [part for part in parts(export(alike.one), alike.one) if part["last"]]
    assert set(last["prune"]).isdisjoint({"account", "place"})
    place = {"stream": "place", "keys": [{"country": "at", "number": 2}], "more": 0, "nameless": 0}
    assert last["doubts"] == [place, {**place, "stream": "account", "keys": [{"id": 2}]}]
    alike.there.carry()
    alike.other.take_in()

    assert [row["id"] for row in alike.other.rows(shop.account)] == [1, 2]
    assert not alike.other.rows(shop.place)
    said = alike.other.all(sa.select(batch.c.message).where(batch.c.message.is_not(None)))
    assert [one.message for one in said] == ['account: rows that could not be sent were left as they are: {"id":2}']
    found = [one for one in doubts.check_doubts(alike.other.site, alike.other.site) if "in doubt" in one.message]  # type: ignore[arg-type]
    assert [(one.message, one.command) for one in found] == [
        ('rows of stream account are in doubt, as one could not send them: {"id": 2}', found[0].command)
    ]
    assert found[0].command.startswith("exchange batches show forth-")

    alike.one.execute(sa.insert(shop.account), [{"id": 3, "name": "\x01" * 30, "age": 1}])
    monkeypatch.setattr(snapshot, "MAX_DOUBTS", 1)
    monkeypatch.setattr(compose, "_unsent", lambda kind, _: compose.Unsent(kind.stream.name, None))
    forget(alike.one)
    ask(alike.one, prune=True, streams=["place"])
    assert parts(export(alike.one), alike.one)[-1]["doubts"] == [{**place, "keys": [], "nameless": 1}]
    monkeypatch.undo()
    monkeypatch.setattr(snapshot, "MAX_DOUBTS", 1)
    ask(alike.one, prune=True)
    cross(alike)
    assert [row["id"] for row in alike.other.rows(shop.account)] == [1, 2]
    said = alike.other.all(sa.select(batch.c.message).where(batch.c.message.is_not(None)).order_by(batch.c.id.desc()))
    assert said[0].message == ("account: nothing was removed, as 2 rows could not be sent, more than can be named")


def test_the_same_wish_is_not_taken_twice_while_it_waits_for_its_turn(small: Link) -> None:
    assert ask(small.one)
    assert not ask(small.one)
    assert ask(small.one, streams=["account"])


def test_an_answer_is_given_once(small: Link) -> None:
    assert ask(small.one, answers="forth-1")
    export(small.one)
    assert not ask(small.one, answers="forth-1")


def test_what_was_begun_before_a_snapshot_and_ends_after_it_is_newer(postgresql_link: Link) -> None:
    side = postgresql_link.one
    side.execute(sa.insert(shop.account), accounts(1, 3))
    forget(side)
    with side.engine.connect() as late, late.begin():
        late.execute(sa.text("UPDATE account SET name = 'late' WHERE id = 2"))
        ask(side)
        assert set(cross(postgresql_link)) == {Verdict.APPLIED}
        assert wishes(side)[0].state == ResyncState.DONE
    assert set(cross(postgresql_link)) == {Verdict.APPLIED}

    assert postgresql_link.other.rows(shop.account)[1]["name"] == "late"


def test_a_key_is_never_left_out_between_two_pages(alike: Link) -> None:
    side = alike.one
    rows = [{"country": c, "number": n, "name": "p"} for c in ("", "a", "A", "ä", "zz") for n in (-5, 0, 7, 11)]
    side.execute(sa.insert(shop.place), rows)
    stream, seen, after = Stream(shop.place), 0, None
    with locked(side.engine, "a test", isolation_level="REPEATABLE READ") as connection:
        while True:
            page = capture.next_page(connection, [stream], stream, after=after, limit=3)
            assert page is not None
            seen += sum(page.keys.values())
            after = page.last
            if page.ends:
                break

    assert seen == len(rows)


def test_a_batch_that_is_full_before_its_page_ends_is_cut_there(small: Link) -> None:
    small.one.limit(batch_bytes=1500)
    small.one.execute(sa.insert(shop.account), accounts(1, 60))
    small.one.execute(sa.insert(shop.node), [{"id": uuid.UUID(int=n), "parent": None, "name": "n"} for n in range(40)])
    forget(small.one)
    ask(small.one)

    assert set(cross(small)) == {Verdict.APPLIED}

    for table in (shop.account, shop.node):
        assert small.other.rows(table) == small.one.rows(table)


def test_a_part_is_a_batch_like_any_other_and_not_taken_twice(small: Link) -> None:
    small.one.execute(sa.insert(shop.account), accounts(1, 3))
    ask(small.one, prune=True)
    done = export(small.one)
    small.there.carry()
    small.other.take_in()
    small.there.deliver_again(f"{done.batches[-1].batch}.jsonl.zst")
    small.there.deliver_again(f"{done.batches[-1].batch}.manifest.jsonl")

    assert [one.verdict for one in small.other.take_in().batches] == [Verdict.DUPLICATE]


@pytest.mark.thorough
@needs_postgres
def test_a_snapshot_that_is_taken_while_others_write_agrees_with_them_in_the_end(postgresql_link: Link) -> None:
    side = postgresql_link.one
    side.limit(batch_records=20)
    side.execute(sa.insert(shop.account), accounts(1, 120))
    forget(side)
    ask(side, prune=True)
    postgresql_link.other.execute(sa.insert(shop.account), accounts(5_000, 5_010))
    done = threading.Event()
    turns = threading.Semaphore(0)

    def write(seed: int) -> None:
        draw = random.Random(seed)
        while turns.acquire() and not done.is_set():
            number = draw.randrange(1, 150)
            with side.engine.begin() as connection:
                connection.execute(sa.delete(shop.account).where(shop.account.c.id == number))
                if draw.random() < 0.7:
                    row = {"id": number, "name": f"{seed} {draw.random()}"[:40], "age": 1}
                    connection.execute(sa.insert(shop.account), [row])

    writer = threading.Thread(target=write, args=(1,), daemon=True)
    writer.start()

    def go_on() -> bool:
        """Let some be written beside the next batch."""
        turns.release(10)
        return False

    while not done.is_set():
        assert exporter.export(side.site, stopping=go_on).trouble is None
        postgresql_link.there.carry()
        postgresql_link.other.take_in()
        if wishes(side)[0].state == ResyncState.DONE:
            done.set()
    turns.release()
    writer.join()
    cross(postgresql_link)

    assert postgresql_link.other.rows(shop.account) == side.rows(shop.account)
    assert not postgresql_link.other.all(sa.select(dead_letter))


def test_the_request_that_a_snapshot_answers_is_closed_with_its_last_part(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    asked = {"name": "forth-1", "channel": "forth", "want": SNAPSHOT, "reason": "a test", "who": "me"}
    quick_receiver.execute(sa.insert(repair).values(**asked, state=RepairState.OPEN, asked_at=now()))
    said = {"name": "x-1", "version": 50, "part": 1, "last": False, "streams": ["account"], "buckets": None}
    said |= {"of": 1024, "prune": [], "answers": "forth-1"}
    quick_forger.send([account(1, 50)], claims={"kind": "snapshot", "snapshot": said})
    quick_receiver.take_in()
    assert quick_receiver.all(sa.select(repair.c.state))[0][0] == RepairState.OPEN
    quick_forger.send([account(2, 50)], claims={"kind": "snapshot", "snapshot": {**said, "part": 2, "last": True}})
    quick_receiver.take_in()

    assert quick_receiver.all(sa.select(repair.c.state).where(repair.c.name == "forth-1"))[0][0] == RepairState.ANSWERED


def test_what_was_asked_of_a_channel_that_is_declared_no_more_is_called_off_and_said(small: Link) -> None:
    assert send_requests.add_snapshot_requests(small.one.site, "forth")
    left = tuple(one for one in small.one.site.channels if one.name != "forth")
    run = exporter.export(replace(small.one.site, channels=left), stopping=importer.never)
    assert run.cautions == ("channel forth is declared no more: what was asked of it is called off",)
    assert send_requests.list_open_requests(small.one.site) == []
    assert small.one.export().cautions == ()
