"""Batches published again: the very same bytes, when they are asked for, no more often than is of use, or lost."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.locks import locked, reading
from exchange.database.network import known_epoch
from exchange.database.tables import BatchState, Direction, GapState, batch, network, receipt, resync
from exchange.format.control import Range, Receipt
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.incoming import importer
from exchange.link import gap_report, gaps
from exchange.operating import prune
from exchange.outgoing import exporter, resend, snapshot
from exchange.results import Resent
from tests.crossing.forging import last_byte_changed
from tests.crossing.shop import account
from tests.crossing.sides import Link, Side

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")


def epoch(side: Side) -> str:
    with reading(side.engine) as connection:
        found = known_epoch(connection, side.site.network)
    assert found is not None
    return found


def send(link: Link, number: int) -> None:
    """Export so many batches of one account each."""
    for _ in range(number):
        count = len(link.one.rows(account))
        link.one.execute(sa.insert(account), [{"id": count + 1, "name": "a"}])
        (exported,) = link.one.export().batches
        assert exported.sequence == count + 1


def hear(side: Side, *absent: Range, through: int = 0, seconds_ago: float = 0, **members: Any) -> None:
    """Let the other side have said that it misses some batches."""
    said = Receipt("forth", epoch(side), through, missing=absent, **members)
    with side.engine.begin() as connection:
        connection.execute(sa.delete(receipt))
        heard = {"through": through, "said": json.dumps(said.as_data())}
        at = now() - timedelta(seconds=seconds_ago)
        connection.execute(sa.insert(receipt).values(channel="forth", epoch=said.epoch, heard_at=at, **heard))


def long_ago(side: Side, seconds: float = 1_000) -> None:
    """Let everything have been published so long ago."""
    side.execute(sa.update(batch).values(published_at=now() - timedelta(seconds=seconds)))


def run(side: Side) -> tuple[Resent, ...]:
    return resend.resend_due(side.site, importer.never)


def state(side: Side, sequence: int) -> tuple[str, str | None, int]:
    """Give a batch's state, reason and attempt."""
    (row,) = side.all(
        sa.select(batch.c.state, batch.c.reason, batch.c.attempt).where(
            batch.c.direction == Direction.OUT, batch.c.sequence == sequence
        )
    )
    return row.state, row.reason, row.attempt


def stems(done: tuple[Resent, ...]) -> list[str]:
    return [one.batch for one in done]


def outgoing(side: Side, pattern: str) -> list[bytes]:
    """Give the contents of files that the carrier can reach."""
    return [path.read_bytes() for path in sorted(side.site.spool.folders.outgoing.glob(pattern))]


def drop_the_first(link: Link) -> None:
    """Lose the files of the first batch on their way."""
    for path in link.one.site.spool.folders.outgoing.glob("forth-*-0000000001.*"):
        path.unlink()


# Asked for by a receipt


def test_a_lost_batch_comes_again_with_the_same_bytes_and_lets_in_what_waited(alike: Link) -> None:
    send(alike, 3)
    one, two = outgoing(alike.one, "forth-*-0000000001.jsonl.zst"), outgoing(alike.one, "forth-*-1.manifest.jsonl")
    drop_the_first(alike)
    alike.there.carry()
    assert {seen.verdict for seen in alike.other.take_in().batches} == {Verdict.WAITING}
    hear(alike.one, (1, 1))
    long_ago(alike.one)
    (again,) = alike.one.export().resent
    assert again.batch == f"forth-{epoch(alike.one)}-0000000001.r2"
    assert state(alike.one, 1) == ("published", None, 2)
    assert outgoing(alike.one, "forth-*-0000000001.r2.jsonl.zst") == one
    assert outgoing(alike.one, "forth-*-1.r2.manifest.jsonl") == two
    alike.there.carry()
    assert {seen.verdict for seen in alike.other.take_in().batches} == {Verdict.APPLIED}
    assert alike.other.rows(account)[0]["id"] == 1
    assert gap_report.list_gaps(alike.other.site, channel=None, state=GapState.MISSING, limit=9).count.number == 0


