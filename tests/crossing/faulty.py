"""The N-th file-system call, statement or commit of a process fails, or is the last thing that it does.

Python's own calls are wrapped where the product makes them (``os``, files that are open, SQLAlchemy's dialect, COPY),
for paths below one folder alone. What SQLite does with its files is not among them: its statements fail instead.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from sqlalchemy import Engine

from tests.crossing.processes import KILLED

_WRITES = ("ENOSPC", "EDQUOT", "EROFS")
_CALLS: dict[str, tuple[str, ...]] = {
    "open": ("EIO", "EINTR"),
    "create": ("EIO", *_WRITES),
    "write": ("EIO", "ENOSPC", "EDQUOT", "short"),
    "read": ("EIO", "EINTR"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "close": ("EIO", "ENOSPC", "EDQUOT"),
    "rename": ("EIO", *_WRITES),
    "replace": ("EIO", *_WRITES),
    "link": ("EIO", *_WRITES),
    "mkdir": ("EIO", *_WRITES),
    "unlink": ("EIO", "EROFS"),
    "fchmod": ("EIO", "EROFS"),
    "stat": ("EIO", "EINTR"),
    "lstat": ("EIO", "EINTR"),
    "fstat": ("EIO",),
    "statvfs": ("EIO", "EINTR"),
    "fstatvfs": ("EIO", "EINTR"),
    "scandir": ("EIO", "EINTR"),
    "readdir": ("EIO",),
    "access": ("EIO",),
}
"""How each call can fail."""
_CHANGES = frozenset({"create", "write", "fsync", "rename", "replace", "link", "mkdir", "unlink", "fchmod"})
_DATABASE = ("lost", "answer lost", "serialization", "full")
KILLS = ("killed before", "killed after")


class Call(NamedTuple):
    """One call: its kind, and what it was about."""

    kind: str
    about: str

    def faults(self) -> Iterator[str]:
        """Name the ways in which it can fail."""
        changes = self.kind in _CHANGES or self.kind in {"statement", "commit"}
        yield from _CALLS.get(self.kind, _DATABASE)
        yield from KILLS if changes else KILLS[:1]
        if self.kind in _CHANGES - {"write"}:
            yield "EIO after"


class Faulty:
    """Counts calls below ``folder`` and of ``engine``; one of them has a fault.

    It is the first one from number ``last`` (from 1) on that can have it, and then ``hit``.
    ``calls`` are those that were made. ``apart`` has folders of ``folder`` lie on file systems of their own.
    """

    def __init__(self, folder: Path, engine: Engine, last: int = 0, fault: str = "", *, apart: bool = False) -> None:
        self._folder = f"{folder}/"
        self._engine = engine
        self._last, self.fault = last, fault
        self._apart = apart
        self.calls: list[Call] = []
        self.hit: Call | None = None

    def call(self, kind: str, about: str, work: Callable[[], Any]) -> Any:
        """Do ``work``, or have it fail."""
        if not self._is_hit(kind, about):
            return work()
        self._die_before()
        if kind in {"statement", "commit"}:
            raise AssertionError
        code, _, after = self.fault.partition(" ")
        if after or kind == "close":  # what fails to be closed is closed all the same
            work()
            if self.fault == KILLS[1]:
                os._exit(KILLED)
        number = getattr(errno, code)
        raise OSError(number, os.strerror(number))

    def _is_hit(self, kind: str, about: str) -> bool:
        self.calls.append(Call(kind, about))
        if self.hit or not 0 < self._last <= len(self.calls) or self.fault not in self.calls[-1].faults():
            return False
        self.hit = self.calls[-1]
        return True

    def _die_before(self) -> None:
        if self.fault == KILLS[0]:
            os._exit(KILLED)

    # Files

    def place(self, values: tuple[Any, ...], named: dict[str, Any]) -> str | None:
        """Say below the folder which path a call is about; None if it lies elsewhere."""
        first = values[0] if values else "."
        if isinstance(first, io.IOBase):
            first = first.fileno()
        if isinstance(first, int):
            path = _path_of(first)
        else:
            path = os.fsdecode(first)
            held = named.get("dir_fd", named.get("src_dir_fd"))
            if not path.startswith("/") and held is not None:
                path = f"{_path_of(held)}/{path}"
        return path.removeprefix(self._folder) if path.startswith(self._folder) else None

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function of ``os``."""

        def call(*values: Any, **named: Any) -> Any:
            place = self.place(values, named)
            if place is None:
                return real(*values, **named)
            if self._apart and name in {"rename", "link"} and self._crosses(named):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            kind = "create" if name == "open" and values[1] & os.O_CREAT else name
            return self.call(kind, place, lambda: real(*values, **named))

        return call

    def _crosses(self, named: dict[str, Any]) -> bool:
        source, target = (_path_of(named[one]) for one in ("src_dir_fd", "dst_dir_fd"))
        return source != target

    def write(self, about: str, content: Any, real: Callable[[Any], int]) -> int:
        """Write, perhaps some of it."""
        if self.fault == "short" and self._is_hit("write", about):
            return real(memoryview(content)[: max(1, len(content) // 2)])
        done: int = self.call("write", about, lambda: real(content))
        return done

    # The database

    def statement(self, kind: str, about: str, driver: Any, work: Callable[[], Any]) -> Any:
        """Execute or commit, or have it fail as this database would."""
        if not self._is_hit(kind, about):
            return work()
        self._die_before()
        if self.fault == KILLS[1]:
            work()
            os._exit(KILLED)
        fail = _fail_sqlite if isinstance(driver, sqlite3.Connection) else _fail_postgresql
        return fail(self.fault, driver, work)


def _fail_sqlite(fault: str, driver: sqlite3.Connection, work: Callable[[], Any]) -> Any:
    codes = {"serialization": "SQLITE_BUSY", "full": "SQLITE_FULL"}
    name = codes.get(fault, "SQLITE_IOERR")
    words = {"SQLITE_BUSY": "database is locked", "SQLITE_FULL": "database or disk is full"}
    if fault == "answer lost":
        work()
    elif fault != "serialization":
        driver.rollback()  # as SQLite does it by itself after these
    error = sqlite3.OperationalError(words.get(name, "disk I/O error"))
    error.sqlite_errorname, error.sqlite_errorcode = name, getattr(sqlite3, name)
    raise error


def _fail_postgresql(fault: str, driver: Any, work: Callable[[], Any]) -> Any:
    from psycopg import errors  # noqa: PLC0415 - comes with PostgreSQL alone

    if fault in {"lost", "answer lost"}:
        if fault == "answer lost":
            work()
        with socket.socket(fileno=os.dup(driver.pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)
        if fault == "lost":
            return work()
        driver.execute("SELECT 1")
        raise AssertionError
    with suppress(errors.DivisionByZero):
        driver.execute("SELECT 1 / 0")  # the transaction is one that failed
    raise errors.SerializationFailure if fault == "serialization" else errors.DiskFull(fault)


# Seams


@contextmanager
def seam(faulty: Faulty) -> Iterator[Faulty]:
    """Have all calls go through ``faulty`` until the end."""
    dialect: Any = faulty._engine.dialect
    opened = _opened(faulty)
    places: list[tuple[Any, str, Any]] = [(io, "open", opened), (builtins, "open", opened)]
    names = _CALLS.keys() - {"create", "write", "read", "readdir", "scandir"}
    places += [(os, name, faulty.wrapped(name, getattr(os, name))) for name in sorted(names)]
    places.append((os, "scandir", _listing(faulty, os.scandir)))
    for name in ("do_execute", "do_executemany", "do_execute_no_params", "do_commit"):
        places.append((dialect, name, _asked(faulty, name, getattr(dialect, name))))
    if dialect.name == "postgresql":
        from psycopg import Cursor  # noqa: PLC0415

        places.append((Cursor, "copy", _copied(faulty, Cursor.copy)))
    before = [(owner, name, owner.__dict__.get(name, _NONE)) for owner, name, _ in places]
    for owner, name, function in places:
        setattr(owner, name, function)
    try:
        yield faulty
    finally:
        for owner, name, was in before:
            if was is _NONE:
                delattr(owner, name)
            else:
                setattr(owner, name, was)


_NONE: Any = object()


def _path_of(descriptor: int) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    return ""


class _Raw(io.FileIO):
    """An open file, each of whose calls may fail."""

    def __init__(self, faulty: Faulty, file: Any, about: str, mode: str, closefd: bool, opener: Any) -> None:
        self._faulty, self._about = faulty, about
        super().__init__(file, mode, closefd, opener)

    def close(self) -> None:
        if not self.closed:
            self._faulty.call("close", self._about, super().close)

    def write(self, content: Any) -> int:
        return self._faulty.write(self._about, content, super().write)

    def readinto(self, buffer: Any) -> Any:
        return self._faulty.call("read", self._about, lambda: super(_Raw, self).readinto(buffer))

    def readall(self) -> Any:
        return self._faulty.call("read", self._about, super().readall)

    def read(self, size: int | None = -1) -> Any:
        return self._faulty.call("read", self._about, lambda: super(_Raw, self).read(size))


def _opened(faulty: Faulty) -> Callable[..., Any]:
    real = io.open

    def opened(file: Any, mode: str = "r", buffering: int = -1, *words: Any, **named: Any) -> Any:
        place = faulty.place((file,), {})
        if place is None:
            return real(file, mode, buffering, *words, **named)
        text = "b" not in mode
        plain = mode.replace("b", "").replace("t", "")
        closefd, opener = named.pop("closefd", True), named.pop("opener", None)

        def make() -> _Raw:
            return _Raw(faulty, file, place, plain, closefd, opener)

        kind = "create" if plain[0] in "wax" else "open"
        raw = make() if isinstance(file, int) else faulty.call(kind, place, make)
        whole = raw if buffering == 0 else _buffered(raw, plain)
        return io.TextIOWrapper(whole, *words, **named) if text else whole

    return opened


def _buffered(raw: io.FileIO, mode: str) -> Any:
    if "+" in mode:
        return io.BufferedRandom(raw)
    return io.BufferedReader(raw) if mode[0] == "r" else io.BufferedWriter(raw)


class _Entry:
    """An entry of a folder, looked at by a call that may fail."""

    def __init__(self, entry: os.DirEntry[str], place: str, faulty: Faulty) -> None:
        self._entry, self._place, self._faulty = entry, place, faulty
        self.name, self.path = entry.name, entry.path

    def __fspath__(self) -> str:
        return self.path

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        look = self._entry.stat
        about = f"{self._place}/{self.name}"
        return self._faulty.call("stat", about, lambda: look(follow_symlinks=follow_symlinks))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)


def _listing(faulty: Faulty, real: Callable[..., Any]) -> Callable[..., Any]:
    def scandir(path: Any = ".") -> Any:
        place = faulty.place((path,), {})
        if place is None:
            return real(path)
        found = faulty.call("scandir", place, lambda: real(path))
        return _Listing(found, place, faulty)

    return scandir


class _Listing:
    def __init__(self, entries: Any, place: str, faulty: Faulty) -> None:
        self._entries, self._place, self._faulty = entries, place, faulty
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Entry:
        if not self._begun:
            self._begun = True
            self._faulty.call("readdir", self._place, lambda: None)
        return _Entry(next(self._entries), self._place, self._faulty)

    def close(self) -> None:
        self._entries.close()


def _asked(faulty: Faulty, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    kind = "commit" if name == "do_commit" else "statement"

    def ask(first: Any, *rest: Any) -> Any:
        # A commit gets the pool's own connection, a statement a cursor of the driver's.
        driver = getattr(first, "driver_connection", None) or first.connection
        about = " ".join(str(rest[0]).split())[:60] if rest else ""
        return faulty.statement(kind, about, driver, lambda: real(first, *rest))

    return ask


def _copied(faulty: Faulty, real: Callable[..., Any]) -> Callable[..., Any]:
    def copy(cursor: Any, statement: Any, *rest: Any) -> Any:
        return faulty.statement("statement", str(statement)[:60], cursor.connection, lambda: real(cursor, statement))

    return copy
