"""Runs a command under a unit's filter of system calls, as systemd would: ``confine.py UNIT COMMAND...``.

The filter is what the unit's own lines say, its sets spelt out by ``systemd-analyze``; libseccomp puts it in force.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_MASKED_EQUAL = 7
_WRITE, _EXECUTE, _SHARED_EXECUTE = 0x2, 0x4, 0o100000


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


_ENDINGS = (
    # MemoryDenyWriteExecute=yes is these four, by systemd.exec(5).
    ("mmap", 2, _WRITE | _EXECUTE),
    ("mprotect", 2, _EXECUTE),
    ("pkey_mprotect", 2, _EXECUTE),
    ("shmat", 2, _SHARED_EXECUTE),
)


def why_not() -> str | None:
    """Say what is missing here; None if a command can be confined."""
    if sys.platform != "linux" or shutil.which("systemd-analyze") is None:
        return "systemd-analyze isn't installed here"
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return "libseccomp isn't installed here"
    return None


def allowed(unit: Path) -> set[str]:
    """Give the names of the system calls that a unit allows."""
    calls: set[str] = set(_members("@default"))
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit.read_text(), re.MULTILINE):
        named = {call for word in line.lstrip("~").split() for call in _members(word)}
        calls = calls - named if line.startswith("~") else calls | named
    return calls


def _members(name: str) -> Iterable[str]:
    if not name.startswith("@"):
        return {name}
    shown = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", name],  # noqa: S607 - found by why_not
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = (line.strip() for line in shown.splitlines()[1:])
    return {call for line in lines if line and line[0] != "#" for call in _members(line)}


def confine(unit: Path) -> None:
    """Put a unit's filter in force for this process and all that it starts."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    names = allowed(unit)
    memory = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_ALLOW)))
    for name, argument, bits in _ENDINGS:
        rule = (_Comparison * 1)(_Comparison(argument, _MASKED_EQUAL, bits, bits))
        _rule(seccomp, memory, _REFUSE, name, rule)
    calls = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_REFUSE)))
    for name in names:
        _rule(seccomp, calls, _ALLOW, name, None)
    for filters in (memory, calls):
        if seccomp.seccomp_load(filters):
            raise OSError(f"the filter of {unit.name} can't be put in force")


def _rule(seccomp: ctypes.CDLL, filters: ctypes.c_void_p, action: int, name: str, rule: object) -> None:
    number = seccomp.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:  # else this processor has no such call
        seccomp.seccomp_rule_add_array(filters, ctypes.c_uint32(action), number, 1 if rule else 0, rule)


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - what the test names
