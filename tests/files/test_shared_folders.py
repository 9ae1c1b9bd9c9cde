from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from exchange.files.folder import held
from exchange.files.layout import Folders
from exchange.files.shared_folders import MARKER
from exchange.files.spool import Spool
from exchange.format.errors import TransientError
from exchange.format.names import BatchName


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "home", tmp_path / "home/outgoing", tmp_path / "home/incoming")


def test_a_shared_folder_is_made_by_a_persons_first_step_and_by_nothing_else(folders: Folders) -> None:
    with pytest.raises(TransientError, match="exchange init"):
        Spool(folders).prepare()
    assert not folders.outgoing.exists()

    Spool(folders).prepare(make=True)
    Spool(folders).prepare()
    assert (folders.incoming / MARKER).exists()


def test_a_mistyped_folder_is_not_made(folders: Folders, tmp_path: Path) -> None:
    Spool(folders).prepare(make=True)

    with pytest.raises(TransientError, match="never set up, or is not mounted"):
        Spool(replace(folders, incoming=tmp_path / "incomming")).prepare()
    assert not (tmp_path / "incomming").exists()


def test_a_folder_that_lost_its_marker_stops_even_a_persons_first_step(folders: Folders) -> None:
    Spool(folders).prepare(make=True)
    shutil.rmtree(folders.incoming)
    folders.incoming.mkdir()

    with pytest.raises(TransientError, match="lost its marker"):
        Spool(folders).prepare(make=True)


def test_a_carrier_passes_through_the_home_and_reads_nothing_else_there(folders: Folders) -> None:
    Spool(folders).prepare(make=True)

    modes = {path.name: path.stat().st_mode & 0o777 for path in (folders.home, *folders.home.iterdir())}
    assert modes.pop("home") == 0o711
    assert {modes.pop(name) for name in ("outgoing", "incoming")} == {0o755}
    assert set(modes.values()) == {0o700}


# Which folder it is


@pytest.fixture
def prepared(folders: Folders) -> Spool:
    spool = Spool(folders)
    spool.prepare(make=True)
    return spool


def marker(spool: Spool, role: str) -> Path:
    folder: Path = getattr(spool.folders, role)
    return folder / MARKER


def test_markers_say_which_folder_they_are_in_and_a_carrier_can_read_them(prepared: Spool) -> None:
    said = {role: marker(prepared, role).read_text().split() for role in ("outgoing", "incoming")}

    assert said["outgoing"] == ["outgoing", said["incoming"][1]]
    assert marker(prepared, "outgoing").stat().st_mode & 0o777 == 0o644


def test_an_empty_marker_of_an_earlier_version_is_taken_and_says_which_it_is_from_then_on(prepared: Spool) -> None:
    said = marker(prepared, "incoming").read_bytes()
    marker(prepared, "incoming").write_bytes(b"")
    (prepared.folders.home / "markers/token").unlink()  # that version had none

    assert [one.fault() for one in prepared.shared] == [None, None]
    assert marker(prepared, "incoming").read_bytes() == b""  # looking changes nothing
    prepared.prepare()
    prepared.prepare()
    assert marker(prepared, "incoming").read_bytes() == said


def test_a_home_that_was_restored_from_before_it_knew_its_markers_takes_them(prepared: Spool) -> None:
    token = prepared.folders.home / "markers/token"
    said = token.read_bytes()
    token.unlink()

    prepared.prepare()
    assert token.read_bytes() == said


def test_a_marker_that_a_carrier_of_whole_folders_brought_along_does_no_harm(prepared: Spool, tmp_path: Path) -> None:
    peer = Spool(Folders(tmp_path / "peer", tmp_path / "peer/outgoing", tmp_path / "peer/incoming"))
    peer.prepare(make=True)
    shutil.copy(marker(peer, "outgoing"), marker(prepared, "incoming"))

    prepared.prepare()
    assert marker(prepared, "incoming").read_bytes() == marker(peer, "outgoing").read_bytes()


def test_one_sides_outgoing_folder_may_be_the_other_ones_incoming_folder(prepared: Spool, tmp_path: Path) -> None:
    peer = Spool(Folders(tmp_path / "peer", tmp_path / "peer/outgoing", prepared.folders.outgoing))
    peer.prepare(make=True)
    for one, other in ((peer, prepared), (prepared, peer)):
        for shared in one.shared:
            shared.mark()
        one.prepare()
        other.prepare()
        assert [shared.fault() for side in (one, other) for shared in side.shared] == [None] * 4


@pytest.mark.parametrize("whose", ["peer", "own"])
def test_another_folder_in_a_folders_place_is_found_out(prepared: Spool, tmp_path: Path, whose: str) -> None:
    peer = Spool(Folders(tmp_path / "peer", tmp_path / "peer/outgoing", tmp_path / "peer/incoming"))
    peer.prepare(make=True)
    other = marker(peer, "incoming") if whose == "peer" else marker(prepared, "outgoing")
    shutil.copy(other, marker(prepared, "incoming"))

    for act in (prepared.prepare, prepared.list_arrivals):
        with pytest.raises(TransientError, match="not the incoming folder that was marked"):
            act()
    for shared in prepared.shared:  # a person's word
        shared.mark()
    prepared.prepare()


