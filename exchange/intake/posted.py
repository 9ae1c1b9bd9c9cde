"""Rows that programs send: spooled to the disk whole, bounded and hashed, then a claimed file like those people drop.

A body is a draft until all of it is there: whatever ends its sender, this process or the disk leaves nothing of it.
What has its name is ours to load, whether or not its sender hears of that.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice

import sqlalchemy as sa
import zstandard
from sqlalchemy import Connection

from exchange.channels.intake import Intake
from exchange.database.dialects import begins_with, by_bytes
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading
from exchange.database.tables import IntakeState, intake
from exchange.files.folder import OUR_MODE, Folder, make_private
from exchange.format.errors import TransientError, printable
from exchange.intake import dropped, folders, ledger
from exchange.intake.folders import Claimed
from exchange.intake.load import load_part
from exchange.intake.undo import undo
from exchange.reading.read import read
from exchange.site import Site

CODINGS = ("identity", "gzip", "zstd")
LEAST_FREE_BYTES = 256 * 1024 * 1024
"""So much stays free on the disk, whatever is sent."""
MOST_CLAIMED = 1_000
"""So many bodies may wait to be loaded."""
LOOK_EVERY_BYTES = 8 * 1024 * 1024
_PIECE = 1024 * 1024
_ZSTD_PIECE = 512
"""So much is unpacked at a time: what so few bytes can become is bounded by zstd's blocks."""
_WINDOW_BYTES = 8 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)
_GIVEN_UP = (IntakeState.REFUSED, IntakeState.CANCELLED)


class Why(Enum):
    """Why a body is not taken."""

    LARGE = auto()
    SLOW = auto()
    UNREADABLE = auto()
    KEY = auto()
    FULL = auto()
    BUSY = auto()


class NotTaken(Exception):  # noqa: N818 - an answer to whoever sends
    """Nothing of a body was kept; the text says why."""

    def __init__(self, why: Why, sentence: str) -> None:
        super().__init__(sentence)
        self.why = why


@dataclass(frozen=True)
class Sender:
    """Whoever sends rows, by which key of idempotency, and how they are packed."""

    who: str
    key: str | None = None
    coding: str = "identity"

    @property
    def prefix(self) -> str:
        """Begin the name of a body's file: what is sent by the same key has the same beginning."""
        if self.key is None:
            return "post-"
        return f"post-{hashlib.sha256(f'{self.who} {self.key}'.encode()).hexdigest()[:32]}-"


def intake_of(site: Site, stream: str) -> Intake | None:
    """Find the intake that takes rows of a stream from programs; None if none does."""
    for one in folders.declared(site):
        meant = one.stream_of(site.channels) if one.http else None
        if meant is not None and meant.name == stream:
            return one
    return None


def receive(site: Site, one: Intake, sender: Sender, pieces: Iterable[bytes]) -> Claimed:
    """Spool a body, and claim it once all of it is on the disk. Raises NotTaken and TransientError; then nothing stays.

    Whatever ``pieces`` raises goes on. May run beside others in any number of threads and processes.
    """
    drop = folders.posted_drop(site, one)
    with transient_errors():
        make_private(drop.path)
    name = f"{sender.prefix}{secrets.token_hex(8)}.jsonl"
    with folders.open_taken(drop) as taken:
        taken.sweep()
        with taken.entries() as entries:
            if sum(1 for _ in islice(entries, MOST_CLAIMED)) == MOST_CLAIMED:
                raise NotTaken(Why.BUSY, "too many rows that were sent wait to be loaded; send these again later")
        try:
            _see_room(taken)
            with taken.write(name, mode=OUR_MODE, replace=False) as file:
                digest = hashlib.sha256()
                for piece in _bounded(site, taken, _unpacked(sender.coding, pieces)):
                    digest.update(piece)
                    file.write(piece)
                if sender.key is not None:
                    _see_same(site, one, sender, digest.hexdigest())
            taken.sync()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _full() from error
        found = taken.look(name)
        assert found is not None, "it was named a moment ago"
    return Claimed(drop.intakes[0], drop.path / folders.TAKEN / name, name, sender.who, found.st_size, found.st_ctime)


