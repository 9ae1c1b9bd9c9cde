"""Folders on disks of their own, each full or read-only in turn: it is said, and holds up only what needs that one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exchange.database.locks import reading
from exchange.files.shared_folders import MARKER
from exchange.format.errors import Verdict
from exchange.incoming import stranger_counts
from exchange.operating.doctor.file_system import check_folders
from exchange.operating.doctor.finding import Level
from tests.crossing import shop
from tests.crossing.forging import Forger, last_byte_changed
from tests.crossing.forging import account as forged
from tests.crossing.planting import apart, remount
from tests.crossing.sides import Link, Side

BATCH_BYTES = 64 * 1024
SIZE = ",size=2m"
FIRST = 1_700_000_000_000_000
FULL, READ_ONLY = "No space left on device", "Read-only file system"


@contextmanager
def full(folder: Path) -> Iterator[str]:
    """Leave no room on a folder's file system until the end of the block."""
    filling = folder / ".filling"
    with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield FULL
    filling.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[str]:
    """Let nobody write to a folder's file system until the end of the block."""
    remount(folder, read_only=True)
    yield READ_ONLY
    remount(folder, read_only=False)


HOW = pytest.mark.parametrize("how", [full, read_only], ids=["full", "read-only"])
How = Callable[[Path], contextlib.AbstractContextManager[str]]


def prepare(side: Side) -> None:
    """Mark the folders that were mounted just now."""
    side.limit(batch_bytes=BATCH_BYTES)
    for shared in side.site.spool.shared:
        shared.mark()


def faults(side: Side) -> list[str]:
    """Give what doctor says of the folders."""
    found = check_folders(side.site.spool.folders, BATCH_BYTES)
    return [one.message for one in found if one.level is Level.FAULT and one.check == "space"]


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()} - {MARKER, ".filling"}


@HOW
def test_whatever_folder_on_the_way_out_takes_nothing_is_named_and_all_goes_on_when_it_does(
    small: Link, how: How
) -> None:
    side = small.one
    folders = side.site.spool.folders
    disks = (folders.tmp, folders.sealed, folders.outgoing)

    def change(number: int) -> None:
        side.execute(shop.account.insert().values(id=number, name="n"))

    def work() -> None:
        prepare(side)
        change(0)
        (first,) = side.export().batches
        for number, folder in enumerate(disks, 1):
            assert faults(side) == []
            change(number)
            with how(folder) as why:
                run = side.export()
                assert run.trouble is not None
                assert str(folder) in run.trouble
                assert why in run.trouble or "bytes are free" in run.trouble
                assert any(f"{folder} can't be written: {why}" in one for one in faults(side))
                assert len(names(folders.sealed)) == 2 * number + 2 * (folder == folders.outgoing)
                assert names(folders.tmp) == set()
            run = side.export()
            assert run.trouble is None
            assert len(names(folders.outgoing)) == 2 * number + 2
        assert {f"{first.batch}.jsonl.zst", f"{first.batch}.manifest.jsonl"} < names(folders.outgoing)

    apart(work, side, mounted=disks, options=SIZE)
    side.limit(batch_bytes=BATCH_BYTES)


@HOW
def test_whatever_folder_on_the_way_in_takes_nothing_holds_up_only_what_needs_it(
    quick_receiver: Side, quick_forger: Forger, how: How
) -> None:
    side, forger = quick_receiver, quick_forger
    folders = side.site.spool.folders
    disks = (folders.work, folders.archive, folders.quarantine, folders.strangers, folders.incoming)
    unsigned = Forger(side, forger.key, channel="aaa")
    rows = 0

    def deliver() -> tuple[str, str, str]:
        """Bring a good batch, one that is damaged, and one that nobody signed."""
        nonlocal rows
        good = forger.send([forged(rows + 1, FIRST + rows)])
        rows += 1
        bad = forger.make([forged(99, FIRST + 99)], follow=False)
        forger.deliver(bad, data=last_byte_changed(bad.data))
        return good, bad.stem, unsigned.send([], signed=False)

    def counted() -> int:
        with reading(side.engine) as connection:
            return sum(one.batches for one in stranger_counts.strangers_by_day(connection))

    def applied() -> int:
        return len(side.rows(shop.account))

    def work() -> None:
        prepare(side)
        for number, folder in enumerate(disks, 1):
            assert faults(side) == []
            good, bad, stranger = deliver()
            with how(folder) as why:
                side.take_in()
                run = side.take_in()  # what could not be moved is met once more, and counted once
                said = run.trouble if folder != folders.strangers else run.strangers.why
                stuck = folder == folders.work or (folder == folders.incoming and why == READ_ONLY)
                if folder != folders.incoming or why == READ_ONLY:
                    assert f"{folder}: {why}" in (said or "")
                    assert any(f"{folder} can't be written: {why}" in one for one in faults(side))
                assert applied() == number - stuck
                assert counted() == number - (folder == folders.strangers) - (folder == folders.incoming and stuck)
                assert (f"{good}.manifest.jsonl" in names(folders.archive)) == (not stuck and folder != folders.archive)
            assert side.take_in().trouble is None
            assert applied() == counted() == number
            assert {f"{good}.manifest.jsonl", f"{good}.jsonl.zst"} <= names(folders.archive)
            assert {f"{bad}.manifest.jsonl", f"{bad}.reason.txt"} <= names(folders.quarantine)
            assert f"{stranger}.manifest.jsonl" in names(folders.strangers)
            assert names(folders.incoming) == names(folders.work) == names(folders.tmp) == set()
        assert not any("~" in name for name in names(folders.archive))

    apart(work, side, mounted=disks, options=SIZE)


def test_a_file_that_crosses_disks_is_there_for_good_before_it_is_gone_here(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    side = quick_receiver
    folders = side.site.spool.folders
    mounted = (folders.incoming, folders.archive)

    def work() -> None:
        prepare(side)
        quick_forger.send([forged(1, FIRST)])
        steps: list[tuple[str, str]] = []
        unlink, rename = os.unlink, os.rename

        def where(descriptor: int) -> str:
            return Path(f"/proc/self/fd/{descriptor}").readlink().name

        def sync(descriptor: int) -> None:
            steps.append(("sync", where(descriptor)))

        def removed(name: str, *, dir_fd: int) -> None:
            unlink(name, dir_fd=dir_fd)
            steps.append(("unlink", where(dir_fd)))

        def renamed(name: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
            rename(name, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            steps.append(("rename", where(dst_dir_fd)))

        os.fsync, os.unlink, os.rename = sync, removed, renamed  # type: ignore[assignment]
        assert [one.verdict for one in side.take_in().batches] == [Verdict.APPLIED]
        for source, target in (("incoming", "work"), ("work", "archive")):
            moves = [number for number, step in enumerate(steps) if step == ("unlink", source)]
            assert len(moves) == 2
            for gone in moves:
                assert steps[gone - 2 : gone] == [("rename", target), ("sync", target)]
                assert steps[gone - 3][0] == "sync"  # the file itself

    apart(work, side, mounted=mounted)
