from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard

from exchange.format.errors import Corrupt
from exchange.format.zstd import MAX_BLOCK_BYTES, open_frame

NOISE = random.Random(7).randbytes(300_000)
TEXT = b"".join(b'{"line":%d,"text":"some words that repeat"}\n' % n for n in range(20_000))

MAGIC = b"\x28\xb5\x2f\xfd"
SMALL_WINDOW = MAGIC + b"\x00\x38"  # no flags, a window of 128 KiB


def _block(kind: int, size: int, body: bytes, *, last: bool = False) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + body


def exactly(data: bytes) -> Callable[[int], bytes]:
    stream = io.BytesIO(data)

    def read(size: int) -> bytes:
        piece = stream.read(size)
        if len(piece) < size:
            raise Corrupt("cut")
        return piece

    return read


def opened(data: bytes) -> bytes:
    return b"".join(open_frame(exactly(data)))


@pytest.mark.parametrize("content", [b"", b"x", TEXT, NOISE, bytes(1_000_000)])
@pytest.mark.parametrize("level", [-5, 3, 12])
@pytest.mark.parametrize("known", [True, False])
def test_a_frame_opens_whoever_wrote_it(content: bytes, level: int, *, known: bool) -> None:
    with_checksum = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=known)
    assert opened(with_checksum.compress(content)) == content
    writer = zstandard.ZstdCompressor(level=level, write_content_size=known)
    assert opened(writer.compress(content)) == content
    streamed = writer.compressobj()
    assert opened(streamed.compress(content) + streamed.flush()) == content


def test_a_frame_flushed_in_small_blocks_opens() -> None:
    writer = zstandard.ZstdCompressor().compressobj()
    pieces = [
        writer.compress(TEXT[n : n + 100]) + writer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for n in range(0, 10_000, 100)
    ]
    assert opened(b"".join(pieces) + writer.flush()) == TEXT[:10_000]


def test_pieces_are_as_small_as_blocks() -> None:
    frame = zstandard.compress(bytes(50_000_000))
    assert max(map(len, open_frame(exactly(frame)))) <= MAX_BLOCK_BYTES


def test_a_bomb_opens_one_block_at_a_time() -> None:
    rle = _block(1, MAX_BLOCK_BYTES, b"\0")
    pieces = open_frame(exactly(SMALL_WINDOW + rle * 100_000))
    tracemalloc.start()
    try:
        opened_bytes = 0
        for piece in pieces:
            opened_bytes += len(piece)
            if opened_bytes > 100_000_000:
                break
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


def test_what_comes_after_the_frame_is_not_read() -> None:
    stream = io.BytesIO(zstandard.compress(TEXT) + b"after")

    assert b"".join(open_frame(stream.read)) == TEXT
    assert stream.read() == b"after"


FRAME = zstandard.ZstdCompressor(write_checksum=True).compress(TEXT)


@pytest.mark.parametrize(
    "data",
    [
        b"plain text, no frame",
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + FRAME,
        b"\x1f\x8b\x08" + bytes(20),
        FRAME[1:],
        FRAME[:-1] + bytes([FRAME[-1] ^ 1]),
        MAGIC + b"\x08" + FRAME[5:],
        MAGIC + b"\x00\xff" + _block(0, 1, b"x", last=True),
        MAGIC + b"\x00\x90" + _block(0, 1, b"x", last=True),
        MAGIC + b"\x01\x38\x07" + _block(0, 1, b"x", last=True),
        MAGIC + b"\x20\x05" + _block(0, 1, b"x", last=True),
        SMALL_WINDOW + _block(3, 1, b"x", last=True),
        SMALL_WINDOW + _block(0, MAX_BLOCK_BYTES + 1, bytes(MAX_BLOCK_BYTES + 1), last=True),
        SMALL_WINDOW + _block(1, 2**21 - 1, b"x", last=True),
        SMALL_WINDOW + _block(2, 5, b"trash", last=True),
    ],
)
def test_what_is_not_one_plain_frame_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="not one zstd frame"):
        opened(data)


def test_hand_made_frames_of_this_test_are_right_but_for_their_damage() -> None:
    assert opened(SMALL_WINDOW + _block(0, 1, b"x") + _block(1, 5, b"y", last=True)) == b"xyyyyy"


def test_a_frame_for_a_dictionary_is_corrupt() -> None:
    dictionary = zstandard.train_dictionary(2_000, [TEXT[n : n + 50] for n in range(0, 50_000, 50)])
    with pytest.raises(Corrupt, match="dictionary"):
        opened(zstandard.ZstdCompressor(dict_data=dictionary).compress(TEXT))


def test_a_frame_cut_anywhere_is_corrupt() -> None:
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(TEXT[:2_000])
    for length in range(len(frame)):
        with pytest.raises(Corrupt):
            opened(frame[:length])


def test_a_damaged_frame_is_other_bytes_or_corrupt() -> None:
    frame = zstandard.compress(TEXT[:2_000])
    chance = random.Random(11)
    for _ in range(3_000):
        damaged = bytearray(frame)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            content = opened(bytes(damaged))
        except Corrupt:
            continue
        assert len(content) < 100_000
