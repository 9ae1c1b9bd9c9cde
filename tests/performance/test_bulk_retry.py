"""What many dead letters cost when they are retried together: statements by the group, memory by its bounds."""

from __future__ import annotations

import pytest

from exchange.database.locks import writing
from exchange.database.tables import DeadLetterState, Direction
from exchange.dead_letters import bulk_retry, selections, store, transitions
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.store import Letter
from exchange.incoming import importer
from tests.crossing.sides import Side
from tests.performance.watching import watched

FIRST = 1_700_000_000_000_000


def park(side: Side, name: str, numbers: range, *, age: int = 30, text: str = "") -> None:
    """Leave letters whose cause is gone, or is still there if ``age`` is too high, and select them."""
    letters = [
        Letter(
            Direction.IN,
            "forth",
            b'{"stream":"account","op":"upsert","version":%d,"data":{"id":%d,"name":"a%s","age":%d}}'
            % (FIRST, number, text.encode(), age),
            "unique",
            "it was taken",
            stream="account",
            op="upsert",
            key=f'{{"id":{number}}}',
            version=FIRST,
            schema_version=1,
        )
        for number in numbers
    ]
    with writing(side.engine) as connection:
        store.park(connection, letters, "test")
        selections.create_selection(connection, name, Filters(state=DeadLetterState.PARKED))


@pytest.mark.parametrize("age, state", [(30, DeadLetterState.APPLIED), (300, DeadLetterState.PARKED)])
def test_ten_times_the_letters_take_no_more_statements(receiver: Side, age: int, state: DeadLetterState) -> None:
    statements = []
    for name, numbers in (("few", range(100)), ("many", range(1_000, 2_000))):
        park(receiver, name, numbers, age=age)
        with watched(receiver.engine) as seen:
            bulk = bulk_retry.retry_selection(receiver.site, name, stopping=importer.never, report=lambda _: None)
        assert bulk.states[state] >= len(numbers)
        statements.append(seen.statements)
        with writing(receiver.engine) as connection:
            transitions.discard(connection, selections.parked_in(connection, name), "the next begin anew")

    # Settling what stays parked is a statement for each on SQLite, which counts as one.
    assert statements[1] <= statements[0] + 10


def test_long_records_make_small_groups(quick_receiver: Side) -> None:
    quick_receiver.limit(group_bytes=10_000)
    park(quick_receiver, "long", range(30), text="x" * 3_000)
    groups: list[int] = []
    bulk_retry.retry_selection(
        quick_receiver.site, "long", stopping=importer.never, report=lambda retried: groups.append(len(retried))
    )

    assert (sum(groups), max(groups)) == (30, 3)
