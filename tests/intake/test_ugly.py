"""A folder of ugly files: good rows are loaded and cross, each bad one is a letter, what is no such file says so."""

from __future__ import annotations

import re
import resource
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database.locks import reading
from exchange.database.tables import IntakeState, dead_letter
from exchange.intake import dropped, folders, standing
from exchange.intake.standing import DroppedFile
from exchange.site import Site
from exchange.testing.sides import Sides, two_sides
from tests.databases import Databases
from tests.intake import ugly
from tests.intake.ugly import Ugly

MOST_KIB = 128 * 1024
"""A row of 16 MiB may be in memory a few times."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def sides(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Sides]:
    """Give a plant and its office, each kind of database in turn."""
    urls = {name: databases.fresh("postgresql") for name in ("plant", "office")} if request.param != "sqlite" else None
    with two_sides(tmp_path, ugly.channels, urls) as sides:
        yield sides


@pytest.fixture
def plant(sides: Sides) -> Site:
    """Give the plant, with its folders."""
    site = replace(sides["plant"].exchange.site, intakes=tuple(ugly.intakes))
    assert folders.make_all(site, None, beyond=True) == []
    return site


def work(site: Site) -> dict[str, DroppedFile]:
    """Take in what lies in the folders until nothing is left; give the files."""
    busy = True
    while busy:
        seen = dropped.take_in(site)
        left = dropped.work_off(site, lambda: False)
        busy = bool(seen.claimed or seen.waiting or left)
    with reading(site.engine) as connection:
        found = standing.list_files(connection, limit=1000)
    return {f"{one.intake}/{one.file}": one for one in found}


def letters(site: Site) -> dict[int, dict[int, tuple[str, str]]]:
    """Give column and class of every letter, by file and line."""
    columns = dead_letter.c
    found: dict[int, dict[int, tuple[str, str]]] = defaultdict(dict)
    with reading(site.engine) as connection:
        for row in connection.execute(sa.select(columns.intake, columns.line, columns.pointer, columns.error)):
            found[row.intake][row.line] = (row.pointer.removeprefix("/data").removeprefix("/"), row.error)
    return found


def rows(site: Site, table: sa.Table) -> dict[int, dict[str, Any]]:
    """Give all rows as records have them, by their ids."""
    (stream,) = (one for channel in site.channels for one in channel.streams if one.name == table.name)
    encode = stream.encoder(site.engine.dialect)
    selected = [stream.codecs[column.name].selected(site.engine.dialect) for column in stream.columns]
    with reading(site.engine) as connection:
        found = [encode(tuple(row)) for row in connection.execute(sa.select(*selected).select_from(stream.table))]
    return {one["id"]: one for one in found}


def faults(made: Ugly, file: DroppedFile | None, found: dict[int, tuple[str, str]], loaded: Any) -> Iterator[str]:
    """Say what of a file did not come to what it must."""
    if file is None:
        yield "it was not taken in"
    elif made.refused:
        if file.state is not IntakeState.REFUSED or not re.search(made.refused, file.message or ""):
            yield f"{file.state}, {file.message!r}, expected a refusal with {made.refused!r}"
        if found:
            yield f"letters of it are left: {found}"
    elif file.state is not IntakeState.LOADED or file.rows_loaded != made.rows:
        yield f"{file.state} with {file.rows_loaded} rows, expected {made.rows}: {file.message!r}, {found}"
    for line in {*made.letters, *found}:
        column, error = found.get(line, ("", "none"))
        meant, classes = made.letters.get(line, ("", "none"))
        if column != meant or error not in classes.split("|"):
            yield f"line {line}: {error} of {column!r}, expected {classes} of {meant!r}"
    for key, values in made.holds.items():
        row = loaded.get(key, {})
        if any(row.get(name) != value for name, value in values.items()):
            yield f"row {key} is {row}, expected {values}"


def assert_as_expected(site: Site, files: list[Ugly], found: dict[str, DroppedFile]) -> None:
    """See that each file came to what it must."""
    parked, loaded = letters(site), rows(site, ugly.thing)
    said = []
    for one in files:
        file = found.get(f"{one.intake}/{one.name}")
        said += [f"{one.name}: {fault}" for fault in faults(one, file, parked[file.id] if file else {}, loaded)]
    assert not said, "\n".join(said)


def assert_all_cross(plant: Site, sides: Sides, files: list[Ugly]) -> None:
    """Drop files all at once; see what comes of each, and that the other side has the good rows."""
    ugly.write(plant.spool.folders.home, files)
    assert_as_expected(plant, files, work(plant))
    sides.cross()
    there = sides["office"].exchange.site
    for table in (ugly.thing, ugly.kinds):
        assert rows(there, table) == rows(plant, table)
    assert len(rows(plant, ugly.thing)) == sum(one.rows for one in files if one.intake != "kinds")


@pytest.mark.thorough
def test_all_at_once_are_loaded_past_what_is_bad_of_them_and_cross(plant: Site, sides: Sides) -> None:
    files = ugly.files()
    assert len(files) > 100
    assert_all_cross(plant, sides, files)


@pytest.mark.same_on("postgresql")
def test_some_of_them_are_loaded_past_what_is_bad_of_them_and_cross(plant: Site, sides: Sides) -> None:
    assert_all_cross(plant, sides, ugly.files()[::9])


@pytest.mark.thorough
@pytest.mark.same_on("postgresql")
def test_files_that_would_fill_memory_cost_what_a_row_may(plant: Site) -> None:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for one in ugly.large():
        ugly.write(plant.spool.folders.home, [one])
        most = max(most, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # to make it takes more
        assert_as_expected(plant, [one], work(plant))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < MOST_KIB


@pytest.mark.same_on("postgresql")
def test_a_file_that_grows_while_it_is_looked_at_is_left_until_it_is_whole(plant: Site, tmp_path: Path) -> None:
    site = replace(plant, limits=replace(plant.limits, settle_seconds=0.2))
    file = plant.spool.folders.home / "drop" / "plain" / "growing.csv"
    with file.open("w") as growing:
        growing.write("id,name\n")
        for number in range(1, 4):
            growing.write(f"{number},row {number}\n")
            growing.flush()
            seen = dropped.take_in(site)
            assert (seen.claimed, seen.arriving) == ((), 1)
    found: dict[str, DroppedFile] = {}
    while not found:
        found = work(site)
    assert found["plain/growing.csv"].rows_loaded == 3
