"""Settled dead letters go when their time has come, and not before; parked ones never do."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database.engine import now
from exchange.database.tables import DeadLetterState, Direction, dead_letter, event, revision, selected, selection
from exchange.dead_letters import counts, retention, store
from exchange.dead_letters.counts import Backlog
from exchange.dead_letters.retention import CHUNK
from exchange.dead_letters.store import Letter
from exchange.limits import Limits
from exchange.operating.prune import prune_expired
from tests.crossing.sides import Side

KEPT = {DeadLetterState.APPLIED: 10.0, DeadLetterState.SUPERSEDED: 20.0, DeadLetterState.DISCARDED: 30.0}


def settled(side: Side, state: DeadLetterState, days: float, count: int = 1) -> list[int]:
    """Park letters and bring them to a state, all so many days ago; give their ids."""
    moment = now() - timedelta(days=days)
    with side.engine.begin() as connection:
        before = connection.scalar(sa.select(sa.func.max(dead_letter.c.id))) or 0
        store.park(connection, [Letter(Direction.IN, "forth", b"{}", "value", "bad")] * count, "test")
        connection.execute(
            sa.update(dead_letter)
            .where(dead_letter.c.id > before)
            .values(state=state, created_at=moment, updated_at=moment)
        )
        ids = connection.scalars(
            sa.select(dead_letter.c.id).where(dead_letter.c.id > before).order_by(dead_letter.c.id)
        )
        return list(ids)


def ids(side: Side) -> list[int]:
    return [row.id for row in side.all(sa.select(dead_letter.c.id).order_by(dead_letter.c.id))]


def prune(side: Side) -> int:
    return prune_expired(side.site).letters


def test_a_settled_letter_goes_when_its_state_is_kept_no_longer_and_a_parked_one_never(receiver: Side) -> None:
    receiver.limit(letter_days=KEPT)
    due: list[int] = []
    stays: list[int] = []
    for days in (31, 21, 11, 9):
        for state in DeadLetterState:
            (due if days > KEPT.get(state, 1_000) else stays).extend(settled(receiver, state, days))
    assert len(due) == 6
    assert prune(receiver) == 6
    assert ids(receiver) == stays
    assert prune(receiver) == 0


def test_an_id_is_never_given_out_twice(receiver: Side) -> None:
    receiver.limit(letter_days=KEPT)
    [first, last] = settled(receiver, DeadLetterState.APPLIED, 99, count=2)
    assert prune(receiver) == 1
    assert ids(receiver) == [last]
    assert settled(receiver, DeadLetterState.PARKED, 0)[0] > last
    assert prune(receiver) == 1
    assert first < last not in ids(receiver)


def test_the_history_of_a_letter_outlives_it_and_says_why_it_went(quick_receiver: Side) -> None:
    quick_receiver.limit(letter_days=KEPT)
    [letter, _] = settled(quick_receiver, DeadLetterState.DISCARDED, 31, count=2)
    with quick_receiver.engine.begin() as connection:
        mended = {"letter": letter, "number": 1, "record": b"{}", "difference": "", "who": "me", "why": "because"}
        connection.execute(sa.insert(revision).values(at=now(), **mended))
    assert prune(quick_receiver) == 1
    with quick_receiver.engine.connect() as connection:
        causes = [happened["cause"] for happened in store.history(connection, letter)]
    assert causes == ["test", "removed, as it has been discarded for 30 days"]
    assert quick_receiver.all(sa.select(revision)) == []


def test_a_letter_settled_late_is_kept_though_it_was_parked_long_ago(quick_receiver: Side) -> None:
    quick_receiver.limit(letter_days=KEPT)
    [late, due, newest] = settled(quick_receiver, DeadLetterState.APPLIED, 99, count=3)
    quick_receiver.execute(sa.update(dead_letter).where(dead_letter.c.id == late).values(updated_at=now()))
    assert prune(quick_receiver) == 1
    assert ids(quick_receiver) == [late, newest]
    assert due not in ids(quick_receiver)


def test_many_letters_go_in_parts_and_no_more_than_a_run_may_take(receiver: Side) -> None:
    receiver.limit(letter_days=KEPT, pruned_letters=CHUNK + 5)
    settled(receiver, DeadLetterState.APPLIED, 99, count=2 * CHUNK + 10)
    assert prune(receiver) == CHUNK + 5
    assert prune(receiver) == CHUNK + 4
    assert len(ids(receiver)) == 1


def test_a_state_that_is_not_settled_is_refused(quick_receiver: Side) -> None:
    with pytest.raises(ValueError, match="parked are never removed"):
        retention.retire(quick_receiver.engine, DeadLetterState.PARKED, now(), "a mistake", 10)


def test_a_selection_goes_with_the_last_of_its_letters(receiver: Side) -> None:
    receiver.limit(letter_days=KEPT)
    [gone, _] = settled(receiver, DeadLetterState.APPLIED, 99, count=2)
    [stays] = settled(receiver, DeadLetterState.PARKED, 99)
    with receiver.engine.begin() as connection:
        for name, letters in (("old", [gone]), ("mixed", [gone, stays])):
            made: dict[str, Any] = {"filters": "{}", "letters": len(letters), "at": now(), "who": "me"}
            connection.execute(sa.insert(selection).values(name=name, **made))
            rows = [{"selection": name, "letter": letter, "attempts": 1, "revision": 0} for letter in letters]
            connection.execute(sa.insert(selected), rows)
    prune(receiver)
    assert [row.name for row in receiver.all(sa.select(selection.c.name))] == ["mixed"]
    assert {row.selection for row in receiver.all(sa.select(selected.c.selection))} == {"mixed"}


# Alarms

MOMENT = datetime.fromisoformat("2026-11-22T06:15:00+00:00")


@pytest.mark.parametrize(
    "parked, days, alarms",
    [(0, None, []), (5, 2, []), (6, 2, ["6 dead letters"]), (1, 3.1, ["2026-11-19"]), (9, 9, ["9 dead", "2026-11-13"])],
)
def test_too_many_and_too_old_are_an_alarm_each(parked: int, days: float | None, alarms: list[str]) -> None:
    oldest_at = None if days is None else MOMENT - timedelta(days=days)
    backlog = Backlog(parked, 7 if parked else None, oldest_at)
    said = counts.backlog_alarms(backlog, Limits(alarm_letters=5, alarm_days=3), MOMENT)
    assert len(said) == len(alarms)
    assert all(words in str(alarm) for words, alarm in zip(alarms, said, strict=True))


def test_the_backlog_is_that_of_the_parked_letters_alone(quick_receiver: Side) -> None:
    with quick_receiver.engine.connect() as connection:
        assert counts.backlog(connection) == Backlog(0, None, None)
    settled(quick_receiver, DeadLetterState.APPLIED, 9)
    oldest, _ = settled(quick_receiver, DeadLetterState.PARKED, 5, count=2)
    settled(quick_receiver, DeadLetterState.PARKED, 3)
    with quick_receiver.engine.connect() as connection:
        found = counts.backlog(connection)
    assert (found.parked, found.oldest) == (3, oldest)
    assert found.oldest_at is not None
    assert found.oldest_at < now() - timedelta(days=4)
    assert quick_receiver.all(sa.select(event.c.id)) != []
