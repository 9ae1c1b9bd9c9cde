"""A carrier who plants things in the folders that he shares with us: he leads us nowhere, and holds us up nowhere."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import random
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.celery.nudge_watch import WatchedFolder
from exchange.cli import output
from exchange.files import keys
from exchange.files.batch_files import BatchFiles
from exchange.files.folder import held
from exchange.files.layout import Folders
from exchange.files.shared_folders import MARKER
from exchange.files.spool import Spool
from exchange.format.errors import BatchError, TransientError, Verdict
from exchange.format.names import BatchName, data_name, manifest_name
from exchange.outgoing import exporter
from exchange.results import ExportRun
from tests.crossing.forging import Forger
from tests.crossing.forging import account as forged
from tests.crossing.planting import SHAPES, Outside, apart, empty
from tests.crossing.processes import fork, join
from tests.crossing.shop import account
from tests.crossing.sides import Link, Side

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells what was touched on Linux alone")

MOUNTS = pytest.mark.parametrize("mounts", [1, 2], ids=["one-file-system", "two-file-systems"])
BATCH = BatchName("forth", "0123456789ab", 1)
ENCODING = ("zstd",)
DATA, MANIFEST = data_name(BATCH, ENCODING), manifest_name(BATCH)
LETTERS = "letters.jsonl"
BYTES = {DATA: b"the data", MANIFEST: b"the manifest"}
ROUNDS = 8
PR_SET_PDEATHSIG = 1


class Workshop:
    """A spool with a batch that is sealed and one that arrived, made anew for each step."""

    def __init__(self, home: Path) -> None:
        self.spool = Spool(Folders(home, home.parent / "outgoing", home.parent / "incoming"))
        self.shared = [one.path for one in self.spool.shared]
        self.private = [one for one in self.spool.folders.private if one.name not in {"keys", "markers"}]
        self.spool.prepare(make=True)
        self._markers = {path: (path / MARKER).read_bytes() for path in self.shared}
        self.arrived = BatchFiles(BATCH, self.spool.folders.incoming)

    def renew(self) -> None:
        """Put everything back as it was."""
        for path in self.shared:
            put_back(path)
        for path in (*self.shared, *self.private):
            empty(path)
        for path, said in self._markers.items():
            (path / MARKER).write_bytes(said)
        for folder in (self.spool.folders.sealed, self.spool.folders.incoming):
            for name, content in BYTES.items():
                (folder / name).write_bytes(content)

    def check_private(self) -> None:
        """See that nothing but plain files came into the folders that are ours alone."""
        for folder in self.private:
            for path in folder.iterdir():
                found = path.lstat()
                assert stat.S_ISREG(found.st_mode) and found.st_nlink == 1, path  # noqa: PT018 - one thing is meant


def put_back(folder: Path) -> None:
    """End a swap of a whole folder."""
    was = folder.with_name(f"{folder.name}.was")
    if was.exists():
        if folder.is_dir() and not folder.is_symlink():
            empty(folder)
            folder.rmdir()
        folder.unlink(missing_ok=True)
        was.rename(folder)


def work_there(work: Callable[[Workshop], None], tmp_path: Path, mounts: int) -> None:
    """Work in a workshop whose shared folders are on the file system of its home, or each on one of its own."""
    places = (tmp_path / "outgoing", tmp_path / "incoming")
    for place in places:
        place.mkdir()
    apart(lambda: work(Workshop(tmp_path / "home")), mounted=places if mounts == 2 else ())


# Everything that is done in a shared folder


def _write_letters(shop: Workshop) -> None:
    with held(shop.spool.folders.outgoing) as folder, folder.write(LETTERS, mode=0o600, replace=False) as file:
        file.write(b"letters, keys and settings are written so")


def _watch(shop: Workshop) -> None:
    with contextlib.closing(WatchedFolder(shop.spool.folders.incoming)) as folder:
        folder.look()


def _mark(shop: Workshop) -> None:
    for one in shop.spool.shared:
        one.mark()


def _nothing(_shop: Workshop) -> None:
    pass


def _claim(shop: Workshop) -> BatchFiles:
    return shop.spool.claim(shop.arrived, ENCODING)


STEPS: dict[str, tuple[Callable[[Workshop], object], Callable[[Workshop], object]]] = {
    "prepare": (_nothing, lambda shop: shop.spool.prepare()),
    "upgrade a marker": (
        lambda shop: (shop.spool.folders.incoming / MARKER).write_bytes(b""),
        lambda shop: shop.spool.prepare(),
    ),
    "mark": (_nothing, _mark),
    "look at markers": (_nothing, lambda shop: [one.fault() for one in shop.spool.shared]),
    "publish": (_nothing, lambda shop: shop.spool.publish(BATCH, ENCODING)),
    "publish again": (_nothing, lambda shop: shop.spool.publish(BATCH, ENCODING, 2)),
    "forget": (
        lambda shop: shop.spool.publish(BATCH, ENCODING),
        lambda shop: shop.spool.forget_sealed(BATCH, ENCODING),
    ),
    "sweep": (
        lambda shop: (shop.spool.folders.outgoing / f".{'0' * 32}.tmp").touch(),
        lambda shop: shop.spool.sweep(),
    ),
    "write letters": (_nothing, _write_letters),
    "sight": (_nothing, lambda shop: shop.spool.list_arrivals()),
    "watch": (_nothing, _watch),
    "read": (_nothing, lambda shop: shop.spool.read_manifest(shop.arrived)),
    "measure": (_nothing, lambda shop: shop.spool.data_arrived(shop.arrived, ENCODING)),
    "ask for the age": (_nothing, lambda shop: shop.spool.seconds_since_written(shop.arrived, None)),
    "find": (_nothing, lambda shop: (shop.spool.has(str(BATCH)), shop.spool.find(str(BATCH)))),
    "claim": (_nothing, _claim),
    "open what was claimed": (_nothing, lambda shop: shop.spool.open_data(_claim(shop), ENCODING).close()),
    "give back": (_claim, lambda shop: shop.spool.give_back(shop.arrived, ENCODING)),
    "shelve": (_nothing, lambda shop: shop.spool.archive(shop.arrived)),
    "quarantine": (_nothing, lambda shop: shop.spool.quarantine(shop.arrived, "no good")),
}
"""What is done in shared folders, each with what comes before it."""


# Before


FORETOLD = {
    "outgoing": [
        DATA,
        MANIFEST,
        LETTERS,
        *(f".{name}.tmp" for name in (DATA, MANIFEST, LETTERS, MARKER)),
        f".{LETTERS}.{os.getpid()}.part",
        f".ours.key.{os.getpid()}.tmp",
        "ours.pem",
    ],
    "incoming": [f".{name}.{ending}" for name in (DATA, MANIFEST, MARKER) for ending in ("tmp", "part")],
}
"""Names under which somebody may expect us to write, before we do."""


@MOUNTS
def test_what_lies_where_we_write_is_replaced_or_left_but_never_followed_or_waited_for(
    tmp_path: Path, mounts: int
) -> None:
    def work(shop: Workshop) -> None:
        for shape in SHAPES:
            shop.renew()
            with outside.untouched():
                for folder in shop.shared:
                    for name in FORETOLD[folder.name]:
                        outside.plant(folder / name, shape)
                shop.spool.publish(BATCH, ENCODING)
                shop.spool.give_back(_claim(shop), ENCODING)
                assert {(folder / name).read_bytes() for folder in shop.shared for name in BYTES} == {*BYTES.values()}
                assert not any((folder / name).is_symlink() for folder in shop.shared for name in BYTES)
                with contextlib.suppress(FileExistsError):
                    _write_letters(shop)
                with contextlib.suppress(keys.KeyFault):  # a key of this name is there already
                    keys.new(shop.spool.folders.outgoing, "ours")
                for one in shop.spool.shared:
                    outside.plant(one.path / MARKER, shape)
                    one.mark()
                    assert one.fault() is None
            shop.check_private()

    outside = Outside(tmp_path / "outside")
    work_there(work, tmp_path, mounts)


# During each step


class Planter:
    """Plants something under the name that a step is about to use, just before it is used."""

    def __init__(self, outside: Outside, shared: list[Path]) -> None:
        self._outside, self._shared = outside, set(shared)
        self._left, self._shape, self._busy = 0, "", False
        for call in ("open", "rename", "link", "unlink", "stat", "mkdir"):
            setattr(os, call, self._watching(getattr(os, call)))

    def at(self, step: int, shape: str) -> None:
        """Do so at this step from now on; with 0 never."""
        self._left, self._shape = step, shape

    @property
    def done(self) -> bool:
        """Tell whether that step came."""
        return self._left <= 0

    def _watching(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            if self._left > 0 and not self._busy:
                self._busy = True
                try:
                    for path in self._used(values, named):
                        self._left -= 1
                        if not self._left:
                            self._outside.plant(path, self._shape)
                finally:
                    self._busy = False
            return function(*values, **named)

        return call

    def _used(self, values: tuple[Any, ...], named: dict[str, Any]) -> list[Path]:
        folders = [named.get("src_dir_fd", named.get("dir_fd")), named.get("dst_dir_fd")]
        paths = []
        for value, folder in zip(values, folders, strict=False):
            if isinstance(value, (str, Path)):
                path = Path(value) if folder is None else Path(f"/proc/self/fd/{folder}").readlink() / value
                if path in self._shared or path.parent in self._shared:
                    paths.append(path)
        return paths


@MOUNTS
def test_what_is_planted_during_any_step_leads_nowhere(tmp_path: Path, mounts: int) -> None:
    def work(shop: Workshop) -> None:
        planter = Planter(outside, shop.shared)
        planted = 0
        for before, act in STEPS.values():
            with outside.untouched():
                for step in itertools.count(1):
                    for shape in SHAPES:
                        planter.at(0, shape)
                        shop.renew()
                        before(shop)
                        planter.at(step, shape)
                        with contextlib.suppress(TransientError, BatchError, OSError):
                            act(shop)
                        shop.check_private()
                    if not planter.done:
                        break
                    planted += 1
        assert planted > 100

    outside = Outside(tmp_path / "outside")
    work_there(work, tmp_path, mounts)


# At any moment


def plant_for_ever(outside: Outside, shared: list[Path], seed: int) -> None:
    """Plant at random, as fast as can be: whole folders too. It ends with whoever started it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    draw = random.Random(seed)
    folders = [Path(f"/proc/self/fd/{os.open(path, os.O_DIRECTORY)}") for path in shared]
    while True:
        folder, shape = draw.choice(folders), draw.choice(SHAPES)
        names = [path.name for path in folder.iterdir() if path.name != MARKER]
        with contextlib.suppress(OSError):
            if names and draw.random() < 0.8:
                outside.plant(folder / draw.choice(names), shape)
            elif draw.random() < 0.5:
                outside.plant(folder / MARKER, shape)
                Path(folder / MARKER).unlink()
                Path(folder / MARKER).touch()
            else:
                path = draw.choice(shared)
                outside.plant(path, shape)
                put_back(path)


