"""Carrying batches from one folder to another as anybody may who has no keys: a stick, a mounted share, a relay.

Each file is written under a temporary name, synced and renamed, the data file first and the manifest last. What was cut
is gone on with, what is there already stays as it is, and what differs is never written over. A file system without
permissions, links or a sense of case will do. Needs neither settings nor database; who carries needs to read the one
folder and to write the other, and to remove from the first only where he moves.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError, printable
from exchange.format.names import BatchName, data_name, manifest_name, parse_file_name

MARKER = ".exchange-folder"
PART = ".part"
MEMORY = ".exchange-carried"
"""In the folder of ``--to``, with a number for each folder of ``--from``: which of the batches that still lie there
were carried, one a line. Who takes them in takes them away, and they would be carried at each run."""

CHUNK = 1024 * 1024
MOST_MANIFEST = 64 * 1024
"""The longest manifest that there is, in bytes."""

LINES = 2

MODE = 0o644
"""Whoever takes a file in has to be able to read it, whatever the carrier's umask."""

_GONE = {errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT}
"""What a folder says whose disk or server is no longer there."""

_SENTENCES = {
    errno.ENOSPC: "there is no room left; make room there and run this again, which goes on",
    errno.EDQUOT: "the user's quota there is full; make room there and run this again, which goes on",
    errno.EROFS: "it is read-only; mount it for writing and run this again",
}

_TOO_LONG = "the file system there takes no file as long (FAT: 4 GiB): use exFAT, or a lower EXCHANGE_BATCH_BYTES"


@dataclass(frozen=True)
class LeftOut(AsDict):
    """A file that was not carried, and why. ``later`` says that it may well be carried by the next run."""

    file: str
    why: str
    later: bool


@dataclass
class Carried:
    """What a run did, in files and their bytes, and how many batches it left as they had been carried ``before``.

    ``trouble`` is what ended it early, in a sentence.
    """

    files: int = 0
    bytes: int = 0
    continued: int = 0
    there: int = 0
    before: int = 0
    removed: int = 0
    left: list[LeftOut] = field(default_factory=list)
    trouble: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {**self.__dict__, "left": [one.as_dict() for one in self.left]}

    @property
    def code(self) -> int:
        """0: all is there; 1: somebody has to do something; 3: some may come with the next run."""
        if self.trouble or any(not one.later for one in self.left):
            return 1
        return 3 if self.left else 0


class _Left(Exception):  # noqa: N818 - an answer, not an error
    """A file is not carried."""

    def __init__(self, file: str, why: str, *, later: bool = False) -> None:
        self.left = LeftOut(printable(file), why, later)
        super().__init__(why)


class _Gone(Exception):  # noqa: N818
    """A folder is no longer there, or takes nothing more: the run ends."""


def carry(source: Path, target: Path, *, move: bool = False, mark: bool = False, again: bool = False) -> Carried:
    """Carry every batch that is whole from one folder to another; with ``move`` take it away where it was.

    May be repeated at any time, and run beside what writes into the one and reads the other. ``mark`` has a folder
    without a marker be the one that is meant, from now on; ``again`` carries anew what was carried before. Raises
    TransientError where nothing was done at all.
    """
    done = Carried()
    with ExitStack() as opened:
        of = opened.enter_context(_held(source, "--from", "incoming", mark=False))
        to = opened.enter_context(_held(target, "--to", "outgoing", mark=mark))
        if os.path.samestat(os.fstat(of), os.fstat(to)):
            raise TransientError(f"--to: expected another folder than --from, found {printable(str(target))} twice")
        _alone(to, target)
        try:
            with _blaming(source):
                batches = _listed(of, done)
            notes = _memory_of(of)
            memory = _remembered(to, notes)
            known = set() if again else memory & {str(name) for name in batches}
            _remember(to, notes, known, anew=known != memory)
            for name in sorted(batches):
                if str(name) in known and not move and not _exists(to, manifest_name(name)):
                    done.before += 1
                    continue
                try:
                    _carry_batch(_Way(source, of, target, to, done), name, batches[name], move=move)
                    if not move:
                        _remember(to, notes, {str(name)} - known)
                except _Left as answer:
                    done.left.append(answer.left)
        except _Gone as error:
            done.trouble = str(error)
    return done


# Folders


