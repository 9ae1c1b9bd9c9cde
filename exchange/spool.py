"""The folders: how files come in, go out, and never half exist.

Only this module renames, opens or syncs a batch's files. Whatever lies in ``incoming/`` belongs to the other
side until it is claimed; nothing there is followed, trusted or changed. Moves may be repeated: each step
finds what a crashed one left.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from exchange.folders import HOME_MODE, make_private
from exchange.format.errors import WorldError, printable
from exchange.format.manifest import MAX_MANIFEST_BYTES
from exchange.format.names import BatchName, FileKind, data_name, manifest_name, parse_file_name
from exchange.remembered import Remembered

MARKER = ".exchange-folder"
"""In the folders a carrier serves: an unmounted folder looks empty, but it has no marker."""

MARKED_AFTER_SECONDS = 10.0
"""How long a manifest has to stay as it is before it is believed to be the same one at the next listing."""

_COPY_BYTES = 1024 * 1024
_MANIFEST = ".manifest.jsonl"
_REASON = ".reason.txt"
_ENDINGS = (".jsonl", ".jsonl.zst", ".jsonl.age", ".jsonl.zst.age", _MANIFEST)
"""What a batch's files end in; the manifest comes last wherever they move."""
_DATA_ENDINGS = _ENDINGS[-2::-1]
"""Those of data files, the longest first."""
_DRAFT = ".data"
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Folders:
    """Where everything lies. ``outgoing`` and ``incoming`` may be anywhere, the rest is below ``home``."""

    home: Path
    outgoing: Path
    incoming: Path
    folder_mode: int = 0o755
    file_mode: int = 0o644

    @property
    def private(self) -> tuple[Path, ...]:
        """The folders that are ours alone."""
        return (
            self.tmp,
            self.sealed,
            self.work,
            self.archive,
            self.quarantine,
            self.home / "keys",
            self.home / "markers",
        )

    @property
    def tmp(self) -> Path:
        """Data files being written."""
        return self.home / "tmp"

    @property
    def sealed(self) -> Path:
        """Our copy of every batch we sealed, until retention ends: what a resend publishes again."""
        return self.home / "sealed"

    @property
    def work(self) -> Path:
        """Batches claimed and not settled."""
        return self.home / "work"

    @property
    def archive(self) -> Path:
        """Batches applied, or seen again."""
        return self.home / "archive"

    @property
    def quarantine(self) -> Path:
        """Batches refused, each with a sentence beside it."""
        return self.home / "quarantine"


class Mark(NamedTuple):
    """What tells a file from another one of its name, and from itself before it was written to."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Mark | None:
        """Mark a file, but not one that was changed just now: a clock's next tick may be the first to tell."""
        if time.time() - max(found.st_mtime, found.st_ctime) < MARKED_AFTER_SECONDS:
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class Sighting:
    """A manifest seen in a folder; in ``incoming/`` or ``work/`` its data file may not be there yet.

    ``copy`` tells one from another of the same name, where settled batches lie.
    """

    name: BatchName
    folder: Path
    mark: Mark | None = field(default=None, compare=False)
    copy: int = 1

    @property
    def stem(self) -> str:
        """The batch's name, as its files came."""
        return str(self.name)

    @property
    def label(self) -> str:
        """The files' common part here."""
        return _label(self.stem, self.copy)

    def path(self, file: str) -> Path:
        """Say where a file of the batch lies, by the name under which it came."""
        return self.folder / f"{self.label}{file.removeprefix(self.stem)}"


class Lying(NamedTuple):
    """A data file, wherever it lies. ``label`` is what its batch's files have in common there; a draft has no name."""

    folder: Path
    label: str
    ending: str
    name: BatchName | None

    @property
    def stem(self) -> str:
        """The batch's name, as its files came; empty for a draft."""
        return str(self.name) if self.name else ""

    @property
    def channel(self) -> str | None:
        """The channel that the file's name says."""
        return self.name.channel if self.name else None