@contextmanager
def planted(outside: Outside, shared: list[Path], seed: int) -> Iterator[None]:
    """Have somebody plant at random until the end of the block; then put the folders back in order."""
    child = fork(lambda: plant_for_ever(outside, shared, seed))
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        join(child)
    for path in shared:
        put_back(path)
        empty(path)


def carry(source: Path, target: Path) -> None:
    """Carry what can be carried."""
    with contextlib.suppress(OSError), held(source) as here, held(target) as there, here.entries() as entries:
        for name in [entry.name for entry in entries if not entry.name.startswith(".")]:
            with contextlib.suppress(OSError), here.read(name) as file, there.write(name, mode=0o644) as copy:
                copy.write(file.read())


@MOUNTS
def test_who_plants_at_any_moment_loses_us_nothing(small: Link, tmp_path: Path, mounts: int) -> None:
    one, other = small.one, small.other
    outside = Outside(tmp_path / "outside")
    shared = [side.site.spool.shared for side in (one, other)]
    paths = [part.path for parts in shared for part in parts]
    sealed, incoming = one.site.spool.folders.sealed, other.site.spool.folders.incoming

    def work() -> None:
        for part in itertools.chain(*shared):
            part.mark()
        with outside.untouched():
            with planted(outside, paths, seed=mounts):
                for number in range(ROUNDS):
                    one.execute(sa.insert(account).values(id=number, name=f"round {number}"))
                    for act in (one.export, lambda: carry(small.there.outgoing, incoming), other.take_in):
                        with contextlib.suppress(TransientError):
                            act()
            for part in itertools.chain(*shared):
                part.mark()
            assert one.export().trouble is None
            for path in sealed.iterdir():  # as if all of it were sent again
                (incoming / path.name).write_bytes(path.read_bytes())
            assert other.take_in().trouble is None
        assert other.rows(account) == one.rows(account) != []

    apart(work, one, other, mounted=tuple(paths) if mounts == 2 else ())