@contextmanager
def _held(path: Path, option: str, never: str, *, mark: bool) -> Iterator[int]:
    """Hold a folder open that is the one that is meant. Raises TransientError."""
    shown = printable(str(path))
    blind = option == "--to" and not os.access(path, os.R_OK)  # one that we may write into and not list
    try:
        folder = os.open(path, (os.O_PATH if blind else os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TransientError(f"{option}: {shown}: {error.strerror}; nothing was carried") from error
    try:
        role = _role(folder, shown, option, mark=mark)
        if role == never:
            msg = f"{option}: {shown} is an {never} folder, by its marker {MARKER}; nothing was carried"
            raise TransientError(f"{msg}: are --from and --to the wrong way round?")
        yield folder
    finally:
        os.close(folder)


def _role(folder: int, shown: str, option: str, *, mark: bool) -> str:
    try:
        with _open(folder, MARKER) as file:
            return file.read(256).decode(errors="replace").partition(" ")[0].strip()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise TransientError(
            f"{option}: {shown}, its marker {MARKER}: {error.strerror}; nothing was carried"
        ) from error
    if not mark:
        hint = "; if it is the right one give --mark as well, once" if option == "--to" else ""
        msg = f"{option}: {shown} has no marker {MARKER}, so it is probably not mounted; nothing was carried{hint}"
        raise TransientError(msg)
    try:
        with _create(folder, MARKER) as file:
            file.write(f"carrier {secrets.token_hex(16)}\n".encode())
            os.fsync(file.fileno())
    except OSError as error:
        raise TransientError(f"{option}: {shown}: {error.strerror}; it was not marked, and nothing carried") from error
    return "carrier"


def _alone(folder: int, path: Path) -> None:
    """See that no other carrier writes there. Where the file system has no locks nobody is seen."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        msg = f"--to: another `exchange carry` writes into {printable(str(path))}; nothing was carried; wait for it"
        raise TransientError(msg) from None
    except OSError:
        pass


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Tell a folder that went away, or takes nothing more, from a file that can't be carried."""
    try:
        yield
    except OSError as error:
        shown = printable(str(path))
        if error.errno in _GONE:
            raise _Gone(
                f"{shown} went away ({error.strerror}): was it pulled out? put it back and run this again"
            ) from error
        raise _Gone(
            f"{shown}: {_SENTENCES.get(error.errno or 0, f'{error.strerror}; mend that and run again')}"
        ) from error


def _open(folder: int, name: str) -> BufferedReader:
    """Open a plain file for reading, and nothing else. Raises OSError."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "expected a plain file")
    return os.fdopen(descriptor, "rb")


def _create(folder: int, name: str) -> FileIO:
    """Open a file of ours to go on with it, or make it. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(name, flags, MODE, dir_fd=folder), "r+b", buffering=0)
    with suppress(OSError):  # a file system that has none
        os.fchmod(file.fileno(), MODE)
    return file


def _listed(folder: int, done: Carried) -> dict[BatchName, set[str]]:
    """Give the files of each batch that lie there, by their names; what is no batch's is nobody's business."""
    found: dict[BatchName, set[str]] = defaultdict(set)
    for name in os.listdir(folder):
        parsed = parse_file_name(name)
        if parsed is not None:
            found[parsed[0]].add(name)
        elif parse_file_name(name.lower()) is not None:
            done.left.append(LeftOut(printable(name), f"it was renamed: expected {name.lower()}", later=False))
    return found


def _memory_of(source: int) -> str:
    """Name the file that remembers what was carried from a folder, by its marker: a stick may serve both ways."""
    with suppress(OSError), _open(source, MARKER) as file:
        return f"{MEMORY}-{hashlib.sha256(file.read(MOST_MANIFEST)).hexdigest()[:12]}"
    return MEMORY


def _remembered(folder: int, notes: str) -> set[str]:
    with suppress(OSError), _open(folder, notes) as file:
        return set(file.read().decode(errors="replace").splitlines())
    return set()


def _remember(folder: int, notes: str, names: set[str], *, anew: bool = False) -> None:
    """Add to what was carried, or write it anew; where that can't be kept batches are carried once more, no worse."""
    with suppress(OSError):
        if names or anew:
            with _create(folder, notes) as file:
                file.seek(0, os.SEEK_SET if anew else os.SEEK_END)
                file.write("".join(f"{one}\n" for one in sorted(names)).encode())
                file.truncate()


# Batches


@dataclass(frozen=True)
class _Way:
    """From where to where, each by its path and its descriptor, and what was done."""

    source: Path
    of: int
    target: Path
    to: int
    done: Carried


@dataclass(frozen=True)
class _Claim:
    """What a manifest says of its data file."""

    name: str
    size: int
    sha256: str


def _carry_batch(way: _Way, name: BatchName, files: set[str], *, move: bool) -> None:
    manifest = manifest_name(name)
    if manifest not in files:
        raise _Left(min(files), "its manifest is not there, or not yet", later=True)
    content = _manifest(way, manifest)
    claim = _claim(name, manifest, content)
    if claim.name not in files:
        raise _Left(manifest, f"its data file {claim.name} is not there, or not yet", later=True)
    _carry_file(way, claim.name, claim.size, claim.sha256)
    _carry_file(way, manifest, len(content), hashlib.sha256(content).hexdigest())
    if move:
        _take_away(way, manifest, claim.name)


def _manifest(way: _Way, manifest: str) -> bytes:
    with _reading(way, manifest) as file:
        content = file.read(MOST_MANIFEST + 1)
    if len(content) > MOST_MANIFEST or content.count(b"\n") != LINES or not content.endswith(b"\n"):
        raise _Left(
            manifest,
            "it is no manifest: expected two ended lines, 64 KiB at most; it may be still arriving",
            later=True,
        )
    return content


def _claim(name: BatchName, manifest: str, content: bytes) -> _Claim:
    """Read what a carrier needs of a manifest. That it is genuine its receiver finds out."""
    try:
        said = json.loads(content.partition(b"\n")[0])
        place = BatchName(said["channel"], said["epoch"], said["sequence"], name.attempt)
        claim = _Claim(data_name(name, tuple(said["encoding"])), int(said["bytes"]), str(said["sha256"]))
    except (ValueError, TypeError, KeyError) as error:
        raise _Left(manifest, "it is no manifest of a batch; have it carried or sent again") from error
    if place != name:
        raise _Left(manifest, f"it is the manifest of {place}: it was renamed")
    return claim


@contextmanager
def _reading(way: _Way, name: str) -> Iterator[BinaryIO]:
    try:
        with _open(way.of, name) as file:
            yield file
    except FileNotFoundError:
        raise _Left(name, "it went away meanwhile", later=True) from None
    except PermissionError:
        raise _Left(
            name, "this user may not read it: let its owner `chmod a+r` it, or carry as a member of its group"
        ) from None
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ELOOP}:
            raise _Left(name, "expected a plain file, found something else") from None
        with _blaming(way.source):
            raise


