from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exchange.celery.nudge_watch import WatchedFolder

STEM = "requests-4f1c0a9be2d7-0000000042"
DATA, MANIFEST = f"{STEM}.jsonl.zst", f"{STEM}.manifest.jsonl"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells us")


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


@pytest.fixture
def watched(incoming: Path) -> Iterator[WatchedFolder]:
    folder = WatchedFolder(incoming)
    yield folder
    folder.close()


def names(watched: WatchedFolder) -> set[str]:
    return {name for name, _, _ in watched.look()}


def test_a_batch_is_there_when_both_its_files_are(watched: WatchedFolder, incoming: Path) -> None:
    (incoming / MANIFEST).touch()
    (incoming / "requests-4f1c0a9be2d7-0000000043.jsonl.zst").touch()
    (incoming / f".{DATA}.part").touch()
    assert names(watched) == set()

    (incoming / f".{DATA}.part").rename(incoming / DATA)
    assert names(watched) == {DATA, MANIFEST}


def test_a_file_that_grew_is_another_one(watched: WatchedFolder, incoming: Path) -> None:
    (incoming / DATA).write_bytes(b"half")
    (incoming / MANIFEST).touch()
    before = watched.look()
    (incoming / DATA).write_bytes(b"the whole")
    assert len(watched.look() - before) == 1


def test_what_an_import_gives_back_is_the_same_as_before(watched: WatchedFolder, incoming: Path) -> None:
    (incoming / DATA).touch()
    (incoming / MANIFEST).touch()
    before = watched.look()
    (incoming / DATA).rename(incoming.parent / DATA)
    (incoming.parent / DATA).rename(incoming / DATA)
    assert watched.look() == before


@linux_only
@pytest.mark.parametrize("way", ["rename", "write"])
def test_a_wait_ends_when_a_file_is_complete(watched: WatchedFolder, incoming: Path, way: str) -> None:
    watched.look()
    assert not watched.wait(0.01)
    (incoming.parent / "new").touch()
    steps = {
        "rename": lambda: (incoming.parent / "new").rename(incoming / MANIFEST),
        "write": lambda: (incoming / MANIFEST).write_bytes(b"{}"),
    }
    later = threading.Timer(0.1, steps[way])
    later.start()
    began = time.monotonic()
    assert watched.wait(30)
    assert time.monotonic() - began < 15
    later.join()
    while watched.wait(0.1):
        pass


@linux_only
@pytest.mark.parametrize("missed", [True, False])
def test_a_folder_that_went_and_came_back_is_watched_again(
    watched: WatchedFolder, incoming: Path, missed: bool
) -> None:
    watched.look()
    shutil.rmtree(incoming)
    if missed:
        with pytest.raises(FileNotFoundError):
            watched.look()
    incoming.mkdir()
    watched.look()
    while watched.wait(0.01):
        pass
    (incoming / MANIFEST).touch()
    assert watched.wait(30)


def test_where_nobody_tells_a_wait_takes_its_time_and_a_look_finds_what_came(
    incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "some other system")
    watched = WatchedFolder(incoming)
    assert watched.look() == frozenset()
    (incoming / DATA).touch()
    (incoming / MANIFEST).touch()
    assert not watched.wait(0.01)
    assert names(watched) == {DATA, MANIFEST}


@linux_only
def test_no_descriptor_is_left_open(incoming: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    watched = WatchedFolder(incoming)
    watched.look()
    watched.close()
    watched.close()
    assert set(Path("/proc/self/fd").iterdir()) <= before
