"""The keys by which tokens over HTTP are signed: a file that only this side's user reads, made when first needed.

The newest key signs. One that was rotated out counts until what it signed has ended. They never leave this side, are in
no backup, and are no keys of batches.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from exchange.database import clock
from exchange.files import durable
from exchange.files.folder import HOME_MODE, make_private
from exchange.format.errors import Problem, printable
from exchange.format.moments import from_rfc3339, to_rfc3339

FILE = "request-tokens.secret"
_BYTES = 32
_MOST_BYTES = 64 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class TokenKeyFault(Exception):  # noqa: N818 - reads as what it is
    """The keys can't be used; the text is one sentence and what to do."""

    def __init__(self, message: str, remedy: str = "take it away: another one is made") -> None:
        self.problem = Problem(message, remedy)
        super().__init__(str(self.problem))


@dataclass(frozen=True)
class TokenKey:
    """One of them. ``until`` says how long it counts, once another one signs."""

    id: str
    secret: bytes
    made_at: datetime
    until: datetime | None = None

    @property
    def is_good(self) -> bool:
        """Whether what it signed is believed."""
        return self.until is None or clock.now() < self.until


class TokenKeys:
    """The keys of a side's folder, read anew when the file is another one; any number of threads may use one."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of this side's keys; nothing is opened yet."""
        self.path = folder / FILE
        self._read: tuple[tuple[int, int], tuple[TokenKey, ...]] | None = None

    def signing(self) -> TokenKey:
        """Give the key that signs, and make one if there is none. Raises TokenKeyFault."""
        if not self.path.exists():
            with contextlib.suppress(FileExistsError):  # another process was quicker: its key counts
                self._write([_new()], replace=False)
        return self._keys()[0]

    def named(self, key: str) -> TokenKey | None:
        """Give the key of this id, if what it signed is still believed. Raises TokenKeyFault."""
        if not self.path.exists():
            return None
        return next((one for one in self._keys() if one.id == key and one.is_good), None)

    def listed(self) -> tuple[TokenKey, ...]:
        """Give those that count, that which signs first. Raises TokenKeyFault."""
        return tuple(one for one in self._keys() if one.is_good) if self.path.exists() else ()

    def rotate(self, overlap: timedelta) -> TokenKey:
        """Make a new key that signs from now on; those before count for the overlap. Raises TokenKeyFault.

        One process at a time: call it under a lock.
        """
        known, end = self.listed(), clock.now() + overlap
        kept = [TokenKey(one.id, one.secret, one.made_at, min(one.until or end, end)) for one in known]
        made = _new()
        self._write([made, *(one for one in kept if one.is_good)], replace=True)
        return made

    def _write(self, keys: list[TokenKey], *, replace: bool) -> None:
        said = [
            {
                "id": one.id,
                "secret": one.secret.hex(),
                "made_at": to_rfc3339(one.made_at),
                "until": one.until and to_rfc3339(one.until),
            }
            for one in keys
        ]
        try:
            make_private(self.path.parent, HOME_MODE)
            durable.write(self.path, json.dumps({"keys": said}).encode() + b"\n", mode=0o600, replace=replace)
        except FileExistsError:
            raise
        except OSError as error:
            shown = f"{printable(str(self.path))}: {error.strerror}"
            raise TokenKeyFault(shown, "have this side's user write there") from error

    def _keys(self) -> tuple[TokenKey, ...]:
        shown = printable(str(self.path))
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TokenKeyFault(f"{shown}: {error.strerror}", "see that this side's user reads it") from error
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_mode & _OTHERS:
                mode = stat.filemode(found.st_mode)
                raise TokenKeyFault(f"{shown}: expected a file that only its owner reads (0600), found {mode}")
            mark = found.st_ino, found.st_mtime_ns
            if self._read is None or self._read[0] != mark:
                self._read = mark, _parsed(file.read(_MOST_BYTES), shown)
            return self._read[1]


def _new() -> TokenKey:
    return TokenKey(secrets.token_hex(8), secrets.token_bytes(_BYTES), clock.now())


def _parsed(content: bytes, shown: str) -> tuple[TokenKey, ...]:
    try:
        keys = tuple(_key(one) for one in json.loads(content)["keys"])
    except (ValueError, TypeError, KeyError) as error:
        raise TokenKeyFault(f"{shown}: expected keys as this program writes them") from error
    if not keys or any(len(one.secret) < _BYTES for one in keys):
        raise TokenKeyFault(f"{shown}: expected keys of {_BYTES} bytes, found others or none")
    return keys


def _key(said: dict[str, Any]) -> TokenKey:
    until = said["until"]
    made = from_rfc3339(said["made_at"])
    return TokenKey(str(said["id"]), bytes.fromhex(said["secret"]), made, until and from_rfc3339(until))
