"""A file's rows in the table, once, past those that are bad, whatever happens in between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.database.locks import writing
from exchange.database.tables import IntakeState
from exchange.format.errors import TransientError
from exchange.intake import ledger, load, undo
from tests.crossing import shop
from tests.crossing.processes import KILLED, fork, join, run_killed_at
from tests.intake import lines
from tests.intake.lines import Loads, row


def ids(loads: Loads) -> list[int]:
    return [one["id"] for one in loads.side.rows(shop.account)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have segments of a few rows, whatever they take."""
    monkeypatch.setattr(load, "FIRST_SEGMENT_ROWS", 6)
    monkeypatch.setattr(load, "LEAST_SEGMENT_ROWS", 6)
    monkeypatch.setattr(load, "MOST_GROWTH", 1.0)


def test_rows_are_loaded_past_each_kind_of_bad_one(loads: Loads) -> None:
    loads.side.execute(sa.insert(shop.account), {"id": 5, "name": "before"})
    number = loads.drop(
        row(1), "no json", row(5), row(2, 200), {**row(3), "name": None}, row(4), row(4, 8), row(6, 2**40)
    )
    entry = loads.load(number)

    assert (entry.state, entry.rows_read, entry.rows_loaded, entry.rows_parked) == (IntakeState.LOADED, 8, 2, 6)
    assert [(line, error) for line, error, _ in loads.letters()] == [
        (2, "cell"),
        (3, "unique"),
        (4, "constraint"),
        (5, "schema"),
        (7, "unique"),
        (8, "schema"),
    ]
    assert loads.letters()[0][2] == b"no json"
    assert ids(loads) == [1, 4, 5]
    assert loads.captured() == 3
    letter = tables.dead_letter.c
    [(intake, producer, stream, channel)] = set(
        loads.side.all(sa.select(letter.intake, letter.producer, letter.stream, letter.channel))
    )
    assert (intake, producer, stream, channel) == (number, "rows.jsonl", "account", "forth")


@pytest.mark.same_on("postgresql")
def test_rows_that_wait_for_another_one_are_parked_and_count_as_no_bad_ones(loads: Loads) -> None:
    visits = [{"id": one, "country": "at", "number": 1} for one in range(30)]
    loads.limit(intake_bad_rows=0)
    entry = loads.load(loads.drop(*visits, stream="visit"))
    assert (entry.state, entry.rows_parked, entry.rows_waiting) == (IntakeState.LOADED, 30, 30)


@pytest.mark.usefixtures("small")
def test_a_file_with_too_many_bad_rows_leaves_nothing_but_the_rows_that_were_there(loads: Loads) -> None:
    loads.side.execute(sa.insert(shop.account), [{"id": 3, "name": "before"}, {"id": 40, "name": "mine"}])
    bad = [f"bad {one}" for one in range(11)]
    number = loads.drop(*map(row, range(20)), *bad, bad_share=0.3, cuts=[8])
    entry = loads.load(number)
    assert entry.state is IntakeState.REFUSED
    assert "more of its rows are bad than are allowed (100,000, and 30% of them)" in entry.message
    assert "19 rows that were loaded of it were deleted again" in entry.message
    assert [(one["id"], one["name"]) for one in loads.side.rows(shop.account)] == [(3, "before"), (40, "mine")]
    assert (entry.rows_loaded, entry.rows_parked, loads.letters()) == (0, 0, [])
    left = sa.select(tables.event).where(tables.event.c.subject == "dead_letter")
    assert loads.side.all(left) == []
    # Mended it is no duplicate, and neither are its bytes.
    assert loads.load(loads.drop(*map(row, range(20)), *bad, bad_share=0.9)).state is IntakeState.LOADED


@pytest.mark.parametrize(
    "how", [{"on_invalid": "reject"}, {"mode": "replace"}, {"bad_rows": 0}, {"bad_rows": 0, "whole": True}]
)
@pytest.mark.usefixtures("small")
def test_the_first_bad_row_refuses_a_file_that_is_to_have_none(quick: Loads, how: dict[str, Any]) -> None:
    quick.side.execute(sa.insert(shop.account), {"id": 40, "name": "mine"})
    worse: list[dict[str, Any] | str] = ["no json", row(3, 200), row(30, 2**40), row(2)]
    for number, worst in enumerate(worse):
        if how.get("mode") == "replace" and number == 3:
            continue
        entry = quick.load(quick.drop(*map(row, range(20)), worst, **how))
        assert entry.state is IntakeState.REFUSED, number
        assert ("line 21: " in entry.message) is True, entry.message
        assert ids(quick) == [40]


@pytest.mark.same_on("postgresql")
def test_own_modes(loads: Loads) -> None:
    loads.load(loads.drop(row(1), row(2)))
    entry = loads.load(loads.drop({"id": 2, "age": 8}, {"id": 3, "age": 8}, {"id": 2, "age": 9}, mode="upsert"))
    assert (entry.terms.whole, entry.rows_loaded, entry.rows_parked) == (True, 2, 1)
    assert [error for _, error, _ in loads.letters()] == ["constraint"], "a new row has no name"
    assert [(one["id"], one["name"], one["age"]) for one in loads.side.rows(shop.account)] == [
        (1, "n1", 7),
        (2, "n2", 9),
    ]
    loads.load(loads.drop(row(2, 3), row(4), mode="replace"))
    assert [(one["id"], one["age"]) for one in loads.side.rows(shop.account)] == [(2, 3), (4, 7)]