@dataclass(frozen=True)
class Sightings:
    """One listing of what arrived. ``ignored`` counts entries that are no batch; ``unpaired`` data files alone."""

    found: tuple[Sighting, ...]
    ignored: int
    unpaired: int


class Spool:
    """The folders of one network and every move of a file between them."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.believed: Remembered[Any] = Remembered()
        """What was made of the manifests of the last listing."""

    def prepare(self, *, make: bool = False) -> None:
        """Make private folders that are missing, and see that the shared ones are those that were marked.

        With ``make``, a person's first step, shared folders that this side never had are made and marked too.
        Raises WorldError if a folder can't be made, is not there, or has lost its marker.
        """
        try:
            make_private(self.folders.home, HOME_MODE)
            for folder in self.folders.private:
                make_private(folder)
            for role, folder in (("outgoing", self.folders.outgoing), ("incoming", self.folders.incoming)):
                self._see_shared(role, folder, make=make)
        except OSError as error:
            msg = f"{error.filename}: {error.strerror}; nothing was read or written; mend the folder and run again"
            raise WorldError(msg) from error

    def _see_shared(self, role: str, folder: Path, *, make: bool) -> None:
        if (folder / MARKER).exists():
            return
        remembered = self.folders.home / "markers" / role
        if remembered.exists() and remembered.read_text() == str(folder):
            raise WorldError(
                f"{folder} has lost its marker {MARKER}: it is probably not mounted; nothing advances until"
                " it is back, or until `exchange init` marks this folder anew"
            )
        if not make:
            raise WorldError(
                f"{folder}, the {role} folder, has no marker {MARKER}: it was never set up, or is not mounted;"
                " nothing was read or written; `exchange init` makes and marks it"
            )
        self.mark(role)

    def mark(self, role: str) -> None:
        """Make the shared folder ``outgoing`` or ``incoming`` if need be, mark it, and remember that we did."""
        folder: Path = getattr(self.folders, role)
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(self.folders.folder_mode)
        (folder / MARKER).touch()
        make_private(self.folders.home / "markers")
        (self.folders.home / "markers" / role).write_text(str(folder))

    # Out

    @contextlib.contextmanager
    def drafting(self) -> Iterator[tuple[BinaryIO, Path]]:
        """Open a new private data file below ``tmp/``; it is gone afterwards unless it was sealed."""
        path = self.folders.tmp / f"{os.getpid()}-{os.urandom(6).hex()}{_DRAFT}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file, path
        finally:
            path.unlink(missing_ok=True)

    def seal(self, name: BatchName, encoding: tuple[str, ...], draft: Path, data_bytes: int, manifest: bytes) -> None:
        """Make a batch durable in ``sealed/``: data, then manifest, each synced before its rename.

        ``draft`` is complete and flushed. Raises WorldError if the disk did not take all of it.
        """
        try:
            found = draft.stat().st_size
            if found != data_bytes:
                msg = f"{draft.name}: the disk holds {found} bytes of {data_bytes}; the batch is not sealed; run again"
                raise WorldError(msg)
            _sync_file(draft)
            draft.rename(self.folders.sealed / data_name(name, encoding))
            _write_new(self.folders.sealed / manifest_name(name), manifest, self.folders.tmp)
            _sync_folder(self.folders.sealed)
        except OSError as error:
            raise _world(error, "the batch is not sealed and its changes stay pending") from error

    def publish(self, name: BatchName, encoding: tuple[str, ...], attempt: int = 1) -> None:
        """Put a sealed batch into ``outgoing/``: data first, the manifest last as the commit mark.

        May be repeated. ``attempt`` > 1 publishes the same bytes under the next name.
        Raises WorldError if our sealed copy is gone or the folder can't take it.
        """
        public = name.again(attempt)
        try:
            for source, target in (
                (data_name(name, encoding), data_name(public, encoding)),
                (manifest_name(name), manifest_name(public)),
            ):
                self._copy_out(self.folders.sealed / source, self.folders.outgoing / target)
            _sync_folder(self.folders.outgoing)
        except OSError as error:
            raise _world(error, "the batch stays sealed and is published at the next run") from error

    def _copy_out(self, source: Path, target: Path) -> None:
        # A copy, not a link: what the carrier can reach must not be the bytes that we would send again.
        draft = target.with_name(f".{target.name}.tmp")
        with source.open("rb") as read, draft.open("wb") as write:
            shutil.copyfileobj(read, write, _COPY_BYTES)
            write.flush()
            os.fchmod(write.fileno(), self.folders.file_mode)
            if write.tell() != os.fstat(read.fileno()).st_size:
                raise OSError(errno.EIO, "short copy", str(target))
            os.fsync(write.fileno())
        draft.rename(target)

    def has_sealed(self, name: BatchName, encoding: tuple[str, ...], manifest_digest: str | None, sha256: str) -> bool:
        """Say whether our copy of a sealed batch is here and is what it was: both digests are those of its files."""
        try:
            with _open_plain(self.folders.sealed / manifest_name(name)) as file:
                line = file.read(MAX_MANIFEST_BYTES + 1).partition(b"\n")[0]
            if hashlib.sha256(line).hexdigest() != manifest_digest:
                return False
            with _open_plain(self.folders.sealed / data_name(name, encoding)) as file:
                digest = hashlib.sha256()
                while piece := file.read(_COPY_BYTES):
                    digest.update(piece)
                return digest.hexdigest() == sha256
        except FileNotFoundError:
            return False

    def forget_sealed(self, name: BatchName, encoding: tuple[str, ...], attempts: int = 1) -> None:
        """Remove our copy of a sealed batch whose retention has ended, and what the carrier left of each attempt."""
        left = [(self.folders.outgoing, name.again(attempt)) for attempt in range(1, attempts + 1)]
        for folder, public in ((self.folders.sealed, name), *left):
            (folder / manifest_name(public)).unlink(missing_ok=True)
            (folder / data_name(public, encoding)).unlink(missing_ok=True)

    # In

    def sight(self) -> Sightings:
        """List ``incoming/`` and ``work/`` once each. Nothing is opened, and no link is followed."""
        found: dict[BatchName, Sighting] = {}
        data: set[BatchName] = set()
        ignored = 0
        for folder in (self.folders.work, self.folders.incoming):
            with _scanned(folder) as entries:
                for entry in entries:
                    parsed = parse_file_name(entry.name)
                    plain = _plain(entry) if parsed else None
                    if parsed is None or plain is None:
                        ignored += entry.name != MARKER
                    elif parsed[1] is FileKind.MANIFEST:
                        found.setdefault(parsed[0], Sighting(parsed[0], folder, Mark.of(plain)))
                    else:
                        data.add(parsed[0])
        in_order = sorted(found.values(), key=attrgetter("name.channel", "name.epoch", "name.sequence", "name.attempt"))
        return Sightings(tuple(in_order), ignored, len(data - found.keys()))

    def read_manifest(self, sighting: Sighting) -> bytes:
        """Read a manifest, at most one byte more than a manifest may have. Raises FileNotFoundError if it went."""
        with _open_plain(sighting.path(manifest_name(sighting.name))) as file:
            return file.read(MAX_MANIFEST_BYTES + 1)

    def data_size(self, sighting: Sighting, encoding: tuple[str, ...]) -> int | None:
        """Size in bytes of the data file, in whichever of the two folders; None if it is no plain file there."""
        for folder in (self.folders.work, self.folders.incoming):
            with contextlib.suppress(OSError):
                found = (folder / data_name(sighting.name, encoding)).lstat()
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                    return found.st_size
        return None

    def seconds_since_written(self, sighting: Sighting, encoding: tuple[str, ...] | None) -> float:
        """Say how long nobody has written to the data file, or with None to the manifest.

        Only ever a guess whether a carrier still writes: copies keep old times, and clocks differ.
        """
        file = manifest_name(sighting.name) if encoding is None else data_name(sighting.name, encoding)
        for folder in (self.folders.work, self.folders.incoming):
            with contextlib.suppress(OSError):
                found = (folder / file).lstat()
                # The change time is this machine's own, so a time in the future can't keep a file young for ever.
                return time.time() - min(found.st_mtime, found.st_ctime)
        return 0.0

    def claim(self, sighting: Sighting, encoding: tuple[str, ...]) -> Sighting:
        """Take both files out of the other side's reach, into ``work/``. May be repeated after a crash."""
        # The manifest last: it alone makes a sighting, so a crash in between is found by its name in incoming/.
        for name in (data_name(sighting.name, encoding), manifest_name(sighting.name)):
            source, target = self.folders.incoming / name, self.folders.work / name
            if not target.exists():
                _move(source, target)
        return Sighting(sighting.name, self.folders.work)

    def give_back(self, sighting: Sighting, encoding: tuple[str, ...]) -> None:
        """Undo a claim: the carrier is still writing this batch."""
        for name in (data_name(sighting.name, encoding), manifest_name(sighting.name)):
            source, target = self.folders.work / name, self.folders.incoming / name
            if source.exists() and not target.exists():
                _move(source, target)

    def open_data(self, sighting: Sighting, encoding: tuple[str, ...]) -> BinaryIO:
        """Open a claimed batch's data file for reading, as a plain file with one link."""
        return _open_plain(sighting.path(data_name(sighting.name, encoding)))

    def shelve(self, sighting: Sighting) -> None:
        """Move a settled batch to ``archive/``, beside an earlier copy if there is one."""
        self._settle(sighting, self.folders.archive)

    def quarantine(self, sighting: Sighting, sentence: str) -> None:
        """Move a refused batch to ``quarantine/`` and write the sentence beside it."""
        self._settle(sighting, self.folders.quarantine, sentence)

    def _settle(self, sighting: Sighting, folder: Path, sentence: str | None = None) -> None:
        stem = _free_stem(folder, sighting.stem)
        sources = self._files(sighting)
        if sources and sentence is not None:  # first: a crash after the move would leave it out for ever
            reason = f"{printable(sentence, 2000)}\n".encode()
            _write_new(folder / f"{stem}{_REASON}", reason, self.folders.tmp)
        for ending, source in sources.items():
            with contextlib.suppress(FileNotFoundError):  # another process settles it, too
                _move(source, folder / f"{stem}{ending}")
        _sync_folder(folder)

    def _files(self, sighting: Sighting) -> dict[str, Path]:
        """Find a batch's plain files by their endings, the manifest last; what is claimed comes first."""
        files: dict[str, Path] = {}
        for here in (self.folders.work, self.folders.incoming):
            for ending in _ENDINGS:
                path = here / f"{sighting.stem}{ending}"
                if ending not in files and path.is_file() and not path.is_symlink():
                    files[ending] = path
            if _MANIFEST in files:
                break
        return files

    def _keeping(self) -> tuple[Path, ...]:
        return (self.folders.work, self.folders.incoming, self.folders.quarantine, self.folders.archive)

    def kept(self, stem: str) -> Sighting | None:
        """Find an incoming batch by its stem in work, incoming, quarantine or archive, in this order."""
        with contextlib.suppress(ValueError):
            name = BatchName.parse(stem)
            for folder in self._keeping():
                if (folder / manifest_name(name)).is_file():
                    return Sighting(name, folder)
        return None

    def kept_through(self, first: BatchName, last: int) -> dict[int, Sighting]:
        """Find incoming batches of a channel's epoch by their sequences, the newest publication of each."""
        found: dict[int, Sighting] = {}
        for folder in reversed(self._keeping()):
            for one in sorted(_lying_in(folder), key=attrgetter("name")):
                same = (one.name.channel, one.name.epoch, one.copy) == (first.channel, first.epoch, 1)
                if same and first.sequence <= one.name.sequence <= last:
                    found[one.name.sequence] = one
        return found

    def quarantined(self) -> list[Sighting]:
        """List what lies in quarantine, in the order of names."""
        return sorted(_lying_in(self.folders.quarantine), key=attrgetter("name", "copy"))

    def size_and_time(self, sighting: Sighting) -> tuple[int, datetime | None]:
        """Say how many bytes a batch's files have, and since when they have been where they are."""
        found = []
        for ending in _ENDINGS:
            with contextlib.suppress(OSError):
                found.append((sighting.folder / f"{sighting.label}{ending}").lstat())
        since = max((one.st_ctime for one in found), default=None)
        return sum(one.st_size for one in found), None if since is None else datetime.fromtimestamp(since, UTC)

    def reason(self, sighting: Sighting) -> str:
        """Read the sentence beside a quarantined batch; empty if there is none."""
        with contextlib.suppress(OSError), _open_plain(sighting.folder / f"{sighting.label}{_REASON}") as file:
            return file.read(MAX_MANIFEST_BYTES).decode(errors="replace").strip()
        return ""

    def has(self, stem: str) -> bool:
        """Say whether a batch's manifest still lies where arrivals and claimed batches lie."""
        name = manifest_name(BatchName.parse(stem))
        return any((folder / name).exists() for folder in (self.folders.incoming, self.folders.work))

    def bring_back(self, sighting: Sighting) -> Sighting:
        """Move a kept batch back to ``work/`` so that the next import judges it anew."""
        if sighting.folder in (self.folders.work, self.folders.incoming):
            return sighting
        self._move_all(sighting, self.folders.work / sighting.stem)
        return Sighting(sighting.name, self.folders.work)

    def retire(self, sighting: Sighting) -> None:
        """Move a batch that a person gave up to ``archive/``, wherever it lies."""
        if sighting.folder == self.folders.quarantine:
            free = _free_stem(self.folders.archive, sighting.stem)
            self._move_all(sighting, self.folders.archive / free)
        else:
            self.shelve(sighting)

    def _move_all(self, sighting: Sighting, target: Path) -> None:
        """Move a batch's files, the manifest last: it alone makes a sighting, so a crash in between is found."""
        for ending in _ENDINGS:
            source = sighting.folder / f"{sighting.label}{ending}"
            if source.is_file() and not source.is_symlink():
                _move(source, target.with_name(f"{target.name}{ending}"))
        (sighting.folder / f"{sighting.label}{_REASON}").unlink(missing_ok=True)
        _sync_folder(target.parent)

    def prune(self, folder: Path, older_than: float) -> int:
        """Remove files of ``folder`` last changed before ``older_than`` (Unix time); say how many."""
        removed = 0
        with _scanned(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_ctime < older_than:
                    Path(entry.path).unlink(missing_ok=True)
                    removed += 1
        return removed

    # Wherever they are, for whoever looks for a record in them

    def lying(self) -> list[Lying]:
        """List every data file in every folder, and every draft that a crash may have left, but for the carrier's."""
        folders = self.folders
        found: list[Lying] = []
        for folder in (folders.sealed, folders.outgoing, *self._keeping(), folders.tmp):
            with _scanned(folder) as entries:
                lying = (_lying(folder, entry) for entry in entries)
                found += [one for one in lying if one and (one.name or folder != folders.incoming)]
        return sorted(found, key=attrgetter("folder", "label", "ending"))

    def open_lying(self, file: Lying) -> BinaryIO:
        """Open one for reading. Raises OSError unless it is a plain file with one name."""
        return _open_plain(file.folder / f"{file.label}{file.ending}")

    def erase(self, file: Lying) -> None:
        """Remove a data file and all that is beside it: the manifest first, so that nothing half is seen.

        May be repeated. Raises WorldError.
        """
        try:
            for ending in (_MANIFEST, *_ENDINGS, _REASON, file.ending):
                (file.folder / f"{file.label}{ending}").unlink(missing_ok=True)
            _sync_folder(file.folder)
        except OSError as error:
            raise _world(error, "not all was erased; mend the folder and run again") from error

    def free_bytes(self) -> int:
        """Free space, in bytes, where batches are sealed."""
        return shutil.disk_usage(self.folders.home).free


def _world(error: OSError, consequence: str) -> WorldError:
    return WorldError(f"{error.filename or 'the disk'}: {error.strerror or error}; {consequence}")


@contextlib.contextmanager
def _scanned(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise _world(error, "nothing was read; mend the folder and run again") from error


def _plain(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Look at an entry that is a plain file with one name; None for any other, and for one gone since the listing."""
    with contextlib.suppress(OSError):
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return found
    return None


def _open_plain(path: Path) -> BinaryIO:
    """Open without following a link or waiting at a FIFO. Raises OSError unless it is a plain file with one name."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = os.open(path.name, _OPEN_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file with one name", str(path))
    return os.fdopen(descriptor, "rb")


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Another filesystem: copy whole, then show it under its name, then let go of the original.
        draft = target.with_name(f".{target.name}.tmp")
        with _open_plain(source) as read, draft.open("wb") as write:
            shutil.copyfileobj(read, write, _COPY_BYTES)
            write.flush()
            os.fsync(write.fileno())
        draft.rename(target)
        source.unlink()


def _free_stem(folder: Path, stem: str) -> str:
    """Give ``stem``, or one of ``stem~2``, ``stem~3`` ... that no file of ``folder`` has.

    A carrier that brings the same batch every minute leaves thousands: they are not all asked for.
    """

    def taken(number: int) -> bool:
        return (folder / f"{_label(stem, number)}{_MANIFEST}").exists()

    free = 1
    while taken(free):
        free *= 2
    last = free // 2
    while free - last > 1:
        middle = (last + free) // 2
        last, free = (middle, free) if taken(middle) else (last, middle)
    return _label(stem, free)


def _label(stem: str, copy: int) -> str:
    return stem if copy == 1 else f"{stem}~{copy}"


def parse_label(label: str) -> tuple[BatchName, int]:
    """Read the name under which a settled batch lies: its stem, ``~2``, ``~3`` ... behind it for a further copy.

    Raises ValueError.
    """
    stem, mark, number = label.partition("~")
    if mark and not (number.isascii() and number.isdecimal() and number[0] != "0" and number != "1"):
        raise ValueError(f'"{printable(label)}" names no copy of a batch; expected <batch>~<number>')
    return BatchName.parse(stem), int(number or 1)


def _lying(folder: Path, entry: os.DirEntry[str]) -> Lying | None:
    """Give a data file of a folder, None for anything else."""
    if _plain(entry) is None or entry.name.endswith(_MANIFEST):
        return None
    for ending in (_DRAFT, ".tmp"):
        if entry.name.endswith(ending):
            return Lying(folder, entry.name.removesuffix(ending), ending, None)
    for ending in _DATA_ENDINGS:
        if entry.name.endswith(ending):
            with contextlib.suppress(ValueError):
                label = entry.name.removesuffix(ending)
                return Lying(folder, label, ending, parse_label(label)[0])
    return None


def _lying_in(folder: Path) -> Iterator[Sighting]:
    """Give the batches of a folder, by their manifests."""
    with _scanned(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_MANIFEST) and _plain(entry) is not None:
                with contextlib.suppress(ValueError):
                    name, copy = parse_label(entry.name.removesuffix(_MANIFEST))
                    yield Sighting(name, folder, copy=copy)


def _write_new(target: Path, content: bytes, tmp: Path) -> None:
    draft = tmp / f"{os.getpid()}-{os.urandom(6).hex()}.tmp"
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o600)
            os.fsync(file.fileno())
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
