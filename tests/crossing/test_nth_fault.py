"""Each call and each statement of each workflow fails, or is the last one: it is said, and nothing else comes of it."""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from exchange.channels import Channel, Stream
from exchange.database import tables
from exchange.database.locks import Busy
from exchange.files.folder import Folder
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.format.names import CONTROL
from exchange.incoming import strangers
from exchange.incoming.importer import never
from exchange.operating import prune
from exchange.operating.check.oracle import Oracle
from exchange.operating.doctor.finding import Level
from exchange.outgoing import control_batch
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres
from tests.crossing.faulty import KILLS, Call, Faulty, seam
from tests.crossing.processes import KILLED, fork, join, until
from tests.crossing.sides import Link, Side
from tests.databases import Databases

ROUNDS = 4
"""So many honest rounds bring everything back in order."""


CHANNELS = (
    Channel("forth", "one", "two", [Stream(shop.place), Stream(shop.account, exclude=["password"])]),
    Channel("back", "two", "one", [Stream(shop.note)]),
)
"""Few streams: what is tried here is done some thousand times."""


def two_sides(folder: Path, databases: Databases, kind: str) -> Link:
    """Make two networks on one kind of database."""
    one, other = (
        Side(name, peer, databases, kind, folder / name, CHANNELS, metadata=shop.metadata)
        for name, peer in (("one", "two"), ("two", "one"))
    )
    return Link(one, other)


class Said(NamedTuple):
    """What a run said of itself: its troubles, and what it says of batches that are not as they should be."""

    troubles: tuple[str, ...]
    outcomes: tuple[str, ...] = ()
    verdicts: frozenset[Verdict] = frozenset()
    busy: bool = False

    def __str__(self) -> str:
        return "; ".join((*self.troubles, *self.outcomes))

    @property
    def anything(self) -> bool:
        return self.busy or bool(self.troubles or self.outcomes)


def export(side: Side) -> Said:
    """Export as a task does."""
    run = side.export()
    trouble = control_batch.after_export(side.site) if not run.trouble else None
    return Said(tuple(filter(None, (run.trouble, trouble, *run.faults))), busy=bool(run.busy))


def take_in(side: Side) -> Said:
    """Import as a task does."""
    run = side.take_in()
    trouble = control_batch.after_import(side.site, run.batches, never)
    batches = [one for one in run.batches if one.reason is not Reason.UNTRUSTED]
    told = [f"{one.batch}: {one.verdict} {one.message}" for one in batches if one.verdict not in _DONE]
    aside = [run.strangers.why] if run.strangers.why else []
    aside += [one.message for one in run.left_alone if "looked at" in one.message]
    verdicts = frozenset(one.verdict for one in batches)
    return Said(tuple(filter(None, (run.trouble, trouble))), (*told, *aside), verdicts, Verdict.BUSY in verdicts)


_DONE = {Verdict.APPLIED, Verdict.DUPLICATE}


def tell(side: Side) -> Said:
    """Write a receipt."""
    trouble = control_batch.try_to_publish(side.site)
    return Said((trouble,) if trouble else ())


def let_go(side: Side) -> Said:
    """Prune."""
    prune.prune_expired(side.site)
    return Said(())


def said_by(work: Callable[[Side], Said], side: Side) -> Said:
    """Give what a workflow says, also by what it raises for people to read."""
    try:
        return work(side)
    except TransientError as error:
        return Said((error.sentence,))
    except Busy as busy:
        return Said((str(busy),), busy=True)