def test_what_was_sent_again_may_still_be_on_its_way_and_waits(small: Link) -> None:
    send(small, 1)
    hear(small.one, (1, 1))
    assert len(run(small.one)) == 1
    for ago, again in ((0, 0), (299, 0), (301, 1)):
        long_ago(small.one, ago)
        hear(small.one, (1, 1))
        assert len(run(small.one)) == again


def test_one_receipt_has_a_batch_sent_once_however_long_nothing_else_is_heard(small: Link) -> None:
    send(small, 1)
    long_ago(small.one)
    hear(small.one, (1, 1))
    assert len(run(small.one)) == 1
    small.one.limit(gap_seconds=0)
    assert run(small.one) == ()
    hear(small.one, (1, 1))
    assert stems(run(small.one))[0].endswith(".r3")


def test_what_is_asked_for_again_and_again_is_sent_at_longer_intervals(small: Link) -> None:
    send(small, 1)
    waits = []
    for _ in range(6):
        for seconds in (301, 601, 1_201, 2_401):
            long_ago(small.one, seconds)
            hear(small.one, (1, 1))
            if run(small.one):
                waits.append(seconds)
                break
    assert waits == [301, 301, 601, 1_201, 2_401, 2_401]


def test_an_acknowledged_batch_is_sent_again_to_a_receiver_that_was_restored(small: Link) -> None:
    send(small, 2)
    small.one.execute(sa.update(batch).values(state=BatchState.ACKNOWLEDGED))
    long_ago(small.one)
    hear(small.one, (2, 2), through=1)
    assert len(run(small.one)) == 1
    assert state(small.one, 1) == ("acknowledged", None, 1)
    assert state(small.one, 2) == ("published", None, 2)


def test_a_receipt_that_asks_for_everything_has_sent_in_one_run_what_there_is_time_for(
    small: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "AT_ONCE", 2)
    monkeypatch.setattr(resend, "MOST_SECONDS", 0)
    send(small, 5)
    long_ago(small.one)
    hear(small.one, (1, 9_999_999_999))
    assert [[one.sequence for one in run(small.one)] for _ in range(4)] == [[1, 2], [3, 4], [5], []]


@pytest.mark.parametrize("how", ["another epoch", "another channel", "never sealed", "halted"])
def test_nothing_is_sent_that_is_not_ours_to_send(small: Link, how: str) -> None:
    send(small, 1)
    long_ago(small.one)
    hear(small.one, (7, 8) if how == "never sealed" else (1, 1))
    if how == "another epoch":
        small.one.execute(sa.update(receipt).values(epoch="ffffffffffff"))
    if how == "another channel":
        small.one.execute(sa.update(receipt).values(channel="sideways"))
    if how == "halted":
        small.one.execute(sa.update(network).values(halted_because="this database was restored"))
    assert run(small.one) == ()


def test_a_channel_that_somebody_works_on_is_left_to_the_next_run(alike: Link) -> None:
    send(alike, 1)
    long_ago(alike.one)
    hear(alike.one, (1, 1))
    with locked(alike.one.engine, "export forth"):
        assert run(alike.one) == ()
    assert len(run(alike.one)) == 1


# Lost


