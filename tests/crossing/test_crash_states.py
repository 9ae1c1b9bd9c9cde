"""The power goes at any moment of an export or an import: no half batch counts as a good one, no sealed one is lost."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.files.folder import Folder
from exchange.files.layout import Folders
from exchange.files.spool import Spool
from exchange.format.errors import BatchError, Verdict
from exchange.format.manifest import Manifest
from exchange.format.names import BatchName, data_name, manifest_name
from tests.crossing.crash_states import State, crash_states, files_of, may_trace, put_back, put_database_back, trace
from tests.crossing.sides import Side
from tests.crossing.test_nth_fault import (
    Bench,
    ask_for_a_lost_batch,
    export,
    let_go,
    let_settled_ones_be_old,
    take_in,
    two_sides,
)
from tests.databases import Databases


class Power:
    """Two networks, one of which loses its power in the middle of something."""

    def __init__(self, bench: Bench, folder: Path, seed: int) -> None:
        self.bench, self.folder = bench, folder
        self.draw = random.Random(seed)
        for side in (bench.one, bench.other):
            side.limit(grace_seconds=3600)
        self.states: list[State] = []
        # Names that were removed from a folder that nobody synced may be there again.
        bench.leaves_data = True

    def lose(self, side: Side, work: Callable[[], object]) -> None:
        """Trace ``work`` on a side, and find out what its disk may hold whenever the power goes."""
        self.side = side
        self.peer = self.bench.other if side is self.bench.one else self.bench.one
        self.commits = self.folder / f"commits of {side.site.network}"
        self.commits.mkdir()
        self.before = files_of(*self.roots(self.side))
        self.peer_before = files_of(*self.roots(self.peer))
        self.peer.engine.dispose()
        self.peer_database = self.commits / "peer.db"
        shutil.copyfile(str(self.peer.engine.url.database), self.peer_database)
        lines = trace(work, side, self.commits)
        self.states = crash_states(lines, self.before, self.roots(side), self.draw)

    @staticmethod
    def roots(side: Side) -> tuple[Path, ...]:
        """Name the folders of a side, each once."""
        folders = side.site.spool.folders
        others = (one for one in (folders.outgoing, folders.incoming) if not one.is_relative_to(folders.home))
        return (folders.home, *others)

    def faults(self, most: int | None = None) -> Iterator[str]:
        """Say what is wrong with each state, or ``most`` that are drawn, as it is found and afterwards."""
        some = self.states if most is None or most >= len(self.states) else self.draw.sample(self.states, most)
        for state in some:
            put_back(state.files, *self.roots(self.side))
            put_database_back(self.side, self.commits / f"{state.commit}.db")
            put_back(self.peer_before, *self.roots(self.peer))
            put_database_back(self.peer, self.peer_database)
            told = sorted("/".join(Path(one).parts[-2:]) for one in state.files.keys() ^ self.before.keys())
            for fault in (*unsafe(self.side), *self._afterwards()):
                yield f"after commit {state.commit}, with {told} changed: {fault}"

    def found_at_once(self) -> Iterator[str]:
        """Say what is wrong with each state as it is found."""
        for state in self.states:
            put_back(state.files, *self.roots(self.side))
            put_database_back(self.side, self.commits / f"{state.commit}.db")
            yield from unsafe(self.side)

    def _afterwards(self) -> Iterator[str]:
        """Let the carrier come first, and both sides run on."""
        bench = self.bench
        for carrier in (bench.link.there, bench.link.back):
            carrier._carried = {one.name for one in carrier.outgoing.iterdir() if str(one) in self._carried_before()}
        bench.carry()
        verdicts = {one.verdict for one in self.peer.take_in().batches}
        if odd := verdicts - {Verdict.APPLIED, Verdict.INCOMPLETE, Verdict.WAITING, Verdict.DUPLICATE}:
            yield f"the other side says {odd}"
        bench.write()
        try:
            bench.settle()
        except pytest.fail.Exception as failed:
            yield str(failed)

    def _carried_before(self) -> set[str]:
        return self.before.keys() | self.peer_before.keys()


def unsafe(side: Side) -> Iterator[str]:
    """Say what of a side's folders breaks a promise before anything runs again."""
    folders = side.site.spool.folders
    for file in folders.outgoing.glob("*.manifest.jsonl"):
        try:
            manifest = Manifest.parse(file.read_bytes().partition(b"\n")[0])
        except BatchError:
            yield f"{file.name} has its name and is half"
            continue
        data = folders.outgoing / f"{file.name.removesuffix('.manifest.jsonl')}.jsonl.zst"
        if data.exists() and hashlib.sha256(data.read_bytes()).hexdigest() != manifest.sha256:
            yield f"{data.name} has its name and is half"
    ledger = tables.batch.c
    columns = (ledger.manifest, ledger.state, ledger.attempt)
    for row in side.all(sa.select(*columns).where(ledger.direction == "out", ledger.pruned_at.is_(None))):
        manifest = Manifest.parse(row.manifest.encode())
        places = [(folders.sealed, manifest.name)]
        if row.state == "published":
            places.append((folders.outgoing, manifest.name.again(row.attempt)))
        for folder, name in places:
            data = folder / data_name(name, manifest.encoding)
            there = data.exists() and hashlib.sha256(data.read_bytes()).hexdigest() == manifest.sha256
            line = folder / manifest_name(name)
            if not there or not line.exists() or not line.read_bytes().startswith(row.manifest.encode()):
                yield f"{name} is {row.state}, and is not whole in {folder.name}"


