"""When to nudge: told by a clock that the test holds."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from exchange.celery.nudge_pace import FIRST_PAUSE_SECONDS, GATHER_SECONDS, LONGEST_PAUSE_SECONDS, NudgePace, Pending

NOTHING = Pending()


def changes(oldest: int, newest: int) -> Pending:
    return Pending(frozenset([oldest]), frozenset([newest]))


def files(*names: str) -> Pending:
    return Pending(frozenset(names), frozenset(names))


def nudges_until(pace: NudgePace, end: float, now: float = 0.0) -> list[float]:
    """Nudge whenever it is due, nothing new being seen; give the times."""
    times = []
    while pace.due_at <= end:
        now = max(now, pace.due_at)
        pace.nudged(now)
        times.append(now)
    return times


@pytest.fixture
def pace() -> NudgePace:
    return NudgePace()


def test_with_nothing_there_no_nudge_is_due(pace: NudgePace) -> None:
    pace.see(NOTHING, 0.0)
    assert pace.due_at == math.inf


def test_what_comes_together_goes_in_one_nudge(pace: NudgePace) -> None:
    pace.see(changes(1, 1), 10.0)
    pace.see(changes(1, 9), 10.0 + GATHER_SECONDS / 2)
    assert pace.due_at == 10.0 + GATHER_SECONDS


def test_what_was_taken_care_of_is_not_nudged_for_again(pace: NudgePace) -> None:
    pace.see(changes(1, 1), 0.0)
    pace.nudged(0.1)
    pace.see(NOTHING, 0.2)
    assert pace.due_at == math.inf


def test_a_commit_with_an_older_change_than_one_that_was_sent_is_news(pace: NudgePace) -> None:
    pace.see(changes(11, 11), 0.0)
    pace.nudged(0.1)
    pace.see(changes(10, 10), 0.2)
    assert pace.due_at <= 0.1 + FIRST_PAUSE_SECONDS


def test_a_lost_nudge_is_repeated_ever_more_seldom_and_then_left_to_beat(pace: NudgePace) -> None:
    pace.see(changes(1, 1), 0.0)
    times = nudges_until(pace, end=3600.0)
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[0] == FIRST_PAUSE_SECONDS
    assert all(after == pytest.approx(2 * before) for before, after in pairwise(pauses))
    assert times[-1] < 2 * LONGEST_PAUSE_SECONDS
    assert pace.due_at == math.inf


def test_a_busy_application_whose_exports_fail_is_nudged_for_seldom(pace: NudgePace) -> None:
    nudged = []
    for tick in range(10_000):
        now = tick / 10
        pace.see(changes(1, tick + 1), now)
        if pace.due_at <= now:
            pace.nudged(now)
            nudged.append(now)
    assert len(nudged) < 8 + 1000 / LONGEST_PAUSE_SECONDS
    pace.see(NOTHING, 1000.0)
    pace.see(changes(20_000, 20_000), 1000.1)
    assert pace.due_at <= 1000.0 + FIRST_PAUSE_SECONDS + GATHER_SECONDS


def test_a_busy_application_whose_exports_work_is_nudged_for_all_the_time(pace: NudgePace) -> None:
    nudged = []
    for tick in range(1000):
        now = tick / 10
        pace.see(changes(tick, tick + 5), now)
        if pace.due_at <= now:
            pace.nudged(now)
            nudged.append(now)
    assert max(after - before for before, after in pairwise(nudged)) < FIRST_PAUSE_SECONDS + 0.15


def test_a_batch_that_stays_for_long_makes_no_later_arrival_dearer(pace: NudgePace) -> None:
    pace.see(files("held"), 0.0)
    nudges_until(pace, end=100.0)
    for number in range(5):
        now = 200.0 + number
        pace.see(files("held", f"new {number}"), now)
        assert pace.due_at == now + GATHER_SECONDS
        pace.nudged(now + GATHER_SECONDS)
        pace.see(files("held"), now + 0.5)
        assert pace.due_at == math.inf


def test_a_nudge_that_is_put_off_stays_due(pace: NudgePace) -> None:
    pace.see(files("a"), 0.0)
    pace.hold(1.0)
    assert pace.due_at == 1.0 + FIRST_PAUSE_SECONDS
