"""What a carrier may put under a name in a folder that he shares with us, and whether it led us out of there."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import signal
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.crossing.processes import fork, join
from tests.crossing.sides import Side

SHAPES = (
    "link to a file",
    "link to a secret",
    "link to a folder",
    "link to nothing",
    "hard link",
    "pipe",
    "socket",
    "folder",
)
HANG_SECONDS = 120
_IN_ACCESS, _IN_MODIFY, _IN_ATTRIB, _IN_MOVED, _IN_CREATE, _IN_DELETE = 0x1, 0x2, 0x4, 0xC0, 0x100, 0x200
_CLONE_NEWNS, _CLONE_NEWUSER, _MS_PRIVATE_ALL = 0x0002_0000, 0x1000_0000, 0x4000 | (1 << 18)
_MS_REMOUNT, _MS_RDONLY = 0x20, 0x1
_NO_MOUNTS = 77


class Outside:
    """Files and folders that nobody but us may touch, where what is planted leads to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inner = folder / "folder"
        self.inner.mkdir(parents=True)
        self.file, self.secret, self.nothing = folder / "file", folder / "secret", folder / "nothing"
        for path, mode in ((self.file, 0o640), (self.secret, 0o600), (self.inner / "file", 0o640)):
            path.write_bytes(os.urandom(64))
            path.chmod(mode)

    def seen(self) -> dict[str, tuple[Any, ...]]:
        """Describe all of it: kind, mode, size, time of the last change and digest."""
        return {str(path.relative_to(self.folder)): _described(path) for path in sorted(self.folder.rglob("*"))}

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """See that nothing of it is read, changed, made or removed until the end of the block."""
        before = self.seen()
        with _watched(self.folder, self.inner, self.file, self.secret) as events:
            yield
        assert list(events) == []
        assert self.seen() == before

    def plant(self, path: Path, shape: str) -> None:
        """Put something there, in the place of what may be there; nothing if this file system can't have it."""
        with contextlib.suppress(OSError):
            self._plant(path, shape)

    def _plant(self, path: Path, shape: str) -> None:
        if path.is_dir() and not path.is_symlink():
            path.rename(path.with_name(f"{path.name}.was"))
        path.unlink(missing_ok=True)
        match shape:
            case "link to a file":
                path.symlink_to(self.file)
            case "link to a secret":
                path.symlink_to(self.secret)
            case "link to a folder":
                path.symlink_to(self.inner)
            case "link to nothing":
                path.symlink_to(self.nothing)
            case "hard link":
                path.hardlink_to(self.file)
            case "pipe":
                os.mkfifo(path)
            case "socket":
                os.mknod(path, stat.S_IFSOCK | 0o600)
            case "folder":
                path.mkdir()
                (path / "file").touch()


def _described(path: Path) -> tuple[Any, ...]:
    found = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(found.st_mode) else None
    return found.st_mode, found.st_size if content else 0, found.st_mtime_ns if content else 0, content


class _Events:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen: list[tuple[int, str]] = []

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            content = os.read(self._descriptor, 1024 * 1024)
            while content:
                _, mask, _, length = struct.unpack_from("iIII", content)
                name = content[16 : 16 + length].rstrip(b"\0").decode()
                content = content[16 + length :]
                self._seen.append((mask, name))

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self._seen)


@contextmanager
def _watched(*paths: Path) -> Iterator[_Events]:
    """Have the kernel tell what happens to these until the end; of folders also what is made and removed there."""
    library = ctypes.CDLL(None)
    descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    events = _Events(descriptor)
    try:
        for path in paths:
            # Listing a folder is reading it, too. Of a file the number of its names is an attribute: whoever plants a
            # hard link changes it.
            wanted = _IN_ACCESS | _IN_MODIFY
            wanted |= _IN_MOVED | _IN_CREATE | _IN_DELETE if path.is_dir() else 0
            assert library.inotify_add_watch(descriptor, os.fsencode(path), wanted) >= 0
        yield events
        events.read()
    finally:
        os.close(descriptor)


# Processes


def apart(work: Callable[[], None], *sides: Side, mounted: tuple[Path, ...] = (), options: str = "") -> None:
    """Do work in a process that ends when it hangs; what is ``mounted`` is then a file system of its own there.

    ``options`` are those of that file system, such as its size.

    It does not wait for the disk: nobody cuts the power.
    """

    def alone() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(HANG_SECONDS)
        os.fsync = lambda fd: None  # noqa: ARG005 - its name is the function's
        _mount(mounted, options)
        work()

    code = join(fork(alone, *sides))
    if code == _NO_MOUNTS:
        pytest.skip("this machine lets us mount nothing, not even in a namespace of our own")
    assert code != -signal.SIGALRM, "it hangs"
    assert code == 0


def _mount(places: tuple[Path, ...], options: str) -> None:
    """Mount a file system of its own at each place, which nobody else sees; end where that is not allowed."""
    if not places:
        return
    try:
        library = ctypes.CDLL(None, use_errno=True)
        user, group = os.geteuid(), os.getegid()
        _allowed(library.unshare(_CLONE_NEWNS if user == 0 else _CLONE_NEWNS | _CLONE_NEWUSER))
        if user:
            for file, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                Path("/proc/self", file).write_text(line)
        _allowed(library.mount(b"none", b"/", None, _MS_PRIVATE_ALL, None))
        for place in places:
            _allowed(library.mount(b"none", os.fsencode(place), b"tmpfs", 0, f"mode=0755{options}".encode()))
    except (OSError, AttributeError):
        os._exit(_NO_MOUNTS)


def remount(place: Path, *, read_only: bool) -> None:
    """Make a file system that ``apart`` mounted one that nobody can write, or end that."""
    flags = _MS_REMOUNT | (_MS_RDONLY if read_only else 0)
    _allowed(ctypes.CDLL(None, use_errno=True).mount(b"none", os.fsencode(place), b"tmpfs", flags, None))


def _allowed(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno())


def empty(folder: Path) -> None:
    """Remove all that is in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
