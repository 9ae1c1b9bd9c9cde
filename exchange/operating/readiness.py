"""Readiness: a process that ``exchange up`` started tells it, once, that it has started and is at work.

Whoever was started otherwise has nobody to tell, and tells nobody.
"""

from __future__ import annotations

import os
from contextlib import suppress

VARIABLE = "_EXCHANGE_READY"
"""Names the descriptor of the pipe to who started us."""


def tell() -> None:
    """Say that this process is ready; may be repeated."""
    descriptor = os.environ.pop(VARIABLE, "")
    # Whoever started us may have gone, and then the kernel is about to end us.
    with suppress(OSError, ValueError):
        os.write(int(descriptor), b"r")
        os.close(int(descriptor))


class Ear:
    """The other end, at who starts a process: give ``mouth`` to it, and ``VARIABLE`` to its environment."""

    def __init__(self) -> None:
        self._ear, self.mouth = os.pipe()
        os.set_blocking(self._ear, False)

    @property
    def environment(self) -> dict[str, str]:
        """What the process finds in its environment."""
        return {VARIABLE: str(self.mouth)}

    def started(self) -> None:
        """Let go of the end that the process has."""
        os.close(self.mouth)

    def heard(self) -> bool:
        """Tell whether it was ready at any time, and let go; ask once, when the process has ended."""
        try:
            return os.read(self._ear, 1) != b""
        except BlockingIOError:  # what it left behind still holds the other end, and nothing was said
            return False
        finally:
            os.close(self._ear)
