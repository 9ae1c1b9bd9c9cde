"""Of one row one letter waits, in each direction, however often its record comes: what joins, what takes its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from exchange.database.locks import reading, writing
from exchange.database.tables import DeadLetterState, Direction
from exchange.dead_letters import counts, discard, edit, groups, joining, selections, store
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.store import Letter
from exchange.format.errors import TransientError
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres
from tests.crossing.forging import Forger, account
from tests.crossing.sides import Side
from tests.dead_letters.test_retry import FIRST, letters, old, run, told

PARKED, SUPERSEDED = DeadLetterState.PARKED, DeadLetterState.SUPERSEDED


def take(side: Side, forger: Forger, *records: dict[str, object] | bytes) -> None:
    side.limit(invalid_share=1.0, invalid_records=100_000)
    forger.send(records)
    assert side.take_in().batches


def test_the_same_record_joins_its_letter_and_another_one_takes_its_place(receiver: Side, forger: Forger) -> None:
    take(receiver, forger, old(1), old(2), old(3))
    take(receiver, forger, b"{}", b"{}")
    first = letters(receiver)
    for number in (1, 2):
        begun = edit.begin_edit(receiver.site, number)
        edit.save_edit(receiver.site, begun, edit.with_changes(begun, ["/data/age=50"], []), "why")
    with writing(receiver.engine) as connection:
        selections.create_selection(connection, "mine", Filters(keys=('{"id":1}', '{"id":3}')))

    for at in range(1, 4):
        again = [old(1, FIRST + at), account(2, FIRST + at, age=300 + at), old(3, FIRST + at)]
        take(receiver, forger, *again, b"{}")
    take(receiver, forger, old(3, FIRST - 1), old(3, FIRST - 2))

    waiting = [one for one in letters(receiver) if one.state is PARKED]
    by_key = {one.key: one for one in waiting if one.key}
    assert len(waiting) == len(first) + 3  # what nobody can tell from others has a letter each time
    assert {one.key: (one.seen, one.version) for one in waiting if one.key} == {
        '{"id":1}': (4, FIRST + 3),
        '{"id":2}': (4, FIRST + 3),
        '{"id":3}': (6, FIRST + 3),
    }
    same, other = by_key['{"id":1}'], by_key['{"id":2}']
    assert (same.id, same.revision, same.created_at) == (1, 1, same.first_seen)
    assert same.last_seen > same.first_seen
    assert (other.revision, other.first_seen) == (0, first[1].created_at)
    past = [one for one in letters(receiver) if one.key == other.key and one.state is SUPERSEDED]
    assert [one.revision for one in past] == [1, 0, 0]
    assert told(receiver, past[0].id)[-1].startswith("what a person made of it is kept here")
    assert len(told(receiver, same.id)) == 2

    with reading(receiver.engine) as connection:
        (group,) = groups.grouped(connection, Filters(state=PARKED, stream="account"))
        assert (group.letters, group.seen, group.first_at) == (3, 14, first[0].created_at)
        assert group.last_at == max(one.last_seen for one in waiting if one.key)
        backlog = counts.backlog(connection)
    assert (backlog.parked, backlog.seen, backlog.oldest_at) == (8, 19, first[0].created_at)

    bulk, _ = run(receiver, "mine")
    assert (bulk.letters, bulk.states[DeadLetterState.APPLIED], bulk.failed) == (2, 1, 1)
    rows = {row["id"]: row["age"] for row in receiver.rows(shop.account)}
    assert rows == {1: 50}
    version = receiver.all(sa.select(sa.column("exchange_version")).select_from(sa.text("account")))
    assert [one[0] for one in version] == [FIRST + 3]


def test_what_was_given_up_comes_back_only_where_no_letter_of_its_row_waits(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    side = quick_receiver
    take(side, quick_forger, old(1), old(2))
    with writing(side.engine) as connection:
        selections.create_selection(connection, "all", Filters(state=PARKED))
    discard.discard_letters(side.site, "why", selection="all")
    take(side, quick_forger, old(1, FIRST + 1))

    with pytest.raises(TransientError, match="another dead letter of the row of dead letter 1 is parked"):
        discard.restore_letters(side.site, "why", ids=[1, 2])
    assert discard.restore_letters(side.site, "why", selection="all") == 1
    assert [(one.id, one.state.value) for one in letters(side)] == [(1, "discarded"), (2, "parked"), (3, "parked")]


def test_a_key_that_no_index_takes_and_a_record_too_long_to_read_have_one_letter_each(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    long = Letter(
        Direction.OUT, "back", b"k", "value", "bad", stream="note", op="upsert", key='{"id":"\udcff"}', version=1
    )
    longer = replace(long, direction=Direction.IN, key=f'{{"id":"{"x" * 3000}"}}')
    for at in range(1, 4):
        with writing(quick_receiver.engine) as connection:
            store.park(connection, [replace(one, version=at) for one in (long, longer)], "test")
    quick_receiver.limit(read=replace(quick_receiver.site.limits.read, max_record_bytes=1000))
    for at in range(9, 12):
        take(quick_receiver, quick_forger, account(1, at, name="n" * 2000), account(2, at, name="n" * 1_100_000))

    assert [(one.key, one.error, one.seen) for one in letters(quick_receiver)] == [
        (None, "value", 3),
        (None, "value", 3),
        ('{"id":1}', "size", 3),
        (None, "size", 3),
    ]


def test_a_revision_that_is_no_record_is_shown_and_tried_as_it_is() -> None:
    for mended in (b"[]", b"no", b'{"version":1}', b"\xff"):
        assert joining.at_version(mended, 7) == mended


@needs_postgres
@pytest.mark.parametrize("receiver", ["postgresql"], indirect=True)
def test_two_importers_park_a_row_once(receiver: Side) -> None:
    letter = Letter(
        Direction.IN, "forth.1", b"{}", "value", "bad", stream="account", op="upsert", key='{"id":1}', version=1
    )

    def second() -> None:
        with receiver.engine.begin() as connection:
            store.park(connection, [replace(letter, channel="forth.2", version=2), replace(letter, key="{}")], "test")

    with ThreadPoolExecutor() as threads, receiver.engine.begin() as connection:
        store.park(connection, [letter], "test")
        done = threads.submit(second)
        waiting = sa.select(sa.literal(1)).select_from(sa.text("pg_locks")).where(sa.text("NOT granted"))
        while not receiver.all(waiting):
            assert not done.done(), done.result()
    done.result()

    assert [(one.key, one.seen, one.version) for one in letters(receiver)][:1] == [('{"id":1}', 2, 2)]
    assert len(letters(receiver)) == 2
