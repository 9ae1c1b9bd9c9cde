"""One zstd frame, opened block by block (RFC 8878).

A few bytes of zstd can stand for gigabytes, but one block never holds more than 128 KiB. Finding where each
block ends, before the library sees it, bounds memory whatever arrives, and tells where the frame ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from exchange.format.errors import Corrupt, printable

MAX_WINDOW_BYTES: Final = 2**27
"""The largest window that is accepted: what the ``zstd`` command takes without being asked."""

MAX_BLOCK_BYTES: Final = 2**17

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_DICTIONARY_ID_BYTES: Final = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES: Final = (0, 2, 4, 8)
_CHECKSUM_BYTES: Final = 4
_RLE: Final = 1
_RESERVED: Final = 3


def open_frame(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield the content of one frame in pieces of about 128 KiB at most.

    ``read(n)`` gives exactly the next n bytes or raises. What comes after the frame is not read. Raises
    ``Corrupt`` when the bytes are not one frame without a dictionary.
    """
    import zstandard  # noqa: PLC0415 - commands that open no file start sooner

    header = _header(read)
    frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    try:
        parameters = zstandard.get_frame_parameters(header)
        if parameters.dict_id:
            raise _damaged("it needs a dictionary")
        if parameters.window_size > MAX_WINDOW_BYTES:
            raise _damaged(f"its window is larger than {MAX_WINDOW_BYTES} bytes")
        yield frame.decompress(header)
        last = False
        while not last:
            last, block = _block(read)
            yield frame.decompress(block)
        if parameters.has_checksum:
            yield frame.decompress(read(_CHECKSUM_BYTES))
    except zstandard.ZstdError as error:
        raise _damaged(printable(str(error))) from error
    if not frame.eof:
        raise _damaged("its end is missing")


def _header(read: Callable[[int], bytes]) -> bytes:
    start = read(len(_MAGIC) + 1)
    if not start.startswith(_MAGIC):
        raise _damaged("it does not begin as one")
    descriptor = start[-1]
    single_segment = descriptor >> 5 & 1
    content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
    return start + read((1 - single_segment) + _DICTIONARY_ID_BYTES[descriptor & 3] + content_size)


def _block(read: Callable[[int], bytes]) -> tuple[bool, bytes]:
    header = read(3)
    fields = int.from_bytes(header, "little")
    last, kind, size = fields & 1, fields >> 1 & 3, fields >> 3
    if kind == _RESERVED or size > MAX_BLOCK_BYTES:
        raise _damaged("a block in it is of no known kind or size")
    return bool(last), header + read(1 if kind == _RLE else size)


def _damaged(what: str) -> Corrupt:
    return Corrupt(f"the data file is not one zstd frame: {what}")