def _bounded(site: Site, taken: Folder, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Hand on a body up to its limits of bytes, rows, time and room. Raises NotTaken."""
    limits, until = site.limits, time.monotonic() + site.limits.intake_http_seconds
    size = rows = looked = 0
    for piece in pieces:
        size, rows = size + len(piece), rows + piece.count(b"\n")
        if size > limits.intake_http_bytes:
            raise NotTaken(Why.LARGE, f"the rows have more than {limits.intake_http_bytes} bytes; send them by parts")
        if rows > limits.intake_http_rows:
            raise NotTaken(Why.LARGE, f"there are more than {limits.intake_http_rows} rows; send them by parts")
        if time.monotonic() > until:
            raise NotTaken(Why.SLOW, f"the rows took longer than {limits.intake_http_seconds:g} seconds")
        if size - looked >= LOOK_EVERY_BYTES:
            looked = size
            _see_room(taken)
        yield piece


def _see_room(taken: Folder) -> None:
    disk = os.fstatvfs(taken.descriptor)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < LEAST_FREE_BYTES:
        raise _full()


def _full() -> NotTaken:
    return NotTaken(Why.FULL, "this side's disk has no room for more rows; send them again once it has")


def _unpacked(coding: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Unpack a body in bounded memory. Raises NotTaken for what is not packed so, or ends too early."""
    if coding == "identity":
        yield from pieces
        return
    try:
        yield from (_gunzipped if coding == "gzip" else _from_zstd)(pieces)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        said = printable(str(error), 120)
        raise NotTaken(Why.UNREADABLE, f"the rows can't be unpacked as {coding}: {said}") from error


def _gunzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    unpacking = zlib.decompressobj(wbits=31)
    for piece in pieces:
        left = piece
        while left or unpacking.unconsumed_tail:
            if unpacking.eof:  # another one follows
                unpacking = zlib.decompressobj(wbits=31)
            yield unpacking.decompress(left, _PIECE)
            left = unpacking.unused_data if unpacking.eof else unpacking.unconsumed_tail
    if not unpacking.eof:
        raise EOFError("it ends too early")


def _from_zstd(pieces: Iterable[bytes]) -> Iterator[bytes]:
    context = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    unpacking = context.decompressobj()
    for piece in pieces:
        for start in range(0, len(piece), _ZSTD_PIECE):
            left = piece[start : start + _ZSTD_PIECE]
            while left:
                if unpacking.eof:
                    unpacking = context.decompressobj()
                yield unpacking.decompress(left)
                left = unpacking.unused_data if unpacking.eof else b""
    if not unpacking.eof:
        raise EOFError("it ends too early")


def _see_same(site: Site, one: Intake, sender: Sender, sha256: str) -> None:
    """See that no other rows were sent by the same key, but such as were given up. Raises NotTaken, TransientError."""
    with transient_errors(), reading(site.engine) as connection:
        number = other_of(connection, one.name, sender.prefix, sha256)
    if number is not None:
        raise NotTaken(Why.KEY, f"other rows were sent with this Idempotency-Key, as {number}; send these with another")


def other_of(connection: Connection, name: str, prefix: str, sha256: str) -> int | None:
    """Find other rows of an intake whose file's name begins so, and that were not given up."""
    begins = begins_with(connection, intake.c.file, prefix)
    other = (intake.c.intake == name, intake.c.sha256 != sha256, intake.c.state.not_in(_GIVEN_UP))
    return connection.scalar(sa.select(intake.c.id).where(*begins, *other).order_by(intake.c.id).limit(1))


def take_in(site: Site, claimed: Claimed) -> int:
    """Write claimed rows into the ledger, unless a worker was faster; give their number.

    Raises TransientError, Busy.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        with folders.preparing(site, claimed.place) as alone:
            number = _known(site, claimed)
            if number is None and alone:
                number = dropped.take_in_claimed(site, claimed)
        if number is not None:
            return number
        if time.monotonic() > until:
            raise TransientError("another process of ours is at these rows; send them again, and they are a duplicate")
        time.sleep(_AGAIN_SECONDS)


PATIENCE_SECONDS = 10.0
_AGAIN_SECONDS = 0.1


def _known(site: Site, claimed: Claimed) -> int | None:
    """Find rows in the ledger by the name of their file, which no others have, wherever it lies by now."""
    with transient_errors(), reading(site.engine) as connection:
        file = by_bytes(connection, intake.c.file)
        return connection.scalar(sa.select(intake.c.id).where(file == claimed.file).limit(1))


def original_of(site: Site, number: int) -> int | None:
    """Find the rows that some are a duplicate of; None if they are none, or those are given up since."""
    with transient_errors(), reading(site.engine) as connection:
        entry = ledger.find(connection, number)
        if entry is None or entry.state is not IntakeState.DUPLICATE:
            return None
        original = ledger.original_of(connection, entry.sha256, entry.stream)
    return None if original is None else original.id


def load(site: Site, one: Intake, number: int, seconds: float) -> None:
    """Load rows that are in the ledger for at most so many seconds; what is left is a worker's."""
    until = time.monotonic() + seconds
    with contextlib.suppress(TransientError, Busy):  # it is written down, and waits for its next try
        while time.monotonic() < until and _go_on(site, number, lambda: time.monotonic() >= until):
            pass
        dropped.settle(site, folders.posted_drop(site, one))


def _go_on(site: Site, number: int, stopping: Callable[[], bool]) -> bool:
    """Load the next part of rows, or take them back; say whether something is left to do."""
    with transient_errors(), reading(site.engine) as connection:
        entry = ledger.find(connection, number)
        left = [part.number for part in ledger.parts(connection, number) if not part.is_done]
    if entry is None or entry.state not in {*ledger.TO_LOAD, *ledger.TO_UNDO}:
        return False
    try:
        if entry.state in ledger.TO_UNDO:
            undo(site, number, read)
        for at in left[:1] if entry.state in ledger.TO_LOAD else ():
            load_part(site, number, at, read, stopping=stopping)
    except Busy:
        time.sleep(_AGAIN_SECONDS)
    return True
