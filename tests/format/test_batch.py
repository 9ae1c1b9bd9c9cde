from __future__ import annotations

import hashlib
import io
import random
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest
import zstandard

from exchange.format.batch import HEAD_BYTES, BatchReader, BatchWriter, LongLine, ReadLimits, check_data
from exchange.format.errors import BatchError, Corrupt, Fault, Incomplete, TransientError, Unsupported
from exchange.format.manifest import OpCounts
from exchange.format.record import Op, Record, encode

if TYPE_CHECKING:
    from tests.format.conftest import Seal, Sealed


def lines_of(sealed: Sealed, limits: ReadLimits | None = None) -> list[bytes]:
    reader = BatchReader(sealed.open(), sealed.manifest, limits)
    found = [line for lines in reader for line in lines]
    assert reader.lines == len(found)
    return found


ENCODINGS = pytest.mark.parametrize("encoding", [(), ("zstd",)])


@ENCODINGS
def test_what_is_written_is_what_the_manifest_says_and_reads_back(seal: Seal, encoding: tuple[str, ...]) -> None:
    rows = [Record("request", Op.UPSERT, n, {"id": n, "text": "words " * (n % 50)}) for n in range(1, 5_001)]
    keys = [Record("user", Op.DELETE, n, {"id": n}) for n in range(1, 101)]
    out = io.BytesIO()
    writer = BatchWriter(out, encoding)
    for record in rows:
        writer.write(encode(record), record.stream, record.op)
    writer.write_all(b"".join(map(encode, keys)), len(keys), "user", Op.DELETE)
    content = b"".join(map(encode, rows + keys))
    assert (writer.records, writer.content_bytes) == (5_100, len(content))
    data = writer.close()

    assert data.records == {"request": OpCounts(5_000, 0), "user": OpCounts(0, 100)}
    assert (data.bytes, data.sha256) == (len(out.getvalue()), hashlib.sha256(out.getvalue()).hexdigest())
    assert (data.content_bytes, data.content_sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (zstandard.decompress(out.getvalue(), len(content)) if encoding else out.getvalue()) == content
    sealed = seal(content, encoding=encoding).saying(
        schemas={"request": 1, "user": 1}, records=data.records, bytes=data.bytes, sha256=data.sha256
    )
    read = BatchReader(io.BytesIO(out.getvalue()), sealed.manifest)
    assert b"".join(line + b"\n" for lines in read for line in lines) == content
    read.check_counts(data.records)


@ENCODINGS
def test_no_records_are_a_batch(seal: Seal, encoding: tuple[str, ...]) -> None:
    out = io.BytesIO()
    data = BatchWriter(out, encoding).close()
    assert (data.content_bytes, data.records) == (0, {})
    assert data.bytes == len(out.getvalue())
    assert bool(data.bytes) == bool(encoding)
    assert lines_of(seal(b"", encoding=encoding).holding(out.getvalue())) == []


def test_an_empty_file_is_no_zstd_frame(seal: Seal) -> None:
    with pytest.raises(Corrupt):
        lines_of(seal(b"").holding(b""))


def test_the_frame_that_is_written_has_a_checksum() -> None:
    out = io.BytesIO()
    BatchWriter(out).close()
    assert zstandard.get_frame_parameters(out.getvalue()).has_checksum


def test_a_short_write_is_the_worlds_fault() -> None:
    class Full(io.BytesIO):
        def write(self, _piece: object) -> int:
            return 1

    writer = BatchWriter(Full(), ())
    writer.write(b"{}\n", "request", Op.UPSERT)
    with pytest.raises(TransientError, match="in part"):
        writer.close()


def test_lines_are_numbered_from_1(seal: Seal) -> None:
    content = b"".join(b"%d\n" % n for n in range(1, 200_001))
    sealed = seal(content)
    reader = BatchReader(sealed.open(), sealed.manifest)
    several = 0
    for lines in reader:
        assert reader.first_line == int(lines[0])
        assert reader.lines == int(lines[-1])
        several += 1
    assert several > 3


def test_only_the_newline_byte_ends_a_line(seal: Seal) -> None:
    line = "a\u2028b\u2029c\u0085d\x0be\x0cf\rg\x1ch".encode()
    assert lines_of(seal(line + b"\n")) == [line]


@ENCODINGS
@pytest.mark.parametrize(
    "content,about",
    [
        (b"{}\n{}", "line 2, the last one, is not ended"),
        (b"{}", "line 1, the last one, is not ended"),
        (b"\n", "line 1 is blank"),
        (b"{}\n\n{}\n", "line 2 is blank"),
        (b"{}\n{}\n\n", "line 3 is blank"),
        (b"{}\n \t\r\n", "line 2 is blank"),
        (b"{}\r\n\r\n", "line 2 is blank"),
        (b"\xef\xbb\xbf{}\n", "byte order mark"),
        (b"{}\n" + b"x" * 101, "line 2, the last one, is not ended"),
        (b"x" * 1_000_000, "line 1, the last one, is not ended"),
    ],
)
def test_content_that_breaks_a_rule_is_corrupt(
    seal: Seal, encoding: tuple[str, ...], content: bytes, about: str
) -> None:
    with pytest.raises(Corrupt, match=about) as refused:
        lines_of(seal(content, encoding=encoding), ReadLimits(max_record_bytes=100))
    assert refused.value.fault is Fault.CONTENT


@ENCODINGS
@pytest.mark.parametrize("size", [101, 300_000, 3_000_000])
def test_of_a_line_over_the_limit_the_beginning_is_given_and_its_length(
    seal: Seal, encoding: tuple[str, ...], size: int
) -> None:
    lines = lines_of(
        seal(b"{}\n" + b"x" * size + b"\n{}\n" + b"y" * size + b"\n", encoding=encoding),
        ReadLimits(max_record_bytes=100),
    )
    assert lines == [b"{}", b"x" * min(size, HEAD_BYTES), b"{}", b"y" * min(size, HEAD_BYTES)]
    assert [(type(one), one.length) for one in lines if isinstance(one, LongLine)] == [(LongLine, size)] * 2


def test_a_line_of_exactly_the_limit_is_read(seal: Seal) -> None:
    assert lines_of(seal(b"x" * 100 + b"\n"), ReadLimits(max_record_bytes=100)) == [b"x" * 100]


def test_a_long_line_within_the_limit_is_read_over_many_blocks(seal: Seal) -> None:
    line = random.Random(3).randbytes(1024 * 1024).replace(b"\n", b"x")
    assert lines_of(seal(b"{}\n" + line + b"\n{}\n")) == [b"{}", line, b"{}"]


@ENCODINGS
@pytest.mark.parametrize("claimed", [OpCounts(2), OpCounts(4), OpCounts(0), OpCounts(1, 1)])
def test_another_number_of_lines_than_the_manifest_counts_is_corrupt(
    seal: Seal, encoding: tuple[str, ...], claimed: OpCounts
) -> None:
    with pytest.raises(Corrupt, match="lines") as refused:
        lines_of(seal(b"{}\n{}\n{}\n", encoding=encoding, counts=claimed))
    assert refused.value.fault is Fault.COUNTS


@pytest.mark.parametrize(
    "counts",
    [
        {"request": OpCounts(4, 0)},
        {"request": OpCounts(2, 2)},
        {"request": OpCounts(3, 0), "user": OpCounts(0, 1)},
        {"\x1b": OpCounts(1)},
    ],
)
def test_other_counts_than_the_manifests_are_corrupt(seal: Seal, counts: dict[str, OpCounts]) -> None:
    sealed = seal()
    with pytest.raises(Corrupt, match="the manifest says") as refused:
        BatchReader(sealed.open(), sealed.manifest).check_counts(counts)
    assert refused.value.fault is Fault.COUNTS
    assert refused.value.sentence.isprintable()


def test_lines_that_do_not_decode_leave_counts_below_the_manifests(seal: Seal) -> None:
    sealed = seal()
    BatchReader(sealed.open(), sealed.manifest).check_counts({"request": OpCounts(2, 1)})


@pytest.mark.parametrize(
    "limits,about",
    [
        (ReadLimits(max_content_bytes=10), "content_bytes"),
        (ReadLimits(max_records=3), "records"),
    ],
)
def test_a_manifest_beyond_the_limits_is_refused_before_its_data_is_read(
    seal: Seal, limits: ReadLimits, about: str
) -> None:
    sealed = seal()
    data = sealed.open()
    with pytest.raises(Corrupt, match=about):
        BatchReader(data, sealed.manifest, limits)
    assert data.tell() == 0


@pytest.mark.parametrize("encoding", [("age",), ("zstd", "age")])
def test_an_encrypted_batch_is_unsupported_until_it_can_be_opened(seal: Seal, encoding: tuple[str, ...]) -> None:
    sealed = seal().saying(encoding=encoding)
    with pytest.raises(Unsupported, match="age"):
        BatchReader(sealed.open(), sealed.manifest)
    with pytest.raises(Unsupported, match="age"):
        BatchWriter(io.BytesIO(), encoding)


@ENCODINGS
def test_every_changed_byte_is_noticed(seal: Seal, encoding: tuple[str, ...]) -> None:
    sealed = seal(encoding=encoding)
    for place in range(len(sealed.data)):
        changed = bytearray(sealed.data)
        changed[place] ^= 0x40
        with pytest.raises(Corrupt) as refused:
            check_data(io.BytesIO(changed), sealed.manifest)
        assert refused.value.fault is Fault.DIGEST
        with pytest.raises(BatchError):
            list(BatchReader(io.BytesIO(changed), sealed.manifest))


@ENCODINGS
def test_a_file_cut_anywhere_is_incomplete(seal: Seal, encoding: tuple[str, ...]) -> None:
    sealed = seal(encoding=encoding)
    for length in range(len(sealed.data)):
        cut = sealed.data[:length]
        for read in (_check, _read_all):
            with pytest.raises(Incomplete, match=f"{length} of the {len(sealed.data)} bytes"):
                read(io.BytesIO(cut), sealed)


@ENCODINGS
def test_a_longer_file_is_corrupt_and_not_read_to_its_end(seal: Seal, encoding: tuple[str, ...]) -> None:
    sealed = seal(encoding=encoding)
    for read in (_check, _read_all):
        data = io.BytesIO(sealed.data + bytes(1_000_000))
        with pytest.raises(Corrupt):
            read(data, sealed)
        assert data.tell() <= len(sealed.data) + 1
    with pytest.raises(Corrupt) as refused:
        check_data(io.BytesIO(sealed.data + b"x"), sealed.manifest)
    assert refused.value.fault is Fault.LENGTH


def _check(data: io.BytesIO, sealed: Sealed) -> None:
    check_data(data, sealed.manifest)


def _read_all(data: io.BytesIO, sealed: Sealed) -> None:
    list(BatchReader(data, sealed.manifest))


def test_bytes_that_change_after_the_check_are_noticed_while_reading(seal: Seal) -> None:
    content = b"".join(encode(Record("request", Op.UPSERT, n, {"id": n})) for n in range(1, 50_001))
    sealed = seal(content, encoding=())

    class Changing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size).replace(b'"id":49999}', b'"id":49998}')

    check_data(sealed.open(), sealed.manifest)
    with pytest.raises(Corrupt, match="SHA-256"):
        list(BatchReader(Changing(sealed.data), sealed.manifest))


