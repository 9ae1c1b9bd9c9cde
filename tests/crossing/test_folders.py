from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from exchange.format.errors import WorldError
from exchange.shared import MARKER
from exchange.spool import Folders, Spool


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "home", tmp_path / "home/outgoing", tmp_path / "home/incoming")


def test_a_shared_folder_is_made_by_a_persons_first_step_and_by_nothing_else(folders: Folders) -> None:
    with pytest.raises(WorldError, match="exchange init"):
        Spool(folders).prepare()
    assert not folders.outgoing.exists()

    Spool(folders).prepare(make=True)
    Spool(folders).prepare()
    assert (folders.incoming / MARKER).exists()


def test_a_mistyped_folder_is_not_made(folders: Folders, tmp_path: Path) -> None:
    Spool(folders).prepare(make=True)

    with pytest.raises(WorldError, match="never set up, or is not mounted"):
        Spool(replace(folders, incoming=tmp_path / "incomming")).prepare()
    assert not (tmp_path / "incomming").exists()


def test_a_folder_that_lost_its_marker_stops_even_a_persons_first_step(folders: Folders) -> None:
    Spool(folders).prepare(make=True)
    shutil.rmtree(folders.incoming)
    folders.incoming.mkdir()

    with pytest.raises(WorldError, match="lost its marker"):
        Spool(folders).prepare(make=True)


def test_a_carrier_passes_through_the_home_and_reads_nothing_else_there(folders: Folders) -> None:
    Spool(folders).prepare(make=True)

    modes = {path.name: path.stat().st_mode & 0o777 for path in (folders.home, *folders.home.iterdir())}
    assert modes.pop("home") == 0o711
    assert {modes.pop(name) for name in ("outgoing", "incoming")} == {0o755}
    assert set(modes.values()) == {0o700}
