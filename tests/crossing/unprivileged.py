"""A process that may do no more than its files' permissions say, as those of users may, whoever runs the tests."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from tests.crossing.processes import fork, join
from tests.crossing.sides import Side

_VERSION = 0x20080522


def as_a_user(work: Callable[[], None], *sides: Side) -> None:
    """Do work in a process without root's right to every file."""

    def without_rights() -> None:
        if os.geteuid() == 0:
            header = (ctypes.c_uint32 * 2)(_VERSION, 0)
            assert ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) == 0
        work()

    assert join(fork(without_rights, *sides)) == 0
