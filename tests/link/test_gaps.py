"""What is missing: noticed, closed by itself, given up by a person or by its sender, and never taken in late."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from exchange.channels import Channel
from exchange.database import ledger, positions
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.database.tables import Direction, GapState, gap, peer, position, repair
from exchange.format import resend_codes
from exchange.format.control import Heartbeat, Range, Sent, ranges
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.format.names import CONTROL
from exchange.incoming import release
from exchange.link import gap_report
from exchange.link.gaps import AcceptedGap, accept_by_hand, close_lost, record_gaps
from exchange.results import Imported
from exchange.site import Site
from tests.crossing import shop
from tests.crossing.forging import EPOCH, Forger, account, last_byte_changed
from tests.crossing.sides import Side
from tests.performance.watching import watched

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000
OTHER = "ffffffffffff"


def rows(side: Side, state: GapState = GapState.MISSING, epoch: str = EPOCH) -> list[int]:
    """Give the sequences in a state."""
    here = sa.select(gap.c.sequence).where(gap.c.epoch == epoch, gap.c.state == state)
    return [row.sequence for row in side.all(here.order_by(gap.c.sequence))]


def verdicts(side: Side) -> list[Verdict]:
    """Import, and give what became of each batch."""
    run = side.take_in()
    assert run.trouble is None
    return [one.verdict for one in run.batches]


def reached(side: Side) -> tuple[str, int, str | None]:
    """Give the channel's position."""
    with reading(side.engine) as connection:
        at = positions.current_position(connection, Direction.IN, "forth")
    assert at is not None
    return at.epoch, at.sequence, at.digest


def ids(side: Side) -> list[int]:
    """Give the accounts that are there."""
    return [row["id"] for row in side.rows(shop.account)]


def say(
    side: Side, through: int, *, epoch: str = EPOCH, lost: tuple[Range, ...] = (), contained_from: int | None = None
) -> None:
    """Let the other side have said how far it has come in what it sends."""
    sent = (Sent("forth", epoch, through, lost, contained_from), Sent("nowhere", epoch, 99), Sent("back", epoch, 99))
    beat = Heartbeat(epoch, 300, now(), sent)
    with side.engine.begin() as connection:
        connection.execute(sa.delete(peer))
        heard = {"sent_at": now(), "heard_at": now(), "said": json.dumps(beat.as_data())}
        connection.execute(sa.insert(peer).values(id=1, epoch=epoch, sequence=1, **heard))


def lose(side: Side, *lost: Range, epoch: str = EPOCH) -> None:
    """Hear that the sender can't send some batches again."""
    with side.engine.begin() as connection:
        close_lost(connection, "forth", epoch, lost)


def accept(side: Side, first: int, last: int | None = None, **how: bool) -> AcceptedGap:
    return accept_by_hand(side.site, "forth", first, last or first, "the stick fell into the sea", **how)


# Noticed and closed


def test_what_others_came_before_is_missing_until_it_comes(receiver: Side, forger: Forger) -> None:
    batches = [forger.make([account(n, FIRST + n)]) for n in range(1, 7)]
    for number in (3, 6):
        forger.deliver(batches[number - 1])
    verdicts(receiver)
    assert rows(receiver) == [1, 2, 4, 5]
    noticed = receiver.all(sa.select(gap.c.noticed_at).distinct())
    for number in (1, 4):
        forger.deliver(batches[number - 1])
    verdicts(receiver)
    assert (rows(receiver), rows(receiver, GapState.ARRIVED)) == ([2, 5], [1, 4])
    for number in (2, 5):
        forger.deliver(batches[number - 1])
    assert set(verdicts(receiver)) == {Verdict.APPLIED}
    assert (rows(receiver), rows(receiver, GapState.ARRIVED)) == ([], [1, 2, 4, 5])
    assert receiver.all(sa.select(gap.c.noticed_at).distinct()) == noticed
    assert ids(receiver) == [1, 2, 3, 4, 5, 6]


