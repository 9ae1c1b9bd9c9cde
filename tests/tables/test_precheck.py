"""What a load asks the database about rows before it inserts them: about each value once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.format.record import Op, RecordRun
from exchange.tables.loader import Loader, Writing, chunk, precheck
from exchange.tables.loader.bulk_path import BulkPath
from exchange.tables.loader.precheck import Precheck
from exchange.tables.loader.staging import Rows, Stage
from tests.tables.lab import Lab

METADATA = sa.MetaData()
plant = sa.Table(
    "plant", METADATA, sa.Column("site", sa.Integer, primary_key=True), sa.Column("hall", sa.Text, primary_key=True)
)
press = sa.Table(
    "press",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("above", sa.ForeignKey("press.id")),
    sa.Column("site", sa.Integer),
    sa.Column("hall", sa.Text),
    sa.Column("name", sa.Text),
    sa.Column("low", sa.Integer),
    sa.Column("high", sa.Integer),
    sa.ForeignKeyConstraint(["site", "hall"], ["plant.site", "plant.hall"], name="in_plant"),
    sa.UniqueConstraint("site", "name", name="one_of_a_name"),
    sa.CheckConstraint("low <= high", name="low_first"),
)
CHANNEL = Channel("presses", "one", "two", [Stream(press)])
Body = dict[str, Any]


@pytest.fixture(autouse=True)
def _tables(lab: Lab) -> None:
    with lab.engine.begin() as connection:
        METADATA.create_all(connection)
        halls = [{"site": site, "hall": hall} for site in (1, 2) for hall in ("a", "b")]
        connection.execute(sa.insert(plant), halls)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Give the lines of which the database is asked, by the looks that are taken."""
    found: list[list[int]] = []
    ask = Precheck._ask

    def noted(self: Precheck, rows: Rows, *rest: Any, **more: Any) -> Any:
        found.append([*rows.lines])
        return ask(self, rows, *rest, **more)

    monkeypatch.setattr(Precheck, "_ask", noted)
    return found


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the lines that wait for the end of the load."""
    found: list[int] = []
    add = Stage.add

    def noted(self: Stage, rows: Rows) -> None:
        found.extend(rows.lines)
        add(self, rows)

    monkeypatch.setattr(Stage, "add", noted)
    return found


def one(number: int, **values: Any) -> Body:
    usual = {"above": None, "site": 1, "hall": "a", "name": f"press {number}", "low": 1, "high": 2}
    return {"id": number, **usual, **values}


def load(lab: Lab, pieces: Sequence[Sequence[Body]], between: Sequence[str] = ()) -> list[str]:
    """Load pieces, each a chunk of its own, with a statement between two of them; give "line error" of the bad."""
    with lab.engine.begin() as connection, Loader(connection, CHANNEL, 10_000, writing=Writing.INSERT) as loader:
        done = 0
        for at, some in enumerate(pieces):
            numbers = range(done + 1, done + 1 + len(some))
            lines = [b"%d" % number for number in numbers]
            loader.add("press", loader.rows(numbers, lines, RecordRun("press", Op.UPSERT, [], [*some])))
            loader.flush()
            if at < len(between):
                connection.exec_driver_sql(between[at])
            done += len(some)
        refusals = (*loader.load().refusals, *(orphan.refusal for orphan in loader.orphans()))
    return [f"{line} {error}" for line, error in sorted((refusal.line, refusal.error) for refusal in refusals)]


BAD = one(1, low=3)
"""With it a load begins that is to look at what it inserts."""


def test_the_database_is_asked_about_each_value_once_and_only_bad_rows_wait(
    lab: Lab, asked: list[list[int]], staged: list[int]
) -> None:
    first = [BAD, *map(one, range(2, 6))]
    second = [one(6), one(7, site=9), one(8, hall="b"), one(9, name=None), one(10, low=5), one(11, above=2), one(11)]
    third = [one(20, hall="b"), one(21, above=2), one(22, site=9)]
    bad = load(lab, [first, second, third])
    assert bad == ["1 constraint", "7 foreign_key", "10 constraint", "12 unique", "15 foreign_key"]
    assert sorted(staged) == [1, 7, 10, 12, 15]
    assert asked == [[1, 2, 3, 4, 5], [7, 8, 10, 11], [15]]


def test_what_was_good_and_is_not_any_more_is_found_all_the_same(lab: Lab) -> None:
    lab.run("INSERT INTO plant (site, hall) VALUES (3, 'c')")
    pieces = [[BAD, one(2, site=3, hall="c"), one(3)], [one(4)], [one(5, site=3, hall="c"), one(6)]]
    moved = ["UPDATE press SET site = 1, hall = 'a' WHERE id = 2", "DELETE FROM plant WHERE site = 3"]
    assert load(lab, pieces, moved) == ["1 constraint", "5 foreign_key"]


def test_a_row_may_refer_to_one_that_comes_with_it_or_before_it(lab: Lab, staged: list[int]) -> None:
    pieces = [[BAD, one(2)], [one(3, above=2), one(4, above=3)], [one(5, above=3), one(6, above=6), one(7, above=99)]]
    assert load(lab, pieces) == ["1 constraint", "7 foreign_key"]
    assert sorted(staged) == [1, 7]


def test_a_unique_value_that_the_chunk_before_took_is_seen_without_asking(
    lab: Lab, asked: list[list[int]], staged: list[int]
) -> None:
    third = [one(4, name="other"), one(5), one(6, name="press 3"), one(7)]
    assert load(lab, [[BAD, one(2)], [one(3), one(4)], third, [one(8)]]) == ["1 constraint", "5 unique", "7 unique"]
    assert sorted(staged) == [1, 5, 7]
    assert asked == [[1, 2]]


def test_unique_values_that_the_table_has_are_asked_for_once_one_was_refused(
    lab: Lab, asked: list[list[int]], staged: list[int]
) -> None:
    assert load(lab, [[one(1), one(2)]]) == []
    assert load(lab, [[BAD, one(3)], [one(2, name="other"), one(4)], [one(5), one(6, name="press 1")]]) == [
        "1 constraint",
        "3 unique",
        "6 unique",
    ]
    assert sorted(staged) == [1, 3, 6]
    assert asked[-1] == [5, 6]


def test_long_texts_and_many_values_are_not_remembered(
    lab: Lab, asked: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precheck, "LONGEST_REMEMBERED", 0)
    assert load(lab, [[BAD, one(2)], [one(3)], [one(4)]]) == ["1 constraint"]
    assert asked == [[1, 2], [3], [4]]
    asked.clear()
    monkeypatch.undo()
    monkeypatch.setattr(precheck, "MOST_REMEMBERED", 0)
    assert load(lab, [[BAD | {"id": 9}, one(5)]]) == ["1 constraint"]


def test_of_a_table_without_key_one_column_may_be_all_that_is_looked_at(lab: Lab) -> None:
    stream = Stream(press).only(["low", "name"])
    with lab.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE press")
        connection.exec_driver_sql("CREATE TABLE press (low INTEGER CHECK (low < 5), name TEXT)")
    channel = Channel("presses", "one", "two", [stream])
    with lab.engine.begin() as connection, Loader(connection, channel, 10, writing=Writing.INSERT) as loader:
        run = RecordRun("press", Op.UPSERT, [], [{"low": low, "name": "a"} for low in (1, 7, 2, 3)])
        loader.add("press", loader.rows([1, 2, 3, 4], [b"1", b"2", b"3", b"4"], run))
        assert [one.line for one in loader.load().refusals] == [2]
        assert connection.scalar(sa.text("SELECT count(*) FROM press")) == 3


def _drawn(draw: random.Random, count: int) -> Iterator[Body]:
    for number in range(1, count + 1):
        body = one(
            number,
            above=draw.choice([None] * 8 + [draw.randrange(1, count), 999]),
            site=draw.choice([1, 1, 2, 2, 2, None]),
            hall=draw.choice(["a", "b", "b", None]),
            low=draw.choice([None, 1, 2]),
            high=draw.choice([None, 2, 3]),
        )
        if draw.random() < 0.15:
            body |= draw.choice([{"site": 9}, {"low": 7}, {"hall": "z"}, {"id": max(1, number - 1)}, {"name": "same"}])
        yield body


@pytest.mark.same_on("postgresql")
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(2, 60))])
def test_whatever_is_remembered_the_verdicts_are_those_of_all_rows_compared_at_once(
    seed: int, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    rows = [*_drawn(draw, 60)]
    cuts = sorted(draw.sample(range(1, 60), 6))
    pieces = [rows[start:end] for start, end in zip([0, *cuts], [*cuts, 60], strict=True)]
    monkeypatch.setattr(precheck, "MOST_REMEMBERED", draw.choice([0, 2, 50_000]))
    monkeypatch.setattr(chunk, "FIRST_ROWS", 2)
    ends = []
    for careful in (True, False):
        lab.run("DELETE FROM press")
        with monkeypatch.context() as patch:
            if careful:
                patch.setattr(BulkPath, "write", BulkPath._add_to_stage)
            bad = load(lab, pieces)
        with lab.engine.connect() as connection:
            ends.append((bad, [*map(tuple, connection.execute(sa.select(press).order_by(press.c.id)))]))
    assert ends[0] == ends[1]