def _part(name: str) -> str:
    return f".{name}{PART}"


def _carry_file(way: _Way, name: str, size: int, sha256: str) -> None:
    """Bring one file over, unless it is there. Raises _Left and _Gone."""
    if _is_there(way, name, size, sha256):
        way.done.there += 1
        return
    part = _part(name)
    with _reading(way, name) as source:
        found = os.fstat(source.fileno()).st_size
        if found != size:
            later = found < size
            raise _Left(
                name,
                f"it has {found} bytes, expected {size}: {'not all of it is there yet' if later else 'it was changed'}",
                later=later,
            )
        with _blaming(way.target):
            file = _create(way.to, part)
        with file:
            had = os.fstat(file.fileno()).st_size
            _see_room(way, name, size - min(had, size))
            digest, kept = _copied(way, source, file, name)
            if digest != sha256:
                with suppress(OSError):
                    os.unlink(part, dir_fd=way.to)
                raise _Left(
                    name, "its digest is not what its manifest says: it was changed; have it carried or sent again"
                )
            with _blaming(way.target):
                file.truncate()
                os.fsync(file.fileno())
    with _blaming(way.target):
        if _exists(way.to, name):
            raise _Left(name, "another file of this name came there meanwhile; nothing was written over it", later=True)
        os.rename(part, name, src_dir_fd=way.to, dst_dir_fd=way.to)
        with suppress(
            PermissionError, OSError
        ):  # some file systems can't sync a folder, and one we may only write into
            os.fsync(way.to)
    way.done.files += 1
    way.done.bytes += size
    way.done.continued += bool(kept)


def _copied(way: _Way, source: BinaryIO, file: FileIO, name: str) -> tuple[str, int]:
    """Write what is not there yet of a file that was cut; give the digest of all, and how much was there."""
    digest, kept, going_on, part = hashlib.sha256(), 0, True, _part(name)
    while True:
        with _blaming(way.source):
            chunk = source.read(CHUNK)
        if not chunk:
            return digest.hexdigest(), kept
        digest.update(chunk)
        try:
            if going_on and file.read(len(chunk)) == chunk:
                kept += len(chunk)
                continue
            if going_on:
                going_on = False
                file.seek(kept)
                file.truncate()
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            if error.errno == errno.EFBIG:
                with suppress(OSError):
                    os.unlink(part, dir_fd=way.to)
                raise _Left(name, _TOO_LONG) from error
            with _blaming(way.target):
                raise


def _is_there(way: _Way, name: str, size: int, sha256: str) -> bool:
    """Say whether the very file is there. Raises _Left for another one under its name."""
    try:
        with _open(way.to, name) as file:
            if os.fstat(file.fileno()).st_size == size and hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return True
    except FileNotFoundError:
        return False
    except PermissionError:
        raise _Left(
            name, "a file of its name is there that this user may not read; nothing was written over it"
        ) from None
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ELOOP}:
            with _blaming(way.target):
                raise
    raise _Left(name, "another file of its name is there, and differs; nothing was written over it: see which is right")


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _see_room(way: _Way, name: str, needed: int) -> None:
    with _blaming(way.target):
        free = shutil.disk_usage(way.to).free
    if free < needed:
        raise _Left(
            name, f"there is no room for it: {needed} bytes are needed, {free} are free; make room there", later=False
        )


def _take_away(way: _Way, manifest: str, data: str) -> None:
    """Remove a batch that is whole on the other side, its manifest first: nothing is left that looks whole."""
    for name in (manifest, data):
        try:
            os.unlink(name, dir_fd=way.of)
        except FileNotFoundError:
            continue
        except OSError as error:
            why = f"it was carried, and can't be taken away: {error.strerror}; carry without --move, or as who may"
            raise _Left(name, why) from None
        way.done.removed += 1
