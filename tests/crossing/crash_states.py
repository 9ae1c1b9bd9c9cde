"""What a disk may hold after the power went: each subset of what a traced process did and had not synced.

A process is traced by ``strace``. What POSIX promises is all that is relied on: bytes are there once their file was
synced, and a name once its folder was; a name in a folder that was not may be there or not, whatever came after it.
A rename within a folder is one step; one between two may have added a name and removed none. The database is as its
last commit left it: that it keeps what it committed is its own promise.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.crossing.processes import fork, join
from tests.crossing.sides import Side

STRACE = shutil.which("strace")
_COMMIT = "/exchange-commit/"
_CALLS = (
    "open,openat,creat,close,write,pwrite64,writev,ftruncate,truncate,fsync,fdatasync,rename,renameat,renameat2,"
    "link,linkat,unlink,unlinkat,access,faccessat,faccessat2,sendfile,copy_file_range,dup,dup2"
)
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
_PR_SET_PTRACER = 0x59616D61
MOST_OF_A_MOMENT = 64
"""So many states of one moment are looked at; if there are more, those are drawn."""

MOST_CONTENTS = 16
"""So many ways in which the bytes of the same files may be there."""


class Change(NamedTuple):
    """One change of a name: what it leads to afterwards, a file's number or None. All of one ``step`` go together."""

    step: int
    folder: str
    name: str
    file: int | None


@dataclass
class File:
    """A file's bytes, and those that surely survive."""

    content: bytes = b""
    synced: bytes | None = None

    def survives_as(self) -> list[bytes]:
        """Give what of it may be there."""
        if self.synced == self.content:
            return [self.content]
        half = self.content[: len(self.content) // 2]
        return list(dict.fromkeys([self.content, self.synced or b"", half, bytes(len(self.content))]))


class State(NamedTuple):
    """Files by their paths, and the number of the database's last commit."""

    files: dict[str, bytes]
    commit: int


@dataclass
class Disk:
    """Folders as a trace changes them: the names that survive, and the changes that may not."""

    names: dict[tuple[str, str], int] = field(default_factory=dict)
    """As the process sees them."""
    durable: dict[tuple[str, str], int] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)
    files: dict[int, File] = field(default_factory=dict)
    commit: int = 0
    steps: int = 0

    def change(self, *changes: tuple[str, str, int | None]) -> None:
        """Change names in one step."""
        self.steps += 1
        for folder, name, file in changes:
            self.pending.append(Change(self.steps, folder, name, file))
            _put(self.names, folder, name, file)

    def sync(self, folder: str) -> None:
        """Make a folder's names durable."""
        for one in self.pending:
            if one.folder == folder:
                _put(self.durable, *one[1:])
        self.pending = [one for one in self.pending if one.folder != folder]

    def states(self, draw: random.Random) -> Iterator[State]:
        """Give what may be there if the power goes now."""
        parts = [list(some) for _, some in itertools.groupby(self.pending, lambda one: (one.step, one.folder))]
        subsets = list(itertools.product((True, False), repeat=min(len(parts), 12)))
        for subset in subsets if len(subsets) <= MOST_OF_A_MOMENT else draw.sample(subsets, MOST_OF_A_MOMENT):
            names = dict(self.durable)
            for part, kept in zip(parts, subset, strict=False):
                for one in part if kept else ():
                    _put(names, *one[1:])
            options = [self.files[number].survives_as() for number in names.values()]
            whole = itertools.islice(itertools.product(*options), MOST_CONTENTS)
            for contents in whole:
                paths = (f"{folder}/{name}" for folder, name in names)
                yield State(dict(zip(paths, contents, strict=True)), self.commit)


def _put(names: dict[tuple[str, str], int], folder: str, name: str, file: int | None) -> None:
    if file is None:
        names.pop((folder, name), None)
    else:
        names[folder, name] = file


# A trace