@pytest.mark.parametrize("how", ["pruned", "removed", "last_byte_changed", "exchanged"])
def test_what_is_no_longer_kept_whole_is_lost_and_a_snapshot_goes_in_its_place_once(small: Link, how: str) -> None:
    send(small, 3)
    sealed = small.one.site.spool.folders.sealed
    if how == "pruned":
        small.one.limit(retention_days=1)  # and not folded: that takes twice as long
        old = {"state": BatchState.ACKNOWLEDGED, "updated_at": now() - timedelta(days=1.5)}
        small.one.execute(sa.update(batch).where(batch.c.sequence == 2).values(old))
        prune.prune_expired(small.one.site)
    for path in sealed.glob("*-0000000002.*"):
        if how == "removed":
            path.unlink()
        elif how == "last_byte_changed" and path.suffix == ".zst":
            path.write_bytes(last_byte_changed(path.read_bytes()))
        elif how == "exchanged":
            path.write_bytes((sealed / path.name.replace("02.", "03.")).read_bytes())
    for _ in range(3):
        hear(small.one, (2, 2), through=1)
        long_ago(small.one)
        run(small.one)
    assert state(small.one, 2) == ("rejected", "lost", 1)
    (wish,) = small.one.all(sa.select(resync))
    assert (wish.channel, wish.want, wish.prune, wish.state) == ("forth", "snapshot", 1, "asked")
    with reading(small.one.engine) as connection:
        assert resend.lost_places(connection, "forth", epoch(small.one)) == ((2, 2),)
        assert resend.lost_places(connection, "back", epoch(small.one)) == ()
    assert outgoing(small.one, "*.r2.*") == []
    assert promised(small.one) == 1
    small.one.execute(sa.update(resync).values(created_at=now() - timedelta(hours=1)))  # something holds it up
    assert promised(small.one) is None
    small.one.export()
    assert promised(small.one) == 1


def promised(side: Side) -> int | None:
    """Give from which batch on a heartbeat promises a snapshot in place of the second one, which is lost."""
    with reading(side.engine) as connection:
        return snapshot.promised_from(side.site, connection, "forth", epoch(side), 2)


def test_the_receiver_goes_on_without_what_its_sender_lost(small: Link) -> None:
    send(small, 3)
    drop_the_first(small)
    for path in small.one.site.spool.folders.sealed.glob("*-0000000001.*"):
        path.unlink()
    small.there.carry()
    small.other.take_in()
    long_ago(small.one)
    hear(small.one, (1, 1))
    (done,) = run(small.one)
    assert (done.attempt, done.as_dict()["state"]) == (None, "lost")
    with reading(small.one.engine) as connection:
        told = resend.lost_places(connection, "forth", epoch(small.one))
    with small.other.engine.begin() as connection:
        gaps.close_lost(connection, "forth", epoch(small.one), told)
    assert {seen.verdict for seen in small.other.take_in().batches} == {Verdict.APPLIED}
    assert [row["id"] for row in small.other.rows(account)] == [2, 3]


def test_what_the_receiver_has_got_beyond_is_not_told_any_more(small: Link) -> None:
    send(small, 4)
    lost = (batch.c.sequence != 3, batch.c.direction == Direction.OUT)
    small.one.execute(sa.update(batch).where(*lost).values(state=BatchState.REJECTED, reason=Reason.LOST))
    with reading(small.one.engine) as connection:
        assert resend.lost_places(connection, "forth", epoch(small.one)) == ((1, 2), (4, 4))
    hear(small.one, through=2)
    with reading(small.one.engine) as connection:
        assert resend.lost_places(connection, "forth", epoch(small.one)) == ((4, 4),)


# A one-way link


def test_on_a_one_way_link_each_batch_is_published_a_set_number_of_times_at_intervals(small: Link) -> None:
    small.one.site = replace(small.one.site, one_way=True)
    small.one.limit(copies=3, copy_seconds=3600)
    send(small, 1)
    assert run(small.one) == ()
    made: list[Resent] = []
    for _ in range(4):
        due = now() - timedelta(seconds=1)
        small.one.execute(sa.update(batch).where(batch.c.again_at.is_not(None)).values(again_at=due))
        made += run(small.one)
        assert run(small.one) == ()
    assert [one.attempt for one in made] == [2, 3]
    assert state(small.one, 1) == ("published", None, 3)
    assert len(set(outgoing(small.one, "*.zst"))) == 1
    small.there.carry()
    assert sorted(seen.verdict for seen in small.other.take_in().batches) == [
        Verdict.APPLIED,
        Verdict.DUPLICATE,
        Verdict.DUPLICATE,
    ]