# After


def test_a_claimed_file_that_gets_another_name_is_its_own_batchs_trouble(
    quick_receiver: Side, quick_forger: Forger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem = quick_forger.send([forged(1, 1_700_000_000_000_000)])
    claim = Spool.claim

    def claimed(spool: Spool, sighting: BatchFiles, encoding: tuple[str, ...]) -> BatchFiles:
        there = claim(spool, sighting, encoding)
        # As its owner can who holds it open, by /proc/self/fd.
        (tmp_path / "another-name").hardlink_to(there.folder / manifest_name(there.name))
        return there

    monkeypatch.setattr(Spool, "claim", claimed)
    run = quick_receiver.take_in()

    assert run.trouble is None
    assert [(one.batch, one.verdict) for one in run.batches] == [(stem, Verdict.INCOMPLETE)]
    assert "its manifest: expected a plain file with one name" in run.batches[0].message


def test_a_file_has_its_name_on_the_one_file_system_for_good_before_it_goes_from_the_other(tmp_path: Path) -> None:
    def work(shop: Workshop) -> None:
        shop.renew()
        for call in ("fsync", "rename", "unlink"):
            setattr(os, call, noting(call, getattr(os, call)))
        _claim(shop)
        assert calls == ["rename", "fsync", "rename", "fsync", "unlink"] * 2  # the first one meets two file systems

    def noting(call: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*values: Any, **named: Any) -> Any:
            calls.append(call)
            return function(*values, **named)

        return noted

    calls: list[str] = []
    work_there(work, tmp_path, 2)


# Stopping


def test_an_export_into_a_folder_full_of_pipes_ends_when_it_is_told_to(
    small: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = small.one
    side.limit(batch_records=1)
    for number in range(3):
        side.execute(sa.insert(account).values(id=number, name="a"))
    outgoing = side.site.spool.folders.outgoing
    [epoch] = side.all(sa.text("SELECT epoch FROM exchange_network"))  # type: ignore[arg-type]
    for sequence in (1, 2, 3):
        name = BatchName("forth", epoch[0], sequence)
        for file in (data_name(name, ENCODING), manifest_name(name)):
            os.mkfifo(outgoing / file)
            os.mkfifo(outgoing / f".{file}.tmp")
    publish = Spool.publish

    def told_to_end(spool: Spool, *batch: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        publish(spool, *batch)

    monkeypatch.setattr(Spool, "publish", told_to_end)
    runs: list[ExportRun] = []

    def work() -> None:
        with output.between_batches("exporting", side.site.progress) as stopping:
            runs.append(exporter.export(side.site, stopping=stopping))
        assert (runs[0].trouble, len(runs[0].batches)) == (None, 1)

    apart(work, side)
    monkeypatch.undo()
    assert len(side.export().batches) == 2
    assert side.export().batches == ()
