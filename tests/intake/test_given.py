"""A file that a person names: rehearsed, loaded where it lies, gone on with, given up."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels.intake import Intake, Written
from exchange.database import tables
from exchange.database.tables import IntakeState
from exchange.intake import cancelling, given, load
from exchange.reading import FileFormat, FileRefused
from tests.crossing import shop
from tests.intake.lines import Loads, row

INTAKE = Intake("by-hand", stream="account")


def a_file(loads: Loads, *rows: dict[str, Any], name: str = "rows.csv") -> Path:
    """Write CSV."""
    path = loads.folder / name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "name", "age"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def count(loads: Loads, table: sa.Table) -> int:
    return int(loads.side.all(sa.select(sa.func.count()).select_from(table))[0][0])


@pytest.mark.same_on("postgresql")
def test_a_rehearsal_says_all_and_changes_nothing(loads: Loads) -> None:
    loads.side.execute(sa.insert(shop.account), {"id": 5, "name": "before"})
    before = {table.name: count(loads, table) for table in (*tables.metadata.sorted_tables, shop.account)}
    rows = [{"id": 1, "name": "a", "age": "x"}, row(5), {"id": 2, "name": "b", "age": "y"}, row(3, 200), row(4)]

    found = given.rehearse(loads.side.site, a_file(loads, *rows), INTAKE, "ann")

    assert (found.rows_read, found.would_load, found.refused, found.duplicate) == (5, 1, None, None)
    assert [(one.error, one.rows, one.line) for one in found.bad] == [
        ("cell", 2, 2),
        ("unique", 1, 3),
        ("constraint", 1, 5),
    ]
    assert {table.name: count(loads, table) for table in (*tables.metadata.sorted_tables, shop.account)} == before
    refused = given.rehearse(loads.side.site, a_file(loads, *rows), Intake("a", "account", bad_rows=2), "ann").refused
    assert refused is not None
    assert "more of its rows are bad than are allowed (2, " in refused


def test_a_file_that_was_left_is_gone_on_with_by_the_same_command(
    quick: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "FIRST_SEGMENT_ROWS", 1)
    monkeypatch.setattr(load, "MOST_SEGMENT_BYTES", 1)
    site, path = quick.side.site, a_file(quick, *map(row, range(30_000)))
    asked = iter([False])
    left = given.take_in(site, path, INTAKE, "ann", stopping=lambda: next(asked, True)).file
    assert left.state is IntakeState.LOADING
    assert 0 < left.rows_loaded < 30_000
    done = given.take_in(site, path, INTAKE, "bob").file
    assert (done.id, done.state, done.rows_loaded) == (left.id, IntakeState.LOADED, 30_000)
    again = given.take_in(site, path, INTAKE, "bob").file
    assert (again.state, count(quick, shop.account)) == (IntakeState.DUPLICATE, 30_000)


def test_what_is_given_up_may_lose_what_was_loaded(quick: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MOST_SEGMENT_BYTES", 1)
    site, path = quick.side.site, a_file(quick, *map(row, range(30_000)))
    for undo in (False, True):
        asked = iter([False])
        left = given.take_in(site, path, INTAKE, "ann", again=True, stopping=lambda: next(asked, True)).file  # noqa: B023
        assert count(quick, shop.account) == left.rows_loaded > 0
        gone = cancelling.cancel(site, left.id, "a test", undo=undo)
        assert gone.state is IntakeState.CANCELLED
        assert ("rows that were loaded of it stay" in gone.message) is not undo
        assert count(quick, shop.account) == (0 if undo else left.rows_loaded)
        quick.side.execute(sa.delete(shop.account))


def test_a_file_may_change_rows_in_the_columns_that_it_has(loads: Loads) -> None:
    loads.side.execute(sa.insert(shop.account), [{"id": 1, "name": "a", "age": 1}, {"id": 2, "name": "b", "age": None}])
    path = loads.folder / "ages.csv"
    path.write_text("age,id\n7,1\n8,3\n9,1\n")
    done = given.take_in(loads.side.site, path, Intake("ages", "account", mode="upsert"), "ann").file
    assert (done.rows_loaded, done.rows_parked) == (2, 1)
    assert [(one["name"], one["age"]) for one in loads.side.rows(shop.account)] == [("a", 9), ("b", None)]
    with pytest.raises(FileRefused, match='"name" is missing'):
        given.take_in(loads.side.site, path, INTAKE, "ann")


def test_what_is_no_file_of_a_stream_that_this_side_writes_is_said(quick: Loads) -> None:
    site, path = quick.side.site, a_file(quick, row(1))
    for wrong, said in (
        (lambda: given.intake_for(site, None, "note"), "is written at two, and this side only receives it"),
        (lambda: given.intake_for(site, None, "nothing"), "no channel has a stream nothing"),
        (lambda: given.intake_for(site, "nothing", None), "no intake is called nothing"),
        (lambda: given.take_in(site, path, Intake("a", "account", mode="up"), "ann"), "mode must be"),  # type: ignore[arg-type]
        (lambda: given.take_in(site, path, Intake("a", "note"), "ann"), "only receives it"),
        (lambda: given.take_in(site, quick.folder, INTAKE, "ann"), "no regular file"),
        (
            lambda: given.take_in(site, path, Intake("a", "account", written=Written(encoding="rot13")), "ann"),
            "encoding",
        ),
    ):
        with pytest.raises(FileRefused, match=said):
            wrong()
    assert FileFormat.from_dict({"kind": "csv", "of_a_later_version": 1}) == FileFormat("csv")
