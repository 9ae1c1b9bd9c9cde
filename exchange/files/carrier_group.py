"""The carrier's group: beside this user the only one to whom what is exported belongs, where one is set."""

from __future__ import annotations

import errno
import grp
import os
import stat
from pathlib import Path

from exchange.format.errors import Problem, TransientError, printable

FOLDER_MODE = 0o750
FILE_MODE = 0o640
"""What a carrier's group may do with the outgoing folder and its files, unless a setting says otherwise."""


def number_of(group: str) -> int:
    """Give the number of a group, by its name or by the number itself. Raises ValueError if there is none such."""
    try:
        if not group.isdecimal():
            return grp.getgrnam(group).gr_gid
        number = int(group)
        if number not in _ours():  # a container's group need not have a name in it
            grp.getgrgid(number)
    except (KeyError, OverflowError):
        shown = printable(group, 80)
        raise ValueError(
            f"expected a group of this machine, found none called {shown}; make it (groupadd {shown}) or correct it"
        ) from None
    return number


def name_of(number: int) -> str:
    """Give the name of a group, or its number where it has none."""
    try:
        return grp.getgrgid(number).gr_name
    except (KeyError, OverflowError):
        return str(number)


def may_give(number: int) -> bool:
    """Say whether this process may give a file of its own to a group: root may, and whoever is in it."""
    return os.geteuid() == 0 or number in _ours()


def _ours() -> set[int]:
    return {os.getegid(), *os.getgroups()}


def give(descriptor: int, number: int | None, what: Path, consequence: str) -> None:
    """Give an open file or folder of ours to a group, if there is one. Raises TransientError if that is not allowed."""
    if number is None:
        return
    try:
        os.fchown(descriptor, -1, number)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EINVAL}:
            raise
        if may_give(number):
            raise _not_owned(what, consequence) from error
        raise TransientError(str(not_ours(number, f"{what} can't be given to it: {consequence}"))) from error


def share(descriptor: int, number: int, mode: int, what: Path) -> None:
    """Give an open folder to a group, with a mode; one as it should be may be anybody's. Raises TransientError."""
    found = os.fstat(descriptor)
    if (found.st_gid, stat.S_IMODE(found.st_mode)) == (number, mode):
        return
    give(descriptor, number, what, "nothing was read or written")
    try:
        os.fchmod(descriptor, mode)
    except PermissionError as error:
        raise _not_owned(what, "nothing was read or written") from error


def _not_owned(what: Path, consequence: str) -> TransientError:
    return TransientError(
        f"{what} belongs to another user, so that it can't be given to the carrier's group: {consequence};"
        " give it to this user (chown)"
    )


def not_ours(number: int, consequence: str) -> Problem:
    """Say that this user is not in the group, what follows from that, and what helps."""
    return Problem(
        f"this user is not in the group {name_of(number)} that EXCHANGE_CARRIER_GROUP names, and {consequence}",
        "add the user to it (usermod --append --groups), and start anew what runs",
    )