class Bench:
    """Two networks, and one workflow after the other on one of them."""

    def __init__(self, link: Link) -> None:
        self.link, self.one, self.other = link, link.one, link.other
        self._numbers = count(1)
        self.leaves_data = False
        """Whether a data file may be left alone, which is told, and pruned in time."""
        for side in (self.one, self.other):
            side.limit(gap_seconds=0, grace_seconds=0, period_seconds=3600)
        self.write()
        self.settle()

    def write(self) -> None:
        """Change rows on both sides: some that are new, one that changes, and one that goes."""
        number = next(self._numbers)
        with self.one.engine.begin() as connection:
            accounts = [{"id": 10 * number + one, "name": f"n {number}"} for one in range(3)]
            connection.execute(sa.insert(shop.account), accounts)
            connection.execute(sa.insert(shop.place), {"country": "ch", "number": number, "name": "p"})
            before = shop.account.c.id
            connection.execute(sa.update(shop.account).where(before == 10 * number - 10).values(name="changed"))
            connection.execute(sa.delete(shop.account).where(before == 10 * number - 8))
        with self.other.engine.begin() as connection:
            connection.execute(sa.insert(shop.note), {"id": number, "text": "n"})

    def carry(self) -> None:
        self.link.there.carry()
        self.link.back.carry()

    def honest(self, *, again: bool = False) -> list[str]:
        """Do one round of everything; give what was said."""
        said = []
        for side in (self.one, self.other):
            said.append(said_by(export, side))
            if again:  # as an export does by itself, half a period later
                tell(side)
        for _ in range(2):  # what was sent, and what is said of it
            self.carry()
            said += [said_by(take_in, side) for side in (self.one, self.other)]
        return [str(one) for one in said if one.anything]

    def settle(self) -> None:
        """Do honest rounds until there is nothing left to say."""
        for number in range(ROUNDS):
            if not self.honest(again=number > 0) and not self.differences():
                return
        pytest.fail(f"not settled after {ROUNDS} rounds: {self.honest()} {self.differences()}")

    def differences(self) -> list[str]:
        """Say what is not as it should be once both sides are quiet."""
        seen = Oracle(self.one.site, self.other.site)
        found = [f"{side.site.network}: {one}" for side in (self.one, self.other) for one in _odd(side)]
        wrong = seen.judge(at_rest=not self.leaves_data)
        return found + [str(one) for one in wrong if not self.leaves_data or one.kind.level is Level.FAULT]


def _odd(side: Side) -> Iterator[str]:
    """Say what of a side shows that a fault was taken for something else, or left something behind."""
    side.site.spool.sweep(time.time() + 1)  # as prune does with what a crash left
    ledger = tables.batch.c
    for row in side.all(
        sa.select(ledger.direction, ledger.state, sa.func.count(), sa.func.min(ledger.message))
        .where(ledger.channel != CONTROL)
        .group_by(ledger.direction, ledger.state)
    ):
        if (row[0], row[1]) not in {("out", "acknowledged"), ("in", "applied")}:
            yield f"{row[2]} batches {row[0]} are {row[1]}: {row[3]}"
    for what in (tables.dead_letter, tables.attempt, tables.failed_run, tables.stranger):
        if found := side.all(sa.select(what)):
            yield f"{what.name} has {found}"
    folders = side.site.spool.folders
    for folder in (folders.tmp, folders.quarantine, folders.strangers):
        if names := sorted(one.name for one in folder.iterdir()):
            yield f"{folder.name} has {names}"
    if ended := [one.name for one in (folders.home / "markers").iterdir() if one.suffix]:
        yield f"markers has {ended}"


def shape(side: Side) -> Counter[str]:
    """Count what a side has: rows of the ledger, changes that wait, files of each folder.

    How many control batches the other side has heard since depends on how the run before ended.
    """
    ledger = tables.batch.c
    heard = sa.and_(ledger.channel == CONTROL, ledger.state == "acknowledged")
    rows = side.all(sa.select(ledger.direction, ledger.state, ledger.pruned_at.is_(None)).where(~heard))
    found: Counter[str] = Counter(" ".join(map(str, row)) for row in rows)
    found["changes"] = len(side.all(sa.select(tables.change)))
    for folder in side.site.spool.folders.home.iterdir():
        if folder.is_dir():
            found[folder.name] = sum(not one.name.startswith(".") for one in folder.iterdir())
    return found


