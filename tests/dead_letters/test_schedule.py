"""What may heal by itself is tried again after pauses that grow, a bounded number of times; what may not, never."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import clock
from exchange.database.tables import Direction, dead_letter
from exchange.dead_letters import auto_retry, schedule, show
from exchange.dead_letters.schedule import MOST_TRIES, next_try
from tests.crossing import shop
from tests.crossing.forging import Forger, upsert
from tests.crossing.sides import Side

# What these show the databases have no say in, but where they are given both.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000


def letter(side: Side) -> Any:
    """Give the one letter there is."""
    (row,) = side.all(sa.select(dead_letter))
    return row


def make_due(side: Side, **values: Any) -> None:
    side.execute(sa.update(dead_letter).values({"next_try_at": clock.now() - timedelta(seconds=1), **values}))


def orphan(side: Side, forger: Forger) -> None:
    side.limit(invalid_share=1.0)
    forger.send([upsert("visit", FIRST, id=1, country="at", number=1)])
    side.take_in()


def test_pauses_grow_up_to_a_day_and_end() -> None:
    moment = clock.now()
    pauses = [next_try(Direction.IN, "foreign_key", tries, moment) for tries in range(MOST_TRIES + 1)]
    assert pauses.pop() is None
    minutes = [(one - moment) / timedelta(minutes=1) for one in pauses if one is not None]
    for found, expected in zip(minutes, [1, 4, 16, 64, 256, 1024, 1440, 1440], strict=True):
        assert 0.8 * expected <= found <= 1.2 * expected
    assert len({next_try(Direction.IN, "unique", 0, moment) for _ in range(9)}) > 1
    assert next_try(Direction.IN, "schema", 0, moment) is next_try(Direction.OUT, "unique", 0, moment) is None


def test_a_parent_that_comes_by_another_way_is_found_when_the_letter_is_due(receiver: Side, forger: Forger) -> None:
    orphan(receiver, forger)
    assert letter(receiver).next_try_at > clock.now()
    make_due(receiver)
    assert receiver.take_in().reunited == ()
    put_off = letter(receiver)
    assert (put_off.state, put_off.attempts, put_off.tries) == ("parked", 1, 1)
    assert put_off.next_try_at > clock.now() + timedelta(minutes=3)

    receiver.execute(sa.insert(shop.place), {"country": "at", "number": 1, "name": "x"})
    receiver.take_in()
    assert letter(receiver).state == "parked", "it was not due"
    make_due(receiver)
    assert [one.state for one in receiver.take_in().reunited] == ["applied"]
    assert receiver.rows(shop.visit)[0]["id"] == 1


def test_it_is_shown_when_and_for_which_time_and_that_it_ended(quick_receiver: Side, quick_forger: Forger) -> None:
    orphan(quick_receiver, quick_forger)

    def shown() -> str | None:
        with quick_receiver.engine.connect() as connection:
            view = show.view(quick_receiver.site, connection, letter(quick_receiver).id)
        assert view is not None
        return view.next_try

    assert (shown() or "").endswith(f" UTC, try 1 of {MOST_TRIES}")
    make_due(quick_receiver, tries=MOST_TRIES - 1)
    quick_receiver.take_in()
    assert letter(quick_receiver).next_try_at is None
    assert shown() == f"not by itself any more: {MOST_TRIES} of {MOST_TRIES} tries were in vain"


def test_a_unique_value_that_came_free_is_taken(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(invalid_share=1.0)
    quick_receiver.execute(sa.insert(shop.seat), {"id": 9, "code": "a"})
    quick_forger.send([upsert("seat", FIRST, id=1, code="a", rank=None, row=None)])
    quick_receiver.take_in()
    assert (letter(quick_receiver).error, letter(quick_receiver).tries) == ("unique", 0)
    quick_receiver.execute(sa.delete(shop.seat).where(shop.seat.c.id == 9))
    make_due(quick_receiver)
    quick_receiver.take_in()
    assert letter(quick_receiver).state == "applied"


def test_poison_and_what_a_person_has_to_mend_is_never_tried_by_time(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    orphan(quick_receiver, quick_forger)
    make_due(quick_receiver, attempts=quick_receiver.site.limits.poison_after + 1)
    quick_receiver.take_in()
    assert (letter(quick_receiver).next_try_at, letter(quick_receiver).tries) == (None, 0)


def test_a_next_try_of_a_clock_that_was_ahead_is_due_once_a_day_has_gone(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    orphan(quick_receiver, quick_forger)
    make_due(quick_receiver, next_try_at=clock.now() + 2 * schedule.FURTHEST)
    with quick_receiver.engine.begin() as connection:
        auto_retry.bring_near(connection)
    quick_receiver.take_in()
    assert letter(quick_receiver).tries == 1