def trace(work: Callable[[], object], side: Side, commits: Path) -> list[str]:
    """Do work in a process that is traced; give the trace. The database after each commit goes into ``commits``."""
    assert STRACE is not None
    side.engine.dispose()
    _copy_database(side, commits / "0.db")
    ready, go = os.pipe()

    def alone() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        os.read(ready, 1)
        _note_commits(side, commits)
        work()

    child = fork(alone, side)
    lines = commits / "trace"
    words = [STRACE, "-p", str(child), "-e", f"trace={_CALLS}", "-xx", "-s", "10000000", "-o", str(lines)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        os.write(go, b"!")
        code = join(child)
        tracer.wait()
    os.close(ready)
    os.close(go)
    assert "attached" in said, said
    assert code == 0, "the traced process failed"
    return lines.read_text().splitlines()


def may_trace(folder: Path) -> bool:
    """Say whether this machine lets a process be traced by another one."""
    return (
        STRACE is not None
        and subprocess.run([STRACE, "-o", str(folder / "try"), "true"], check=False, capture_output=True).returncode
        == 0
    )


def _note_commits(side: Side, commits: Path) -> None:
    dialect: Any = side.engine.dialect
    real, numbers = dialect.do_commit, itertools.count(1)

    def commit(connection: Any) -> None:
        real(connection)
        number = next(numbers)
        _copy_database(side, commits / f"{number}.db")
        os.access(f"{_COMMIT}{number}", os.F_OK)

    dialect.do_commit = commit


def _copy_database(side: Side, target: Path) -> None:
    source = sqlite3.connect(str(side.engine.url.database))
    copy = sqlite3.connect(target)
    with source, copy:
        source.backup(copy)
    source.close()
    copy.close()


def crash_states(
    lines: list[str], before: dict[str, bytes], roots: tuple[Path, ...], draw: random.Random
) -> list[State]:
    """Give the states in which the power may go at any moment of a trace, each once.

    ``before`` are the bytes of all files below ``roots``.
    """
    disk = Disk()
    for number, (path, content) in enumerate(before.items()):
        folder, _, name = path.rpartition("/")
        disk.files[number] = File(content, content)
        disk.names[folder, name] = disk.durable[folder, name] = number
    folders = {str(path) for root in roots for path in (root, *root.rglob("*")) if path.is_dir()}
    states: dict[tuple[Any, ...], State] = {}
    for _ in _replayed(lines, disk, folders):
        for state in disk.states(draw):
            states.setdefault((state.commit, *sorted(state.files.items())), state)
    return list(states.values())


class _Replay:
    """The calls of a trace, done to a disk."""

    def __init__(self, disk: Disk, folders: set[str]) -> None:
        self._disk = disk
        self._folders = folders
        self._open: dict[int, tuple[str, int | None]] = {}
        self._places: dict[int, int] = {}

    def path(self, held: str, name: str) -> tuple[str, str]:
        path = name if name.startswith("/") else f"{self._open.get(_number(held), ('', None))[0]}/{name}"
        folder, _, last = path.rpartition("/")
        return folder, last

    def call(self, name: str, words: list[str], result: int) -> bool:
        """Do one call; say whether anything changed."""
        if name in {"open", "creat", "unlink", "access"}:
            words = ["AT_FDCWD", *words]
        elif name in {"rename", "link"}:
            words = ["AT_FDCWD", words[0], "AT_FDCWD", words[1]]
        match name:
            case "open" | "openat" | "creat":
                return self._opened(words, result)
            case "close":
                return self._open.pop(_number(words[0]), None) is not None
            case "access" | "faccessat" | "faccessat2":
                return self._committed(_text(words[1]))
            case "rename" | "renameat" | "renameat2" | "link" | "linkat" | "unlink" | "unlinkat":
                return self._named(name, words)
        return self._at_file(name, words, result)

    def _named(self, name: str, words: list[str]) -> bool:
        source = self.path(words[0], _text(words[1]))
        file = self._disk.names.get(source)
        if file is None:
            return False
        gone = [] if name.startswith("link") else [(*source, None)]
        come = [] if name.startswith("unlink") else [(*self.path(words[2], _text(words[3])), file)]
        self._disk.change(*gone, *come)
        return True

    def _committed(self, asked: str) -> bool:
        if asked.startswith(_COMMIT):
            self._disk.commit = int(asked.removeprefix(_COMMIT))
        return asked.startswith(_COMMIT)

    def _opened(self, words: list[str], result: int) -> bool:
        folder, name = self.path(words[0], _text(words[1]))
        if f"{folder}/{name}" in self._folders:
            self._open[result] = (f"{folder}/{name}", None)
            return False
        if folder not in self._folders:
            return False
        number = self._disk.names.get((folder, name))
        new = number is None and "O_CREAT" in words[2]
        if new:
            number = len(self._disk.files)
            self._disk.files[number] = File()
            self._disk.change((folder, name, number))
        self._open[result] = (f"{folder}/{name}", number)
        self._places[result] = 0
        return new

    def _at_file(self, name: str, words: list[str], result: int) -> bool:
        descriptor = _number(words[0])
        if descriptor not in self._open:
            return False
        path, number = self._open[descriptor]
        if number is None:
            assert name in {"fsync", "fdatasync"}
            self._disk.sync(path)
            return True
        file = self._disk.files[number]
        if name in {"fsync", "fdatasync"}:
            file.synced = file.content
            return True
        assert name == "write", f"{name} is not understood here"
        at = self._places[descriptor]
        file.content = file.content[:at] + _bytes(words[1])[:result] + file.content[at + result :]
        self._places[descriptor] = at + result
        return True


def _replayed(lines: list[str], disk: Disk, folders: set[str]) -> Iterator[None]:
    replay = _Replay(disk, folders)
    yield
    for line in lines:
        found = _LINE.match(line)
        if found is None or (found[3].startswith("-") and _text_of_commit() not in found[2]):
            continue
        if replay.call(found[1], found[2].split(", "), int(found[3])):
            yield


def _text_of_commit() -> str:
    return "".join(f"\\x{one:02x}" for one in _COMMIT.encode())


def _number(word: str) -> int:
    return int(word) if word.isdecimal() else -1


def _text(word: str) -> str:
    return os.fsdecode(_bytes(word))


def _bytes(word: str) -> bytes:
    assert word.endswith('"'), "a string was cut short"
    return bytes.fromhex(word.strip('"').replace("\\x", ""))


# The folders of a side


def files_of(*roots: Path) -> dict[str, bytes]:
    """Read all files below some folders."""
    return {str(path): path.read_bytes() for root in roots for path in sorted(root.rglob("*")) if path.is_file()}


def put_back(files: dict[str, bytes], *roots: Path) -> None:
    """Have just these files below some folders, whose own folders stay."""
    for path in [path for root in roots for path in root.rglob("*") if path.is_file()]:
        path.unlink()
    for name, content in files.items():
        Path(name).write_bytes(content)


def put_database_back(side: Side, copy: Path) -> None:
    """Have a side's database be a copy."""
    side.engine.dispose()
    database = str(side.engine.url.database)
    for beside in ("-wal", "-shm"):
        Path(database + beside).unlink(missing_ok=True)
    shutil.copyfile(copy, database)
