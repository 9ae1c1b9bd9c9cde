"""Ugly files: which rows are read, which are bad and why, and that neither hangs on how they are looked at."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from exchange.channels.intake import Written
from exchange.format.batch import LongLine, ReadLimits
from exchange.format.errors import RecordError
from exchange.reading import FileFormat, FileRefused, Place
from exchange.reading.cut import Cutter
from exchange.reading.detect import detect
from exchange.reading.read import read, read_row
from exchange.reading.records import Records
from exchange.reading.rows import Rows
from tests.reading.conftest import STREAM, intake, read_all

HEADER = b"id,name,note\n"


def _names(content: bytes) -> list[object]:
    return [body["name"] for body in read_all(HEADER + content).bodies]


@pytest.mark.parametrize(
    "content, names, faults",
    [
        pytest.param(b'1,"a ""b"" c",\n', ['a "b" c'], [], id="quotes within quotes"),
        pytest.param(b'1,"""",\n2,"""x""",\n', ['"', '"x"'], [], id="nothing but quotes"),
        pytest.param(b'1,"a\nb\r\nc",\n2,d,\n', ["a\nb\r\nc", "d"], [], id="line breaks in a cell"),
        pytest.param(b"1,a,b,c\n2,b\n3,c,\n", ["c"], [(2, "ragged", ""), (3, "ragged", "")], id="ragged rows"),
        pytest.param(b"1,a,\r\n2,b,\n3,c,\r4,d,", ["a", "b", "c", "d"], [], id="mixed line ends"),
        pytest.param(b"1,a,\n\n   \n2,b,\n\n", ["a", "b"], [], id="blank lines"),
        pytest.param(b'1,"",\n2,,\n', ["", None], [], id="a quoted nothing is a text"),
        pytest.param(b'1,"a ""q""",""\n2,,""\n', ['a "q"', None], [], id="quoted nothing beside doubled quotes"),
        pytest.param("1,😀 ü\u2028,\n".encode(), ["😀 ü\u2028"], [], id="emoji"),
        pytest.param(b"1,=1+1,\n2,@x,\n", ["=1+1", "@x"], [], id="formulas are texts"),
        pytest.param(b"007,007,\n", ["007"], [], id="leading zeros"),
        pytest.param(b"1,a\x00b,\n", ["a\x00b"], [], id="NUL is left to the schema"),
        pytest.param(b'1,6" x 4",\n2,b,\n', ["b"], [(2, "quoting", "")], id="quotes in a plain cell"),
        pytest.param(b'1,6" x,\n2,b,\n', ["b"], [(2, "quoting", "")], id="one quote in a plain cell"),
        pytest.param(b'1,"a"b,\n2,b,\n', ["b"], [(2, "quoting", "")], id="text behind a closing quote"),
        pytest.param(b'1,"a,\n2,b,\n3,c,\n', ["b", "c"], [(2, "quoting", "")], id="a quote that nothing closes"),
        pytest.param(
            b'1,"a,\n2,b,\n3,"c",\n4,d,\n', ["b", "c", "d"], [(2, "quoting", "")], id="a quote that another one opens"
        ),
        pytest.param(
            b'1,"a,\n2,"b\nb",\n3,c,\n', ["b\nb", "c"], [(2, "quoting", "")], id="an open quote before a line break"
        ),
        pytest.param(b"1,\xff,\n2,b,\n", ["b"], [(2, "encoding", "")], id="no UTF-8"),
        pytest.param(b"x,a,\n2,b,\n", ["b"], [(2, "cell", "/data/id")], id="no number"),
    ],
)
def test_what_can_be_read_of_an_ugly_file_is_read_and_the_rest_are_bad_rows(
    content: bytes, names: list[object], faults: list[tuple[int, str, str]]
) -> None:
    found = read_all(HEADER + content)

    assert [body["name"] for body in found.bodies] == names
    assert found.faults == faults


