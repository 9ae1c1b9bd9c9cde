"""An epoch that is new here is adopted only if it is proven to come after the present one, or a person says so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import positions
from exchange.database.engine import now
from exchange.database.locks import Busy, locked, reading
from exchange.database.network import known_epoch, left_behind
from exchange.database.tables import BatchState, Direction, batch, epoch, gap, network, position
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.link import epoch_adoption, epochs
from exchange.link.gaps import accept_by_hand, close_lost
from exchange.operating import status
from exchange.results import Imported
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres
from tests.crossing.forging import Forger, account
from tests.crossing.sides import Link, Side
from tests.crossing.talking import Mouth, add, cross, halted, take_in, tell
from tests.databases import Databases
from tests.incoming.test_control_batch import Restored

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000
OLD, NEW, NEWER = "a" * 12, "b" * 12, "c" * 12
HELD = (Verdict.HELD, Reason.UNPROVEN_EPOCH)


def only(side: Side) -> Imported:
    """Import, and give the one outcome."""
    [outcome] = side.take_in().batches
    return outcome


def verdict(side: Side) -> tuple[Verdict, Reason | None]:
    """Import, and give the one verdict and its reason."""
    outcome = only(side)
    return outcome.verdict, outcome.reason


def present(side: Side, channel: str = "forth") -> str | None:
    """Give the epoch that an incoming channel is in."""
    with reading(side.engine) as connection:
        at = positions.current_position(connection, Direction.IN, channel)
    return at.epoch if at else None


def waiting(side: Side) -> list[epoch_adoption.Undecided]:
    """Give what waits for a decision."""
    with reading(side.engine) as connection:
        return epoch_adoption.list_undecided(connection)


def alarms(side: Side) -> list[str]:
    """Give what `exchange status` is worried about."""
    found: list[str] = status.read_status(side.site).as_dict()["link"]["alarms"]
    return found


def own_epoch(side: Side) -> str:
    """Give a side's own epoch."""
    with reading(side.engine) as connection:
        return str(known_epoch(connection, side.site.network))


def left(*known: tuple[str, int, str | None] | str) -> dict[str, Any]:
    """Give the members by which a manifest lists what was left, the newest first."""
    entries = [(one, 0, None) if isinstance(one, str) else one for one in known]
    return {
        "left_epochs": [name for name, _, _ in entries],
        "left": [{"epoch": name, "sequence": at, "digest": digest} for name, at, digest in entries],
    }


def later(forger: Forger, name: str = NEW) -> Forger:
    """Give the same sender in another epoch."""
    return Forger(forger.receiver, forger.key, channel=forger.channel, epoch=name)


# Held


def test_an_epoch_that_lists_nothing_is_held_and_the_present_one_goes_on(receiver: Side, forger: Forger) -> None:
    forger.send([account(1, FIRST)])
    only(receiver)
    recorded = later(forger)
    recorded.send([account(1, FIRST + 9, name="of long ago")])
    outcome = only(receiver)
    assert (outcome.verdict, outcome.reason) == HELD
    assert f"its manifest does not say that it left {forger.epoch}" in outcome.message
    assert f"`exchange epoch adopt {NEW} --reason TEXT` here" in outcome.message
    forger.send([account(2, FIRST + 1)])
    assert [(one.batch[:7], one.verdict) for one in receiver.take_in().batches] == [
        ("forth-0", Verdict.APPLIED),
        ("forth-b", Verdict.HELD),
    ]
    assert [row["name"] for row in receiver.rows(shop.account)] == ["account 1", "account 2"]
    assert present(receiver) == forger.epoch