# The workflows


class Work(NamedTuple):
    """A workflow of one side, and what goes before it."""

    prepare: Callable[[Bench], None]
    run: Callable[[Side], Said]
    is_other: bool = False
    apart: bool = False


def _nothing(bench: Bench) -> None:
    """Leave everything as it is."""


def _arrived(bench: Bench) -> None:
    for side in (bench.one, bench.other):
        assert not export(side).anything
    bench.carry()


def _arrived_again(bench: Bench) -> None:
    """Bring a batch, and the one before it once more."""
    _arrived(bench)
    for name in sorted(one.name for one in bench.one.site.spool.folders.sealed.iterdir() if "forth" in one.name)[-4:]:
        bench.link.there.deliver_again(name)


def _applied(bench: Bench) -> None:
    _arrived(bench)
    assert bench.other.take_in().trouble is None


def _told(bench: Bench) -> None:
    _applied(bench)
    assert not tell(bench.other).anything
    bench.carry()


def let_settled_ones_be_old(bench: Bench) -> None:
    """Let what is settled be past its retention."""
    bench.settle()
    for side in (bench.one, bench.other):
        side.limit(retention_days=0)


def _strange(bench: Bench) -> None:
    """Bring a batch that nobody signed, too."""
    _arrived(bench)
    folders = bench.other.site.spool.folders
    stem = "forth-ffffffffffff-0000000001"
    manifest = next(one for one in sorted(folders.incoming.iterdir()) if one.name.endswith("manifest.jsonl"))
    (folders.incoming / f"{stem}.manifest.jsonl").write_bytes(manifest.read_bytes().partition(b"\n")[0] + b"\n")
    (folders.incoming / f"{stem}.jsonl.zst").write_bytes(b"of nobody")


def ask_for_a_lost_batch(bench: Bench) -> None:
    """Have the other side ask for a batch that was lost."""
    assert not export(bench.one).anything
    bench.link.there.carry()
    for file in bench.other.site.spool.folders.incoming.glob("forth-*"):
        file.unlink()
    bench.write()
    _arrived(bench)
    take_in(bench.other)
    bench.link.back.carry()


WORKS = {
    "export": Work(_nothing, export),
    "import": Work(_arrived, take_in, is_other=True),
    "claim across file systems": Work(_arrived, take_in, is_other=True, apart=True),
    "duplicates": Work(_arrived_again, take_in, is_other=True),
    "put aside": Work(_strange, take_in, is_other=True),
    "receipt out": Work(_applied, tell, is_other=True),
    "receipt in": Work(_told, take_in),
    "resend": Work(ask_for_a_lost_batch, take_in),
    "prune what was sent": Work(let_settled_ones_be_old, let_go),
    "prune what came": Work(let_settled_ones_be_old, let_go, is_other=True),
}