@pytest.mark.parametrize(
    "damage,about",
    [
        (lambda data: data + b"x", "goes on after the end"),
        (lambda data: data + data, "goes on after the end"),
        (lambda data: data + zstandard.compress(b""), "goes on after the end"),
        (lambda data: data[:-3], "cut short"),
        (lambda data: data[:4], "cut short"),
        (zstandard.compress, "more content|content is|SHA-256"),
        (zstandard.decompress, "not one zstd frame"),
    ],
)
def test_a_data_file_that_is_not_one_frame_is_corrupt_even_with_the_right_digest(
    seal: Seal, damage: Callable[[bytes], bytes], about: str
) -> None:
    sealed = seal()
    liar = sealed.holding(damage(sealed.data))
    check_data(liar.open(), liar.manifest)
    with pytest.raises(Corrupt, match=about):
        lines_of(liar)


def test_another_content_than_the_manifest_says_is_corrupt(seal: Seal) -> None:
    sealed = seal(b"{}\n")
    for changes, about in (
        ({"content_bytes": 2}, "more content"),
        ({"content_bytes": 4}, "3 bytes long"),
        ({"content_sha256": "0" * 64}, "content_sha256"),
    ):
        with pytest.raises(Corrupt, match=about):
            lines_of(sealed.saying(**changes))


