"""How a file is written is found out and said, or the file refused with a sentence."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from collections.abc import Callable

import pytest

from exchange.channels.intake import Written
from exchange.reading import FileRefused
from tests.reading.conftest import EVERY_KIND, STREAM, intake, read_all

HEADER = "id,name,price\n"


def test_an_export_of_excel_is_read_as_it_is() -> None:
    content = '\ufeffsep=;\r\nID;Name;"Unit Count";Price;extra\r\n1;"a;b";1.234;"1.234,50";x\r\n'
    found = read_all(content.encode())

    assert found.bodies == [{"id": 1, "name": "a;b", "unit_count": 1234, "price": "1234.50"}]
    assert found.notes[:3] == [
        "encoding UTF-8, by the mark at its beginning",
        "CSV, cells separated by ;",
        'decimal comma, as in "9.999,99"',
    ]
    assert 'left out, as stream item has no such column: "extra"' in found.notes


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quote", ['"', "'"])
def test_delimiter_and_quote_are_found_by_the_header(delimiter: str, quote: str) -> None:
    content = delimiter.join(f"{quote}{cell}{quote}" for cell in ("id", "name")) + f"\n1{delimiter}{quote}a,;b{quote}\n"
    assert read_all(content.encode()).bodies == [{"id": 1, "name": "a,;b"}]


def test_what_was_told_counts_before_what_is_found() -> None:
    found = read_all(b"sep=;\nid:name\n1:it's, 6\" x\n", intake(written=Written(delimiter=":", quote="")))
    assert found.bodies == [{"id": 1, "name": "it's, 6\" x"}]


def test_names_are_matched_whatever_their_case_blanks_and_dashes_are_and_by_mapping() -> None:
    found = read_all(b" ID ,NAME,Unit-Count,remark\n1,a,2,b\n", intake(mapping={"Remark": "note", "remark": "note"}))
    assert found.bodies == [{"id": 1, "name": "a", "unit_count": 2, "note": "b"}]


def test_columns_that_the_file_lacks_get_what_was_told_or_are_said_once() -> None:
    found = read_all(b"id,nmae\n1,a\n2,b\n", intake(defaults={"price": "01.50"}))

    assert found.bodies == [{"id": 1, "price": "1.50"}, {"id": 2, "price": "1.50"}]
    assert found.notes[2:] == [
        'left out, as stream item has no such column: "nmae"',
        'is "nmae" meant to be column name?',
        'not in the file, the same in each row by defaults=: "price"',
        'not in the file, so the table\'s own default or NULL: "name", "at", "unit_count", "note"',
    ]


def test_a_file_of_nothing_but_its_header_has_no_rows_and_an_empty_one_of_json_lines_neither() -> None:
    for content in (b"id,name", b"id,name\n", b"\xef\xbb\xbfid,name\r\n"):
        assert read_all(content).bodies == []
    assert read_all(b"", name="rows.jsonl").bodies == []


def test_a_decimal_sign_that_cells_leave_open_is_not_guessed() -> None:
    found = read_all(b'id,price\n1,"1,234"\n2,1.50\n')
    assert [body["price"] for body in found.bodies] == ["1.50"]
    assert "decimal" in found.bad[0].error.sentence
    assert read_all(b'id,price\n1,"1,234"\n', intake(written=Written(decimal="."))).bodies == [
        {"id": 1, "price": "1234"}
    ]
    both = read_all(b"id;price\n1;1,5\n2;1,234.5\n3;2\n")
    assert [body["price"] for body in both.bodies] == ["2"]
    assert any("say which by decimal" in note for note in both.notes)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "empty: not even a header"),
        (b"\xef\xbb\xbf\n \n", "empty: not even a header"),
        (b"1,2,3\n4,5,6\n", "no column of it is one of stream item"),
        (b"id,ID,name\n1,2,a\n", 'column id is in it 2 times, as "id", "ID"'),
        (b'id,"name\n1,a\n', "never closed"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "a picture"),
        (b"MZ\x90\x00\x03\x00\x00\x00" * 100, "it is no text"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"PAR1\x15\x04", "a Parquet file"),
        ("naïve,id\n".encode("cp1252"), "say its encoding"),
        (b'[{"id": 1}]', "its header can't be read"),
        (gzip.compress(gzip.compress(b"id\n1\n", mtime=0), mtime=0), "compressed twice"),
    ],
)
def test_what_is_no_file_of_the_stream_is_refused_and_the_sentence_says_what_to_do(content: bytes, said: str) -> None:
    with pytest.raises(FileRefused, match=re.escape(said)):
        read_all(content)


def test_a_column_that_each_row_needs_is_asked_for_with_what_may_be_meant() -> None:
    for content, said in (
        (b"name,price\na,1\n", 'column "id" is missing, and each row needs it; bring it'),
        (b"idd,name\n1,a\n", 'is "idd" meant to be column id?'),
    ):
        assert len(read_all(content).bodies) == 1  # the table gives numbers
        with pytest.raises(FileRefused, match=re.escape(said)):
            read_all(content, intake(mode="upsert"))


def test_zip_files_and_workbooks_are_refused_unless_they_are_one_file() -> None:
    for names, said in (
        (["a.csv", "b.csv"], "a.csv, b.csv"),
        ([], "0 files"),
        (["[Content_Types].xml", "xl/workbook.xml"], "workbook"),
    ):
        with pytest.raises(FileRefused, match=said):
            read_all(_zipped(names))
    assert len(read_all(_zipped(["rows.csv", "__MACOSX/._rows.csv"])).bodies) == 1


def _zipped(names: list[str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, HEADER + "1,a,2\n")
    return packed.getvalue()


@pytest.mark.parametrize(
    "written, said",
    [
        (Written(encoding="rot13"), "encoding rot13"),
        (Written(encoding="utf-7"), "encoding utf-7"),
        (Written(encoding="utf-16"), "begins with the mark"),
        (Written(delimiter="ab"), "one ASCII character"),
        (Written(time_zone="Mars/Olympus"), "time zone Mars/Olympus"),
    ],
)
def test_what_was_told_and_cannot_be_is_said(written: Written, said: str) -> None:
    with pytest.raises(FileRefused, match=said):
        read_all(("\ufeff" + HEADER).encode(), intake(written=written))


def test_a_default_that_its_column_does_not_keep_refuses_the_file() -> None:
    with pytest.raises(FileRefused, match=r"no value of its column: price: expected"):
        read_all(b"id,name\n1,a\n", intake(defaults={"price": "1.505"}))


def test_an_array_of_json_is_refused_with_the_way_to_make_lines_of_it() -> None:
    with pytest.raises(FileRefused, match="one object a line"):
        read_all(b'[{"id":1}]', name="rows.json")
    with pytest.raises(FileRefused, match="one object a line"):
        read_all(b'{\n"id": 1\n}\n', name="rows.json")


def test_bytes_that_are_no_utf_8_are_said_with_their_line() -> None:
    found = read_all("id,name\n1,a\n2,ä\n".encode("cp1252"))
    assert any(note.startswith("line 3 has bytes that are no UTF-8") for note in found.notes)


def test_the_streams_of_these_tests_have_no_fault() -> None:
    assert (*STREAM.faults, *EVERY_KIND.faults) == ()


def _lines(first: str, count: int, *last: str) -> bytes:
    """Write JSON lines of which ``count`` lie before the last ones: more than a file's beginning."""
    return "".join([*(first.replace("#", str(at)) for at in range(count)), *last]).encode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_members_that_only_rows_behind_the_beginning_have_are_known_or_said_like_all_others(
    pack: Callable[[bytes], bytes],
) -> None:
    content = _lines(
        '{"id":#,"name":"row"}\n',
        20_000,
        '{"id":20000,"name":"x","colour":"red","size":1}\n',
        "{bad\n",
        '{"id":20001,"Price":"1.50"}\n',
        '{"id":20002,"unit-count":7,"colour":"blue"}\n',
    )
    found = read_all(pack(content), name="rows.jsonl")

    assert found.format.columns == ("id", "name", None, None, "price", "unit_count")
    assert 'left out, as stream item has no such member: "colour", "size"' in found.notes
    assert found.faults == [(20_002, "json", "")]
    assert len(found.bodies) == 20_003
    assert found.bodies[0] == {"id": 0, "name": "row", "price": None, "unit_count": None}
    assert found.bodies[-3:] == [
        {"id": 20_000, "name": "x", "price": None, "unit_count": None},
        {"id": 20_001, "name": None, "price": "1.50", "unit_count": None},
        {"id": 20_002, "name": None, "price": None, "unit_count": 7},
    ]


