"""Which folders a side has, and what one look at them saw: batches, by their names and files."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from exchange.format.errors import printable
from exchange.format.names import BatchName

SETTLED_AFTER_SECONDS = 10.0
"""How long a manifest has to stay as it is before it is believed to be the same one at the next listing."""


@dataclass(frozen=True)
class Folders:
    """Where everything lies. ``outgoing`` and ``incoming`` may be anywhere, the rest is below ``home``.

    ``group`` is the number of the carrier's group, if there is one.
    """

    home: Path
    outgoing: Path
    incoming: Path
    folder_mode: int = 0o755
    file_mode: int = 0o644
    group: int | None = None

    @property
    def private(self) -> tuple[Path, ...]:
        """The folders that are ours alone."""
        return (
            self.tmp,
            self.sealed,
            self.work,
            self.archive,
            self.quarantine,
            self.strangers,
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

    @property
    def strangers(self) -> Path:
        """Files that nobody vouches for, so many of them as the settings allow."""
        return self.home / "strangers"


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
        if time.time() - max(found.st_mtime, found.st_ctime) < SETTLED_AFTER_SECONDS:
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


@dataclass(frozen=True)
class Listing:
    """One listing of what arrived. ``ignored`` counts entries that are no batch; ``unpaired`` data files alone."""

    found: tuple[BatchFiles, ...]
    ignored: int
    unpaired: int


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
