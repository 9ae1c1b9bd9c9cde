"""A retry in the background: whoever works on it, each letter is tried once, and a person's word counts at once."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from exchange.database import make_engine
from exchange.database.locks import reading, writing
from exchange.database.tables import RetryState, background_retry, dead_letter, event
from exchange.database.whoami import acting_for
from exchange.dead_letters import background, selections
from exchange.dead_letters.background import BackgroundRetry
from exchange.dead_letters.bulk_retry import Pace
from exchange.dead_letters.filters import Filters
from exchange.format.errors import TransientError
from exchange.incoming import importer
from exchange.operating.channels import pause_channel, resume_channel
from tests.crossing import shop
from tests.crossing.forging import Forger, upsert
from tests.crossing.sides import Side

# What these show the databases have no say in, but where they are given both.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000


def parked(side: Side, forger: Forger, number: int) -> None:
    """Have so many records parked for want of a parent, and select them."""
    side.limit(invalid_share=1.0, invalid_records=100_000, group_letters=4)
    forger.send([upsert("visit", FIRST + one, id=one, country="at", number=one) for one in range(number)])
    side.take_in()
    select(side)


def select(side: Side) -> None:
    with writing(side.engine) as connection:
        selections.create_selection(connection, "all", Filters())


def begin(side: Side, pace: Pace | None = None) -> BackgroundRetry:
    with acting_for("ada"):
        return background.begin(side.site, "all", pace or Pace(), why="their parents came")


def find(side: Side, one: BackgroundRetry) -> BackgroundRetry:
    with reading(side.engine) as connection:
        return background.find(connection, one.id)


def work(side: Side, report: Callable[[BackgroundRetry], None] = lambda _one: None, seconds: float = 60) -> bool:
    return background.work_off(side.site, importer.never, seconds=seconds, report=report)


def attempts(side: Side) -> Counter[tuple[str, int]]:
    return Counter(tuple(row) for row in side.all(sa.select(dead_letter.c.state, dead_letter.c.attempts)))


def let_parents_come(side: Side, *numbers: int) -> None:
    side.execute(sa.insert(shop.place), [{"country": "at", "number": one, "name": "x"} for one in numbers])


def test_each_letter_is_tried_once_in_the_name_of_whoever_asked(receiver: Side, forger: Forger) -> None:
    parked(receiver, forger, 10)
    let_parents_come(receiver, *range(7))
    one = begin(receiver)
    assert (one.state, one.letters, one.who) == (RetryState.RUNNING, 10, "ada")
    assert not work(receiver)

    done = find(receiver, one)
    assert (done.state, done.tried, done.applied, done.parked) == (RetryState.DONE, 10, 7, 3)
    assert attempts(receiver) == {("applied", 2): 7, ("parked", 2): 3}
    assert not work(receiver)
    assert attempts(receiver) == {("applied", 2): 7, ("parked", 2): 3}
    said = receiver.all(sa.select(event.c.who).where(event.c.cause.startswith("retried")))
    assert len(said) == 10
    assert all(row.who.startswith("ada, ") for row in said)


def test_a_slice_ends_in_time_and_the_next_one_goes_on(quick_receiver: Side, quick_forger: Forger) -> None:
    parked(quick_receiver, quick_forger, 10)
    one = begin(quick_receiver)
    tried = []
    while work(quick_receiver, seconds=0.0):
        tried.append(find(quick_receiver, one).tried)
    assert tried == [4, 8]
    assert find(quick_receiver, one).state is RetryState.DONE


@pytest.mark.parametrize("change", ["pause", "cancel"])
def test_a_person_stops_it_between_two_groups_and_what_was_not_tried_stays(
    change: str, quick_receiver: Side, quick_forger: Forger
) -> None:
    parked(quick_receiver, quick_forger, 12)
    one = begin(quick_receiver)

    def stop(seen: BackgroundRetry) -> None:
        if seen.tried == 4:
            with acting_for("bob"):
                getattr(background, change)(quick_receiver.site, one.id, "not now")

    work(quick_receiver, stop)
    stopped = find(quick_receiver, one)
    assert (stopped.tried, stopped.changed_by, stopped.message) == (4, "bob", "not now")
    assert attempts(quick_receiver) == {("parked", 2): 4, ("parked", 1): 8}
    assert not work(quick_receiver)
    if change == "pause":
        background.resume(quick_receiver.site, one.id, "go on")
        work(quick_receiver)
        assert (find(quick_receiver, one).state, find(quick_receiver, one).tried) == (RetryState.DONE, 12)
        assert attempts(quick_receiver) == {("parked", 2): 12}
    with pytest.raises(TransientError, match="nothing was changed"):
        background.pause(quick_receiver.site, one.id, "late")


def test_a_group_that_was_being_tried_when_it_was_stopped_or_taken_is_undone(receiver: Side, forger: Forger) -> None:
    parked(receiver, forger, 4)
    let_parents_come(receiver, *range(4))
    one = begin(receiver)
    taken = background._Slice(receiver.site, one, float("inf"), importer.never, lambda _one: None)
    taken._take()
    receiver.execute(sa.update(background_retry).values(worker="another one"))
    with pytest.raises(background._Taken), writing(receiver.engine) as connection:
        taken._count(connection, [])
    receiver.execute(sa.update(background_retry).values(worker=taken._token))
    background.pause(receiver.site, one.id, "stop")
    with pytest.raises(background._Taken), writing(receiver.engine) as connection:
        taken._count(connection, [])
    assert attempts(receiver) == {("parked", 1): 4}


def test_its_pace_ends_it_and_it_says_so(quick_receiver: Side, quick_forger: Forger) -> None:
    parked(quick_receiver, quick_forger, 10)
    one = begin(quick_receiver, Pace(canary=2))
    work(quick_receiver)
    stopped = find(quick_receiver, one)
    assert (stopped.state, stopped.tried) == (RetryState.STOPPED, 2)
    assert stopped.message == "2 of the first 2 did not hold; what is left was not tried"
    again = begin(quick_receiver, Pace(stop_after=3))
    work(quick_receiver)
    assert (find(quick_receiver, again).state, find(quick_receiver, again).tried) == (RetryState.STOPPED, 3)
    assert attempts(quick_receiver) == {("parked", 2): 5, ("parked", 1): 5}


def test_one_selection_is_tried_by_one_retry_at_a_time(quick_receiver: Side, quick_forger: Forger) -> None:
    parked(quick_receiver, quick_forger, 2)
    one = begin(quick_receiver)
    with pytest.raises(TransientError, match=f"retry {one.id} of selection all, asked for by ada"):
        begin(quick_receiver)
    work(quick_receiver)
    with pytest.raises(TransientError, match="nothing is left to try of selection all"):
        begin(quick_receiver)


def test_letters_of_a_paused_channel_wait_for_it(quick_receiver: Side, quick_forger: Forger) -> None:
    parked(quick_receiver, quick_forger, 2)
    one = begin(quick_receiver)
    pause_channel(quick_receiver.site, "forth", "a migration")
    assert not work(quick_receiver)
    waiting = find(quick_receiver, one)
    assert (waiting.state, waiting.tried) == (RetryState.RUNNING, 0)
    assert (waiting.message or "").startswith("it waits: channel forth is paused since ")
    resume_channel(quick_receiver.site, "forth")
    work(quick_receiver)
    assert find(quick_receiver, one).state is RetryState.DONE


def test_what_ended_is_forgotten_after_its_retention(quick_receiver: Side, quick_forger: Forger) -> None:
    parked(quick_receiver, quick_forger, 1)
    one = begin(quick_receiver)
    work(quick_receiver)
    closed = find(quick_receiver, one).closed_at
    assert closed is not None
    for before, left in ((closed, 1), (closed.replace(year=closed.year + 1), 0)):
        with writing(quick_receiver.engine) as connection:
            background.forget(connection, before)
        assert len(quick_receiver.all(sa.select(background_retry.c.id))) == left


def _work_as_a_process(side: Side) -> None:
    """Work on retries with a database of one's own, as a worker's child does, until nothing runs."""
    site = replace(side.site, engine=make_engine(side.engine.url.render_as_string(hide_password=False)))
    while background.work_off(site, importer.never, seconds=0.05):
        pass


@pytest.mark.thorough
def test_whoever_is_killed_in_the_middle_of_it_tries_nothing_twice_and_skips_nothing(
    receiver: Side, forger: Forger, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(f"{request.config.option.hypothesis_seed} {request.node.name}")
    parked(receiver, forger, 160)
    let_parents_come(receiver, *range(0, 160, 2))
    one = begin(receiver)
    receiver.engine.dispose()
    killed, processes = 0, multiprocessing.get_context("fork")
    while find(receiver, one).state is RetryState.RUNNING:
        receiver.engine.dispose()
        # Two at once, as two workers are: one of them has the turn.
        workers = [processes.Process(target=_work_as_a_process, args=(receiver,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        before = find(receiver, one).tried
        while any(worker.is_alive() for worker in workers) and find(receiver, one).tried == before:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.1)
        for worker in workers:
            killed += worker.is_alive()
            worker.kill()
            worker.join()
    assert killed > 5, "it was too quick to be killed"
    done = find(receiver, one)
    assert (done.state, done.tried, done.applied, done.parked) == (RetryState.DONE, 160, 80, 80)
    assert attempts(receiver) == {("applied", 2): 80, ("parked", 2): 80}
    assert [row["id"] for row in receiver.rows(shop.visit)] == list(range(0, 160, 2))
    assert len(receiver.all(sa.select(event.c.id).where(event.c.cause.startswith("retried")))) == 160