class Instrument:
    """One workflow with a fault at each of its calls."""

    def __init__(self, bench: Bench, name: str, folder: Path) -> None:
        self.bench, self.name, self.folder = bench, name, folder
        self.work = WORKS[name]
        self.side = bench.other if self.work.is_other else bench.one
        self.full: Counter[str] = Counter()

    def calls(self) -> list[Call]:
        """Do it once without any fault; give the calls."""
        self._prepare()
        before = shape(self.side)
        with seam(Faulty(self.folder, self.side.engine, apart=self.work.apart)) as faulty:
            assert not self.work.run(self.side).troubles
        self.full = self._done_since(before)
        self._recover()
        return faulty.calls

    def _done_since(self, before: Counter[str]) -> Counter[str]:
        found = shape(self.side)
        if self.work.prepare is let_settled_ones_be_old:  # what is left counts, whatever there was
            return Counter({name: found[name] for name in ("sealed", "archive", "quarantine")})
        found.subtract(before)
        return found

    def _prepare(self) -> None:
        self.bench.write()
        self.work.prepare(self.bench)

    def _recover(self) -> None:
        if self.work.prepare is let_settled_ones_be_old:
            for side in (self.bench.one, self.bench.other):
                assert said_by(let_go, side) == Said(())
        if self.work.prepare is _strange:
            said_by(take_in, self.side)
            self.side.site.spool.sweep(time.time() + 1)  # what a killed look at the disk left there is no stranger
            assert strangers.clear_strangers(self.side.site) == 2
            self.side.execute(sa.delete(tables.stranger))
        self.bench.settle()

    def fail(self, number: int, fault: str) -> Call | None:
        """Have one call fail, see what was said, and that all is well afterwards; give the call, if it was made."""
        self._prepare()
        before = shape(self.side)
        faulty = Faulty(self.folder, self.side.engine, number, fault, apart=self.work.apart)
        if fault in KILLS:
            code = join(fork(lambda: self._run(faulty), self.side))
            assert code in {0, KILLED}, "it raised something that nobody is told"
            # PostgreSQL may need a moment to see that its client is dead.
            until(lambda: not any(said_by(run, self.side).busy for run in (export, take_in)))
        else:
            said = self._run(faulty)
            if faulty.hit:
                self._judge(faulty, said, before)
        self._recover()
        return faulty.hit

    def _run(self, faulty: Faulty) -> Said:
        with seam(faulty):
            return said_by(self.work.run, self.side)

    def _judge(self, faulty: Faulty, said: Said, before: Counter[str]) -> None:
        """See that the fault was said as what it is, or that everything was done all the same."""
        assert said.verdicts.isdisjoint({Verdict.QUARANTINED, Verdict.HELD}), f"taken for the batch's own: {said}"
        assert said.anything or faulty.hit is None or faulty.hit.kind != "fsync", "nothing was said of a failed sync"
        after = self._done_since(before)
        if not said.anything and faulty.fault != "serialization":  # whoever waited for somebody else goes on later
            lacking = {
                name: (after[name], self.full[name]) for name in after | self.full if after[name] != self.full[name]
            }
            assert not lacking, f"nothing was said, and it was not done: {lacking}"
            return
        if faulty.fault.startswith("E"):
            words = os.strerror(getattr(errno, faulty.fault.partition(" ")[0]))
            assert words in str(said), f"said to be something else: {said}"


def assert_each_fault_is_said(
    every: Instrument, draw: random.Random, most: int | None, *, of_the_database: bool = False
) -> None:
    """Try a fault at each call, drawn from those that it can have, and each at commits; or at ``most`` drawn calls."""
    calls = [*enumerate(every.calls(), 1)]
    if of_the_database:
        calls = [(number, call) for number, call in calls if call.kind in {"statement", "commit"}]
    hits = 0
    for number, call in calls if most is None else draw.sample(calls, min(most, len(calls))):
        faults = [*call.faults()]
        for fault in faults if most is None and call.kind == "commit" else draw.sample(faults, 1):
            try:
                hits += every.fail(number, fault) is not None
            except (AssertionError, pytest.fail.Exception, SQLAlchemyError, OSError) as error:
                error.add_note(f"{every.name}: {fault} at call {number}, {call.kind} {call.about}")
                raise
    assert hits or most is not None


@contextmanager
def bench_on(kind: str, folder: Path, databases: Databases) -> Iterator[Bench]:
    """Make a bench, and let go of its databases at the end."""
    link = two_sides(folder, databases, kind)
    try:
        yield Bench(link)
    finally:
        for side in (link.one, link.other):
            side.engine.dispose()


