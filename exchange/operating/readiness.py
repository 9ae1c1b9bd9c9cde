"""Readiness: a process tells whoever started it, ``exchange up`` or systemd, that it has started and is at work.

Whoever was started otherwise has nobody to tell, and tells nobody.
"""

from __future__ import annotations

import os
from contextlib import suppress

from exchange.operating.service_manager import manager

VARIABLE = "_EXCHANGE_READY"
"""Names the descriptor of the pipe to who started us."""


def report_ready(status: str = "") -> None:
    """Say that this process is ready; may be repeated."""
    manager().ready(status)
    descriptor = os.environ.pop(VARIABLE, "")
    # Whoever started us may have gone, and then the kernel is about to end us.
    with suppress(OSError, ValueError):
        os.write(int(descriptor), b"r")
        os.close(int(descriptor))


class ReadyPipe:
    """The other end, at who starts a process: give ``write_end`` to it, and ``VARIABLE`` to its environment."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)

    @property
    def environment(self) -> dict[str, str]:
        """What the process finds in its environment."""
        return {VARIABLE: str(self.write_end)}

    def close_write_end(self) -> None:
        """Let go of the end that the process has."""
        os.close(self.write_end)

    def was_ready(self) -> bool:
        """Tell whether it was ready at any time, and let go; ask once, when the process has ended."""
        try:
            return os.read(self._read_end, 1) != b""
        except BlockingIOError:  # what it left behind still holds the other end, and nothing was said
            return False
        finally:
            os.close(self._read_end)
