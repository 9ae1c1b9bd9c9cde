from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database.tables import DeadLetterState, dead_letter, dead_letter_count
from exchange.dead_letters import counts
from exchange.dead_letters.counts import TREND_HOURS, hour_of
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.groups import grouped
from tests.dead_letters.conftest import MANY, NOW, STATES, letter

PARKED, DISCARDED, APPLIED = DeadLetterState.PARKED, DeadLetterState.DISCARDED, DeadLetterState.APPLIED
COUNT = dead_letter_count.c


def kept(connection: Connection) -> Counter[tuple[str, str, int]]:
    """Add up the counts that are kept, and leave out what comes to nothing."""
    rows = connection.execute(
        sa.select(COUNT.fingerprint, COUNT.state, COUNT.hour, sa.func.sum(COUNT.letters)).group_by(
            COUNT.fingerprint, COUNT.state, COUNT.hour
        )
    )
    return Counter({(row[0], row[1], row[2]): int(row[3]) for row in rows if row[3]})


def counted_anew(connection: Connection) -> Counter[tuple[str, str, int]]:
    """Count every letter."""
    return Counter(
        (row.fingerprint, row.state, hour_of(row.created_at))
        for row in connection.execute(
            sa.select(dead_letter.c.fingerprint, dead_letter.c.state, dead_letter.c.created_at)
        )
    )


def test_counts_follow_whatever_happens_to_letters(many: Connection) -> None:
    assert kept(many) == counted_anew(many)
    few = dead_letter.c.line < 100
    for change in (
        sa.update(dead_letter).where(few).values(state=DISCARDED),
        sa.update(dead_letter).where(few).values(attempts=2),
        sa.update(dead_letter).where(dead_letter.c.line == 5).values(fingerprint="f" * 16, state=PARKED),
        sa.update(dead_letter).where(dead_letter.c.line == 6).values(created_at=NOW - timedelta(days=400)),
        sa.delete(dead_letter).where(few, dead_letter.c.error == "schema"),
    ):
        many.execute(change)
        assert kept(many) == counted_anew(many), change
    assert sum(counts.count_in(many, state) for state in STATES) == sum(counted_anew(many).values())
    many.execute(sa.delete(dead_letter))
    assert kept(many) == Counter()


def test_counts_undone_are_as_they_were(many: Connection) -> None:
    before = kept(many)
    with many.begin_nested() as savepoint:
        many.execute(sa.delete(dead_letter))
        savepoint.rollback()
    assert kept(many) == before


def test_folding_changes_no_count_and_leaves_few_rows(many: Connection) -> None:
    for number in range(MANY, MANY + 50):
        many.execute(sa.insert(dead_letter), letter(number, created_at=NOW - timedelta(days=number)))
    totals = {state: counts.count_in(many, state) for state in STATES}
    groups = grouped(many, Filters(PARKED), NOW)

    for _ in range(2):
        counts.fold(many, NOW)

        assert {state: counts.count_in(many, state) for state in STATES} == totals
        assert grouped(many, Filters(PARKED), NOW) == groups
        rows = many.scalar(sa.select(sa.func.count()).select_from(dead_letter_count))
        assert rows == len({(one, state, max(hour, 0)) for one, state, hour in kept(many)})
        assert min(hour for *_, hour in kept(many)) == 0


@pytest.mark.parametrize("migrated", ["postgresql"], indirect=True)
@pytest.mark.postgres
def test_two_who_park_letters_of_one_cause_do_not_wait_for_each_other(migrated: Engine) -> None:
    with migrated.begin() as one, migrated.begin() as other:
        for connection in (one, other):
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            connection.execute(sa.insert(dead_letter), letter(1, state=PARKED))
        one.execute(sa.update(dead_letter).values(state=DISCARDED))
        counts.fold(other, NOW)
    with migrated.begin() as connection:
        assert (counts.count_parked(connection), counts.count_in(connection, DISCARDED)) == (1, 1)
        assert kept(connection) == counted_anew(connection)


def test_groups_say_how_many_since_when_and_how_it_goes(connection: Connection) -> None:
    fingerprint = "a" * 16
    ages = [timedelta(minutes=1), timedelta(minutes=2), timedelta(hours=5), timedelta(hours=TREND_HOURS + 5)]
    for number, age in enumerate(ages):
        values = letter(7, fingerprint=fingerprint, state=PARKED, created_at=NOW - age, message=f"the {number}th")
        connection.execute(sa.insert(dead_letter), values)
    connection.execute(sa.insert(dead_letter), letter(8, fingerprint=fingerprint, state=APPLIED, created_at=NOW))
    connection.execute(sa.insert(dead_letter), letter(9, fingerprint="b" * 16, state=PARKED, created_at=NOW))

    most, least = grouped(connection, Filters(PARKED), NOW)

    assert (most.fingerprint, most.letters, least.fingerprint, least.letters) == (fingerprint, 4, "b" * 16, 1)
    assert (most.first_at, most.last_at) == (NOW - ages[-1], NOW - ages[0])
    assert (most.example, most.message) == (1, "the 0th")
    assert most.trend == (*(0,) * 18, 1, 0, 0, 0, 0, 2)
    assert most.as_dict()["trend_period_seconds"] == 3600
    [settled] = grouped(connection, Filters(APPLIED), NOW)
    assert (settled.letters, settled.state) == (1, APPLIED)


def test_groups_are_filtered_by_what_their_letters_have_in_common(connection: Connection) -> None:
    for number in range(6):  # alike in all that makes a fingerprint
        alike = letter(number, fingerprint=f"{number:016}", state=PARKED)
        connection.execute(sa.insert(dead_letter), [alike, alike])
    of_two = grouped(connection, Filters(PARKED, channels=("channel_2",)), NOW)
    assert {(one.fingerprint, one.channel, one.letters) for one in of_two} == {
        (f"{number:016}", "channel_2", 2) for number in (2, 5)
    }
    assert [one.fingerprint for one in grouped(connection, Filters(PARKED, fingerprint="0" * 16))] == ["0" * 16]
    for nonsense in (Filters(), Filters(PARKED, text="x"), Filters(PARKED, since=NOW)):
        with pytest.raises(ValueError, match="told apart"):
            grouped(connection, nonsense)
