"""The files of batches in open folders: what they are called, which are there, and how they are told apart."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from exchange.database import clock
from exchange.files.folder import OUR_MODE, Folder, NotPlain
from exchange.format.errors import printable
from exchange.format.names import DATA_ENDINGS, MANIFEST_ENDING, BatchName, FileKind

REASON_ENDING = ".reason.txt"
"""What the sentence beside a batch in quarantine ends in."""
ENDINGS = (*DATA_ENDINGS.values(), MANIFEST_ENDING)
"""What a batch's files end in; the manifest comes last wherever they move."""
DRAFT_ENDING = ".data"
"""What data files end in while they are written."""
SETTLED_AFTER_SECONDS = 10.0
"""How long a manifest has to stay as it is before it is believed to be the same one at the next listing."""


class FileIdentity(NamedTuple):
    """What tells a file from another one of its name, and from itself before it was written to."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileIdentity | None:
        """Identify a file, but not one that was changed just now: a clock's next tick may be the first to tell."""
        if clock.seconds() - max(found.st_mtime, found.st_ctime) < SETTLED_AFTER_SECONDS:
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class BatchFiles:
    """A batch whose manifest was seen in a folder; in ``incoming/`` or ``work/`` its data file may not be there yet.

    ``copy`` tells one from another of the same name, where settled batches lie.
    """

    name: BatchName
    folder: Path
    identity: FileIdentity | None = field(default=None, compare=False)
    copy: int = 1

    @property
    def stem(self) -> str:
        """The batch's name, as its files came."""
        return str(self.name)

    @property
    def label(self) -> str:
        """The files' common part here."""
        return label_of(self.stem, self.copy)

    def file(self, file: str) -> str:
        """Say what a file of the batch is called here, by the name under which it came."""
        return f"{self.label}{file.removeprefix(self.stem)}"


class Kept(NamedTuple):
    """A file of a batch in a folder of ours; ``changed_at`` (Unix time) is when it came there."""

    file: str
    name: BatchName
    kind: FileKind
    changed_at: float
    readable: bool = True


class DataFile(NamedTuple):
    """A data file in any folder. ``label`` is what its batch's files have in common there; a draft has no name."""

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


class LeftAlone(NamedTuple):
    """A file in ``incoming/`` that can't be taken as it is: what is the matter with it, and the remedy.

    ``passing`` says that it may be so for a while only, as its carrier is at work, ``spare`` that it may be one too
    many; ``changed_at`` (Unix time) is when it last changed.
    """

    file: str
    found: str
    remedy: str
    changed_at: float
    passing: bool = False
    spare: bool = False


class AloneData(NamedTuple):
    """A data file in ``incoming/`` without a manifest, of the batch that its name says; ``changed_at`` is Unix time."""

    batch: BatchFiles
    file: str
    changed_at: float


@dataclass(frozen=True)
class Listing:
    """One listing of what arrived. ``ignored`` counts entries that are no batch; ``unpaired`` data files alone.

    ``left_alone`` are those of them, and of manifests, that a batch's files have become, each with what to do about it.
    ``alone`` are data files in ``incoming/`` that lack nothing but their manifests.
    """

    batches: tuple[BatchFiles, ...]
    ignored: int
    unpaired: int
    left_alone: tuple[LeftAlone, ...] = ()
    alone: tuple[AloneData, ...] = ()


def label_of(stem: str, copy: int) -> str:
    """Name one of several batches of the same stem, as ``parse_label`` reads it."""
    return stem if copy == 1 else f"{stem}~{copy}"


def parse_label(label: str) -> tuple[BatchName, int]:
    """Read the name under which a settled batch lies: its stem, ``~2``, ``~3`` ... behind it for a further copy.

    Raises ValueError.
    """
    stem, mark, number = label.partition("~")
    if mark and not (number.isascii() and number.isdecimal() and number[0] != "0" and number != "1"):
        raise ValueError(f'"{printable(label)}" names no copy of a batch; expected <batch>~<number>')
    return BatchName.parse(stem), int(number or 1)


def batch_of_file(name: str) -> BatchName | None:
    """Say of which batch a file is, whatever copy of it; None if it is none of a batch's."""
    for ending in (*ENDINGS, REASON_ENDING):
        if name.endswith(ending):
            with contextlib.suppress(ValueError):
                return parse_label(name.removesuffix(ending))[0]
    return None


def plain_entry(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Look at an entry that is a plain file with one name; None for any other, and for one gone since the listing.

    Raises OSError where the disk can't tell.
    """
    with contextlib.suppress(FileNotFoundError):
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return found
    return None


def files_of(stem: str, folders: tuple[Folder, ...]) -> dict[str, Folder]:
    """Find a batch's plain files by their endings, the manifest last; an earlier folder goes before a later one."""
    files: dict[str, Folder] = {}
    for folder in folders:
        for ending in ENDINGS:
            if ending not in files and folder.look(f"{stem}{ending}") is not None:
                files[ending] = folder
        if MANIFEST_ENDING in files:
            break
    return files


def take_all(sources: dict[str, Folder], stem: str, target: Folder, label: str) -> None:
    """Move the files that ``files_of`` found into a folder of ours, in their order; one that went meanwhile is left."""
    for ending, source in sources.items():
        with contextlib.suppress(FileNotFoundError, NotPlain):  # another process settles it, or it changed
            source.take(f"{stem}{ending}", target, f"{label}{ending}", mode=OUR_MODE)


def free_label(folders: tuple[Folder, ...], stem: str) -> str:
    """Give ``stem``, or one of ``stem~2``, ``stem~3`` ... that no file of any of ``folders`` has.

    A carrier that brings the same batch every minute leaves thousands: they are not all asked for.
    """

    def taken(number: int) -> bool:
        return any(folder.has(f"{label_of(stem, number)}{MANIFEST_ENDING}") for folder in folders)

    free = 1
    while taken(free):
        free *= 2
    last = free // 2
    while free - last > 1:
        middle = (last + free) // 2
        last, free = (middle, free) if taken(middle) else (last, middle)
    return label_of(stem, free)


def data_file(folder: Path, entry: os.DirEntry[str]) -> DataFile | None:
    """Give a data file of a folder, None for anything else."""
    if plain_entry(entry) is None or entry.name.endswith(MANIFEST_ENDING):
        return None
    for ending in (DRAFT_ENDING, ".tmp"):
        if entry.name.endswith(ending):
            return DataFile(folder, entry.name.removesuffix(ending), ending, None)
    for ending in DATA_ENDINGS.values():
        if entry.name.endswith(ending):
            with contextlib.suppress(ValueError):
                label = entry.name.removesuffix(ending)
                return DataFile(folder, label, ending, parse_label(label)[0])
    return None