@pytest.mark.usefixtures("small")
def test_a_load_that_was_killed_goes_on_at_its_segment(quick: Loads) -> None:
    number = quick.drop(*map(row, range(20)))
    assert run_killed_at(9, quick.side, lambda: quick.load(number)) == KILLED
    assert (quick.entry(number).state, ids(quick)) == (IntakeState.LOADING, [*range(6)])
    assert (quick.load(number).state, ids(quick)) == (IntakeState.LOADED, [*range(20)])


@pytest.mark.thorough
@pytest.mark.usefixtures("small")
def test_a_load_that_is_killed_at_any_step_loads_each_row_once(loads: Loads) -> None:
    rows: list[dict[str, Any] | str] = [*map(row, range(14)), "bad", row(3), *map(row, range(14, 25))]
    step = 0
    left = KILLED
    while left == KILLED:
        step += 1
        loads.side.execute(sa.delete(shop.account))
        loads.side.execute(sa.delete(tables.dead_letter))
        number = loads.drop(*rows, again=True, cuts=[16])
        left = run_killed_at(step, loads.side, lambda: loads.load(number))  # noqa: B023 - it is done by then
        entry = loads.load(number)
        assert (entry.state, entry.rows_read, entry.rows_parked) == (IntakeState.LOADED, 27, 2), step
        assert ids(loads) == [*range(25)], step
        assert [line for line, *_ in loads.letters()] == [15, 16], step
    assert left == 0
    assert step > 10


@pytest.mark.thorough
@pytest.mark.usefixtures("small")
def test_a_killed_refusal_leaves_nothing(loads: Loads) -> None:
    rows: list[dict[str, Any] | str] = [*map(row, range(20)), "bad", "bad"]
    step = 0
    left = KILLED
    while left == KILLED:
        step += 1
        number = loads.drop(*rows, bad_rows=1)
        left = run_killed_at(step, loads.side, lambda: loads.load(number))  # noqa: B023 - it is done by then
        if loads.entry(number).state is IntakeState.REFUSING:
            undo.undo(loads.side.site, number, lines.read)
        assert loads.load(number).state is IntakeState.REFUSED, step
        assert (ids(loads), loads.letters()) == ([], []), step
    assert step > 8


@pytest.mark.usefixtures("small")
def test_a_part_that_ends_the_process_again_and_again_refuses_its_file(quick: Loads) -> None:
    number = quick.drop(*map(row, range(10)))

    def die(*_: object, **__: object) -> NoReturn:
        os._exit(KILLED)

    def doomed() -> None:
        load.load_part(quick.side.site, number, 0, die)

    for _ in range(3):
        assert join(fork(doomed, quick.side)) == KILLED
    entry = quick.load(number)
    assert entry.state is IntakeState.REFUSED
    assert "loading it ended the process 3 times" in entry.message


def test_what_the_world_does_leaves_the_file_for_the_next_try(quick: Loads) -> None:
    number = quick.drop(row(1))
    path = Path(quick.entry(number).place)
    path.rename(path.with_suffix(".away"))
    for attempt in (1, 2):
        with pytest.raises(TransientError):
            quick.load(number)
        entry = quick.entry(number)
        assert (entry.attempts, entry.state) == (attempt, IntakeState.WAITING)
        assert entry.next_try_at is not None
        assert "No such file" in entry.message
    path.with_suffix(".away").rename(path)
    assert (quick.load(number).state, quick.entry(number).attempts, quick.letters()) == (IntakeState.LOADED, 0, [])


def test_a_file_that_was_written_to_since_is_refused(quick: Loads) -> None:
    number = quick.drop(row(1))
    with Path(quick.entry(number).place).open("a") as file:
        file.write("{}\n")
    assert "was written to since it was taken in" in quick.load(number).message


def test_the_same_bytes_again_are_a_duplicate_unless_a_person_wants_them(quick: Loads) -> None:
    first = quick.drop(row(1), name="a.jsonl")
    second = quick.drop(row(1), name="b.jsonl")
    entry = quick.load(second)
    assert (entry.state, entry.rows_read) == (IntakeState.DUPLICATE, 0)
    assert f"as file {first} (a.jsonl, from ann), which is waiting" in entry.message
    quick.load(first)
    assert quick.load(quick.drop(row(1), again=True)).rows_parked == 1


@pytest.mark.same_on("postgresql")
def test_a_key_that_the_database_gives_needs_no_column(loads: Loads) -> None:
    entry = loads.load(loads.drop({"name": "a", "age": 1}, {"name": "b", "age": 200}))
    assert (entry.terms.whole, entry.rows_loaded, entry.rows_parked) == (True, 1, 1)
    assert [one["name"] for one in loads.side.rows(shop.account)] == ["a"]


@pytest.mark.usefixtures("small")
def test_a_file_that_a_person_gives_up_keeps_or_loses_what_was_loaded(quick: Loads) -> None:
    for state, left in ((IntakeState.CANCELLED, 6), (IntakeState.CANCELLING, 0)):
        quick.side.execute(sa.delete(shop.account))
        number = quick.drop(*map(row, range(20)), again=True)
        load.load_part(quick.side.site, number, 0, lines.read, stopping=lambda: True)
        assert len(ids(quick)) == 6
        with writing(quick.side.engine) as connection:
            ledger.move(connection, quick.entry(number), state, "given up")
        assert quick.load(number).state is state
        undo.undo(quick.side.site, number, lines.read)
        assert (quick.entry(number).state, len(ids(quick))) == (IntakeState.CANCELLED, left)
