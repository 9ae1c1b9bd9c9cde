"""Who on this machine can read what is exported, by the folders' and the files' permissions."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exchange.files.carrier_group import name_of
from exchange.files.layout import Folders
from exchange.format.errors import Problem


@dataclass(frozen=True)
class Readers:
    """Who can, beside this user and root. ``group`` has the right to, unless a folder above, ``barrier``, bars it."""

    everybody: bool
    group: str | None
    barrier: Path | None

    def as_dict(self) -> dict[str, str | bool | None]:
        """Give the fields that scripts rely on."""
        group = None if self.barrier else self.group
        return {"everybody": self.everybody, "group": group, "barrier": str(self.barrier) if self.barrier else None}

    def said_of(self, what: str) -> Problem:
        """Say who can read ``what``, and if that is everybody how to change it."""
        if self.everybody:
            message = f"{what} can be read by every user of this machine"
            return Problem(message, "`exchange init --carrier-group NAME` closes it to others")
        if self.group is not None and self.barrier is None:
            return Problem(f"{what} can be read by this user and the group {self.group}")
        return Problem(f"{what} can be read by this user alone")


def look(folders: Folders) -> Readers:
    """Look who can read what lies in the outgoing folder. Raises OSError if it isn't there."""
    outgoing = folders.outgoing.stat()
    return Readers(
        everybody=bool(outgoing.st_mode & stat.S_IXOTH and folders.file_mode & stat.S_IROTH)
        and _barrier(folders.outgoing, None) is None,
        group=name_of(outgoing.st_gid) if _group_reads(folders, outgoing) else None,
        barrier=_barrier(folders.outgoing, outgoing.st_gid),
    )


def reachable(file: Path) -> bool:
    """Say whether every user of this machine can get to a file, whatever they may do with it. Raises OSError."""
    return _barrier(file, None) is None


def _group_reads(folders: Folders, outgoing: os.stat_result) -> bool:
    """Say whether the folder's group may enter it and read the files that are put there."""
    files = os.getegid() if folders.group is None else folders.group
    if outgoing.st_mode & stat.S_ISGID and folders.group is None:
        files = outgoing.st_gid
    wanted = stat.S_IRGRP if files == outgoing.st_gid else stat.S_IROTH
    return bool(outgoing.st_mode & stat.S_IXGRP and folders.file_mode & wanted)


def _barrier(folder: Path, group: int | None) -> Path | None:
    """Find the nearest folder above that a group's members, or with None strangers, may not pass through."""
    return next((above for above in _above(folder) if not _passes(above.stat(), group)), None)


def _above(folder: Path) -> Iterator[Path]:
    yield from folder.resolve().parents


def _passes(found: os.stat_result, group: int | None) -> bool:
    return bool(found.st_mode & (stat.S_IXGRP if found.st_gid == group else stat.S_IXOTH))