def test_a_row_is_read_again_from_its_bytes_alone_and_says_the_same() -> None:
    content = HEADER + b'1,"a\nb",x\n2,b\n"3",c,\n'
    found = read_all(content)

    assert [read_row(found.format, STREAM, record) for record in found.records] == found.bodies
    with pytest.raises(RecordError) as refused:
        read_row(found.format, STREAM, found.bad[0].record)
    assert refused.value.args == found.bad[0].error.args
    assert FileFormat.from_dict(found.format.as_dict()) == found.format


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_row_of_any_encoding_has_its_values_and_its_bytes(encoding: str) -> None:
    rows = "id,name,note\n1,ä😀,x\n2,b\r\n3,c,\n"
    found = read_all(rows.encode(encoding), intake(written=Written("utf-32") if encoding == "utf-32" else Written()))

    assert [body["name"] for body in found.bodies] == ["ä😀", "c"]
    assert found.faults == [(3, "ragged", "")]
    assert [record.decode(found.format.encoding) for record in found.records] == ["1,ä😀,x", "3,c,"]
    assert [read_row(found.format, STREAM, record) for record in found.records] == found.bodies


def test_windows_1252_is_read_when_it_is_said_and_a_byte_that_it_has_not_is_a_bad_row() -> None:
    found = read_all(b"id,name\n1,\x80\n2,\x81\n", intake(written=Written("windows-1252")))

    assert [body["name"] for body in found.bodies] == ["€"]
    assert found.faults == [(3, "encoding", "")]


def test_half_a_character_at_the_end_of_utf_16_is_one_bad_row() -> None:
    found = read_all("id,name\n1,a\n2,b\ud800\n3,c".encode("utf-16-le", "surrogatepass") + b"\x00")

    assert [body["name"] for body in found.bodies] == ["a"]
    assert found.faults == [(3, "encoding", ""), (4, "encoding", "")]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "zip"])
