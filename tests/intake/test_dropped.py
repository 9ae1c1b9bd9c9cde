"""Files that people dropped, from the folder to the table: several at once, by parts, past kills, and put away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels.intake import Intake
from exchange.database.tables import IntakeState, dead_letter
from exchange.intake import cancelling, dropped, folders, standing
from exchange.intake.standing import DroppedFile
from exchange.site import Site
from tests.crossing import shop
from tests.crossing.sides import Side
from tests.databases import Databases


@pytest.fixture
def site(tmp_path: Path, databases: Databases) -> Iterator[Site]:
    side = Side("one", "two", databases, "sqlite", tmp_path / "home", shop.channels, metadata=shop.metadata)
    intakes = (
        Intake("places", stream="place", folder="drop/places", priority=1),
        Intake("accounts", stream="account", folder="drop/accounts"),
    )
    site = replace(side.site, intakes=intakes)
    assert folders.make_all(site, None, beyond=True) == []
    yield site
    side.engine.dispose()


def drop(site: Site, name: str, text: str, intake: str = "places") -> Path:
    file = site.spool.folders.home / "drop" / intake / name
    file.write_text(text)
    return file


def work(site: Site) -> list[DroppedFile]:
    """Take in what lies there, and work until nothing is left; give the files, the oldest first."""
    dropped.take_in(site)
    while dropped.work_off(site, lambda: False):
        pass
    with site.engine.connect() as connection:
        return standing.list_files(connection)[::-1]


def at_hand(site: Site) -> DroppedFile | None:
    """Give the file that is still to be loaded."""
    with site.engine.connect() as connection:
        return next(iter(standing.open_files(connection)), None)


def write_down(site: Site) -> DroppedFile:
    """Claim what lies there, and have the ledger know it; nothing is loaded."""
    dropped.take_in(site)
    dropped.work_off(site, lambda: at_hand(site) is not None)
    one = at_hand(site)
    assert one is not None
    return one


def load_some(site: Site) -> DroppedFile:
    """Go on with it until some rows are loaded, and not all."""
    dropped.work_off(site, lambda: (one := at_hand(site)) is None or one.rows_read > 0)
    one = at_hand(site)
    assert one is not None
    return one


def rows(site: Site, table: sa.Table = shop.place) -> int:
    with site.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_a_dropped_file_is_loaded_past_its_bad_rows_and_lies_in_done_with_a_word_on_them(site: Site) -> None:
    drop(site, "places.csv", "country,number,name\nde,1,Ulm\nde,x,Bonn\nde,2,Köln\n")
    (one,) = work(site)
    assert (one.state, one.rows_read, one.rows_loaded, one.rows_parked) == (IntakeState.LOADED, 3, 2, 1), one.message
    assert rows(site) == 2
    done = site.spool.folders.home / "drop" / "places" / "done"
    assert one.place == str(done / "places.csv")
    assert "parked as dead letters: 1." in (done / "places.csv.txt").read_text()
    with site.engine.connect() as connection:
        (letter,) = connection.execute(sa.select(dead_letter.c.line, dead_letter.c.record, dead_letter.c.intake)).all()
    assert (letter.line, bytes(letter.record), letter.intake) == (3, b"de,x,Bonn", one.id)


HEADER = "country,number,name\n"


def places(count: int, country: str = "de") -> str:
    return HEADER + "".join(f"{country},{number},place {number}\n" for number in range(count))


def test_a_refused_file_and_a_folder_that_is_away_hold_up_no_other_one(site: Site) -> None:
    drop(site, "a.csv", "what,is,this\n1,2,3\n")
    drop(site, "b.csv", places(2))
    (site.spool.folders.home / "drop" / "accounts").rename(site.spool.folders.home / "elsewhere")
    refused, loaded = work(site)
    assert (refused.state, loaded.state, rows(site)) == (IntakeState.REFUSED, IntakeState.LOADED, 2)
    away = site.spool.folders.home / "drop" / "places" / "refused"
    assert (away / "a.csv.txt").read_text() == f"{refused.message}\n"
    assert refused.place == str(away / "a.csv")
    (trouble,) = dropped.take_in(site).troubles
    assert "accounts: No such file or directory" in trouble


def test_the_same_bytes_again_are_a_duplicate_that_says_when_and_by_whom_they_came(site: Site) -> None:
    drop(site, "a.csv", places(2))
    (first,) = work(site)
    drop(site, "copy of a.csv", places(2))
    _, second = work(site)
    assert (second.state, rows(site)) == (IntakeState.DUPLICATE, 2)
    assert f"as file {first.id} (a.csv, from {first.who}), which is loaded" in second.message
    assert Path(second.place).parent.name == "done"
    assert second.message in Path(f"{second.place}.txt").read_text()


def test_files_of_a_greater_priority_go_first_then_the_older_ones(site: Site) -> None:
    for name in ("1.csv", "2.csv"):
        drop(site, name, "id,place_country\n", intake="accounts")
    drop(site, "late.csv", places(1))
    dropped.take_in(site)
    turn = dropped._Turn(site)
    fresh, _ = turn.left()
    assert [one.file for one in fresh] == ["late.csv", "1.csv", "2.csv"]


def test_a_large_file_is_loaded_by_parts_and_what_a_killed_process_left_is_gone_on_with(site: Site) -> None:
    site = replace(site, limits=replace(site.limits, intake_part_bytes=4_000))
    drop(site, "a.csv", places(1_000))
    assert write_down(site).rows_read == 0
    one = load_some(site)
    assert (one.state, one.parts > 2, 0 < one.parts_done < one.parts) == (IntakeState.LOADING, True, True)
    assert one.pace.expected is not None
    assert 900 < one.pace.expected < 1_100
    (one,) = work(site)
    assert (one.state, one.rows_loaded, one.parts_done, rows(site)) == (IntakeState.LOADED, 1_000, one.parts, 1_000)


def test_a_file_that_is_written_to_while_it_is_loaded_is_refused_whole(site: Site) -> None:
    site = replace(site, limits=replace(site.limits, intake_part_bytes=4_000))
    drop(site, "a.csv", places(1_000))
    write_down(site)
    load_some(site)
    with (site.spool.folders.home / "drop" / "places" / "taken" / "a.csv").open("a") as file:
        file.write("de,1000,late\n")
    (one,) = work(site)
    assert one.state is IntakeState.REFUSED
    assert "written to since it was taken in" in one.message


def test_a_person_gives_a_file_up_and_it_lies_in_refused_with_who_and_why(site: Site) -> None:
    drop(site, "a.csv", places(3))
    one = write_down(site)
    cancelling.cancel(site, one.id, "the wrong month")
    (one,) = work(site)
    assert (one.state, rows(site)) == (IntakeState.CANCELLED, 0)
    assert "the wrong month" in Path(f"{one.place}.txt").read_text()


def test_a_claimed_file_that_is_gone_waits_longer_each_time_and_says_so(site: Site) -> None:
    drop(site, "a.csv", places(3))
    write_down(site)
    (site.spool.folders.home / "drop" / "places" / "taken" / "a.csv").unlink()
    (one,) = work(site)
    assert (one.state, one.attempts) == (IntakeState.WAITING, 1)
    assert "No such file" in one.message
    assert one.next_try_at is not None


@pytest.mark.thorough
def test_many_small_files_need_one_look_to_begin_with(site: Site) -> None:
    site = replace(site, limits=replace(site.limits, settle_seconds=0))
    for number in range(dropped.MOST_CLAIMS + 5):
        drop(site, f"{number}.csv", places(1, country=f"{number:02}"))
    assert {one.state for one in work(site)} == {IntakeState.LOADED}
    assert rows(site) == dropped.MOST_CLAIMS + 5
