"""Where the rows of one file go, and its bytes opened again for as long as they are those that were taken in."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

from exchange.channels.channel import Channel
from exchange.channels.schemas import Checker
from exchange.channels.stream import Stream
from exchange.format.batch import ReadLimits
from exchange.format.errors import printable
from exchange.intake.ledger import Entry
from exchange.reading import FileFormat, FileRefused, Piece, Place
from exchange.site import Site
from exchange.tables.loader import Writing

NO_LIMIT = 2**62


class Refused(Exception):  # noqa: N818 - a sentence about a file, nothing is broken
    """A file is refused as a whole, for what its rows are."""


class Read(Protocol):
    """Reads the rows of an open file from a place on, up to the byte ``stop`` where a row begins."""

    def __call__(
        self,
        file: BinaryIO,
        written: FileFormat,
        stream: Stream,
        start: Place | None = None,
        stop: int | None = None,
        limits: ReadLimits | None = None,
    ) -> Iterator[Piece]:
        """Yield them in pieces. Raises FileRefused."""
        ...


class Target:
    """Where rows of a file go: its stream, as the file has it."""

    def __init__(self, site: Site, name: str, columns: Sequence[str], key: Sequence[str], mode: str) -> None:
        """Find it. Raises FileRefused if this side does not write such a stream."""
        found = own_stream(site, name)
        self.whole = found[1]
        self.stream, self.checker = _partial(self.whole, tuple(columns), tuple(key))
        self.channel = found[0].with_only(self.stream)
        self.writing = Writing[mode.upper()]

    @classmethod
    def of(cls, site: Site, entry: Entry) -> Target:
        """Find that of a file."""
        return cls(site, entry.stream, entry.format.names, entry.terms.key, entry.terms.mode)


@lru_cache(64)
def _partial(stream: Stream, columns: tuple[str, ...], key: tuple[str, ...]) -> tuple[Stream, Checker]:
    partial = stream.only(columns, key)
    return partial, Checker(partial)


def own_stream(site: Site, name: str) -> tuple[Channel, Stream]:
    """Find a stream that this side writes, with its channel. Raises FileRefused for any other."""
    for channel in site.channels:
        for stream in channel.streams:
            if stream.name == name and channel.source == site.network:
                return channel, stream
    if any(name == stream.name for channel in site.channels for stream in channel.streams):
        raise FileRefused(
            f"stream {printable(name, 80)} is written at {site.peer}, and this side only receives it: rows that are"
            " loaded here would be overwritten; load the file there"
        )
    raise FileRefused(f"no channel has a stream {printable(name, 80)}; `exchange channels` lists them")


@contextmanager
def opened(entry: Entry) -> Iterator[BinaryIO]:
    """Open a file's bytes, never by a link. Raises Refused if they are not those that were taken in, and OSError."""
    descriptor = os.open(entry.place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - by its descriptor
        found = os.fstat(descriptor)
        same = (found.st_size, found.st_mtime_ns) == (entry.bytes, entry.terms.changed_ns)
        if not stat.S_ISREG(found.st_mode) or not same:
            raise Refused(f"{Path(entry.place).name} was written to since it was taken in; drop it again, complete")
        yield file