def test_a_bomb_is_refused_within_a_block_of_what_its_manifest_says(seal: Seal) -> None:
    bomb = seal(b"{}\n").holding(zstandard.compress(b"{}\n" + bytes(100_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match="more content"):
            lines_of(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Sink(io.RawIOBase):
    """Takes everything and keeps nothing."""

    def write(self, piece: object) -> int:
        return len(piece)  # type: ignore[arg-type]


@ENCODINGS
def test_memory_does_not_grow_with_the_size_of_a_batch_written(encoding: tuple[str, ...]) -> None:
    line = encode(Record("request", Op.UPSERT, 1, {"text": "words " * 50}))

    def write(count: int) -> None:
        writer = BatchWriter(Sink(), encoding)  # type: ignore[arg-type]
        for _ in range(count):
            writer.write(line, "request", Op.UPSERT)
        writer.close()

    write(10)
    small, large = (_peak(partial(write, count)) for count in (2_000, 40_000))
    assert large < small + 200_000


@ENCODINGS
def test_memory_does_not_grow_with_the_size_of_a_batch_read(seal: Seal, encoding: tuple[str, ...]) -> None:
    line = encode(Record("request", Op.UPSERT, 1, {"text": "words " * 50}))

    def read(sealed: Sealed) -> None:
        check_data(sealed.open(), sealed.manifest)
        for _ in BatchReader(sealed.open(), sealed.manifest):
            pass

    small, large = (seal(line * count, encoding=encoding) for count in (2_000, 40_000))
    # What BytesIO shares with the data it was made of is none of the reader's memory.
    assert _peak(lambda: read(large)) < _peak(lambda: read(small)) + 200_000


def test_a_line_that_never_ends_takes_no_more_memory_than_the_limit(seal: Seal) -> None:
    endless = seal(b"x" * 50_000_000, counts=OpCounts(1))

    def read() -> None:
        with pytest.raises(Corrupt, match="line 1, the last one, is not ended"):
            lines_of(endless, ReadLimits(max_record_bytes=1024 * 1024))

    assert _peak(read) < 5_000_000


def test_many_tiny_blocks_cost_no_more_than_their_size(seal: Seal) -> None:
    content = b"x" * 100_000 + b"\n"
    blocks = b"".join(b"\x08\x00\x00" + content[n : n + 1] for n in range(len(content)))
    frame = b"\x28\xb5\x2f\xfd\x00\x38" + blocks + b"\x01\x00\x00"
    assert lines_of(seal(content).holding(frame)) == [content[:-1]]