def test_all_batches_of_an_unproven_epoch_are_held_and_none_of_them_is_missed(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.send([account(1, FIRST)])
    only(quick_receiver)
    recorded = later(quick_forger)
    recorded.make([account(1, FIRST)])
    recorded.send([account(1, FIRST)])
    recorded.make([account(1, FIRST)])
    recorded.send([account(1, FIRST)])
    assert {(one.verdict, one.reason) for one in quick_receiver.take_in().batches} == {HELD}
    assert {(one.verdict, one.changed) for one in quick_receiver.take_in().batches} == {(Verdict.HELD, False)}
    assert not quick_receiver.all(sa.select(gap))
    [one] = waiting(quick_receiver)
    assert (one.epoch, one.channels, one.batches, one.present) == (NEW, ("forth",), 2, (quick_forger.epoch,))


def test_no_loss_and_no_persons_word_on_a_gap_adopts_an_unproven_epoch(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.send([account(1, FIRST)])
    only(quick_receiver)
    with quick_receiver.engine.begin() as connection:
        close_lost(connection, "forth", NEW, [(1, 3)])
    recorded = later(quick_forger, NEWER)
    recorded.make()
    recorded.send([account(2, FIRST)])
    assert verdict(quick_receiver) == HELD
    with pytest.raises(TransientError, match="channel forth does not miss 1"):
        accept_by_hand(quick_receiver.site, "forth", 1, 1, "go on")
    assert present(quick_receiver) == quick_forger.epoch


# Proven


def test_an_epoch_is_adopted_that_lists_the_present_one_as_an_older_sender_does(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.send([account(1, FIRST)])
    only(quick_receiver)
    later(quick_forger).send([account(2, FIRST)], claims={"left_epochs": [OLD, quick_forger.epoch]})
    assert only(quick_receiver).verdict is Verdict.APPLIED
    assert present(quick_receiver) == NEW
    later(quick_forger, OLD).send([account(3, FIRST)], claims=left(NEW))
    assert verdict(quick_receiver) == (Verdict.QUARANTINED, Reason.STALE_EPOCH)


@pytest.mark.parametrize("known", ["the last", "one before", "one that never came", "none"])
def test_an_epoch_is_adopted_that_goes_on_behind_what_is_known_here(
    quick_receiver: Side, quick_forger: Forger, known: str
) -> None:
    sent = [quick_forger.make([account(n, FIRST + n)]) for n in range(4)]
    for one in sent[:3]:
        quick_forger.deliver(one)
    quick_receiver.take_in()
    at = {"the last": (3, sent[2].digest), "one before": (1, sent[0].digest), "none": (0, None)}
    sequence, digest = at.get(known, (4, sent[3].digest))
    later(quick_forger).send([account(9, FIRST)], claims=left((quick_forger.epoch, sequence, digest)))
    assert only(quick_receiver).verdict is Verdict.APPLIED


def test_an_epoch_that_goes_on_behind_another_history_is_held(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    quick_forger.send([account(2, FIRST)])
    quick_receiver.take_in()
    later(quick_forger).send([account(9, FIRST)], claims=left((quick_forger.epoch, 1, "f" * 64)))
    outcome = only(quick_receiver)
    assert (outcome.verdict, outcome.reason) == HELD
    assert "behind batch 1 with manifest ffffffffffff, but the one applied here is" in outcome.message


@pytest.mark.parametrize(
    "said",
    [
        {"left": "all"},
        {"left": [[], {}, {"epoch": 7}, None], "left_epochs": {"epoch": "0123456789ab"}},
        {"left_epochs": [*("d" * 12 for _ in range(100)), "0123456789ab"]},
        {"left": [*({"epoch": "d" * 12} for _ in range(20)), {"epoch": "0123456789ab"}]},
    ],
)
def test_a_list_that_makes_no_sense_or_has_no_end_proves_nothing(
    quick_receiver: Side, quick_forger: Forger, said: dict[str, Any]
) -> None:
    quick_forger.send([account(1, FIRST)])
    only(quick_receiver)
    later(quick_forger).send([account(2, FIRST)], claims=said)
    assert verdict(quick_receiver) == HELD


def test_of_an_entry_that_makes_no_sense_the_name_counts(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    only(quick_receiver)
    later(quick_forger).send(
        [account(2, FIRST)],
        claims={"left": [{"epoch": quick_forger.epoch, "sequence": -(2**63), "digest": ["?"]}]},
    )
    assert only(quick_receiver).verdict is Verdict.APPLIED


def test_what_one_channel_has_adopted_and_left_counts_for_all(small: Link) -> None:
    add(small.one, 1)
    cross(small)
    tell(small.one)
    small.there.carry()
    take_in(small.other)
    first = own_epoch(small.one)
    epochs.begin_epoch(small.one.site, "restored")
    tell(small.one)
    small.there.carry()
    take_in(small.other)
    assert (present(small.other, "control"), present(small.other)) == (own_epoch(small.one), first)
    with reading(small.other.engine) as connection:
        assert positions.still_before(connection, "forth", own_epoch(small.one)) == frozenset()
        assert positions.still_before(connection, "forth", NEW) == {first}
        assert positions.left_epochs(connection, "nowhere") == {first}
        assert positions.left_epochs(connection, "forth") == frozenset()


# First contact


def test_at_first_contact_any_epoch_is_adopted_and_the_honest_later_one_wins(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    recorded = later(quick_forger, OLD)
    recorded.send([account(1, FIRST)])
    assert only(quick_receiver).verdict is Verdict.APPLIED
    later(quick_forger, NEW).send([account(1, FIRST + 5, name="present")], claims=left(OLD))
    assert only(quick_receiver).verdict is Verdict.APPLIED
    recorded.send([account(1, FIRST + 9, name="old")])
    assert verdict(quick_receiver) == (Verdict.QUARANTINED, Reason.STALE_EPOCH)
    assert [row["name"] for row in quick_receiver.rows(shop.account)] == ["present"]


def test_a_channel_that_was_never_heard_of_begins_in_the_epoch_that_the_others_are_in(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    mouth = Mouth(later(quick_forger, NEW))
    mouth.say()
    later(quick_forger, OLD).send([account(1, FIRST)])
    assert verdict(quick_receiver) == HELD
    later(quick_forger, NEW).send([account(1, FIRST)])
    assert {one.verdict for one in quick_receiver.take_in().batches} == {Verdict.HELD, Verdict.APPLIED}


# Control batches


def test_a_control_batch_of_an_unproven_epoch_is_held_and_not_heard(quick_receiver: Side, quick_forger: Forger) -> None:
    mouth = Mouth(later(quick_forger, NEW))
    assert mouth.say().verdict is Verdict.APPLIED
    recorded = Mouth(later(quick_forger, OLD))
    held = recorded.say()
    assert (held.verdict, held.reason) == HELD
    assert present(quick_receiver, "control") == NEW
    mouth.forger.send(claims={"kind": "control", "schemas": {}, "records": {}})
    assert Verdict.APPLIED in {one.verdict for one in quick_receiver.take_in().batches}


def test_of_the_control_batches_of_an_unproven_epoch_only_the_newest_stays(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    Mouth(later(quick_forger, NEW)).say()
    recorded = later(quick_forger, OLD)
    recorded.channel = "control"
    for _ in range(3):
        recorded.send(claims={"kind": "control", "schemas": {}, "records": {}})
        quick_receiver.take_in()
    quick_receiver.take_in()
    rows = quick_receiver.all(sa.select(batch.c.sequence, batch.c.state).where(batch.c.epoch == OLD))
    assert sorted(map(tuple, rows)) == [(1, BatchState.DISCARDED), (2, BatchState.DISCARDED), (3, BatchState.HELD)]
    assert len(list(quick_receiver.site.spool.folders.incoming.glob("control-*.manifest.jsonl"))) == 1


# A person decides


def test_a_person_adopts_an_epoch_and_its_batches_are_taken(receiver: Side, forger: Forger) -> None:
    forger.send([account(1, FIRST)])
    only(receiver)
    mine = later(forger)
    mine.send([account(2, FIRST + 1)])
    mine.send([account(3, FIRST + 2)])
    receiver.take_in()
    [sentence] = alarms(receiver)
    assert sentence.startswith(f"epoch {NEW} of one waits for a decision: 2 batches of it are held (forth)")
    assert f"; `exchange epoch adopt {NEW} --reason TEXT` takes it" in sentence
    assert f"`exchange epoch new --continues {forger.epoch} --reason TEXT` on one proves it" in sentence

    done = epoch_adoption.adopt_epoch(receiver.site, NEW, "read out on the telephone")

    assert (done.decision, done.channels) == ("adopted", ("forth",))
    assert (alarms(receiver), waiting(receiver)) == ([], [])
    assert [one.verdict for one in receiver.take_in().batches] == [Verdict.APPLIED] * 2
    forger.send([account(1, FIRST + 9)])
    assert verdict(receiver) == (Verdict.QUARANTINED, Reason.STALE_EPOCH)
    with reading(receiver.engine) as connection:
        known = [(one.epoch, one.state, one.sequence) for one in epoch_adoption.list_received(connection)]
    assert known == [(NEW, "present", 2), (forger.epoch, "left", 1)]


def test_a_person_refuses_an_epoch_and_its_batches_are_stale(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    only(quick_receiver)
    later(quick_forger).send([account(2, FIRST + 1)])
    quick_receiver.take_in()

    epoch_adoption.refuse_epoch(quick_receiver.site, NEW, "nobody restored anything")

    assert alarms(quick_receiver) == []
    assert verdict(quick_receiver) == (Verdict.QUARANTINED, Reason.STALE_EPOCH)
    assert present(quick_receiver) == quick_forger.epoch
    for decide in (epoch_adoption.adopt_epoch, epoch_adoption.refuse_epoch):
        with pytest.raises(TransientError, match=f"no batch of epoch {NEW} waits for a decision; nothing was done"):
            decide(quick_receiver.site, NEW, "another thought")


def test_what_a_person_adopts_is_adopted_on_every_channel(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    quick_receiver.take_in()
    Mouth(later(quick_forger, quick_forger.epoch)).say()
    later(quick_forger).send([account(2, FIRST)])
    assert verdict(quick_receiver) == HELD

    done = epoch_adoption.adopt_epoch(quick_receiver.site, NEW, "they said so")

    assert done.channels == ("control", "forth")
    assert (present(quick_receiver), present(quick_receiver, "control")) == (NEW, NEW)
    tell(quick_receiver)  # although nothing of the other side's new life was heard yet
    assert only(quick_receiver).verdict is Verdict.APPLIED
    assert Mouth(later(quick_forger)).say().verdict is Verdict.APPLIED


@needs_postgres
def test_nobody_decides_while_a_channel_is_imported(postgresql_link: Link) -> None:
    side = postgresql_link.other
    with locked(side.engine, "import forth"), pytest.raises(Busy):
        epoch_adoption.adopt_epoch(side.site, NEW, "now")


# The sender


def test_manifests_list_what_was_left_in_order_whatever_a_clock_says(small: Link) -> None:
    names = [own_epoch(small.one)]
    last = {}
    for number in range(3):
        add(small.one, number + 1)
        last[names[-1]] = small.one.all(
            sa.select(position.c.sequence, position.c.digest).where(position.c.current == 1)
        )
        names.append(epochs.begin_epoch(small.one.site, "restored").epoch)
        small.one.execute(sa.update(epoch).values(at=now().replace(year=2030 - number)))
    with reading(small.one.engine) as connection:
        known = left_behind(connection, "forth", names[-1])
        lives = epochs.list_epochs(connection)
    assert [one.epoch for one in known] == names[2::-1]
    assert [(one.sequence, one.digest) for one in known] == [tuple(last[one][0]) for one in names[2::-1]]
    assert [one.epoch for one in lives] == names[::-1]


def test_what_lies_in_sealed_tells_a_restored_database_of_an_epoch_that_it_forgot(small: Link, tmp_path: Path) -> None:
    add(small.one, 1)
    copy = own_epoch(small.one)
    older = Restored(tmp_path, small)
    older.save()
    forgotten = epochs.begin_epoch(small.one.site, "restored once").epoch
    add(small.one, 2)
    small.there.carry()
    small.other.take_in()
    older.restore()
    epochs.begin_epoch(small.one.site, "restored to an older copy")
    with reading(small.one.engine) as connection:
        known = left_behind(connection, "forth", own_epoch(small.one))
    assert [one.epoch for one in known] == [forgotten, copy]
    assert small.one.export().trouble is None
    small.there.carry()
    assert {one.verdict for one in small.other.take_in().batches} == {Verdict.APPLIED}
    assert present(small.other) == own_epoch(small.one)


def go(link: Link) -> None:
    """Let both sides tell each other once."""
    for side in (link.one, link.other):
        assert side.export().trouble is None
        tell(side)
    link.there.carry()
    link.back.carry()
    for side in (link.one, link.other):
        take_in(side)


def lose_sealed(side: Side) -> None:
    """Let a side's own folder be made anew: nothing in it tells of an epoch that the database forgot."""
    shutil.rmtree(side.site.spool.folders.sealed)
    side.site.spool.prepare(make=True)


def test_a_sender_that_forgot_an_epoch_is_reminded_of_it_and_both_sides_agree(small: Link, tmp_path: Path) -> None:
    """Restored to a copy older than the restore before, with all its folders."""
    go(small)
    older = Restored(tmp_path, small)
    older.save()
    forgotten = epochs.begin_epoch(small.one.site, "restored once").epoch
    add(small.one, 1)
    go(small)
    older.restore()
    lose_sealed(small.one)
    epochs.begin_epoch(small.one.site, "restored to an older copy")
    small.one.execute(sa.insert(shop.account).values(id=7, name="of now"))
    go(small)
    assert (present(small.other), [one.present for one in waiting(small.other)]) == (forgotten, [(forgotten,)])
    for _ in range(3):
        go(small)
    assert (present(small.other), present(small.other, "control")) == (own_epoch(small.one),) * 2
    assert (waiting(small.other), halted(small.one), alarms(small.other)) == ([], None, [])
    assert small.other.rows(shop.account)[-1]["name"] == "of now"
    told = [row for row in small.one.all(sa.select(epoch)) if row.epoch == forgotten]
    assert [row.who for row in told] == ["two"]


def test_a_recorded_batch_of_an_epoch_that_its_sender_forgot_is_denounced_by_it(small: Link, tmp_path: Path) -> None:
    go(small)
    older = Restored(tmp_path, small)
    older.save()
    forgotten = epochs.begin_epoch(small.one.site, "restored once").epoch
    add(small.one, 1)
    recorded = {}
    for path in small.one.site.spool.folders.outgoing.glob(f"*-{forgotten}-*"):
        recorded[path.name] = path.read_bytes()
        path.unlink()
    older.restore()
    lose_sealed(small.one)
    living = epochs.begin_epoch(small.one.site, "restored to an older copy").epoch
    add(small.one, 2)
    go(small)
    assert present(small.other) == living

    for name, content in recorded.items():
        (small.other.site.spool.folders.incoming / name).write_bytes(content)
    run = small.other.take_in()
    assert {(one.verdict, one.reason) for one in run.batches} == {HELD}
    for _ in range(3):
        go(small)

    assert waiting(small.other) == []
    with reading(small.other.engine) as connection:
        assert forgotten in positions.left_epochs(connection, "forth")
    states = small.other.all(sa.select(batch.c.state, batch.c.reason).where(batch.c.epoch == forgotten))
    assert set(map(tuple, states)) == {(BatchState.QUARANTINED, Reason.STALE_EPOCH)}
    assert present(small.other) == living


def test_an_epoch_that_a_restored_side_began_later_stops_it_whatever_its_clock_says(
    small: Link, tmp_path: Path
) -> None:
    go(small)
    older = Restored(tmp_path, small)
    older.save()
    epochs.begin_epoch(small.one.site, "restored")
    add(small.one, 1)
    small.there.carry()
    take_in(small.other)
    older.restore()
    small.one.execute(sa.update(network).values(created_at=now().replace(year=2040)))
    small.back.carry()
    take_in(small.one)
    assert "begun before that" in str(halted(small.one))
    epochs.begin_epoch(small.one.site, "so it was")
    for _ in range(3):
        go(small)
    assert present(small.other) == own_epoch(small.one)


# A database that was made anew


@pytest.fixture
def anew(small: Link, databases: Databases) -> Iterator[tuple[Link, str]]:
    """Give a link whose first side has another database than the one whose epoch, given too, the other side is in."""
    go(small)
    add(small.one, 1)
    go(small)
    before = own_epoch(small.one)
    lose_sealed(small.one)
    fresh = Side("one", "two", databases, "sqlite", small.one.home, small.one.site.channels, metadata=shop.metadata)
    old = small.one.site
    fresh.key, fresh.site = small.one.key, replace(old, engine=fresh.engine)
    old_engine, small.one = old.engine, fresh
    yield small, before
    old_engine.dispose()


def test_a_database_that_was_made_anew_stops_and_says_which_epoch_it_has_to_go_on_with(
    anew: tuple[Link, str],
) -> None:
    link, before = anew
    tell(link.other)
    link.back.carry()
    take_in(link.one)
    because = halted(link.one)
    assert because is not None
    assert "it was made anew" in because
    assert because.endswith(f"`exchange epoch new --continues {before} --reason TEXT` begins a new epoch")

    epochs.begin_epoch(link.one.site, "the disk burnt", continues=before)
    for _ in range(3):
        go(link)
    assert present(link.other) == own_epoch(link.one)
    assert (waiting(link.other), alarms(link.one)) == ([], [])


def test_what_was_read_out_proves_a_new_epoch_where_nothing_comes_back(anew: tuple[Link, str]) -> None:
    link, before = anew
    add(link.one, 2)
    unproven = own_epoch(link.one)
    link.there.carry()
    assert verdict(link.other) == HELD
    [one] = waiting(link.other)
    assert (one.epoch, one.present) == (unproven, (before,))

    living = epochs.begin_epoch(link.one.site, "read out", continues=one.present[0]).epoch
    assert link.one.export().trouble is None
    link.there.carry()
    assert Verdict.APPLIED in {one.verdict for one in link.other.take_in().batches}

    link.other.take_in()
    assert (present(link.other), waiting(link.other)) == (living, [])
    [row] = link.other.all(sa.select(batch.c.state, batch.c.reason).where(batch.c.epoch == unproven))
    assert tuple(row) == (BatchState.QUARANTINED, Reason.STALE_EPOCH)


@pytest.mark.parametrize("said", ["", "yesterday", "A" * 12, "a" * 13])
def test_what_continues_no_epoch_is_refused(small: Link, said: str) -> None:
    with pytest.raises(TransientError, match="continues: expected an epoch, 12 of the digits 0 to 9 and a to f, found"):
        epochs.begin_epoch(small.one.site, "a slip of the tongue", continues=said)


def test_no_more_lives_are_remembered_than_an_honest_side_has(quick_receiver: Side) -> None:
    with quick_receiver.engine.begin() as connection:
        for start in range(0, 1200, 100):
            positions.leave(connection, "forth", [f"{number:012x}" for number in range(start, start + 100)])
        assert len(positions.left_epochs(connection, "forth")) == positions.MOST_LEFT