def test_a_copy_whose_files_are_gone_is_forgone_and_nothing_is_lost(small: Link) -> None:
    small.one.site = replace(small.one.site, one_way=True)
    send(small, 1)
    small.one.execute(sa.update(batch).values(again_at=now()))
    for path in small.one.site.spool.folders.sealed.iterdir():
        path.unlink()
    assert run(small.one) == run(small.one) == ()
    assert state(small.one, 1) == ("published", None, 1)


def test_on_a_two_way_link_nothing_is_copied(small: Link) -> None:
    send(small, 1)
    assert small.one.all(sa.select(batch.c.again_at)) == [(None,)]


# By hand


def test_a_person_has_batches_sent_again_at_once(alike: Link) -> None:
    send(alike, 3)
    done = resend.resend_by_hand(alike.one.site, "forth", [3, 1, 3])
    assert [one.sequence for one in done] == [1, 3]
    assert "asked for by hand" in done[0].message
    assert state(alike.one, 2)[2] == 1


def test_a_code_read_out_on_a_one_way_link_brings_what_is_missing(small: Link) -> None:
    small.other.site = replace(small.other.site, one_way=True)
    send(small, 3)
    drop_the_first(small)
    small.there.carry()
    small.other.take_in()
    (code,) = gap_report.list_gaps(small.other.site, channel=None, state=GapState.MISSING, limit=9).codes.values()
    (again,) = resend.resend_by_code(small.one.site, code.lower())
    assert again.batch.endswith("0000000001.r2")
    small.there.carry()
    assert {seen.verdict for seen in small.other.take_in().batches} == {Verdict.APPLIED}
    with pytest.raises(TransientError, match=r"is of no channel that this side sends .*; nothing was done"):
        resend.resend_by_code(small.other.site, code)


def test_what_was_never_sent_can_t_be_sent_again(small: Link) -> None:
    send(small, 2)
    with pytest.raises(TransientError, match="channel forth has published no batch 3, 7-8 in its present epoch"):
        resend.resend_by_hand(small.one.site, "forth", [1, 3, 7, 8])
    assert state(small.one, 1)[2] == 1


def test_while_exports_are_halted_nothing_is_sent_again_by_hand(small: Link) -> None:
    send(small, 1)
    small.one.execute(sa.update(network).values(halted_because="this database was restored"))
    with pytest.raises(TransientError, match="nothing is sent again: this database was restored"):
        resend.resend_by_hand(small.one.site, "forth", [1])


# Forgetting


def test_every_attempt_is_forgotten_with_its_batch(small: Link) -> None:
    send(small, 1)
    resend.resend_by_hand(small.one.site, "forth", [1])
    resend.resend_by_hand(small.one.site, "forth", [1])
    assert len(outgoing(small.one, "forth-*")) == 6
    small.one.limit(retention_days=0)
    small.one.execute(sa.update(batch).values(state=BatchState.ACKNOWLEDGED))
    prune.prune_expired(small.one.site)
    assert outgoing(small.one, "forth-*") == []
    assert list(small.one.site.spool.folders.sealed.iterdir()) == []


def test_a_crash_between_files_and_ledger_publishes_the_same_name_once_more(
    small: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(small, 1)
    with monkeypatch.context() as crashing:
        crashing.setattr(ledger, "move", _crash)
        with pytest.raises(KeyboardInterrupt):
            resend.resend_by_hand(small.one.site, "forth", [1])
    assert state(small.one, 1)[2] == 1
    before = outgoing(small.one, "*.r2.*")
    resend.resend_by_hand(small.one.site, "forth", [1])
    assert (outgoing(small.one, "*.r2.*"), state(small.one, 1)[2]) == (before, 2)


def _crash(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_export_of_one_channel_leaves_resending_to_that_of_all(small: Link) -> None:
    send(small, 1)
    long_ago(small.one)
    hear(small.one, (1, 1))
    assert exporter.export(small.one.site, channel="forth", stopping=importer.never).resent == ()
    assert len(exporter.export(small.one.site, stopping=importer.never).resent) == 1