def test_what_the_other_side_says_it_sent_is_missing_though_nothing_came_behind_it(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.send([account(1, FIRST)])
    say(quick_receiver, 3)
    verdicts(quick_receiver)
    assert rows(quick_receiver) == [2, 3]
    say(quick_receiver, 4)
    verdicts(quick_receiver)
    assert rows(quick_receiver) == [2, 3, 4]


def test_before_anything_came_all_is_missing_that_the_other_side_sent(quick_receiver: Side) -> None:
    say(quick_receiver, 2)
    verdicts(quick_receiver)
    assert rows(quick_receiver) == [1, 2]


def test_more_than_the_look_ahead_is_never_missing(quick_receiver: Side) -> None:
    quick_receiver.limit(look_ahead=5)
    say(quick_receiver, 9_999_999_999)
    verdicts(quick_receiver)
    assert rows(quick_receiver) == [1, 2, 3, 4, 5]


def test_where_nothing_changed_nothing_is_written(receiver: Side, forger: Forger) -> None:
    forger.make()
    forger.send([account(1, FIRST)])
    verdicts(receiver)
    with watched(receiver.engine) as seen:
        record_gaps(receiver.site)
    assert seen.statements <= 5  # four questions, and on SQLite the beginning


def test_a_batch_that_went_away_before_its_turn_is_missing_again(quick_receiver: Side, quick_forger: Forger) -> None:
    first, second = quick_forger.make([account(1, FIRST)]), quick_forger.make([account(2, FIRST + 1)])
    quick_forger.deliver(second)
    verdicts(quick_receiver)
    for path in quick_receiver.site.spool.folders.incoming.glob(f"{second.stem}*"):
        path.unlink()
    verdicts(quick_receiver)
    assert rows(quick_receiver) == [1, 2]
    quick_forger.deliver(second)
    verdicts(quick_receiver)
    assert rows(quick_receiver) == [1]
    quick_forger.deliver(first)
    verdicts(quick_receiver)
    assert (rows(quick_receiver), ids(quick_receiver)) == ([], [1, 2])


def test_a_damaged_batch_is_missing_though_nothing_came_behind_it(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch, data=last_byte_changed(batch.data))
    assert verdicts(quick_receiver) == [Verdict.QUARANTINED]
    assert rows(quick_receiver) == [1]
    (found,) = gap_report.list_gaps(quick_receiver.site, channel=None, state=GapState.MISSING, limit=10).found
    assert (found.first, found.last, found.refused) == (1, 1, Reason.CORRUPT)
    again = replace(batch, stem=f"{batch.stem}.r2")
    quick_forger.deliver(again)
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert (rows(quick_receiver), rows(quick_receiver, GapState.ARRIVED)) == ([], [1])


def test_a_batch_whose_data_never_came_is_missing_and_comes_under_its_next_name(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.put(f"{batch.stem}.manifest.jsonl", batch.manifest)
    assert verdicts(quick_receiver) == [Verdict.INCOMPLETE]
    assert rows(quick_receiver) == [1]
    quick_forger.deliver(replace(batch, stem=f"{batch.stem}.r2"))
    assert Verdict.APPLIED in verdicts(quick_receiver)
    assert verdicts(quick_receiver) in ([], [Verdict.DUPLICATE])
    assert rows(quick_receiver) == []
    (found,) = gap_report.list_gaps(quick_receiver.site, channel=None, state=GapState.ARRIVED, limit=10).found
    assert found.cause is None, "what never came whole was not late"


def test_a_held_batch_that_a_person_rejected_is_missing(quick_receiver: Side, quick_forger: Forger) -> None:
    stem = quick_forger.send([account(1, FIRST)], claims={"schemas": {"account": 9}})
    assert verdicts(quick_receiver) == [Verdict.HELD]
    assert rows(quick_receiver) == []
    release.reject_batch(quick_receiver.site, stem, "nobody needs it")
    assert rows(quick_receiver) == [1]


def test_what_an_unordered_channel_leapt_over_is_missing_behind_its_position(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    channel = Channel("forth", "one", "two", shop.channels[0].streams, ordered=False)
    quick_receiver.site = replace(quick_receiver.site, channels=(channel, shop.channels[1]))
    batches = [quick_forger.make([account(n, FIRST + n)]) for n in range(1, 5)]
    for number in (4, 2):
        quick_forger.deliver(batches[number - 1])
        verdicts(quick_receiver)
    assert (rows(quick_receiver), reached(quick_receiver)[1]) == ([1, 3], 4)
    quick_forger.deliver(batches[2])
    verdicts(quick_receiver)
    assert rows(quick_receiver) == [1]
    accept(quick_receiver, 1)
    quick_forger.deliver(batches[0])
    assert verdicts(quick_receiver) == [Verdict.DUPLICATE]
    assert ids(quick_receiver) == [2, 3, 4]


# Epochs


def test_the_gaps_of_an_epoch_that_was_left_are_closed(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    quick_forger.make()
    quick_forger.send([account(1, FIRST)])
    verdicts(quick_receiver)
    newer = Forger(quick_receiver, quick_forger.key, epoch=OTHER, left=(EPOCH,))
    first = newer.make([account(2, FIRST + 5)])
    newer.send([account(3, FIRST + 6)])
    verdicts(quick_receiver)
    assert (rows(quick_receiver), rows(quick_receiver, epoch=OTHER)) == ([2], [1])
    newer.deliver(first)
    verdicts(quick_receiver)
    assert (rows(quick_receiver), rows(quick_receiver, epoch=OTHER)) == ([], [])
    assert rows(quick_receiver, GapState.LEFT) == [2]


def test_nothing_of_an_epoch_is_missing_that_its_sender_has_left_before_it_came(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.make()
    quick_forger.send([account(1, FIRST)])
    say(quick_receiver, 1, epoch=OTHER)
    verdicts(quick_receiver)
    assert (rows(quick_receiver), rows(quick_receiver, epoch=OTHER)) == ([], [1])


def test_the_gaps_of_a_shard_that_is_no_more_are_closed_when_the_other_side_has_left_their_epoch(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    shard = replace(quick_forger, channel="forth_0")
    shard.make()
    shard.send([account(1, FIRST)])
    say(quick_receiver, 0)
    verdicts(quick_receiver)
    missing = sa.select(gap.c.sequence).where(gap.c.channel == "forth_0", gap.c.state == GapState.MISSING)
    assert [row.sequence for row in quick_receiver.all(missing)] == [1]
    say(quick_receiver, 0, epoch=OTHER)
    with quick_receiver.engine.begin() as connection:  # as the control batches of the new epoch do
        positions.leave(connection, CONTROL, [EPOCH], OTHER)
    verdicts(quick_receiver)
    assert quick_receiver.all(missing) == []


def test_what_waits_of_a_shard_that_is_no_more_is_stale_once_the_other_side_has_left_its_epoch(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    shard = replace(quick_forger, channel="forth_0")
    batches = [shard.make([account(n, FIRST + n)], claims={"shards": 2}) for n in range(1, 6)]
    for number in (1, 3, 5):
        shard.deliver(batches[number - 1])
    say(quick_receiver, 0)
    assert verdicts(quick_receiver) == [Verdict.APPLIED, Verdict.WAITING, Verdict.WAITING]
    say(quick_receiver, 0, epoch=OTHER)
    with quick_receiver.engine.begin() as connection:  # as the control batches of the new epoch do
        positions.leave(connection, CONTROL, [EPOCH], OTHER)
    shard.deliver(batches[1])
    assert verdicts(quick_receiver) == [Verdict.APPLIED, Verdict.APPLIED, Verdict.WAITING]  # what still comes is taken
    assert [one.reason for one in quick_receiver.take_in().batches] == [Reason.STALE_EPOCH]
    shard.deliver(batches[3])
    assert [one.reason for one in quick_receiver.take_in().batches] == [Reason.STALE_EPOCH]
    assert (verdicts(quick_receiver), rows(quick_receiver), ids(quick_receiver)) == ([], [], [1, 2, 3])
    again = replace(shard, epoch=OTHER, sequence=0, previous=None, left=(EPOCH,))
    again.send([account(4, FIRST + 9)], claims={"shards": 2})  # shards may come to be so many again
    assert (verdicts(quick_receiver), ids(quick_receiver)) == ([Verdict.APPLIED], [1, 2, 3, 4])


# Given up


def test_accepting_a_gap_lets_in_what_waited_and_asks_for_a_snapshot(receiver: Side, forger: Forger) -> None:
    lost = [forger.make([account(n, FIRST + n)]) for n in range(1, 4)]
    for number in range(4, 7):
        forger.send([account(number, FIRST + number)])
    verdicts(receiver)
    done = accept(receiver, 1, 3)
    assert (done.sequences, done.epoch, done.shown) == ((1, 2, 3), EPOCH, "1-3")
    assert reached(receiver) == (EPOCH, 3, None)
    assert verdicts(receiver) == [Verdict.APPLIED] * 3
    assert rows(receiver, GapState.ACCEPTED) == [1, 2, 3]
    (asked,) = receiver.all(sa.select(repair))
    assert (asked.name, asked.channel, asked.want, asked.prune) == (done.request, "forth", "snapshot", 1)
    assert "batch 1-3 was given up: the stick fell into the sea" in asked.reason
    cause, who = receiver.all(sa.select(gap.c.cause, gap.c.who).distinct())[0]
    assert cause == "the stick fell into the sea"
    assert "pid" in who
    forger.deliver(lost[1])
    run = receiver.take_in()
    assert [(one.verdict, one.reason) for one in run.batches] == [(Verdict.DUPLICATE, None)]
    assert run.batches[0].message == ("this side went on without it (accepted); it comes too late and changes nothing")
    assert ids(receiver) == [4, 5, 6]


def test_a_place_beyond_another_gap_is_given_up_when_its_turn_comes(quick_receiver: Side, quick_forger: Forger) -> None:
    batches = [quick_forger.make([account(n, FIRST + n)]) for n in range(1, 5)]
    for number in (2, 4):
        quick_forger.deliver(batches[number - 1])
    verdicts(quick_receiver)
    accept(quick_receiver, 3, snapshot=False)
    verdicts(quick_receiver)
    assert rows(quick_receiver) == [1]
    quick_forger.deliver(batches[2])
    assert sorted(verdicts(quick_receiver)) == [Verdict.DUPLICATE, Verdict.WAITING, Verdict.WAITING]
    quick_forger.deliver(batches[0])
    assert verdicts(quick_receiver)[:2] == [Verdict.APPLIED, Verdict.APPLIED]
    verdicts(quick_receiver)
    assert ids(quick_receiver) == [1, 2, 4]
    assert reached(quick_receiver)[1] == 4
    assert quick_receiver.all(sa.select(repair)) == []


@pytest.mark.parametrize("sequence", [1, 3, 9])
def test_only_what_is_missing_can_be_accepted(quick_receiver: Side, quick_forger: Forger, sequence: int) -> None:
    quick_forger.send([account(1, FIRST)])
    quick_forger.make()
    quick_forger.send([account(3, FIRST)])
    verdicts(quick_receiver)
    with pytest.raises(TransientError, match=f"channel forth does not miss {sequence}; .*nothing was done"):
        accept(quick_receiver, sequence)
    assert rows(quick_receiver) == [2]


def test_a_gap_at_the_beginning_of_a_new_epoch_is_accepted_and_the_epoch_adopted(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.send([account(1, FIRST)])
    verdicts(quick_receiver)
    newer = Forger(quick_receiver, quick_forger.key, epoch=OTHER, left=(EPOCH,))
    newer.make()
    newer.send([account(3, FIRST + 6)])
    verdicts(quick_receiver)
    accept(quick_receiver, 1)
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert reached(quick_receiver)[:2] == (OTHER, 2)
    quick_forger.send([account(4, FIRST)])
    assert [one.reason for one in quick_receiver.take_in().batches] == [Reason.STALE_EPOCH]


def test_a_channel_goes_on_without_what_its_sender_lost(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    for _ in range(3):
        quick_forger.make()
    quick_forger.send([account(5, FIRST + 5)])
    verdicts(quick_receiver)
    lose(quick_receiver, (2, 3), (5, 5))
    assert (rows(quick_receiver), rows(quick_receiver, GapState.LOST)) == ([4], [2, 3])
    assert reached(quick_receiver) == (EPOCH, 3, None)
    lose(quick_receiver, (2, 3), (4, 4))
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert (ids(quick_receiver), rows(quick_receiver, GapState.LOST)) == ([1, 5], [2, 3, 4])


def test_an_ordered_channel_waits_for_the_snapshot_that_is_promised_in_place_of_what_is_lost(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    batches = [quick_forger.make([account(n, FIRST + n)]) for n in range(1, 7)]
    quick_forger.deliver(batches[5])
    say(quick_receiver, 6, lost=((1, 5),), contained_from=3)
    verdicts(quick_receiver)
    assert (rows(quick_receiver, GapState.LOST), rows(quick_receiver)) == ([1, 2], [3, 4, 5])
    (found,) = gap_report.list_gaps(quick_receiver.site, channel=None, state=GapState.MISSING, limit=10).found
    assert (found.first, found.last, found.refused) == (3, 5, Reason.LOST)

    quick_receiver.limit(look_ahead=3)  # the snapshot would come further ahead of 3 than it looks
    verdicts(quick_receiver)
    assert (rows(quick_receiver, GapState.LOST), rows(quick_receiver)) == ([1, 2, 3], [4, 5])

    say(quick_receiver, 6, lost=((1, 5),))  # as a sender says it that can promise none, or is of an earlier version
    assert Verdict.APPLIED in verdicts(quick_receiver) + verdicts(quick_receiver)
    assert ids(quick_receiver) == [6]


def test_what_was_lost_before_anybody_missed_it_is_not_waited_for(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    verdicts(quick_receiver)
    quick_forger.make()
    say(quick_receiver, 3, lost=((2, 2),))
    quick_forger.send([account(3, FIRST + 3)])
    assert verdicts(quick_receiver) == [Verdict.WAITING]  # it proves that there was a second one
    assert rows(quick_receiver, GapState.LOST) == [2]
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert rows(quick_receiver) == []


def test_a_loss_moves_nothing_that_no_batch_behind_it_proves(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    verdicts(quick_receiver)
    say(quick_receiver, 9_999_999_999, lost=((2, 9_999_999_999),))
    lose(quick_receiver, (2, 9_999_999_999))
    lose(quick_receiver, (1, 9_999_999_999), epoch=OTHER)
    verdicts(quick_receiver)
    assert (rows(quick_receiver, GapState.LOST), rows(quick_receiver, GapState.LOST, OTHER)) == ([], [])
    assert reached(quick_receiver)[:2] == (EPOCH, 1)
    quick_forger.send([account(2, FIRST + 2)])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert ids(quick_receiver) == [1, 2]


def test_a_loss_beyond_the_look_ahead_or_of_an_epoch_that_was_left_changes_nothing(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.send([account(1, FIRST)])
    newer = Forger(quick_receiver, quick_forger.key, epoch=OTHER, left=(EPOCH,))
    newer.send([account(2, FIRST + 1)])
    verdicts(quick_receiver)
    lose(quick_receiver, (2, 9))
    lose(quick_receiver, (20_000, 9_999_999_999), epoch=OTHER)
    assert quick_receiver.all(sa.select(gap)) == []
    assert reached(quick_receiver)[:2] == (OTHER, 1)


# Shown


def test_neighbours_of_which_the_same_is_known_are_one_range(receiver: Side, forger: Forger) -> None:
    for number in range(1, 9):
        batch = forger.make([account(number, FIRST + number)])
        if number in {4, 8}:
            forger.deliver(batch)
        elif number == 1:
            forger.deliver(batch, data=b"!" * len(batch.data))
    verdicts(receiver)
    look = gap_report.list_gaps(receiver.site, channel="forth", state=GapState.MISSING, limit=3)
    shown = [(one.first, one.last, one.refused) for one in look.found]
    assert shown == [(1, 1, "corrupt"), (2, 3, None), (5, 7, None)]
    assert (look.count, look.after, look.codes) == ((6, True), None, {})
    assert gap_report.list_gaps(receiver.site, channel="back", state=GapState.MISSING, limit=3).found == ()
    receiver.execute(sa.update(gap).values(noticed_at=now() - timedelta(hours=3)))
    (rest,) = gap_report.list_gaps(receiver.site, channel=None, state=GapState.MISSING, limit=9).found[2:]
    assert (rest.first, rest.last, str(rest.age)) == (5, 7, "3:00:00")
    assert rest.as_dict()["age_seconds"] == 3 * 3600


def test_a_one_way_link_shows_a_code_that_its_sender_can_read(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.site = one_way(quick_receiver)
    for number in range(1, 9):
        batch = quick_forger.make([account(number, FIRST + number)])
        if number in {4, 8}:
            quick_forger.deliver(batch)
    verdicts(quick_receiver)
    look = gap_report.list_gaps(quick_receiver.site, channel=None, state=GapState.MISSING, limit=1)
    assert resend_codes.decode(look.codes["forth", EPOCH], [("forth", EPOCH)])[2] == [(1, 3), (5, 7)]
    assert "have `exchange resync forth --prune-missing` run on one" in accept(quick_receiver, 1).message
    assert quick_receiver.all(sa.select(repair)) == []


def one_way(side: Side) -> Site:
    return replace(side.site, one_way=True)


def test_a_damaged_copy_of_what_was_applied_is_nobody_s_gap(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch)
    verdicts(quick_receiver)
    stem = quick_forger.send([account(2, FIRST)], claims={"sequence": 1}, follow=False, attempt=".r2")
    outcomes: dict[str, Imported] = {one.batch: one for one in quick_receiver.take_in().batches}
    assert outcomes[stem].reason is Reason.CONFLICT
    assert quick_receiver.all(sa.select(gap)) == []
    assert ranges(row.sequence for row in quick_receiver.all(sa.select(position.c.sequence))) == ((1, 1),)


# Thousands at once


def test_what_comes_behind_a_gap_in_one_go_is_written_down_in_one_go(receiver: Side, forger: Forger) -> None:
    costs = []
    stems: list[str] = []
    first = forger.make([account(0, FIRST)])
    for more in (4, 16):
        stems = [forger.send([account(number, FIRST + 1 + number)]) for number in range(more)]
        with watched(receiver.engine) as seen:
            run = receiver.take_in()
        costs.append(seen.statements)
        assert [one.batch for one in run.batches if one.changed] == stems
    assert costs[1] < costs[0] + 15  # no more than its row for each, and on PostgreSQL not that
    with reading(receiver.engine) as connection:
        entry = ledger.by_stem(connection, Direction.IN, stems[-1])
        assert entry is not None
        (event,) = ledger.history(connection, [entry.id])
    assert (entry.state, entry.reason, entry.message) == ("waiting", "gap", event.cause)
    forger.deliver(first)
    assert verdicts(receiver) == [Verdict.APPLIED] * 21


def test_of_two_that_claim_one_place_behind_a_gap_the_second_is_a_conflict(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.make()
    waits = quick_forger.send([account(1, FIRST)])
    claims = {"sequence": 2, "previous": "0" * 64}
    other = quick_forger.send([account(2, FIRST)], claims=claims, follow=False, attempt=".r2")
    outcomes = {one.batch: (one.verdict, one.reason) for one in quick_receiver.take_in().batches}
    assert outcomes[waits] == (Verdict.WAITING, Reason.GAP)
    assert outcomes[other] == (Verdict.QUARANTINED, Reason.CONFLICT)
