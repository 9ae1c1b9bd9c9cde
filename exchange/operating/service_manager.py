"""What a process tells whoever started it, systemd or ``exchange up``: that it is ready, works, reloads, stops.

The datagrams of sd_notify(3), by a few lines of our own. A process says that it works only where something has just
shown it: a turn of its loop, a tick. One that hangs falls silent, and is started again. Only the process that was
started speaks, none that it forks or starts; whoever was started otherwise has nobody to tell, and tells nobody.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from contextlib import suppress

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
TOLD_SHARE = 0.25
"""Of the time after which silence means that we hang, signs of life come as often as this at most."""
MOST_BYTES = 4096


class Manager:
    """Who started this process, as it knows from its environment, which forgets it."""

    def __init__(self) -> None:
        """Take the address out of the environment, so that nothing which this process starts speaks for it."""
        address = os.environ.pop(SOCKET, "")
        patience, whose = os.environ.pop(WATCHDOG, ""), os.environ.pop(WATCHDOG_PID, "")
        self._address: bytes | None = None
        if address.startswith(("/", "@")):
            self._address = os.fsencode(f"\0{address[1:]}" if address[0] == "@" else address)
        watched = self._address is not None and patience.isdigit() and whose in {"", str(os.getpid())}
        self.patience_seconds = int(patience) / 1_000_000 if watched else 0.0
        """After so long a silence this process is taken to hang; 0 if nobody listens for that."""
        self._pid = os.getpid()
        self._next_at = 0.0
        self._status = ""

    @property
    def every_seconds(self) -> float:
        """How often to call ``works``, at least."""
        return max(self.patience_seconds * TOLD_SHARE, 0.1)

    def ready(self, status: str = "") -> None:
        """Say that it has started, or has read its settings anew."""
        self._status = status
        self._tell("READY=1", *([f"STATUS={status}"] if status else []))

    def works(self, status: str = "") -> None:
        """Say that it works, unless that was said just now; call it where that was just shown."""
        moment = time.monotonic()
        if self.patience_seconds and moment >= self._next_at:
            self._next_at = moment + self.every_seconds
            news = [f"STATUS={status}"] if status and status != self._status else []
            self._status = status or self._status
            self._tell("WATCHDOG=1", *news)

    def reloads(self) -> None:
        """Say that settings are read anew; ``ready`` says that it is done."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stops(self) -> None:
        """Say that it ends, as it was asked to."""
        self._tell("STOPPING=1", "STATUS=stopping")

    def _tell(self, *words: str) -> None:
        if self._address is None or os.getpid() != self._pid:
            return
        # It may have gone, or be slow: then it hears the next one.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as ours:
            ours.setblocking(False)  # noqa: FBT003 - its own name
            ours.sendto("\n".join(words).encode(), self._address)


_managers: list[Manager] = []


def manager() -> Manager:
    """Give who started this process. Forked ones have it too, and it does not speak for them."""
    if not _managers:
        _managers.append(Manager())
    return _managers[0]


class Listener:
    """The other end, at who starts a process: it hears that one's words, and nobody else's."""

    def __init__(self, patience_seconds: float) -> None:
        """Listen at an address that is gone with this process."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)  # noqa: FBT003 - its own name
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        name = f"exchange-{secrets.token_hex(16)}"
        self._socket.bind(f"\0{name}")
        self.environment = {SOCKET: f"@{name}", WATCHDOG: str(round(patience_seconds * 1_000_000))}
        """What the process finds in its environment."""
        self.patience_seconds = patience_seconds
        self.is_ready = False
        self.status = ""
        self._heard_at = 0.0

    @classmethod
    def where_there_is_one(cls, patience_seconds: float) -> Listener | None:
        """Listen, where the system has such addresses."""
        return cls(patience_seconds) if sys.platform == "linux" else None

    def hear(self) -> None:
        """Take in what was said since."""
        with suppress(BlockingIOError):
            while True:
                said, ancillary, _, _ = self._socket.recvmsg(MOST_BYTES, socket.CMSG_SPACE(12))
                if any(int.from_bytes(data[4:8], sys.byteorder) == os.geteuid() for _, _, data in ancillary):
                    self._take(said.decode(errors="replace").split("\n"))

    def _take(self, words: list[str]) -> None:
        if "READY=1" in words:
            self.is_ready = True
        if "STOPPING=1" in words:
            self.is_ready = False
        if {"READY=1", "WATCHDOG=1"} & set(words):
            self._heard_at = time.monotonic()
        for word in words:
            if word.startswith("STATUS="):
                self.status = word.removeprefix("STATUS=")

    @property
    def hangs(self) -> bool:
        """Whether a process that was ready, and was not asked to end, has been silent for too long."""
        return self.is_ready and time.monotonic() - self._heard_at > self.patience_seconds

    def close(self) -> None:
        """Let go."""
        self._socket.close()
