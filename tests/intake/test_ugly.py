"""A folder of ugly files: good rows are loaded and cross, each bad one is a letter, what is no such file says so."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exchange.intake import dropped, folders
from exchange.intake.standing import DroppedFile
from exchange.site import Site
from exchange.testing.sides import Sides, two_sides
from tests.databases import Databases
from tests.intake import ugly
from tests.intake.outcomes import assert_as_expected, rows, work
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