def test_a_compressed_file_is_read_and_a_damaged_one_refused(compression: str) -> None:
    content = HEADER + b"".join(b"%d,name %d,\n" % (n, n) for n in range(20_000))
    pack: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": _two_frames, "zip": _zipped}
    packed = pack[compression](content)
    found = read_all(packed, name=f"rows.csv.{compression}")

    assert found.format.compression == compression
    assert len(found.bodies) == 20_000
    file = io.BytesIO(packed)
    assert [
        body["id"] for piece in read(file, found.format, STREAM, Place(len(HEADER), 2)) for body in piece.bodies
    ] == [*range(20_000)]
    with pytest.raises(FileRefused, match="damaged"):
        read_all(packed[: len(packed) // 2], name="rows.csv")


def _two_frames(content: bytes) -> bytes:
    return zstandard.compress(content[:1000]) + zstandard.compress(content[1000:])


def _zipped(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.csv", content)
    return packed.getvalue()


def test_what_is_known_of_a_bad_row_keeps_no_other_row_in_memory() -> None:
    found = read_all(b'id,name\nx,a\n1,b,c\n2,"d\n9e9,e\n')
    assert len(found.bad) == 4
    for one in found.bad:
        error = one.error
        assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None), error.sentence


def test_two_thousand_columns_are_read() -> None:
    columns = [f"c{n}" for n in range(2000)]
    content = ",".join(["id", "name", *columns]) + "\n" + ",".join(["1", "a", *columns]) + "\n"

    assert read_all(content.encode()).bodies == [{"id": 1, "name": "a"}]


@pytest.mark.parametrize(
    "middle",
    [
        pytest.param(b"2," + b"x" * 50_000 + b",\n", id="in one line"),
        pytest.param(b'2,"' + b"x\n" * 25_000 + b'",\n', id="over many lines"),
        pytest.param(b'2,"' + b"x" * 25_000 + b"\n" + b"y" * 25_000 + b'",\n', id="over two lines"),
    ],
)
def test_a_row_that_is_too_long_is_one_bad_row_and_its_neighbours_are_read(middle: bytes) -> None:
    found = read_all(HEADER + b"1,a,\n" + middle + b"3,c,\n", limits=ReadLimits(max_record_bytes=1000))

    assert [body["id"] for body in found.bodies] == [1, 3]
    assert found.faults == [(3, "long", "")]
    assert isinstance(found.bad[0].record, LongLine)
    assert found.bad[0].record.startswith(b"2,")
    assert found.numbers[-1] == 3 + middle.count(b"\n")


@pytest.mark.parametrize("behind", [b"", b'"z" z,\n', b'8,"z",\n'])
def test_a_quote_that_nothing_closes_takes_its_line_alone_however_much_comes_behind(behind: bytes) -> None:
    rest = b"".join(b"%d,name,\n" % n for n in range(3, 20_000))
    found = read_all(HEADER + b'2,"open,\n' + rest + behind, limits=ReadLimits(max_record_bytes=2000))

    assert found.bad[0].number == 2
    assert found.bad[0].record == b'2,"open,'
    assert [body["id"] for body in found.bodies][:19_997] == [*range(3, 20_000)]
    assert found.numbers[:19_997] == [*range(3, 20_000)]


@pytest.mark.thorough
@pytest.mark.parametrize("line", [b"x" * 1000, b"x" * 999 + b"\n"])
def test_a_cell_of_100_mb_takes_no_more_memory_than_a_few_rows_may(line: bytes) -> None:
    file = io.BufferedReader(_Made(HEADER + b'1,a,\n2,"', line, 100_000, b'",\n3,c,\n'))
    found = detect(file, "rows.csv", intake(), STREAM)
    tracemalloc.start()
    try:
        pieces = [(one.bodies, one.bad) for one in read(file, found.format, STREAM)]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [body["id"] for bodies, _ in pieces for body in bodies] == [1, 3]
    assert [one.error.error for _, bad in pieces for one in bad] == ["long"]
    assert most < 150 * 1024 * 1024


class _Made(io.RawIOBase):
    """A large file that is never there as a whole."""

    def __init__(self, head: bytes, line: bytes, count: int, tail: bytes) -> None:
        self._head, self._line, self._tail = head, line, tail
        self._size = len(head) + len(line) * count + len(tail)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        part, at = self._head, self._at
        if at >= self._size - len(self._tail):
            part, at = self._tail, at - (self._size - len(self._tail))
        elif at >= len(self._head):
            part, at = self._line, (at - len(self._head)) % len(self._line)
        piece = part[at : at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


_CELLS = st.sampled_from(
    [
        "",
        "a",
        "1",
        "-7",
        "007",
        "1.5",
        '"',
        '""',
        '"a"',
        '"a\nb"',
        '"a""b"',
        'a"b',
        "\n",
        "\r\n",
        ",",
        ",,",
        " ",
        "é",
        "😀",
    ]
)
_ROWS = st.lists(st.lists(_CELLS, max_size=5), max_size=12).map(
    lambda rows: "id,name\n" + "\n".join(",".join(row) for row in rows)
)


@given(_ROWS)
def test_many_rows_at_once_and_each_by_itself_get_the_same_verdicts(content: str) -> None:
    file = io.BytesIO(content.encode())
    written = detect(file, "rows.csv", intake(), STREAM).format
    rows = Rows(written, STREAM)

    for block in Records(file, written, Place(written.start, written.line), None, 1000):
        at_once, each = rows.make(block.records, block.bad), rows.make_one_by_one(block.records, block.bad)
        assert [*at_once.places] == [*each.places]
        assert at_once.bodies == each.bodies
        assert {at: one.args for at, one in at_once.bad.items()} == {at: one.args for at, one in each.bad.items()}


_LINES = st.lists(
    st.sampled_from(
        [
            '{"id":1,"name":"a"}',
            '{"id": 2, "name": "b", "price": 1.50}',
            ' {"price":"x","id":3} ',
            '{"id":4,"at":"2026-01-02T03:04:05+01:00","price":1e1}',
            '{"id":5,"id":6}',
            '{"id":7},{"id":8}',
            '{"id":9,"new":1}',
            '{"note":' + "[" * 70 + "]" * 70 + "}",
            "[]",
            "{",
            "",
        ]
    ),
    max_size=40,
)


@given(_LINES)
def test_many_json_lines_at_once_and_each_by_itself_get_the_same_verdicts(lines: list[str]) -> None:
    columns = ("id", "name", "price", "at", "note")
    rows = Rows(FileFormat("jsonl", header=columns, columns=columns), STREAM)
    records = [line.encode() for line in lines]
    at_once, each = rows.make(records, {}), rows.make_one_by_one(records, {})

    assert [*at_once.places] == [*each.places]
    assert [*at_once.bodies] == [*each.bodies]
    assert {at: one.args for at, one in at_once.bad.items()} == {at: one.args for at, one in each.bad.items()}


@given(_ROWS, st.integers(1, 40), st.integers(1, 7))
def test_parts_of_a_file_are_read_as_the_whole_is(content: str, every: int, step: int) -> None:
    data = content.encode() + b"\n"
    file = io.BytesIO(data)
    written = detect(file, "rows.csv", intake(), STREAM).format
    cutter = Cutter(written, every, 1000)
    for at in range(0, len(data), step):
        cutter.feed(data[at : at + step])
    start = Place(written.start, written.line)

    whole = [
        one for piece in read(file, written, STREAM, start) for one in zip(piece.numbers, piece.bodies, strict=True)
    ]
    parts = [
        one
        for first, following in pairwise([start, *cutter.places, None])
        for piece in read(file, written, STREAM, first, following and following.position)
        for one in zip(piece.numbers, piece.bodies, strict=True)
    ]
    assert parts == whole


def test_a_large_file_is_cut_about_where_it_was_asked_to_be() -> None:
    data = HEADER + b"".join(b'%d,"a\nb",\n' % n for n in range(20_000))
    written = detect(io.BytesIO(data), "rows.csv", intake(), STREAM).format
    cutter = Cutter(written, 50_000, 1000)
    for at in range(0, len(data), 4096):
        cutter.feed(data[at : at + 4096])

    assert len(cutter.places) == len(data) // 54_096 or len(cutter.places) == len(data) // 50_000
    for place in cutter.places:
        assert data[place.position - 2 : place.position] == b",\n"
        assert data[: place.position].count(b"\n") == place.line - 1


def test_every_piece_ends_where_the_next_one_can_be_begun() -> None:
    data = HEADER + b"".join(b'%d,"a\nb",\n' % n for n in range(40_000))
    file = io.BytesIO(data)
    written = detect(file, "rows.csv", intake(), STREAM).format
    first = next(read(file, written, STREAM))

    rest = [body["id"] for piece in read(file, written, STREAM, first.end) for body in piece.bodies]
    assert [body["id"] for body in first.bodies] + rest == [*range(40_000)]
    assert len(first.bodies) < 40_000


def test_json_lines_are_read_strictly_and_without_rounding() -> None:
    lines = (
        b'{"id": 1, "name": "a", "price": 12.50, "at": "2026-01-02 03:04:05+01:00"}',
        b'{"id":2,"id":3}',
        b'{"id":4,"price":"1.5"}',
        b"",
        b'{"id":5,"unheard":1}',
        b"[1]",
        b'{"id":6,"price":0.1000000000000000055511151231257827}',
        b'{"id":7,"price":1.505}',
        b"no json",
    )
    found = read_all(b"\n".join(lines[:4]) + b"\n" + b'{"id":9}\n' * 40_000 + b"\n".join(lines[4:]), name="rows.jsonl")

    assert found.bodies[0] == {"id": 1, "name": "a", "price": "12.50", "at": "2026-01-02T02:04:05.000000Z"}
    assert found.bodies[1] == {"id": 4, "name": None, "price": "1.5", "at": None}
    assert [error for _, error, _ in found.faults] == ["json", "json", "cell", "cell", "json"]
    assert found.faults[1] == (40_006, "json", "")
