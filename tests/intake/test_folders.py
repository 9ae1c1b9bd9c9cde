"""Folders that people drop files into: what is taken, what is left alone and why, and where it lies afterwards."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Intake, Stream
from exchange.channels.intake import check_intakes
from exchange.format.errors import TransientError
from exchange.intake import folders
from exchange.intake.folders import Drop, Watcher
from exchange.site import Site
from tests.crossing import shop
from tests.crossing.sides import Side
from tests.databases import Databases

NOW = 0.0
"""Settled as soon as it is there."""


@pytest.fixture
def site(tmp_path: Path, databases: Databases) -> Iterator[Site]:
    side = Side("one", "two", databases, "sqlite", tmp_path / "home", shop.channels, metadata=shop.metadata)
    yield side.site
    side.engine.dispose()


def with_folder(site: Site, **how: object) -> tuple[Site, Drop]:
    intake = Intake("accounts", stream="account", folder="drop/accounts", **how)  # type: ignore[arg-type]
    site = replace(site, intakes=(intake,))
    assert folders.make_all(site, None, beyond=True) == []
    (drop,) = folders.drops(site)
    return site, drop


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir() if one.name not in folders.OURS and one.name != ".looked"}


def take(site: Site, drop: Drop) -> list[folders.Claimed]:
    ready = Watcher().look(drop, NOW).ready
    return [one for one in (folders.claim(site, drop, dropped) for dropped in ready) if one is not None]


def test_a_file_is_taken_once_it_has_stopped_changing(site: Site) -> None:
    site, drop = with_folder(site)
    file = drop.path / "a.csv"
    file.write_text("id\n")
    watcher = Watcher()
    assert (watcher.look(drop, 3600.0).ready, watcher.look(drop, 3600.0).arriving) == ((), 1)
    (ready,) = watcher.look(drop, NOW).ready
    assert (ready.name, ready.seen.size) == ("a.csv", 3)
    file.write_text("id\n1\n")  # it goes on after all
    assert folders.claim(site, drop, ready) is None
    assert names(drop.path) == {"a.csv"}
    (claimed,) = take(site, drop)
    assert claimed.place == drop.path / "taken" / "a.csv"
    assert names(drop.path) == set()
    with folders.open_place(claimed.place) as opened:
        assert opened.read() == b"id\n1\n"
        seen = folders.Seen.of(os.fstat(opened.fileno()))
        with claimed.place.open("a") as again:  # whoever dropped it holds it open
            again.write("2\n")
        assert not folders.unchanged(opened, seen)


def test_the_folders_are_those_of_streams_that_this_side_writes_whatever_their_tables_are_called_here(
    site: Site,
) -> None:
    table = sa.Table("thing", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    moved = Stream(table, name="things", table={"one": "thing_of_one", "two": "thing"})
    channels = (Channel("out", "one", "two", [moved]), Channel("back", "two", "one", [Stream(table, name="backs")]))
    intakes = (Intake("things", stream=table, folder="drop/a"), Intake("backs", stream="backs", folder="drop/b"))
    assert check_intakes(intakes, channels) == []
    (found,) = folders.drops(replace(site, channels=channels, intakes=intakes))
    assert found.path == site.spool.folders.home / "drop" / "a"


def test_with_a_marker_a_file_is_taken_once_that_is_there_however_old_it_is(site: Site) -> None:
    site, drop = with_folder(site, marker=".ok")
    (drop.path / "a.csv").write_text("id\n")
    assert Watcher().look(drop, NOW).ready == ()
    (drop.path / "b.csv.ok").touch()
    (odd,) = Watcher().look(drop, NOW).left_alone
    assert (odd.file, odd.found) == ("b.csv.ok", "says that b.csv is complete, which is not here")
    (drop.path / "a.csv.ok").touch()
    assert [one.file for one in take(site, drop)] == ["a.csv"]
    assert names(drop.path) == {"b.csv.ok"}
    (drop.path / "a.csv.ok").touch()  # as a process leaves it that is killed in the middle of a claim
    folders.finish_claims(site, drop)
    assert names(drop.path) == {"b.csv.ok"}


def test_what_is_no_plain_file_of_a_name_that_is_meant_stays_and_is_named(site: Site, tmp_path: Path) -> None:
    site, drop = with_folder(site, pattern="*.csv")
    outside = tmp_path / "outside.csv"
    outside.write_text("secret\n")
    (drop.path / "link.csv").symlink_to(outside)
    (drop.path / "dangling.csv").symlink_to("nowhere")
    (drop.path / "hard.csv").hardlink_to(outside)
    os.mkfifo(drop.path / "pipe.csv")
    (drop.path / "folder.csv").mkdir()
    for name in (".hidden.csv", "a.csv.part", "notes.txt", "line\nbreak.csv", "good.csv"):
        (drop.path / name).touch()
    (Path(os.fsdecode(os.fsencode(drop.path) + b"/\xff.csv"))).touch()
    looked = Watcher().look(drop, NOW)
    assert [one.name for one in looked.ready] == ["good.csv"]
    said = {one.file: one.found for one in looked.left_alone}
    assert said == {
        "link.csv": "is a symbolic link and no file",
        "dangling.csv": "is a symbolic link and no file",
        "hard.csv": "has 2 names (hard links), so that others may change it",
        "pipe.csv": "is a FIFO and no file",
        "folder.csv": "is a folder",
        ".hidden.csv": "has a hidden name",
        "a.csv.part": "has the name of a copy that is not ended",
        "notes.txt": "has a name that no intake means",
        "line\nbreak.csv": "has a name with bytes that are no characters of UTF-8, or none to be shown",
        "\udcff.csv": "has a name with bytes that are no characters of UTF-8, or none to be shown",
    }
    assert all(one.remedy for one in looked.left_alone)
    assert len(take(site, drop)) == 1
    assert len(names(drop.path)) == len(said)
    assert outside.read_text() == "secret\n"


def test_what_is_put_in_the_place_of_a_file_that_was_seen_is_not_claimed(site: Site, tmp_path: Path) -> None:
    site, drop = with_folder(site)
    (drop.path / "a.csv").write_text("id\n")
    (ready,) = Watcher().look(drop, NOW).ready
    (drop.path / "a.csv").unlink()
    (drop.path / "a.csv").symlink_to(tmp_path)
    assert folders.claim(site, drop, ready) is None
    assert (drop.path / "a.csv").is_symlink()
    assert names(drop.path / "taken") == set()


def test_nothing_is_overwritten_and_a_refused_file_has_its_reason_beside_it(site: Site) -> None:
    site, drop = with_folder(site)
    file = drop.path / "a.csv"
    for text in ("1", "2"):
        file.write_text(text)
        (claimed,) = take(site, drop)
        file.write_text("another one of its name")
        assert take(site, drop) == []  # it waits until the first one is put away
        assert [one.place for one in folders.claimed(drop)] == [claimed.place]  # as a process that was killed left it
        at = folders.put_away(site, claimed.place, folders.REFUSED, claimed.file, f"it is bad {text}")
        assert at is not None
        assert at.with_name(at.name + ".txt").read_text() == f"it is bad {text}\n"
        assert folders.put_away(site, claimed.place, folders.REFUSED, claimed.file, "again") is None
    refused = {one.name: one.read_text()[:1] for one in (drop.path / "refused").iterdir()}
    assert refused == {"a.csv": "1", "a.csv.txt": "i", "a-1.csv": "2", "a-1.csv.txt": "i"}
    (claimed,) = take(site, drop)
    file.write_text("a third one")
    assert folders.give_back(site, claimed.place, "a.csv")
    assert names(drop.path) == {"a.csv", "a-1.csv"}
    (drop.path / "a-1.csv").unlink()
    long = "x" * 251 + ".csv"
    file.rename(drop.path / long)
    (claimed,) = take(site, drop)
    at = folders.put_away(site, claimed.place, folders.REFUSED, claimed.file, "too long")
    assert at is not None
    assert at.name.endswith("x.csv")
    assert folders.prune(drop, 2.0**33) == 6
    assert names(drop.path / "refused") == set()


def test_a_folder_that_is_a_link_or_not_ours_or_away_is_a_sentence(site: Site, tmp_path: Path) -> None:
    site, drop = with_folder(site)
    (drop.path / "a.csv").touch()
    taken = drop.path / "taken"
    taken.chmod(0o777)
    with pytest.raises(TransientError, match="taken: it is to be this user's, and nobody else may write there"):
        take(site, drop)
    taken.chmod(0o700)
    moved = drop.path.rename(tmp_path / "moved")
    with pytest.raises(TransientError, match="No such file or directory; `exchange init` makes it"):
        take(site, drop)
    drop.path.symlink_to(moved)
    with pytest.raises(TransientError, match="expected a folder, found a link"):
        take(site, drop)
    assert names(moved) == {"a.csv"}
    own = Intake("odd", stream="account", folder="incoming/drop")
    (fault,) = folders.make_all(replace(site, intakes=(own,)), None, beyond=True)
    assert "is one of this side's own" in fault


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders to any group")
def test_members_of_the_group_may_drop_files_and_not_take_away_each_others(site: Site) -> None:
    site, drop = with_folder(site)
    assert folders.make_all(site, 4242, beyond=True) == []
    found = drop.path.stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (4242, 0o3770)
    drops = "import os, sys; os.setgroups([4242]); os.setgid(4243); os.setuid(int(sys.argv[2])); "
    for above in drop.path.parents:
        above.chmod(above.stat().st_mode | 0o011)
        if above == site.spool.folders.home.parent.parent:
            break
    script = drops + "open(sys.argv[1], 'x').write('id')"
    done = subprocess.run([sys.executable, "-c", script, drop.path / "a.csv", "4244"], check=False)
    if done.returncode:
        pytest.skip("the folder of tests can't be reached by others")
    script = drops + "os.unlink(sys.argv[1])"
    refused = subprocess.run([sys.executable, "-c", script, drop.path / "a.csv", "4245"], check=False, stderr=-3)
    assert refused.returncode
    (claimed,) = take(site, drop)
    assert claimed.who == "user 4244"
