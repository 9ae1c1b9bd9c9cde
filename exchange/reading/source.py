"""A file's bytes, decompressed and, where lines can't be found in them as they are, as UTF-8.

Nothing is held but the piece that is read. Damaged compression raises FileRefused.
"""

from __future__ import annotations

import codecs
import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from exchange.format.errors import Corrupt, printable
from exchange.format.zstd import open_frame
from exchange.reading import FileFormat, FileRefused

GZIP, ZSTD, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
_SKIPPABLE = tuple(bytes([0x50 + n, 0x2A, 0x4D, 0x18]) for n in range(16))
_PIECE = 256 * 1024
_ALL_BYTES = bytes(range(256))
_ASCII = _ALL_BYTES[:128]
_AS_THEY_ARE = "surrogatepass"


class Readable(Protocol):
    """What gives bytes, at most as many as asked for, none at the end."""

    def read(self, size: int, /) -> bytes:
        """Give the next bytes."""
        ...


class Source:
    """The bytes of a file from one place on, decompressed, at most up to another one; as UTF-8 where need be.

    A piece never ends between the two characters of one line's end.
    """

    def __init__(self, file: BinaryIO, written: FileFormat, position: int, stop: int | None = None) -> None:
        """Go to a byte of the decompressed file: what is compressed is read up to there."""
        self._raw = opened(file, written.compression)
        self._left = None if stop is None else stop - position
        _go_to(self._raw, position, seekable=not written.compression)
        self._encoding = None if is_direct(written.encoding) else written.encoding
        self._decoder = (
            codecs.getincrementaldecoder(self._encoding)(_errors(self._encoding)) if self._encoding else None
        )

    def read(self, size: int) -> bytes:
        """Give about so many bytes more; none at the end."""
        piece = self._read(size)
        while piece.endswith(b"\r") and (more := self._read(1)):
            piece += more
        return piece

    def length(self, piece: bytes) -> int:
        """Say how many bytes of the file a piece of what was read is."""
        return len(piece) if self._encoding is None else len(as_in_file(piece, self._encoding))

    def _read(self, size: int) -> bytes:
        if self._decoder is None:
            return self._take(size)
        while raw := self._take(max(size, 8)):
            if text := self._decoder.decode(raw):
                return text.encode("utf-8", _AS_THEY_ARE)
        try:
            return self._decoder.decode(b"", final=True).encode("utf-8", _AS_THEY_ARE)
        except UnicodeDecodeError:  # the file ends within a character: a row that is no text ends there
            self._decoder.reset()
            return b"\xff"

    def _take(self, size: int) -> bytes:
        piece = read(self._raw, size if self._left is None else min(size, self._left))
        if self._left is not None:
            self._left -= len(piece)
        return piece


def is_direct(encoding: str) -> bool:
    """Say whether lines, delimiters and quotes are found in the bytes of this encoding as they are."""
    return codecs.lookup(encoding).name == "utf-8" or len(_ALL_BYTES.decode(encoding, "replace")) == len(_ALL_BYTES)


def is_taken(encoding: str) -> bool:
    """Say whether files may be in this encoding: it is one of texts, in which ASCII means itself, or UTF-16 or 32."""
    try:
        name = codecs.lookup(encoding).name
        return name.startswith(("utf-16", "utf-32")) or _ASCII.decode(encoding).encode() == _ASCII
    except (LookupError, ValueError, TypeError, AssertionError):
        return False


def as_in_file(piece: bytes, encoding: str) -> bytes:
    """Give the bytes that a piece of a row has in its file."""
    if is_direct(encoding):
        return piece
    text = piece.removesuffix(b"\xff").decode("utf-8", _AS_THEY_ARE)
    return text.encode(encoding, _errors(encoding)) + piece[-1:] * piece.endswith(b"\xff")


def as_utf8(record: bytes, encoding: str) -> bytes:
    """Give the bytes of a row of a file as they are looked at: the other way round."""
    if is_direct(encoding):
        return record
    try:
        return record.decode(encoding, _errors(encoding)).encode("utf-8", _AS_THEY_ARE)
    except UnicodeDecodeError:
        return record + b"\xff"


def _errors(encoding: str) -> str:
    return _AS_THEY_ARE if codecs.lookup(encoding).name.startswith("utf") else "surrogateescape"


def compression_of(head: bytes) -> str:
    """Say by its first bytes how a file is compressed."""
    if head.startswith(GZIP):
        return "gzip"
    if head.startswith((ZSTD, *_SKIPPABLE)):
        return "zstd"
    return "zip" if head.startswith((ZIP, b"PK\x05\x06")) else ""


def read(raw: Readable, size: int) -> bytes:
    """Read what is perhaps compressed; raises FileRefused for what is damaged."""
    try:
        return raw.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, Corrupt) as error:
        raise FileRefused(
            f"its compressed data is damaged or cut short ({printable(str(error))}); bring the whole file again"
        ) from error


def opened(file: BinaryIO, compression: str) -> Readable:
    """Open a file from its beginning. Raises FileRefused."""
    file.seek(0)
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file, mode="rb")  # its read gives no more than asked for
    if compression == "zstd":
        return _Pieces(_frames(file))
    return _member(file) if compression == "zip" else file


def member_name(file: BinaryIO) -> str:
    """Give the name of the one member of a zip file; raises FileRefused if it has none or several."""
    return _only(file)[1].filename


def _member(file: BinaryIO) -> Readable:
    archive, only = _only(file)
    try:
        return archive.open(only)
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise FileRefused(f"its member can't be read: {printable(str(error))}; unpack it first") from error


def _only(file: BinaryIO) -> tuple[zipfile.ZipFile, zipfile.ZipInfo]:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise FileRefused(f"it is a damaged zip file ({printable(str(error))}); bring the whole file again") from error
    names = [one.filename for one in archive.infolist()]
    if "[Content_Types].xml" in names or "mimetype" in names:
        raise FileRefused("it is a workbook of a spreadsheet, no text; save it as CSV (UTF-8) and bring that")
    members = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        some = f": {printable(', '.join(one.filename for one in members))}" if members else ""
        raise FileRefused(f"it is a zip file of {len(members)} files{some}; bring each by itself, one in a zip file")
    if members[0].flag_bits & 1:
        raise FileRefused("it is a zip file that needs a password; unpack it first")
    return archive, members[0]


class _Pieces:
    """Pieces of any length, given out as asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        given, self._rest = self._rest[:size], self._rest[size:]
        return given


def _frames(file: BinaryIO) -> Iterator[bytes]:
    """Give the content of all frames of a zstd file, one after the other; raises Corrupt."""
    while magic := file.read(len(ZSTD)):
        if magic in _SKIPPABLE:
            length = int.from_bytes(_exactly(file)(4), "little")
            file.seek(length, 1)
            continue
        file.seek(-len(magic), 1)
        yield from open_frame(_exactly(file))


def _exactly(file: BinaryIO) -> Callable[[int], bytes]:
    def exactly(size: int) -> bytes:
        piece = file.read(size)
        if len(piece) < size:
            raise EOFError("it ends too soon")
        return piece

    return exactly


def _go_to(raw: Readable, position: int, *, seekable: bool) -> None:
    if seekable:
        raw.seek(position)  # type: ignore[attr-defined]
        return
    while position > 0 and (piece := read(raw, min(position, _PIECE))):
        position -= len(piece)
