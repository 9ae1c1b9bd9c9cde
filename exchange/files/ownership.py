"""Whether a file or a folder may say what this program runs: only we and root may be able to write it.

A ``.env`` names modules that are imported, and Python imports from the working folder. As ssh and git do, whoever
could have written either is looked at before anything of it is read. Only the standard library is imported here, for
this is asked before anything else is.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from pathlib import Path

MOST_BYTES = 1024 * 1024
"""So much of a file is read."""

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


class WrongOwner(Exception):  # noqa: N818 - reads as what it is
    """Somebody else may have written it; the text is one sentence."""


def read_ours(file: Path) -> bytes | None:
    """Give what is in a file that only we or root can have written; None if there is no such file.

    Raises WrongOwner, and OSError if it can't be read.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        shown = _shown(file)
        _refuse(shown, _fault(os.lstat(file), link=True) or _fault(found))
        for folder in {file.absolute().parent, Path(os.path.realpath(file)).parent}:
            _refuse(shown, _folder_fault(folder, sticky=True))
        return os.read(descriptor, MOST_BYTES)
    finally:
        os.close(descriptor)


def why_not_imported() -> str | None:
    """Say in one sentence why nothing may be imported from the working folder; None if it is ours alone."""
    here = _working_folder()
    fault = _folder_fault(here, sticky=False) if here else None
    return f"the working folder {_shown(here)}: {fault}" if here and fault else None


def refuse_imports() -> None:
    """Refuse to go on where Python imports from a working folder that is not ours alone. Raises WrongOwner.

    Call it before anything is imported that is not of the standard library.
    """
    here = _working_folder()
    fault = why_not_imported() if {"", str(here)}.intersection(sys.path) else None
    if fault is not None:
        raise WrongOwner(f"{fault}; Python would import from it, so nothing was done: go to another folder")


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None  # it was removed: there is nothing in it


def _refuse(shown: str, fault: str | None) -> None:
    if fault is not None:
        raise WrongOwner(f"{shown}: {fault}; nothing of it was read")


def _folder_fault(folder: Path, *, sticky: bool) -> str | None:
    """Look at a folder and all above it: in one that is sticky nobody replaces what is another's."""
    for place in (folder, *folder.parents):
        fault = _fault(place.stat(), sticky=sticky or place != folder, above=place != folder)
        if fault is not None:
            return fault if place == folder and not sticky else f"{_shown(place)}: {fault}"
    return None


def _fault(found: os.stat_result, *, link: bool = False, sticky: bool = False, above: bool = False) -> str | None:
    if found.st_uid not in {0, os.geteuid()} and not (above and _is_unmapped(found.st_uid)):
        return f"expected it to belong to {_owner_name()}, found it belongs to {_name(found.st_uid)}"
    if (link and stat.S_ISLNK(found.st_mode)) or (sticky and found.st_mode & stat.S_ISVTX):
        return None
    if not found.st_mode & _WRITABLE or (not found.st_mode & stat.S_IWOTH and _is_our_own_group(found.st_gid)):
        return None
    kind = "folder" if stat.S_ISDIR(found.st_mode) else "file"
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    return f"expected a {kind} that only {_owner_name()} can write, found mode {mode} (chmod go-w mends it)"


def _owner_name() -> str:
    own = _name(os.geteuid())
    return own if own == "root" else f"{own} or root"


def _is_our_own_group(gid: int) -> bool:
    """Tell whether a group is a user's private one, as many systems give each user: writable by it is by us."""
    own = os.geteuid()
    if own == 0 or gid != os.getegid():
        return False
    try:
        group, name = grp.getgrgid(gid), pwd.getpwuid(own).pw_name
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}


def _is_unmapped(uid: int) -> bool:
    """Tell whether this is how a user namespace shows those outside of it, as root of the machine around it."""
    try:
        everybody = "4294967295" in Path("/proc/self/uid_map").read_text().split()
        return not everybody and uid == int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return False


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _shown(path: Path) -> str:
    return ascii(str(path))[1:-1]