@pytest.fixture
def power(databases: Databases, tmp_path: Path, seed: int) -> Power:
    if not may_trace(tmp_path):
        pytest.skip("strace is not there, or may not trace a process here")
    return Power(Bench(two_sides(tmp_path, databases, "sqlite")), tmp_path, seed)


SAMPLE = 2
"""So many states of each are in the default suite, others each time."""

how_many = pytest.mark.parametrize("most", [SAMPLE, pytest.param(None, marks=pytest.mark.torture)])


@how_many
def test_no_batch_is_lost_or_half_whenever_the_power_goes_while_one_is_sealed_and_published(
    power: Power, most: int | None
) -> None:
    power.bench.write()
    power.lose(power.bench.one, lambda: export(power.bench.one))
    assert len(power.states) > 20
    assert [*power.faults(most)] == []


@pytest.mark.thorough
@how_many
def test_no_batch_is_lost_or_twice_whenever_the_power_goes_while_one_is_claimed_and_archived(
    power: Power, most: int | None
) -> None:
    bring(power)
    power.lose(power.bench.other, lambda: take_in(power.bench.other))
    assert len(power.states) > 20
    assert [*power.faults(most)] == []


def bring(power: Power) -> None:
    """Bring a batch."""
    power.bench.write()
    assert not export(power.bench.one).anything
    power.bench.carry()


@pytest.mark.thorough
@how_many
def test_the_same_holds_where_what_comes_lies_on_another_file_system(power: Power, most: int | None) -> None:
    with elsewhere(power.folder) as other:
        move_incoming(power.bench, other)
        bring(power)
        power.lose(power.bench.other, lambda: take_in(power.bench.other))
        assert len(power.states) > 20
        assert [*power.faults(most)] == []


@pytest.mark.thorough
@how_many
def test_no_batch_is_lost_or_half_whenever_the_power_goes_while_one_is_sent_again(
    power: Power, most: int | None
) -> None:
    power.bench.write()
    ask_for_a_lost_batch(power.bench)
    power.lose(power.bench.one, lambda: take_in(power.bench.one))
    sent_again = ("outgoing/forth", ".r2.manifest")
    assert any(all(word in one for word in sent_again) for state in power.states for one in state.files)
    assert len(power.states) > 20
    assert [*power.faults(most)] == []


@pytest.mark.thorough
@how_many
@pytest.mark.parametrize("side", ["one", "other"])
def test_no_batch_that_is_still_wanted_is_lost_whenever_the_power_goes_while_old_ones_are_pruned(
    power: Power, most: int | None, side: str
) -> None:
    power.bench.write()
    let_settled_ones_be_old(power.bench)
    bring(power)
    pruned = getattr(power.bench, side)
    power.lose(pruned, lambda: let_go(pruned))
    assert any(state.files.keys() < power.before.keys() for state in power.states)
    assert len(power.states) > 5
    assert [*power.faults(most)] == []


@contextmanager
def elsewhere(folder: Path) -> Iterator[Path]:
    """Give a folder on another file system than ``folder``, until the end."""
    for place in ("/dev/shm", "/var/tmp", "/tmp", str(Path.cwd())):  # noqa: S108 - any place that is on another disk
        if Path(place).is_dir() and Path(place).stat().st_dev != folder.stat().st_dev:
            with tempfile.TemporaryDirectory(dir=place, prefix="exchange-tests-") as made:
                yield Path(made)
            return
    pytest.skip("all folders that are writable here are on one file system")


def move_incoming(bench: Bench, folder: Path) -> None:
    """Have the other side receive in another folder."""
    side = bench.other
    folders = side.site.spool.folders
    side.site = replace(side.site, spool=Spool(Folders(folders.home, folders.outgoing, folder / "incoming")))
    side.site.spool.prepare(make=True)
    bench.link.there.incoming = folder / "incoming"


# Broken on purpose


def _no_sync(self: Folder) -> None:
    """Sync no folder."""


@pytest.mark.thorough
def test_a_folder_that_is_not_synced_is_reported(power: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    power.bench.write()
    with monkeypatch.context() as broken:
        broken.setattr(Folder, "sync", _no_sync)
        power.lose(power.bench.one, lambda: export(power.bench.one))
    assert any("is not whole in sealed" in one for one in power.found_at_once())


@pytest.mark.thorough
def test_a_file_that_is_not_synced_is_reported(power: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    power.bench.write()
    real = os.fsync
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", lambda one: real(one) if stat.S_ISDIR(os.fstat(one).st_mode) else None)
        power.lose(power.bench.one, lambda: export(power.bench.one))
    assert any("has its name and is half" in one for one in power.found_at_once())


@pytest.mark.thorough
def test_a_batch_that_is_published_before_its_commit_is_reported(power: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    power.bench.write()
    real = Spool.seal

    def seal_and_publish(spool: Spool, name: BatchName, encoding: tuple[str, ...], *rest: Any) -> None:
        real(spool, name, encoding, *rest)
        spool.publish(name, encoding)

    with monkeypatch.context() as broken:
        broken.setattr(Spool, "seal", seal_and_publish)
        power.lose(power.bench.one, lambda: export(power.bench.one))

    def both_there(state: State) -> bool:
        return sum("/outgoing/forth" in one for one in state.files.keys() - power.before) == 2

    power.states = sorted(filter(both_there, power.states), key=lambda one: one.commit)[:1]
    assert any("not settled" in one for one in power.faults())