def test_a_link_in_a_folders_place_is_not_followed_and_is_said(prepared: Spool) -> None:
    incoming = prepared.folders.incoming
    incoming.rename(incoming.with_name("elsewhere"))
    incoming.symlink_to(incoming.with_name("elsewhere"))

    for act in (prepared.prepare, prepared.list_arrivals, prepared.shared[1].mark):
        with pytest.raises(TransientError, match="expected a folder, found a link; nothing was read"):
            act()


def test_a_link_above_a_folder_leads_to_no_other_one(tmp_path: Path) -> None:
    spool = Spool(Folders(tmp_path / "home", tmp_path / "home/outgoing", tmp_path / "drop/keys"))
    spool.prepare(make=True)
    (tmp_path / "drop").rename(tmp_path / "away")
    (tmp_path / "drop").symlink_to(tmp_path / "home")
    before = sorted((tmp_path / "home").rglob("*"))

    with pytest.raises(TransientError, match="has lost its marker"):
        spool.prepare()
    with pytest.raises(TransientError, match="/home/keys, which nobody else may use; nothing was marked"):
        spool.shared[1].mark()
    assert sorted((tmp_path / "home").rglob("*")) == before


@pytest.mark.parametrize("place", ["home", "home/work", "home/keys/trusted"])
def test_no_folder_of_ours_alone_is_ever_shared(tmp_path: Path, place: str) -> None:
    spool = Spool(Folders(tmp_path / "home", tmp_path / "home/outgoing", tmp_path / place))

    with pytest.raises(TransientError, match="expected one of its own"):
        spool.prepare(make=True)
    assert not list(tmp_path.rglob(f"{place}/{MARKER}"))
    assert not (tmp_path / "home/keys/trusted").exists()


def test_a_marker_that_is_no_plain_file_is_said_and_replaced_by_a_person(prepared: Spool, tmp_path: Path) -> None:
    path = marker(prepared, "incoming")
    said = path.read_bytes()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(TransientError, match="expected a plain file with one name, found something else"):
        prepared.prepare()
    prepared.shared[1].mark()
    assert (path.is_symlink(), path.read_bytes()) == (False, said)


# What crashes leave


def test_what_a_crash_left_half_written_is_swept_out_and_what_is_being_written_is_not(prepared: Spool) -> None:
    outgoing = prepared.folders.outgoing
    left, strange = outgoing / f".{'0' * 32}.tmp", outgoing / f".{'0' * 31}.tmp"
    left.touch()
    strange.touch()

    with held(outgoing) as folder, folder.write("letters", mode=0o600) as file:
        assert prepared.sweep() == 1
        file.write(b"whole")
    assert {path.name for path in outgoing.iterdir()} == {MARKER, strange.name, "letters"}


def test_a_folder_in_the_way_of_a_batch_is_kept_aside(prepared: Spool) -> None:
    outgoing = prepared.folders.outgoing
    (outgoing / "letters").mkdir()
    (outgoing / "letters/note").touch()

    with held(outgoing) as folder, folder.write("letters", mode=0o640) as file:
        file.write(b"whole")
    assert (outgoing / "letters").read_bytes() == b"whole"
    assert [path.name for path in outgoing.glob(".*.aside/*")] == ["note"]


def test_a_file_has_its_mode_whatever_the_umask(prepared: Spool) -> None:
    before = os.umask(0o077)
    try:
        with held(prepared.folders.outgoing) as folder, folder.write("letters", mode=0o644):
            pass
    finally:
        os.umask(before)
    assert (prepared.folders.outgoing / "letters").stat().st_mode & 0o777 == 0o644


def test_a_folder_of_ours_may_be_a_link_to_another_disk_and_one_that_leads_nowhere_is_said(
    folders: Folders, tmp_path: Path
) -> None:
    folders.home.mkdir()
    (tmp_path / "disk").mkdir(mode=0o700)
    folders.sealed.symlink_to(tmp_path / "disk")
    spool = Spool(folders)
    spool.prepare(make=True)
    name = BatchName("forth", "0123456789ab", 1)
    with spool.drafting() as (file, path):
        file.write(b"data")
        file.flush()
        spool.seal(name, (), path, 4, b"manifest")
    spool.publish(name, ())
    assert {one.name for one in (tmp_path / "disk").iterdir()} == {f"{name}.jsonl", f"{name}.manifest.jsonl"}
    assert (folders.outgoing / f"{name}.jsonl").read_bytes() == b"data"

    (tmp_path / "disk").rename(tmp_path / "unmounted")
    with pytest.raises(TransientError, match="sealed: it is a link that leads nowhere; see that its disk is mounted"):
        spool.prepare()
