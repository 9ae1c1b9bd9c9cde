"""Batches whose files have a row's record: wherever they lie, whole, broken, or never read by anybody.

A batch is signed as a whole, and the next one names its digest: nothing is taken out of it, its bytes go as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.ledger import Entry
from exchange.database.tables import BatchState, Direction
from exchange.files.batch_files import DataFile
from exchange.format.errors import BatchError
from exchange.format.zstd import open_frame
from exchange.operating.erasure.sought import RowToErase, What
from exchange.site import Site

_PIECE_BYTES = 1024 * 1024
_FRAME = b"\x28\xb5\x2f\xfd"
"""How a zstd frame begins."""


@dataclass(frozen=True)
class FoundFile:
    """The files of a batch that have the record, or may have it. ``entry`` is the ledger's row of it, if there is one.

    ``kept`` says why they must stay for now.
    """

    files: DataFile
    what: What
    entry: Entry | None = None
    kept: str | None = None


def find(site: Site, connection: Connection, sought: RowToErase) -> list[FoundFile]:
    """Look through every data file of every folder. Raises TransientError if a folder can't be read."""
    carrying = {
        name
        for channel in site.channels
        if sought.stream in channel.streams
        for name in site.names_in_files(channel.name)
    }
    found = []
    for files in site.spool.data_files():
        what = _look(site, files, sought)
        # Of a draft nobody knows whose it is, and nobody misses it.
        if what is None or (what is What.UNREADABLE and files.name and files.channel not in carrying):
            continue
        found.append(judged(site, connection, FoundFile(files, what)))
    return found


def _look(site: Site, files: DataFile, sought: RowToErase) -> What | None:
    try:
        with site.spool.open_data_file(files) as file:
            if files.ending.endswith(".age"):
                return What.UNREADABLE
            for line in _lines(site, _content(file, files.ending)):
                what = sought.find(line)
                if what is not None:
                    return what
    except FileNotFoundError:
        return None  # somebody moved it: it is looked at where it lies now, or the next time
    except (OSError, EOFError, BatchError):
        return What.UNREADABLE
    return None


def _content(file: BinaryIO, ending: str) -> Iterator[bytes]:
    """Give the content as far as it can be read, whatever its name says. Raises EOFError or Corrupt where that ends."""
    compressed = file.read(len(_FRAME)) == _FRAME
    file.seek(0)

    def exactly(size: int) -> bytes:
        piece = file.read(size)
        if len(piece) < size:
            raise EOFError
        return piece

    if compressed:
        yield from open_frame(exactly)
    # Of what is not compressed all, of a frame what somebody put behind it.
    yield from iter(lambda: file.read(_PIECE_BYTES), b"")
    if ending.endswith(".zst") and not compressed:
        raise EOFError  # its first bytes are damaged


def _lines(site: Site, content: Iterator[bytes]) -> Iterator[bytes]:
    """Cut content into lines. Raises EOFError beyond what this side would ever have read."""
    limits, rest, read = site.limits.read, b"", 0
    try:
        for piece in content:
            read += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
            _check_bounds(read, limits.max_content_bytes)
            _check_bounds(len(rest), limits.max_record_bytes)
    except (EOFError, BatchError):
        yield rest
        raise
    yield rest


def _check_bounds(size: int, most: int) -> None:
    if size > most:
        raise EOFError


def judged(site: Site, connection: Connection, found: FoundFile) -> FoundFile:
    """Say what the ledger knows of a batch now, and whether its files are still needed."""
    folders, files = site.spool.folders, found.files
    if files.name is None:
        return found
    if files.folder in (folders.work, folders.incoming):
        entry = ledger.by_stem(connection, Direction.IN, files.stem)
        return replace(found, entry=entry, kept="it waits to be imported: run this again after that")
    if files.folder not in (folders.sealed, folders.outgoing):
        return replace(found, entry=ledger.by_stem(connection, Direction.IN, files.stem))
    entry = ledger.by_stem(connection, Direction.OUT, str(files.name.again(1)))
    return replace(found, entry=entry, kept=_needed(site, entry, found.what))


def _needed(site: Site, entry: Entry | None, what: What) -> str | None:
    if entry is None:
        return None
    if entry.state is BatchState.SEALED:
        return "it is not published yet: run `exchange export`, then this again"
    if entry.state is BatchState.PUBLISHED and what is What.DELETE and not site.one_way:
        return f"it has {site.peer} delete the row, and is not acknowledged: run this again after that"
    return None
