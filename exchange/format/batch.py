"""Batches as streams: written and read in constant memory, hashed while they pass.

Nothing is believed: the reader hashes again what it reads, even where somebody has checked it before,
because a file on a shared mount may change in between.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from exchange.format.errors import (
    Corrupt,
    Fault,
    Incomplete,
    RecordError,
    TooLarge,
    TransientError,
    Unsupported,
    printable,
)
from exchange.format.manifest import Manifest, OpCounts
from exchange.format.record import Op
from exchange.format.zstd import open_frame

_CHUNK_BYTES: Final = 256 * 1024
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ReadLimits:
    """What a reader accepts at most; a line is measured without its newline."""

    max_record_bytes: int = 16 * 1024 * 1024
    max_records: int = 10_000_000
    max_content_bytes: int = 4 * 1024**3


HEAD_BYTES: Final = 1024 * 1024
"""So much is kept of a line that is longer than the limit."""


class LongLine(bytes):
    """The beginning of a line that is longer than a reader takes; ``length`` is that of the whole line, in bytes."""

    length: int

    @classmethod
    def of(cls, line: bytes | bytearray, length: int | None = None) -> LongLine:
        """Keep the beginning of a line."""
        made = cls(line[:HEAD_BYTES])
        made.length = len(line) if length is None else length
        return made

    def longer_by(self, more: bytes | bytearray) -> LongLine:
        """Give the same with more bytes behind it, of which few are kept or none."""
        if len(self) == HEAD_BYTES:
            self.length += len(more)
            return self
        return self.of(self + more[: HEAD_BYTES - len(self)], self.length + len(more))


def too_long(line: bytes, most: int) -> RecordError:
    """Word what is wrong with a line that is longer than ``most`` bytes."""
    return RecordError(
        "size",
        "",
        f"the record is {line.length if isinstance(line, LongLine) else len(line)} bytes long, at most {most} are taken"
        " (EXCHANGE_MAX_RECORD_BYTES, on both sides)",
    )


@dataclass(frozen=True)
class SealedData:
    """What a manifest says about a data file that was written."""

    sha256: str
    bytes: int
    content_sha256: str
    content_bytes: int
    records: dict[str, OpCounts]


class BatchWriter:
    """Writes records' lines to a data file, through compression, hashing both sides of it.

    ``out`` takes whole writes (a buffered file); it is neither flushed, synced nor closed here.
    """

    def __init__(self, out: BinaryIO, encoding: tuple[str, ...] = ("zstd",), level: int = 1) -> None:
        """Begin a data file; ``Unsupported`` for an encoding that this version does not write."""
        import zstandard  # noqa: PLC0415 - commands that open no file start sooner

        _supported(encoding)
        self._out = out
        self._frame = zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj() if encoding else None
        self._pending = bytearray()
        self._content_digest = hashlib.sha256()
        self._digest = hashlib.sha256()
        self._content_bytes = 0
        self._bytes = 0
        self._upserts = Counter[str]()
        self._deletes = Counter[str]()

    @property
    def content_bytes(self) -> int:
        """Bytes of content so far."""
        return self._content_bytes + len(self._pending)

    @property
    def records(self) -> int:
        """Records so far."""
        return self._upserts.total() + self._deletes.total()

    @property
    def streams(self) -> list[str]:
        """The streams of which it has records."""
        return list(dict.fromkeys((*self._upserts, *self._deletes)))

    def write(self, line: bytes, stream: str, op: Op) -> None:
        """Add one record's line, newline included, as ``record.encode`` makes it."""
        self.write_all(line, 1, stream, op)

    def write_all(self, lines: bytes, count: int, stream: str, op: Op) -> None:
        """Add the lines of ``count`` records of one stream and op, each with its newline."""
        self._pending += lines
        (self._upserts if op is Op.UPSERT else self._deletes)[stream] += count
        if len(self._pending) >= _CHUNK_BYTES:
            self._pass_on()

    def close(self) -> SealedData:
        """Write what is left and say what was written. The file itself stays open."""
        self._pass_on()
        if self._frame is not None:
            self._write(self._frame.flush())
        return SealedData(
            sha256=self._digest.hexdigest(),
            bytes=self._bytes,
            content_sha256=self._content_digest.hexdigest(),
            content_bytes=self._content_bytes,
            records={stream: OpCounts(self._upserts[stream], self._deletes[stream]) for stream in self.streams},
        )

    def _pass_on(self) -> None:
        content = bytes(self._pending)
        self._pending.clear()
        self._content_digest.update(content)
        self._content_bytes += len(content)
        self._write(content if self._frame is None else self._frame.compress(content))

    def _write(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._bytes += len(piece)
        if self._out.write(piece) != len(piece):
            raise TransientError("the data file was written only in part: the disk may be full")


def check_data(stream: BinaryIO, manifest: Manifest) -> None:
    """Compare a data file's length and SHA-256 with its manifest, reading at most one byte beyond.

    Raises ``Incomplete`` when it is shorter, ``Corrupt`` when it is longer (``Fault.LENGTH``) or has other
    bytes (``Fault.DIGEST``).
    """
    data = _Verified(stream, manifest)
    while data.chunk():
        pass
    data.check_end()


class BatchReader:
    """Reads the lines of a data file, verifying all the while what the manifest says of it.

    Iterating yields lists of whole lines without their newlines. **Lines given out before the iteration has
    ended are not verified yet**: whoever applies them takes them back if it raises. It raises ``Corrupt``,
    ``Incomplete`` or ``Unsupported``.
    """

    def __init__(self, data: BinaryIO, manifest: Manifest, limits: ReadLimits | None = None) -> None:
        """Begin; refuses at once what the manifest itself puts beyond the limits."""
        self._limits = limits or ReadLimits()
        self._manifest = manifest
        self._data = _Verified(data, manifest)
        self._content_digest = hashlib.sha256()
        self._content_bytes = 0
        self.lines = 0
        """Lines given out so far."""
        self.first_line = 1
        """Number of the first line in the list last given out; the first line of a file is 1."""
        self.max_record_bytes = self._limits.max_record_bytes
        _supported(manifest.encoding)
        _within("content_bytes", manifest.content_bytes, self._limits.max_content_bytes, "EXCHANGE_MAX_CONTENT_BYTES")
        _within("records", manifest.total, self._limits.max_records, "EXCHANGE_MAX_RECORDS")

    def __iter__(self) -> Iterator[list[bytes]]:
        """Yield the lines, once, in lists of about 128 KiB; of one that is longer than the limit a LongLine."""
        rest = bytearray()
        long: LongLine | None = None
        for piece in self._content():
            rest += piece
            cut = piece.rfind(b"\n")
            if cut >= 0:
                end = len(rest) - len(piece) + cut
                lines = bytes(rest[:end]).split(b"\n")
                del rest[: end + 1]
                if long is not None:
                    lines[0], long = long.longer_by(lines[0]), None
                yield self._checked(lines)
            if long is not None:
                long = long.longer_by(rest)
                rest.clear()
            elif len(rest) > self._limits.max_record_bytes:
                long = LongLine.of(rest)
                rest.clear()
        self._check_end(len(rest) + len(long or b""))

    def check_counts(self, counts: Mapping[str, OpCounts]) -> None:
        """Compare the records that could be decoded, per stream and op, with the manifest.

        To be called when the iteration has ended. It has compared the sum: when every line decodes, counts
        that nowhere exceed the manifest's equal them. Raises ``Corrupt``.
        """
        for stream, (upserts, deletes) in counts.items():
            claimed = self._manifest.records.get(stream, OpCounts())
            if upserts > claimed.upsert or deletes > claimed.delete:
                raise Corrupt(
                    f"{printable(stream, 80)}: the manifest says {claimed.upsert} upserts and"
                    f" {claimed.delete} deletes, the data file holds {upserts} and {deletes}",
                    Fault.COUNTS,
                )

    def _content(self) -> Iterator[bytes]:
        """Yield the content in pieces, never much more of it than the manifest allows."""
        pieces = open_frame(self._data.exactly) if self._manifest.encoding else iter(self._data.chunk, b"")
        for piece in pieces:
            self._content_bytes += len(piece)
            if self._content_bytes > self._manifest.content_bytes:
                raise Corrupt(f"there is more content than the {self._manifest.content_bytes} bytes of the manifest")
            self._content_digest.update(piece)
            yield piece

    def _checked(self, lines: list[bytes]) -> list[bytes]:
        self.first_line = self.lines + 1
        if self.lines == 0 and lines[0].startswith(_BOM):
            raise Corrupt("the content begins with a byte order mark")
        if not all(map(bytes.strip, lines)):
            blank = next(number for number, line in enumerate(lines, self.first_line) if not line.strip())
            raise Corrupt(f"line {blank} is blank")
        most = self._limits.max_record_bytes
        if max(map(len, lines)) > most:
            lines = [LongLine.of(one) if len(one) > most and type(one) is bytes else one for one in lines]
        self.lines += len(lines)
        if self.lines > self._manifest.total:
            raise Corrupt(
                f"the data file has more than the {self._manifest.total} lines that its manifest counts",
                Fault.COUNTS,
            )
        return lines

    def _check_end(self, unended: int) -> None:
        self._data.check_end()
        if self._content_bytes != self._manifest.content_bytes:
            raise Corrupt(
                f"the content is {self._content_bytes} bytes long, the manifest says {self._manifest.content_bytes}"
            )
        if self._content_digest.hexdigest() != self._manifest.content_sha256:
            raise Corrupt("the content's SHA-256 is not the manifest's content_sha256")
        if unended:
            raise Corrupt(f"line {self.lines + 1}, the last one, is not ended by a newline")
        if self.lines != self._manifest.total:
            raise Corrupt(
                f"the data file has {self.lines} lines, its manifest counts {self._manifest.total}",
                Fault.COUNTS,
            )


class _Verified:
    """A data file as it lies on disk, counted and hashed while it is read."""

    def __init__(self, stream: BinaryIO, manifest: Manifest) -> None:
        self._stream = stream
        self._manifest = manifest
        self._digest = hashlib.sha256()
        self._bytes = 0

    def chunk(self) -> bytes:
        """Give the next bytes, none at the end. A file longer than it should be is found by one byte."""
        return self._read(min(_CHUNK_BYTES, self._manifest.bytes - self._bytes + 1))

    def exactly(self, size: int) -> bytes:
        """Give the next ``size`` bytes."""
        piece = self._read(size)
        while len(piece) < size:
            more = self._read(size - len(piece))
            if not more:
                self._check_length()
                raise Corrupt("the data file's compressed content is cut short")
            piece += more
        return piece

    def check_end(self) -> None:
        """Compare the whole file with the manifest; there must be nothing left to read."""
        if self._read(1):
            raise Corrupt("the data file goes on after the end of its compressed content")
        self._check_length()
        if self._digest.hexdigest() != self._manifest.sha256:
            raise Corrupt("the data file's SHA-256 is not the manifest's sha256", Fault.DIGEST)

    def _read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self._digest.update(piece)
        self._bytes += len(piece)
        if self._bytes > self._manifest.bytes:
            raise Corrupt(
                f"the data file is longer than the {self._manifest.bytes} bytes that its manifest says",
                Fault.LENGTH,
            )
        return piece

    def _check_length(self) -> None:
        if self._bytes < self._manifest.bytes:
            raise Incomplete(
                f"the data file has {self._bytes} of the {self._manifest.bytes} bytes that its manifest says"
            )


def _supported(encoding: tuple[str, ...]) -> None:
    if encoding not in {(), ("zstd",)}:
        raise Unsupported(f"data files encoded as {' and '.join(encoding)} cannot be opened by this version")


def _within(member: str, value: int, limit: int, setting: str) -> None:
    if value > limit:
        raise TooLarge(f"the manifest's {member} is {value}, more than the {limit} that this side accepts ({setting})")