def test_whatever_call_fails_or_is_the_last_one_is_said_and_nothing_is_lost_twice_half_or_stray(
    databases: Databases, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    with bench_on("sqlite", tmp_path, databases) as bench:
        assert_each_fault_is_said(Instrument(bench, draw.choice([*WORKS]), tmp_path), draw, 3)


class Found(NamedTuple):
    """A fault that once led to something else than the sentence that it should: at a call of a kind, after a rename."""

    name: str
    kind: str
    about: str
    fault: str
    after: str = ""

    def number(self, calls: list[Call]) -> int:
        """Give the number of the call."""
        renamed = (n for n, one in enumerate(calls) if one.kind == "rename" and re.search(self.after, one.about))
        first = next(renamed) if self.after else 0
        some = enumerate(calls[first:], first + 1)
        return next(n for n, one in some if one.kind == self.kind and re.search(self.about, one.about))


FOUND = {
    "a file that can't be looked at was put aside as none": Found(
        "import", "stat", "two/work/forth", "EIO", "two/incoming/forth"
    ),
    "an archived file that can't be looked at was put back": Found(
        "import", "stat", "two/archive/forth", "EIO", "two/work/forth"
    ),
    "a manifest that can't be read aged as if its carrier still wrote": Found(
        "import", "read", "two/incoming/forth.*manifest", "EIO"
    ),
    "an error of the database ended in a traceback": Found(
        "import", "statement", "SELECT DISTINCT exchange_position.epoch", "lost"
    ),
    "half a batch was committed after SQLite had ended its transaction": Found(
        "import", "statement", "SAVEPOINT sa_savepoint_[5-9]", "lost"
    ),
    "a control batch that could not be moved failed for ever": Found(
        "receipt in", "rename", "one/work/control", "ENOSPC"
    ),
    "a copy stood in incoming after its move had failed": Found(
        "claim across file systems", "fsync", "two/work$", "EDQUOT"
    ),
}


@pytest.mark.thorough
def test_each_fault_that_was_once_taken_for_something_else_is_said(databases: Databases, tmp_path: Path) -> None:
    with bench_on("sqlite", tmp_path, databases) as bench:
        for name in dict.fromkeys(one.name for one in FOUND.values()):
            every = Instrument(bench, name, tmp_path)
            calls = every.calls()
            for what, one in FOUND.items():
                if one.name == name:
                    assert every.fail(one.number(calls), one.fault) is not None, what


@pytest.mark.torture
@pytest.mark.parametrize("name", WORKS)
def test_whatever_of_all_calls_fails_or_is_the_last_one_is_said(
    name: str, databases: Databases, tmp_path: Path, seed: int
) -> None:
    with bench_on("sqlite", tmp_path, databases) as bench:
        assert_each_fault_is_said(Instrument(bench, name, tmp_path), random.Random(seed), None)


@pytest.mark.torture
@needs_postgres
@pytest.mark.parametrize("name", WORKS)
def test_whatever_of_all_statements_fails_or_is_the_last_one_is_said(
    name: str, databases: Databases, tmp_path: Path, seed: int
) -> None:
    with bench_on("postgresql", tmp_path, databases) as bench:
        assert_each_fault_is_said(Instrument(bench, name, tmp_path), random.Random(seed), None, of_the_database=True)


# Broken on purpose


def _swallow(self: Folder) -> None:
    """Sync a folder, and say nothing if that fails."""
    with suppress(OSError):
        os.fsync(self.descriptor)


def _look(self: Folder, name: str) -> os.stat_result | None:
    """Look at a file, and take a disk that fails for no file."""
    with suppress(OSError):
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
    return None


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, broken, found, said",
    [
        ("sync", _swallow, Found("export", "fsync", "one/sealed$", "ENOSPC"), "nothing was said"),
        ("look", _look, FOUND["a file that can't be looked at was put aside as none"], "taken for the batch's own"),
    ],
)
def test_what_is_broken_on_purpose_is_reported(
    name: str,
    broken: Any,
    found: Found,
    said: str,
    databases: Databases,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with bench_on("sqlite", tmp_path, databases) as bench:
        every = Instrument(bench, found.name, tmp_path)
        number = found.number(every.calls())
        monkeypatch.setattr(Folder, name, broken)
        with pytest.raises(AssertionError, match=said):
            every.fail(number, found.fault)