def test_rows_that_each_have_another_member_are_read_and_few_of_those_are_kept() -> None:
    found = read_all(_lines('{"id":#,"name":"row","m#":1}\n', 20_000), name="rows.jsonl")

    assert (found.bad, len(found.bodies)) == ([], 20_000)
    assert "more" in found.notes[-2]
    assert len(found.format.header) < 10_000


def test_two_members_that_mean_one_column_refuse_the_file_wherever_they_are() -> None:
    content = _lines('{"id":#,"name":"row"}\n', 20_000, '{"id":20000,"Name":"x"}\n')
    with pytest.raises(FileRefused, match="column name is in it 2 times"):
        read_all(content, name="rows.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":7,"\xff":1}',
        b'{"id":7,"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id":7,"\\ud800":1}',
        b'{"id":7} {}',
        b"\x00",
        b"",
    ],
    ids=range(6),
)
def test_a_line_that_is_no_json_hides_no_member_of_others(line: bytes) -> None:
    content = _lines('{"id":#,"name":"row"}\n', 20_000) + line + b'\n{"id":20001,"price":1}\n'
    found = read_all(content, name="rows.jsonl")

    assert found.format.columns == ("id", "name", "price")
    assert (len(found.bodies), [one.number for one in found.bad]) == (20_001, [20_001] if line else [])
