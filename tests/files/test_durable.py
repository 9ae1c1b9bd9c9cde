import contextlib
import errno
import os
import stat
from pathlib import Path

import pytest

from exchange.files import durable
from exchange.format.signed_file import FileFault


def test_a_file_appears_whole_with_its_mode_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "letters"
    with durable.writing(file, mode=0o640) as out:
        out.write(b"hel")
        assert not file.exists()
        out.write(b"lo")

    assert file.read_bytes() == b"hello"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_file_and_folder_are_on_the_disk_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(stat.S_ISDIR(os.fstat(number).st_mode)))
    durable.write(tmp_path / "letters", b"hello", mode=0o600)

    assert synced == [False, True]


def test_what_is_there_is_replaced_only_if_that_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "letters"
    durable.write(file, b"old", mode=0o600)
    durable.write(file, b"new", mode=0o600)
    with pytest.raises(FileExistsError):
        durable.write(file, b"newest", mode=0o600, replace=False)

    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "letters"
    durable.write(file, b"old", mode=0o600)
    with contextlib.suppress(RuntimeError), durable.writing(file, mode=0o600) as out:
        out.write(b"new")
        raise RuntimeError

    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("there", ["file", "link"])
def test_a_file_that_a_person_named_is_a_new_one(tmp_path: Path, there: str) -> None:
    file = tmp_path / "letters"
    if there == "file":
        file.write_bytes(b"old")
    else:
        file.symlink_to("nowhere")
    with pytest.raises(FileFault, match="letters: expected a new file, found one"), durable.new_file(file):
        raise AssertionError("it was begun")


def test_a_file_system_without_hard_links_takes_new_files_and_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    file = tmp_path / "file"
    durable.write(file, b"new", mode=0o600, replace=False)
    with pytest.raises(FileExistsError):
        durable.write(file, b"another", mode=0o600, replace=False)
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]
