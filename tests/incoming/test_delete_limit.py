"""What waits for a person's word: a table that is being emptied, by one batch or many, and versions of the future."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import clock, network, tables
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.database.tables import DeadLetterState, dead_letter
from exchange.dead_letters import retry
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.incoming import delete_limit, importer, release
from exchange.results import Imported
from exchange.tables import version_limit
from tests.crossing import shop
from tests.crossing.forging import Forger, account, delete
from tests.crossing.sides import Side

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000
FAR = 2**63 - 1
"""No clock will ever say this."""


def take_in(side: Side) -> list[Imported]:
    """Import, and give the outcomes."""
    run = side.take_in()
    assert run.trouble is None
    return list(run.batches)


def verdicts(side: Side) -> list[Verdict]:
    return [one.verdict for one in take_in(side)]


def held(side: Side, reason: Reason) -> Imported:
    """Import, and give the one batch that is held."""
    (outcome,) = [one for one in take_in(side) if one.verdict is Verdict.HELD]
    assert outcome.reason is reason
    return outcome


def ids(side: Side) -> list[int]:
    return [row["id"] for row in side.rows(shop.account)]


def remove(forger: Forger, first: int, last: int) -> str:
    """Send deletes of some accounts."""
    return forger.send([delete("account", FIRST + 1000 + n, id=n) for n in range(first, last + 1)])


def hours_ago(side: Side, hours: int) -> None:
    """Let what was deleted so far be as old as that."""
    side.execute(sa.update(tables.deleted).values(hour=tables.deleted.c.hour - hours))


def us(**later: float) -> int:
    """Give the version of a sender whose clock is ahead by so much."""
    return round((now() + timedelta(**later)).timestamp() * 1_000_000)


# Deletes


def test_many_small_batches_do_not_empty_a_table_either(receiver: Side, forger: Forger) -> None:
    receiver.limit(deleted_rows=5)
    forger.send([account(n, FIRST + n) for n in range(1, 21)])
    stems = [remove(forger, first, first + 2) for first in (1, 4, 7, 10, 13)]
    outcome = held(receiver, Reason.DELETES)
    assert ids(receiver) == list(range(10, 21))
    assert "it deletes 3 of 11 rows of account, and batches before it deleted 9 within 24 hours" in outcome.message
    assert "exchange import --release" in outcome.message
    assert outcome.batch == stems[3]  # the one behind it waits


def test_what_is_not_all_there_is_not_held_but_missing(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(deleted_rows=5)
    quick_forger.send([account(n, FIRST + n) for n in range(1, 11)])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    stem = remove(quick_forger, 1, 9)
    (data,) = (path for path in quick_receiver.home.rglob(f"{stem}.*") if "manifest" not in path.name)
    content = data.read_bytes()
    data.unlink()
    assert verdicts(quick_receiver) == [Verdict.INCOMPLETE]
    data.write_bytes(content)
    assert held(quick_receiver, Reason.DELETES).batch == stem


def test_the_window_passes(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(deleted_rows=5)
    quick_forger.send([account(n, FIRST + n) for n in range(1, 21)])
    for first in (1, 4, 7):
        remove(quick_forger, first, first + 2)
    assert verdicts(quick_receiver) == [Verdict.APPLIED] * 4
    remove(quick_forger, 10, 12)
    hours_ago(quick_receiver, 22)
    assert "within 24 hours" in held(quick_receiver, Reason.DELETES).message
    hours_ago(quick_receiver, 2)
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert quick_receiver.all(sa.select(tables.deleted.c.deleted)) == [(3,)]  # what passed is not kept


def test_a_release_lets_in_what_follows_until_the_rest_is_being_emptied(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.limit(deleted_rows=5)
    quick_forger.send([account(n, FIRST + n) for n in range(1, 41)])
    for number in range(1, 37, 4):
        remove(quick_forger, number, number + 3)
    first = held(quick_receiver, Reason.DELETES)
    assert len(ids(quick_receiver)) == 20
    assert release.release_batch(quick_receiver.site, first.batch, park=False).verdict is Verdict.APPLIED
    second = held(quick_receiver, Reason.DELETES)
    assert len(ids(quick_receiver)) == 8
    assert (
        importer.import_batches(quick_receiver.site, stem=second.batch, release=True).batches[0].verdict
        is Verdict.APPLIED
    )
    assert len(ids(quick_receiver)) == 4


def test_a_table_whose_rows_come_and_go_is_not_being_emptied(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(deleted_rows=5)
    quick_forger.send([account(n, FIRST + n) for n in range(1, 7)])
    for first in range(1, 22, 3):
        records = [account(n, FIRST + n) for n in range(first + 6, first + 9)]
        quick_forger.send([*records, *(delete("account", FIRST + 1000 + n, id=n) for n in range(first, first + 3))])
    assert set(verdicts(quick_receiver)) == {Verdict.APPLIED}
    assert len(ids(quick_receiver)) == 6
    stem = remove(quick_forger, 22, 25)
    assert held(quick_receiver, Reason.DELETES).batch == stem


def test_rows_that_came_and_went_before_they_were_all_counted_are_not_being_emptied(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    def come_and_go(first: int, count: int, more: int = 0) -> str:
        new = [account(n, FIRST + n) for n in range(first + 30, first + 30 + count + more)]
        return quick_forger.send(
            [*new, *(delete("account", FIRST + 1000 + n, id=n) for n in range(first, first + count))]
        )

    quick_receiver.limit(deleted_rows=20)
    quick_forger.send([account(n, FIRST + n) for n in range(1, 31)])
    come_and_go(1, 1)
    assert verdicts(quick_receiver) == [Verdict.APPLIED] * 2
    assert quick_receiver.all(sa.select(tables.deleted.c.rows)) == [(4,)]  # or more: there are plenty beside one delete
    hours_ago(quick_receiver, 2)
    for first in range(2, 62, 4):  # twice the table
        come_and_go(first, 4)
    assert set(verdicts(quick_receiver)) == {Verdict.APPLIED}
    assert len(ids(quick_receiver)) == 30
    remove(quick_forger, 62, 71)
    stem = remove(quick_forger, 72, 81)
    assert held(quick_receiver, Reason.DELETES).batch == stem


def test_of_a_large_table_few_rows_are_counted_and_more_when_more_went(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.limit(deleted_rows=5)
    quick_forger.send([account(n, FIRST + n) for n in range(1, 101)])
    counted = []
    for number in range(1, 9):
        remove(quick_forger, number, number)
        assert set(verdicts(quick_receiver)) == {Verdict.APPLIED}
        counted += quick_receiver.all(sa.select(tables.deleted.c.rows))
    assert [rows for (rows,) in counted] == [4, 8, 16, 16, 32, 32, 32, 32]
    remove(quick_forger, 9, 48)
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert quick_receiver.all(sa.select(tables.deleted.c.deleted, tables.deleted.c.rows)) == [(48, 100)]
    stem = remove(quick_forger, 49, 54)
    assert held(quick_receiver, Reason.DELETES).batch == stem


def test_deletes_of_rows_that_are_not_here_do_not_count(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(deleted_rows=5)
    quick_forger.send([account(n, FIRST + n) for n in range(1, 21)])
    for first in (101, 104, 107, 110, 113):
        remove(quick_forger, first, first + 2)
    remove(quick_forger, 1, 3)
    assert set(verdicts(quick_receiver)) == {Verdict.APPLIED}
    assert quick_receiver.all(sa.select(tables.deleted.c.stream, tables.deleted.c.deleted)) == [("account", 3)]


def test_what_is_rolled_back_is_not_counted(receiver: Side, forger: Forger) -> None:
    forger.send([account(n, FIRST + n) for n in range(1, 4)])
    assert verdicts(receiver) == [Verdict.APPLIED]
    bad = [account(100 + n, FIRST + n, age=200) for n in range(20)]
    forger.send([*bad, delete("account", FIRST + 1000, id=1)])
    assert verdicts(receiver) == [Verdict.QUARANTINED]
    assert receiver.all(sa.select(tables.deleted)) == []


def test_what_a_snapshot_removes_counts_with_the_rest(
    quick_receiver: Side, quick_forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_receiver.limit(deleted_rows=5)
    quick_forger.send([account(n, FIRST + n) for n in range(1, 21)])
    for first in (1, 4):
        remove(quick_forger, first, first + 2)
    assert set(verdicts(quick_receiver)) == {Verdict.APPLIED}
    part = {
        "name": "0123456789ab-1",
        "version": FIRST + 5000,
        "part": 1,
        "last": False,
        "streams": ["account"],
        "buckets": None,
        "of": 1024,
        "prune": [],
        "answers": None,
    }
    kept = [account(n, FIRST + 5000) for n in range(12, 21)]
    quick_forger.send(kept, claims={"kind": "snapshot", "snapshot": part})
    part |= {"part": 2, "last": True, "prune": ["account"]}
    stem = quick_forger.send([], claims={"kind": "snapshot", "snapshot": part})
    outcome = held(quick_receiver, Reason.DELETES)
    assert "it removes 5 or more of 14 rows of account, and batches before it deleted 6" in outcome.message
    assert importer.import_batches(quick_receiver.site, stem=stem, release=True).batches[0].verdict is Verdict.APPLIED
    assert ids(quick_receiver) == list(range(12, 21))
    assert quick_receiver.all(sa.select(tables.deleted)) == []
    monkeypatch.setattr(delete_limit, "MOST_COUNTED", 4)
    quick_forger.send([delete("account", FIRST + 9000, id=20)])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    rows = quick_receiver.all(sa.select(tables.deleted.c.deleted, tables.deleted.c.rows))
    assert [tuple(row) for row in rows] == [(1, 4)]


# Versions


def letters(side: Side) -> list[Any]:
    columns = [dead_letter.c[name] for name in ("id", "error", "message", "state")]
    return side.all(sa.select(*columns).order_by(dead_letter.c.id))


def test_a_version_far_ahead_is_parked_and_the_row_goes_on(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST), account(2, FIRST + 1)])
    quick_forger.send([account(1, FAR, name="for ever"), delete("account", FAR, id=2), account(3, FIRST + 2)])
    quick_forger.send([account(1, FIRST + 5, name="and on"), account(2, FIRST + 6, name="still here")])
    assert verdicts(quick_receiver) == [Verdict.APPLIED] * 3
    assert [row["name"] for row in quick_receiver.rows(shop.account)] == ["and on", "still here", "account 3"]
    assert quick_receiver.all(sa.select(tables.tombstone)) == []
    found = letters(quick_receiver)
    assert [(one.error, one.state) for one in found] == [("version", DeadLetterState.PARKED)] * 2
    assert "further ahead than EXCHANGE_AHEAD_DAYS lets it be" in found[0].message
    (again, _) = retry.retry_letters(quick_receiver.site, [one.id for one in found])
    assert again.state is DeadLetterState.PARKED  # no retry goes round it


@pytest.mark.parametrize("days, taken", [(29, True), (31, False)])
def test_a_clock_may_be_ahead_by_so_many_days(
    quick_receiver: Side, quick_forger: Forger, days: int, taken: bool
) -> None:
    quick_forger.send([account(1, us(days=days))])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert (ids(quick_receiver) == [1], letters(quick_receiver) == []) == (taken, taken)


def test_a_sender_whose_clock_is_years_ahead_is_held_once_and_then_goes_on(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    version = us(days=40 * 365)
    stem = quick_forger.send([account(n, version + n) for n in range(20)])
    quick_forger.send([account(100, version + 100)])
    outcome = held(quick_receiver, Reason.VERSIONS)
    assert (outcome.batch, ids(quick_receiver), letters(quick_receiver)) == (stem, [], [])
    assert f"`exchange import --release {stem}` applies it" in outcome.message
    (again,) = [one for one in take_in(quick_receiver) if one.batch == stem]
    assert (again.verdict, again.changed) == (Verdict.HELD, False)
    assert quick_receiver.all(sa.select(tables.attempt)) == []
    assert release.release_batch(quick_receiver.site, stem, park=False).verdict is Verdict.APPLIED
    quick_forger.send([account(101, version + 1000)])
    assert verdicts(quick_receiver) == [Verdict.APPLIED] * 2
    assert len(ids(quick_receiver)) == 22
    with reading(quick_receiver.engine) as connection:
        (word,) = version_limit.listed(connection)
    assert (word.channel, word.version, word.reason) == ("forth", version + 19, f"batch {stem} was let in")
    quick_forger.send([account(1, FAR)])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert [one.error for one in letters(quick_receiver)] == ["version"]  # that word was no word for this one


def test_a_held_batch_goes_on_by_itself_when_our_own_clock_was_wrong(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.limit(ahead_days=1)
    quick_forger.send([account(n, us(days=3) + n) for n in range(20)])
    assert "line 11: " in held(quick_receiver, Reason.VERSIONS).message
    quick_receiver.limit(ahead_days=4)  # as if three days had passed
    assert verdicts(quick_receiver) == [Verdict.APPLIED]


def test_a_clock_that_fell_back_does_not_hold_what_it_would_have_taken(
    quick_receiver: Side, quick_forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_forger.send([account(1, us())])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    monkeypatch.setenv(clock.AHEAD, str(-20_000 * 86400))
    quick_forger.send([account(2, us())])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    assert ids(quick_receiver) == [1, 2]


def test_deletes_that_were_counted_while_the_clock_was_ahead_count_as_of_now_and_not_until_then(
    quick_receiver: Side, quick_forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_forger.send([account(n, us() + n) for n in range(10)])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    monkeypatch.setenv(clock.AHEAD, str(365 * 86_400))
    quick_forger.send([delete("account", us() + 100, id=1)])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    monkeypatch.setenv(clock.AHEAD, "0")
    quick_forger.send([delete("account", us() + 200, id=2)])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    [row] = quick_receiver.all(sa.select(tables.deleted.c.deleted, tables.deleted.c.hour))
    assert row.deleted == 2
    assert abs(row.hour - now().timestamp() / 3600) < 2


def test_a_snapshot_far_ahead_is_held_unopened(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(n, FIRST + n) for n in range(1, 4)])
    part = {"name": "0123456789ab-1", "version": FAR, "part": 1, "last": True, "streams": ["account"]}
    part |= {"buckets": None, "of": 1024, "prune": ["account"], "answers": None}
    stem = quick_forger.send([], claims={"kind": "snapshot", "snapshot": part, "schemas": {"account": 1}})
    outcome = held(quick_receiver, Reason.VERSIONS)
    assert (outcome.batch, ids(quick_receiver)) == (stem, [1, 2, 3])
    assert quick_receiver.all(sa.select(tables.tombstone)) == []


def test_what_is_parked_is_let_in_by_a_persons_word(quick_receiver: Side, quick_forger: Forger) -> None:
    version = us(days=365)
    quick_forger.send([account(1, version)])
    assert verdicts(quick_receiver) == [Verdict.APPLIED]
    (parked,) = letters(quick_receiver)
    done = version_limit.allow_ahead_by_hand(
        quick_receiver.site, "forth", version, "their clock was set wrong when it was made"
    )
    assert (done.channel, done.version) == ("forth", version)
    assert retry.retry_letters(quick_receiver.site, [parked.id])[0].state is DeadLetterState.APPLIED
    assert ids(quick_receiver) == [1]


def test_a_row_that_was_frozen_is_freed(receiver: Side, forger: Forger) -> None:
    receiver.limit(ahead_days=10**9)
    forger.send([account(1, FAR, name="frozen"), account(3, FIRST), delete("account", FAR, id=2)])
    forger.send([account(1, FIRST + 5, name="and on"), account(2, FIRST + 6)])
    assert verdicts(receiver) == [Verdict.APPLIED] * 2
    assert [row["name"] for row in receiver.rows(shop.account)] == ["frozen", "account 3"]
    freed = [version_limit.free(receiver.site, "account", f'{{"id": {number}}}') for number in (1, 2)]
    assert [(one.key, one.version, one.deleted) for one in freed] == [('{"id":1}', FAR, False), ('{"id":2}', FAR, True)]
    forger.send([account(1, FIRST + 7, name="and on"), account(2, FIRST + 8)])
    assert verdicts(receiver) == [Verdict.APPLIED]
    assert [row["name"] for row in receiver.rows(shop.account)] == ["and on", "account 2", "account 3"]


@pytest.mark.parametrize(
    "stream, key, words",
    [
        ("nobody", '{"id": 1}', "receives no stream nobody, but everything"),
        ("account", "7", 'expected {"id": ...} as JSON'),
        ("account", '{"id": "x"}', 'expected {"id": ...} as JSON'),
        ("account", "{", 'expected {"id": ...} as JSON'),
        ("account", '{"id": 99}', "neither a row nor a delete of key"),
    ],
)
def test_what_can_not_be_freed_is_one_sentence(quick_receiver: Side, stream: str, key: str, words: str) -> None:
    with pytest.raises(TransientError, match="nothing was done") as refusal:
        version_limit.free(quick_receiver.site, stream, key)
    assert words in refusal.value.sentence
    with reading(quick_receiver.engine) as connection:
        assert network.known_epoch(connection, "two") is not None
