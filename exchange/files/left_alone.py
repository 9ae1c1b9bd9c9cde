"""What lies in ``incoming/`` that a batch's files have become and that can't be taken as it is, with the remedy.

It is never moved, followed or removed: it belongs to the carrier. Saying what it is costs a look at it, no more.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat

from exchange.database import clock
from exchange.files.batch_files import LeftAlone
from exchange.files.folder import Folder
from exchange.format.carriage import renamed
from exchange.format.errors import printable
from exchange.format.names import BatchName, FileKind, manifest_name, parse_file_name

MOST_INNER = 1_000
"""So many entries of a folder within ``incoming/``, and of those in it, are looked at: do batches lie there?"""
MOST_DEPTH = 4
"""How deep."""

_EVERYBODY_READS = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
"""What an entry is that is no file, by its type."""


def may_read(folder: Folder, name: str, found: os.stat_result) -> bool:
    """Say whether this user may read a plain file. Most files everybody may, which is known without asking."""
    if found.st_mode & _EVERYBODY_READS == _EVERYBODY_READS:
        return True
    try:
        return os.access(name, os.R_OK, dir_fd=folder.descriptor, effective_ids=True, follow_symlinks=False)
    except (OSError, NotImplementedError):
        return True  # whoever opens it finds out


def not_readable(found: os.stat_result) -> str:
    """Say that this user may not read a file."""
    return f"can't be read by this user: it is {stat.S_IMODE(found.st_mode):04o} and belongs to {owner(found)}"


READ_REMEDY = "give this user the right to read it (chmod a+r), and let its carrier bring files with umask 022"


def why_left_alone(
    folder: Folder,
    entry: os.DirEntry[str],
    parsed: tuple[BatchName, FileKind, tuple[str, ...]] | None,
    plain: os.stat_result | None,
) -> LeftAlone | None:
    """Say why an entry of ``incoming/`` can't be taken; None if it can, or has nothing to do with batches.

    ``parsed`` is what its name says, ``plain`` what it is if that is a plain file with one name.
    """
    if parsed is not None and plain is not None:
        if may_read(folder, entry.name, plain):
            return None
        return LeftAlone(entry.name, not_readable(plain), READ_REMEDY, plain.st_ctime)
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None  # gone since the listing
    except OSError as error:
        return unseen(entry.name, error)
    if parsed is not None:
        return _no_plain_file(entry.name, found)
    return _inner_folder(folder, entry.name, found) if stat.S_ISDIR(found.st_mode) else _renamed(entry.name, found)


def _renamed(name: str, found: os.stat_result) -> LeftAlone | None:
    was = renamed(name)
    if was is None:
        return None
    if was.under_way:
        remedy = f"if nobody brings {was.expected} any more, have it sent again, and remove this one"
    else:
        remedy = (
            f"let its carrier leave names and bytes as they are; if {was.expected} never came, bring it again under"
            " that name, else remove this one"
        )
    return LeftAlone(name, was.how, remedy, found.st_ctime, passing=was.under_way, spare=was.spare)


def unseen(name: str, error: OSError) -> LeftAlone:
    """Say that the disk can't tell what a file is."""
    said = f"can't be looked at ({error.strerror}), so nobody can say what it is"
    return LeftAlone(name, said, "see to the disk that it lies on; the next run looks again", clock.seconds())


def without_manifest(name: str, changed_at: float) -> LeftAlone:
    """Say that a data file is alone."""
    parsed = parse_file_name(name)
    expected = manifest_name(parsed[0]) if parsed else "its manifest"
    return LeftAlone(name, "came without its manifest", f"have {expected} brought, too", changed_at, passing=True)


def _no_plain_file(name: str, found: os.stat_result) -> LeftAlone:
    if stat.S_ISREG(found.st_mode):
        said = f"has {found.st_nlink} names (hard links), so that others may change it"
        remedy = "let its carrier copy files; remove the other names, or put a copy in its place"
        return LeftAlone(name, said, remedy, found.st_ctime)
    kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
    remedy = "let its carrier bring the file itself; put that in its place"
    return LeftAlone(name, f"is {kind} and no file", remedy, found.st_ctime)


def _inner_folder(folder: Folder, name: str, found: os.stat_result) -> LeftAlone | None:
    """Say that a folder holds files of batches: its carrier copied a folder where it was to copy what is in it."""
    if name.startswith(".") or name == "lost+found":
        return None
    try:
        batches = _batches_in(folder, name, [MOST_INNER])
    except OSError as error:
        said = f"is a folder that can't be looked into ({error.strerror})"
        return LeftAlone(name, said, "let the carrier bring files and no folders", found.st_ctime)
    if not batches:
        return None
    said = f"is a folder with {batches} files of batches in it"
    remedy = "let its carrier copy what is in a folder and not the folder, and move those files up"
    return LeftAlone(name, said, remedy, found.st_ctime)


def _batches_in(folder: Folder, name: str, left: list[int], depth: int = MOST_DEPTH) -> int:
    """Count the files of batches in a folder and in those within it, and look at no more entries than are left."""
    batches = 0
    with folder.inner(name) as inner, inner.entries() as entries:
        for entry in entries:
            if not left[0]:
                break
            left[0] -= 1
            batches += parse_file_name(entry.name) is not None
            if depth and entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                with contextlib.suppress(OSError):
                    batches += _batches_in(inner, entry.name, left, depth - 1)
    return batches


def owner(found: os.stat_result) -> str:
    """Name the user whom a file belongs to."""
    with contextlib.suppress(KeyError):
        return printable(pwd.getpwuid(found.st_uid).pw_name, 40)
    return f"user {found.st_uid}"
