"""Several processes at one folder and one database: each file is claimed and loaded once, whoever dies of them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.database.locks import reading
from exchange.database.tables import IntakeState
from exchange.intake import dropped, folders, standing
from exchange.site import Site
from exchange.testing.sides import two_sides
from tests.databases import Databases
from tests.intake import ugly
from tests.intake.hundred import Place

FILES, ROWS, LARGE_ROWS = 60, 50, 20_000
PART_BYTES = 100_000


def site_of(site: Site) -> Site:
    """Give the site with its intakes, and with parts so small that a large file has some."""
    limits = replace(site.limits, intake_part_bytes=PART_BYTES, intake_at_once=4)
    return replace(site, intakes=tuple(ugly.intakes), limits=limits)


def work_beside_others(place: Place) -> None:
    """Work as one worker does, until nothing is left to do for anybody."""
    with place.opened() as exchange:
        site = site_of(exchange.site)
        while True:
            seen = dropped.take_in(site)
            left = dropped.work_off(site, lambda: False)
            with reading(site.engine) as connection:
                open_ = standing.open_files(connection)
                known = len(standing.list_files(connection, limit=1000))
            if not (seen.claimed or seen.waiting or left or open_) and known == FILES + 1:
                return
            time.sleep(0.05)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.thorough])])
def plant(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[tuple[Place, Site]]:
    """Give a side whose folders hold many files, and one that is loaded by parts."""
    kind = request.param
    urls = {name: databases.fresh(kind) for name in ("plant", "office")} if kind == "postgresql" else None
    with two_sides(tmp_path, ugly.channels, urls) as sides:
        one = sides["plant"]
        site = site_of(one.exchange.site)
        assert folders.make_all(site, None, beyond=True) == []
        folder = one.exchange.settings.home / "drop" / "plain"
        for number in range(FILES):
            ids = range(number * ROWS, (number + 1) * ROWS)
            (folder / f"{number}.csv").write_text("id,name\n" + "".join(f"{id_},n{id_}\n" for id_ in ids))
        ids = range(1_000_000, 1_000_000 + LARGE_ROWS)
        (folder / "large.csv").write_text("id,name\n" + "".join(f"{id_},n{id_}\n" for id_ in ids))
        yield Place("plant", "office", one.exchange.settings.home, one.database_url), site


@pytest.mark.processes
def test_many_files_are_each_loaded_once_by_several_processes_of_which_one_is_killed(plant: tuple[Place, Site]) -> None:
    place, site = plant
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work_beside_others, args=(place,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    while _rows(site) == 0:
        assert any(worker.is_alive() for worker in workers)
        time.sleep(0.01)
    workers[0].kill()
    for worker in workers:
        worker.join()

    assert [worker.exitcode for worker in workers[1:]] == [0, 0]
    with reading(site.engine) as connection:
        files = standing.list_files(connection, limit=1000)
    assert {one.state for one in files} == {IntakeState.LOADED}
    assert sorted(one.file for one in files) == sorted([*(f"{number}.csv" for number in range(FILES)), "large.csv"])
    assert {one.rows_parked for one in files} == {0}
    assert sum(one.rows_loaded for one in files) == _rows(site) == FILES * ROWS + LARGE_ROWS
    assert next(one.parts for one in files if one.file == "large.csv") > 1
    done = place.home / "drop" / "plain" / "done"
    assert len([*done.iterdir()]) == FILES + 1
    assert [one for one in (done.parent / "taken").iterdir() if one.suffix == ".csv"] == []


def _rows(site: Site) -> int:
    with reading(site.engine) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(ugly.thing)) or 0
