"""Folders held open: what is done in one is done there, whatever somebody puts in its place meanwhile.

Some of them are not ours alone: a carrier may write there, at any moment and under any name. So every file is one
name away from an open folder; no link is followed, no FIFO waited for, and what is written is new: it has a name that
nobody could foretell until it is whole and on the disk. Nothing else in this package writes there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from exchange.database import clock

PRIVATE_MODE = 0o700

HOME_MODE = 0o711
"""The home is ours alone too, but a carrier passes through it to the shared folders, if they lie there."""

OUR_MODE = 0o600
"""The mode of files that we write where we alone read."""

COPY_BYTES = 1024 * 1024
_YOUNG_SECONDS = 60.0
"""For so long a file without a lock may be one that was made just now, and is about to get it."""
_PROBE_BYTES = 4096
"""What a disk that is full has no room for: so much is its least piece."""

_DRAFT_NAME = re.compile(r"\.[0-9a-f]{32}\.tmp")
"""What a file is called while it is written: carriers and readers leave such names alone."""
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKING = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAMED = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NO_PLAIN_FILE = {
    errno.EACCES,
    errno.EAGAIN,  # somebody holds a lease on it
    errno.EISDIR,
    errno.ELOOP,
    errno.EMLINK,  # a link, as FreeBSD says it
    errno.ENODEV,
    errno.ENXIO,  # a socket
    errno.EPERM,
}
"""How opening fails because of what lies there; any other way it fails because of the disk."""
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


class NotPlain(OSError):  # noqa: N818 - reads as what it is
    """What lies there is no plain file with one name that we may read: nothing of it was read, moved or changed."""

    def __init__(self, path: Path, why: OSError | None = None) -> None:
        forbidden = why is not None and why.errno == errno.EACCES
        found = "one that this user may not read" if forbidden else "something else"
        code = errno.EACCES if forbidden else errno.EINVAL
        super().__init__(code, f"expected a plain file with one name, found {found}", str(path))


def make_private(folder: Path, mode: int = PRIVATE_MODE) -> None:
    """Make a folder for our eyes only, and whatever it lies in as usual; what exists stays. Raises OSError."""
    if not folder.exists():
        if folder.is_symlink():
            raise OSError(errno.ENOENT, "it is a link that leads nowhere; see that its disk is mounted", str(folder))
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=mode, exist_ok=True)


@contextlib.contextmanager
def held(path: Path, *, follow: bool = False) -> Iterator[Folder]:
    """Hold a folder open. ``follow`` a link to it only where nobody else could have put it. Raises OSError."""
    with _held(path, os.open(path, _FOLDER if follow else _FOLDER | os.O_NOFOLLOW)) as folder:
        yield folder


@contextlib.contextmanager
def named(path: Path) -> Iterator[Folder]:
    """Hold a folder open that a person named, for files in it whose names we know: it need not be readable.

    Raises OSError.
    """
    with _held(path, os.open(path, _NAMED)) as folder:
        yield folder


@contextlib.contextmanager
def _held(path: Path, descriptor: int) -> Iterator[Folder]:
    try:
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Folder:
    """A folder that is held open. ``path`` is where it was: for sentences only. All of it raises OSError."""

    path: Path
    descriptor: int

    def look(self, name: str) -> os.stat_result | None:
        """Look at a plain file with one name; None for anything else, and for nothing."""
        with _naming(self.path / name):
            try:
                found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            except FileNotFoundError:
                return None
        return found if _is_plain(found) else None

    def has(self, name: str) -> bool:
        """Say whether anything has this name."""
        try:
            os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str, *, alone: bool = True) -> BinaryIO:
        """Open a plain file for reading: with one name, if it is to be ``alone``. Raises NotPlain, FileNotFoundError.

        A file with several is what a person's backups may be made of; a carrier's has one.
        """
        with _naming(self.path / name):
            try:
                descriptor = os.open(name, _READING, dir_fd=self.descriptor)
            except OSError as error:
                if error.errno in _NO_PLAIN_FILE:
                    raise NotPlain(self.path / name, error) from error
                raise
        found = os.fstat(descriptor)
        if not (_is_plain(found) if alone else stat.S_ISREG(found.st_mode)):
            os.close(descriptor)
            raise NotPlain(self.path / name)
        return os.fdopen(descriptor, "rb")

    @contextlib.contextmanager
    def write(self, name: str, *, mode: int, replace: bool = True) -> Iterator[BinaryIO]:
        """Write a new file, which gets its name when it is whole and on the disk; it is gone if that fails.

        What has the name is replaced, whatever it is, and never written to; without ``replace`` FileExistsError is
        raised.
        """
        draft = f".{secrets.token_hex(16)}.tmp"
        with _naming(self.path / name):
            descriptor = os.open(draft, _MAKING, mode, dir_fd=self.descriptor)
        renamed = False
        try:
            with os.fdopen(descriptor, "wb") as file:
                hold(descriptor, fcntl.LOCK_EX)  # by this, others know that somebody still writes it
                yield file
                with _naming(self.path / name):
                    file.flush()
                    if os.fstat(file.fileno()).st_mode & mode != mode:  # the umask took some away
                        os.fchmod(file.fileno(), mode)
                    os.fsync(file.fileno())
            with _naming(self.path / name):
                if replace:
                    _rename(self, draft, self, name)
                    renamed = True
                else:
                    _link(self, draft, self, name)
        finally:
            if not renamed:
                with contextlib.suppress(OSError):  # the folder may be away: it is swept out later
                    os.unlink(draft, dir_fd=self.descriptor)

    def probe(self) -> None:
        """See that files can be written, named and removed here, by doing it; nothing is left of it."""
        names = tuple(f".{secrets.token_hex(16)}.tmp" for _ in range(2))
        try:
            with _naming(self.path):
                descriptor = os.open(names[0], _MAKING, OUR_MODE, dir_fd=self.descriptor)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(bytes(_PROBE_BYTES))
                    file.flush()
                    os.fsync(descriptor)
                os.rename(names[0], names[1], src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
                os.unlink(names[1], dir_fd=self.descriptor)
        finally:
            for name in names:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self.descriptor)

    def drafts(self, *, any_name: bool = False, older_than: float = 0.0) -> list[str]:
        """Name what we began to write here and nobody writes any more, as a crash ended it.

        ``any_name`` where nothing but drafts lies, whatever they are called: of those what was made just now is left
        out, unless it was before ``older_than`` (Unix time).
        """
        with self.entries() as entries:
            names = [entry.name for entry in entries if any_name or _DRAFT_NAME.fullmatch(entry.name)]
        return [name for name in names if self._is_left(name, older_than if any_name else math.inf)]

    def sweep(self, *, any_name: bool = False, older_than: float = 0.0) -> int:
        """Remove what ``drafts`` names; say how many."""
        left = self.drafts(any_name=any_name, older_than=older_than)
        for name in left:
            self.remove(name)
        return len(left)

    def _is_left(self, name: str, older_than: float) -> bool:
        with contextlib.suppress(OSError), self.read(name) as file:
            found = os.fstat(file.fileno())
            young = abs(clock.seconds() - found.st_ctime) < _YOUNG_SECONDS and found.st_ctime >= older_than
            return found.st_uid == os.geteuid() and not young and hold(file.fileno(), fcntl.LOCK_SH)
        return False

    def take(self, name: str, target: Folder, new_name: str, *, mode: int) -> None:
        """Move a plain file out of a folder where others write, into one of ours. ``mode`` as in ``move``.

        Raises NotPlain, and whatever it is stays in this folder; FileNotFoundError.
        """
        try:
            self.move(name, target, new_name, mode=mode)
        except FileNotFoundError:
            raise
        except OSError as error:
            if self.has(name) and self.look(name) is None:
                raise NotPlain(self.path / name) from error
            raise
        if target.look(new_name) is None:
            # Put in the file's place since it was looked at: it goes back to whom it belongs, and replaces nothing.
            with _naming(target.path / new_name):
                os.rename(new_name, _aside(), src_dir_fd=target.descriptor, dst_dir_fd=self.descriptor)
            raise NotPlain(self.path / name)

    def move(self, name: str, target: Folder, new_name: str, *, mode: int) -> None:
        """Move a file, to another file system too: there it is whole, and has ``mode``, before it goes here.

        What it replaces there is never followed or written to. Raises FileNotFoundError.
        """
        try:
            _rename(self, name, target, new_name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._move_a_copy(name, target, new_name, mode)

    def remove(self, name: str) -> None:
        """Remove a file, or whatever has its name but a folder; what is gone, or not ours to remove, stays as it is."""
        with _naming(self.path / name), contextlib.suppress(FileNotFoundError):
            try:
                os.unlink(name, dir_fd=self.descriptor)
            except OSError:
                found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                    raise

    @contextlib.contextmanager
    def entries(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        """List what is there."""
        with os.scandir(self.descriptor) as entries:
            yield entries

    def sync(self) -> None:
        """Make names durable."""
        with _naming(self.path / "."):
            os.fsync(self.descriptor)

    def make(self, name: str, mode: int) -> None:
        """Make a folder, or leave what is there."""
        with _naming(self.path / name):
            try:
                os.mkdir(name, PRIVATE_MODE, dir_fd=self.descriptor)
            except FileExistsError:
                return
            with self.inner(name) as made:
                if os.fstat(made.descriptor).st_uid == os.geteuid():
                    os.fchmod(made.descriptor, mode)

    @contextlib.contextmanager
    def inner(self, name: str) -> Iterator[Folder]:
        """Hold a folder of this one open."""
        with _naming(self.path / name):
            descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.descriptor)
        with _held(self.path / name, descriptor) as folder:
            yield folder

    def see_removable(self) -> None:
        """See that files can be taken out of this folder, by what its permissions say."""
        if not os.access(".", os.W_OK, dir_fd=self.descriptor, effective_ids=True):
            code = errno.EROFS if os.fstatvfs(self.descriptor).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(code, os.strerror(code), str(self.path))

    def _move_a_copy(self, name: str, target: Folder, new_name: str, mode: int) -> None:
        self.see_removable()  # or it would be copied again at every run
        with self.read(name) as source, target.write(new_name, mode=mode) as copy:
            found, disk = os.fstat(source.fileno()), os.fstatvfs(target.descriptor)
            if disk.f_blocks and disk.f_bavail * disk.f_frsize < found.st_size:  # before most of it is copied in vain
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target.path))
            left = found.st_size  # and no more, however long somebody goes on writing
            while left and (piece := source.read(min(left, COPY_BYTES))):
                copy.write(piece)
                left -= len(piece)
        target.sync()  # two file systems: the one must have the name before the other lets go of it
        still = self.look(name)
        if still is not None and os.path.samestat(still, found):
            with _naming(self.path / name):
                os.unlink(name, dir_fd=self.descriptor)


def _rename(source: Folder, name: str, target: Folder, new_name: str) -> None:
    with _naming(source.path / name):
        try:
            os.rename(name, new_name, src_dir_fd=source.descriptor, dst_dir_fd=target.descriptor)
        except IsADirectoryError:
            # A folder in the way, which a file can't replace: it is kept, under a name that is in nobody's way.
            os.rename(new_name, _aside(), src_dir_fd=target.descriptor, dst_dir_fd=target.descriptor)
            os.rename(name, new_name, src_dir_fd=source.descriptor, dst_dir_fd=target.descriptor)


def _link(source: Folder, name: str, target: Folder, new_name: str) -> None:
    """Give a file its name if nothing has it, which a rename can't promise."""
    folders = {"src_dir_fd": source.descriptor, "dst_dir_fd": target.descriptor}
    with _naming(target.path / new_name):
        try:
            os.link(name, new_name, follow_symlinks=False, **folders)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if target.has(new_name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            _rename(source, name, target, new_name)  # a file system without hard links, such as a stick's


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error say where the file lies."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, NotPlain):
            error.filename, error.filename2 = str(path), None
        raise


def hold(descriptor: int, how: int) -> bool:
    """Mark a file as one that this process still writes (``LOCK_EX``), or see that nobody does; say whether it was."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError:  # somebody else holds it, or this file system has no such thing
        return False
    return True


def _aside() -> str:
    return f".{secrets.token_hex(16)}.aside"


def _is_plain(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1
