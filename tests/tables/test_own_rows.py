"""Rows of the application's own through the loader: capture sees them, they have no versions, and maybe few columns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database.dialects import dialect_of
from exchange.format.record import Op, RecordRun
from exchange.tables import capture
from exchange.tables.loader import Loaded, Loader, Writing, chunk
from exchange.tables.loader.bulk_path import BulkPath
from tests.tables.lab import Lab

METADATA = sa.MetaData()
shelf = sa.Table("shelf", METADATA, sa.Column("id", sa.Integer, primary_key=True))
book = sa.Table(
    "book",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("code", sa.Text, unique=True),
    sa.Column("pages", sa.Integer, sa.CheckConstraint("pages < 900", name="thin"), nullable=False, server_default="7"),
    sa.Column("shelf", sa.ForeignKey("shelf.id")),
)
BOOKS = Stream(book)


@dataclass
class Library:
    """A table of books and one that it refers to, neither of which has versions."""

    lab: Lab

    def load(self, writing: Writing, bodies: Sequence[dict[str, Any]], op: Op = Op.UPSERT) -> tuple[Loaded, list[str]]:
        """Load books with the columns that the first of them has; give what came of it, and "line error" of the bad."""
        stream = BOOKS.only(bodies[0].keys())
        channel = Channel("books", "one", "two", [stream])
        with self.lab.engine.begin() as connection, Loader(connection, channel, 1_000, writing=writing) as loader:
            for first in range(0, len(bodies), 3):
                some = list(bodies[first : first + 3])
                run = RecordRun("book", op, [], some)
                numbers = range(first + 1, first + 1 + len(some))
                loader.add("book", loader.rows(numbers, [b"%d" % one for one in numbers], run))
            loaded = loader.load()
            refusals = (*loaded.refusals, *(orphan.refusal for orphan in loader.orphans()))
            bad = sorted((one.line, f"{one.line} {one.error}") for one in refusals)
            assert not bad or {one[0] for one in bad} <= (loader.records() or {}).keys()
            return loaded, [one[1] for one in bad]

    def books(self) -> list[tuple[Any, ...]]:
        """Give the rows, in the order of their keys."""
        with self.lab.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.select(book).order_by(book.c.id))]


@pytest.fixture
def library(lab: Lab) -> Library:
    with lab.engine.begin() as connection:
        METADATA.create_all(connection)
        connection.execute(sa.insert(shelf), [{"id": 1}, {"id": 2}])
        capture.install(connection, "book", stream="s0")
    return Library(lab)


def a(number: int, code: str | None = None, pages: int = 10, on: int | None = None) -> dict[str, Any]:
    return {"id": number, "code": code or f"c{number}", "pages": pages, "shelf": on}


def test_inserted_rows_meet_every_rule_and_change_nothing_that_is_there(library: Library) -> None:
    library.lab.run("INSERT INTO book (id, code) VALUES (1, 'old')")
    library.lab.forget()

    loaded, bad = library.load(
        Writing.INSERT,
        [
            a(1),
            a(2),
            a(2, "again"),
            a(3, "old"),
            a(4, "c2"),
            a(5, pages=900),
            a(6, on=9),
            a(7, on=2),
            *map(a, range(8, 20)),
        ],
    )

    assert bad == ["1 unique", "3 unique", "4 unique", "5 unique", "6 constraint", "7 foreign_key"]
    assert loaded.counts.as_dict() == {"applied": 14, "duplicate": 0, "stale": 0, "parked": 6}
    assert library.books()[:4] == [(1, "old", 7, None), (2, "c2", 10, None), (7, "c7", 10, 2), (8, "c8", 10, None)]
    assert len(library.lab.keys()) == 14, "capture has seen them"


def test_columns_that_do_not_come_have_their_defaults_and_a_key_may_be_the_databases(library: Library) -> None:
    library.lab.run("INSERT INTO book (code) VALUES ('old')")
    _, bad = library.load(
        Writing.INSERT, [{"code": "new", "shelf": 1}, {"code": "old", "shelf": 1}, {"code": "c", "shelf": 5}]
    )
    assert bad == ["2 unique", "3 foreign_key"]
    assert [row[1:] for row in library.books()] == [("old", 7, None), ("new", 7, 1)]


def test_upserted_rows_change_the_columns_that_came_and_the_last_of_a_key_counts(library: Library) -> None:
    library.lab.run("INSERT INTO book (id, code, pages, shelf) VALUES (1, 'one', 100, 1), (2, 'two', 200, 2)")
    rows = [(1, 1), (3, 30), (3, 31), (2, 900), (4, 40), (1, 2), (1, 3), (4, 41)]
    loaded, bad = library.load(Writing.UPSERT, [{"id": one, "pages": pages} for one, pages in rows])
    assert bad == ["4 constraint"]
    assert library.books() == [(1, "one", 3, 1), (2, "two", 200, 2), (3, None, 31, None), (4, None, 41, None)]
    assert loaded.counts.applied + loaded.counts.stale == 7

    # The values pass between two rows; one more is taken.
    _, bad = library.load(
        Writing.UPSERT, [{"id": 1, "code": "two"}, {"id": 2, "code": "one"}, {"id": 3, "code": "one"}]
    )
    assert bad == ["3 unique"]
    assert [row[1] for row in library.books()] == ["two", "one", None, None]


@pytest.mark.same_on("postgresql")
def test_after_a_replacement_only_what_came_is_there(library: Library) -> None:
    library.lab.run("INSERT INTO book (id, code, pages) VALUES (1, 'one', 100), (2, 'two', 200), (5, 'five', 1)")
    library.lab.forget()
    loaded, bad = library.load(Writing.REPLACE, [{"id": 2, "pages": 2}, {"id": 3, "pages": 3}, {"id": 2, "pages": 4}])
    assert bad == []
    assert library.books() == [(2, "two", 4, None), (3, None, 3, None)]
    assert loaded.deleted == {"book": 2}
    assert library.lab.keys() == {'{"id":1}', '{"id":2}', '{"id":3}', '{"id":5}'}


@pytest.mark.same_on("postgresql")
def test_rows_are_deleted_by_their_keys(library: Library) -> None:
    library.lab.run("INSERT INTO book (id) VALUES (1), (2), (3)")
    loaded, _ = library.load(Writing.UPSERT, [{"id": 1}, {"id": 3}, {"id": 7}], Op.DELETE)
    assert (loaded.deleted, [row[0] for row in library.books()]) == ({"book": 2}, [2])


def test_a_row_that_a_trigger_drops_is_found(library: Library) -> None:
    with library.lab.engine.begin() as connection:
        if dialect_of(connection).is_sqlite:
            connection.exec_driver_sql(
                "CREATE TRIGGER no_five BEFORE INSERT ON book WHEN NEW.pages = 5 BEGIN SELECT RAISE(IGNORE); END"
            )
        else:
            connection.exec_driver_sql(
                "CREATE FUNCTION no_five() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN IF NEW.pages = 5 THEN RETURN NULL; END IF; RETURN NEW; END';"
                " CREATE TRIGGER no_five BEFORE INSERT ON book FOR EACH ROW EXECUTE FUNCTION no_five()"
            )
    rows = [{"pages": number} for number in range(8)]
    for writing in (Writing.INSERT, Writing.UPSERT):
        some = [{"id": 1000 + at, **row} for at, row in enumerate(rows)] if writing is Writing.UPSERT else rows
        assert library.load(writing, some)[1] == ["6 dropped"]
    assert len(library.books()) == 14


@pytest.mark.same_on("postgresql")
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(1, 40))])
@pytest.mark.parametrize("writing", [Writing.INSERT, Writing.UPSERT, Writing.REPLACE])
def test_few_rows_at_a_time_end_where_all_compared_at_once_do(
    seed: int, writing: Writing, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    before = [a(one, f"old {one}", on=draw.choice([None, 1])) for one in range(8)]
    # Of a value that several of them would have it depends on who comes first which is refused: it is of rows there.
    rows = [
        a(
            draw.randrange(30),
            draw.choice([f"new {at}"] * 6 + ["old 1"]),
            draw.choice([1, 2]),
            draw.choice([None, 1, 2]),
        )
        for at in range(40)
    ]
    if writing is not Writing.INSERT:
        rows = [one | {"code": f"new {at}"} for at, one in enumerate(rows)]
    for at in draw.sample(range(40), 3) if writing is not Writing.REPLACE else ():
        rows[at] |= draw.choice([{"shelf": 9}, {"pages": 900}])
        rows[at]["id"] = 100 + at
    ends = []
    for careful in (True, False):
        library.lab.run("DELETE FROM book")
        with library.lab.engine.begin() as connection:
            connection.execute(sa.insert(book), before)
        with monkeypatch.context() as patch:
            if careful:
                patch.setattr(BulkPath, "write", BulkPath._add_to_stage)
            patch.setattr(chunk, "FIRST_ROWS", 2)
            patch.setattr(chunk, "MOST_ROWS", 5)
            loaded, bad = library.load(writing, rows)
        ends.append((library.books(), bad, loaded.counts.parked, loaded.counts.applied + loaded.counts.stale))
    assert ends[0] == ends[1]
