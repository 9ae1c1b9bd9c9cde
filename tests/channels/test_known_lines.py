"""Lines of a known shape, read by columns: what the other reader refuses is not taken, and nothing becomes another."""

from __future__ import annotations

import enum
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from exchange.channels import Stream
from exchange.channels.schemas import Checker
from exchange.format import record
from exchange.format.errors import RecordError
from exchange.format.known_shape import KnownLines, KnownShape
from exchange.format.record import Data, Op, Record


class Level(enum.IntEnum):
    LOW = 1
    HIGH = -5


ID = "6513270e-0000-4000-8000-00000000abcd"

KINDS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "small": (sa.SmallInteger(), [0, -(2**15), 2**15 - 1], [2**15, -(2**15) - 1]),
    "whole": (sa.Integer(), [0, -(2**31), 2**31 - 1], [2**31]),
    "big": (sa.BigInteger(), [2**53 + 1, -(2**63), 2**63 - 1], [2**63, 2**64, 10**30]),
    "money": (sa.Numeric(12, 2), ["12.50", "-0.01", "7"], ["1.234", "-0", "01", "1e3", "12.50\n", "", "NaN"]),
    "decimal": (sa.Numeric(), ["0.1", "-123456.75"], ["-0.00", ".5", "1 "]),
    "real": (sa.Float(), [0.1, -1.5, 3.0, 0.30000000000000004], [float("inf"), "1", 1e22, 1e-5, 5e-324]),
    "single": (sa.REAL(), [0.1, 16777216.0], [0.123456789123, 1e300]),
    "truth": (sa.Boolean(), [True, False], [0, 1, "true"]),
    "name": (sa.String(5), ["", "äöü€😀", "\u2028\x1f\r\n\b", '"\\/'], ["123456", "😀😀😀😀😀😀", "a\0b"]),
    "text": (sa.Text(), ["x" * 100, "\ufeff\x7f\ufffe", ""], ["\0", "\\u0000", 5, ["a"]]),
    "fixed": (sa.CHAR(4), ["abcd", "", " a"], ["ab ", "abcde", "   "]),
    "day": (sa.Date(), ["0001-01-01", "2024-02-29", "9999-12-31"], ["2023-02-29", "0000-01-01", "20240229"]),
    "clock": (sa.Time(), ["00:00:00.000000", "23:59:59.999999", "01:02:03"], ["24:00:00.000000", "23:59:60"]),
    "zoned": (sa.Time(timezone=True), ["06:15:00.000000+01:00"], ["06:15:00.000000-00:00", "06:15:00.000000"]),
    "naive": (
        sa.DateTime(),
        ["0001-01-01T00:00:00.000000", "2024-02-29T23:59:59.999999"],
        ["2023-02-29T00:00:00.000000", "2024-01-01T24:00:00.000000", "2024-01-01 00:00:00.000000", "2024-01-01"],
    ),
    "aware": (
        sa.DateTime(timezone=True),
        ["0001-01-01T00:00:00.000000Z", "2024-02-29T23:59:59.999999Z"],
        [
            "2023-02-29T00:00:00.000000Z",
            "2024-01-01T24:00:00.000000Z",
            "2016-12-31T23:59:60.000000Z",
            "2024-01-01T00:00:00.000000z",
            "0000-01-01T00:00:00.000000Z",
            "2024-13-01T00:00:00.000000Z",
            "2024-01-01T00:00:00.000000+00:00",
            "2024-01-01T00:00:00.000000Z\n",
            "2024-01-01T00:00:00.00000\u0660Z",
        ],
    ),
    "seconds": (postgresql.TIMESTAMP(precision=0), ["2026-01-01T00:00:00.000000"], ["2026-01-01T00:00:00.100000"]),
    "span": (sa.Interval(), ["PT0S", "P1DT2H3M4.000005S", "-P1D"], ["P1M", "P", "P1Y"]),
    "months": (
        postgresql.INTERVAL().with_variant(sa.String(), "sqlite"),
        ["P1Y2M3DT4H5M6.000007S", "P1M-3D", "PT0S"],
        ["P", "1 month", "P1W"],
    ),
    "uuid": (sa.Uuid(), [ID, "0" * 8 + ID[8:]], [ID.upper(), ID.replace("-", ""), ID + "\n", ID[:-1] + "g", ID[:-1]]),
    "hex": (sa.Uuid(native_uuid=False), [ID], ["x"]),
    "level": (sa.Enum(Level, native_enum=False), [1, -5], [2, "1", 1.5, True]),
    "word": (sa.Enum("a", "b c", "ü", name="word"), ["a", "b c", "ü"], ["A", "", 1]),
    "octets": (sa.LargeBinary(), ["", "AP8=", "YQ=="], ["YR==", "YQ", "Y===", "====", "é"]),
    "document": (
        sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
        [{}, [], "", 5, 0.1, True, {"a": [None, {"b": 1e-7}], "ü\n": "😀"}, -5, [2**53 - 1], {"null": "null"}],
        [2**64, [["\0"]], {"a": float("nan")}, {"a": 2**53 + 1}],
    ),
    "must": (sa.JSON(), [{"b": 1, "a": [1.5, "x", False]}, 0.30000000000000004, "null"], [10**30]),
    "address": (postgresql.INET().with_variant(sa.String(), "sqlite"), ["10.0.0.1", "::1"], ["10.0.0.1/32", "x"]),
    "range": (postgresql.INT4RANGE().with_variant(sa.String(), "sqlite"), ["[1,5)", "empty"], ["[5,1)", "[1,5]"]),
}  # fmt: skip

METADATA = sa.MetaData()
KEY: list[sa.Column[Any]] = [
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("part", sa.String(3), primary_key=True),
]
STREAM = Stream(
    sa.Table(
        "every",
        METADATA,
        *KEY,
        *[sa.Column(name, kind, nullable=name != "must") for name, (kind, _, _) in KINDS.items()],
    )
)
CHECKER = Checker(STREAM)
DIALECTS: list[Dialect] = [sqlite.dialect(), postgresql.dialect()]  # type: ignore[no-untyped-call]
ROWS = max(len(good) for _, good, _ in KINDS.values())


def row(number: int, **other: Any) -> Data:
    """Make the data of a record; where a column has fewer values it is null."""
    data: Data = {"id": number, "part": "äöü"[: number % 4]}
    for name, (_, good, _) in KINDS.items():
        data[name] = good[number] if number < len(good) else good[0] if name == "must" else None
    return {**data, **other}


def line(number: int, **other: Any) -> bytes:
    """Write a record as our own writer does, but for values that it refuses."""
    data = row(number, **other)
    try:
        return record.encode(Record("every", Op.UPSERT, number + 1, data))[:-1]
    except RecordError:
        import json  # noqa: PLC0415

        whole = {"stream": "every", "op": "upsert", "version": number + 1, "data": data}
        return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()


GOOD = [line(number) for number in range(ROWS)]
DELETE = b'{"stream":"every","op":"delete","version":3,"key":{"id":1,"part":"b"}}'


def shape(op: Op) -> KnownShape:
    return CHECKER.known_shapes[op]


def bound(decoded: list[list[Any]]) -> list[list[tuple[type, str]]]:
    """Tell 1 from 1.0 and True, and 0.0 from -0.0."""
    return [[(type(value), repr(value)) for value in column] for column in decoded]


def decoded(run: record.RecordRun, dialect: Dialect) -> Any:
    decode = STREAM.decoder(dialect) if run.op is Op.UPSERT else STREAM.key_decoder(dialect)
    try:
        return bound(decode(run.bodies))
    except RecordError as error:
        return error.sentence


def usual(line: bytes, op: Op) -> record.RecordRun:
    """Read a line in the usual way. Raises RecordError."""
    one = record.decode(line)
    assert (one.stream, one.op) == ("every", op)
    (CHECKER.check_data if op is Op.UPSERT else CHECKER.check_key)(one.body)
    return record.RecordRun(one.stream, one.op, [one.version], [one.body])


def compare(lines: list[bytes], op: Op = Op.UPSERT) -> KnownLines | None:
    """Read lines both ways: what is read by columns must be what is read in the usual way."""
    known = shape(op).read(lines)
    if known is None:
        return None
    taken = [one for place, one in enumerate(lines) if place not in known.doubtful]
    assert len(known.data) == len(known.versions) == len(taken)
    for at, one in enumerate(taken):
        run = usual(one, op)
        assert run.versions == [known.versions[at]]
        columns = record.RecordRun("every", op, run.versions, known.data[at : at + 1])
        for dialect in DIALECTS:
            assert decoded(columns, dialect) == decoded(run, dialect)
    return known


def test_what_our_own_writer_writes_is_read_by_columns() -> None:
    known = compare(GOOD)
    assert known is not None
    assert not known.doubtful
    assert known.versions == [*range(1, ROWS + 1)]
    keys = compare([DELETE, DELETE.replace(b"1", b"-2147483648")], Op.DELETE)
    assert keys is not None
    assert not keys.doubtful


@pytest.mark.parametrize("name, at", [(name, at) for name, (_, _, bad) in KINDS.items() for at in range(len(bad))])
def test_a_value_that_its_column_does_not_take_makes_its_line_alone_doubtful(name: str, at: int) -> None:
    bad = line(1, **{name: KINDS[name][2][at]})
    known = compare([*GOOD, bad, *GOOD])
    assert known is not None
    try:
        run = usual(bad, Op.UPSERT)
    except RecordError:
        assert known.doubtful == [len(GOOD)]
    else:  # refused by a decoder, as both ways say, or good JSON that is not as we write it
        assert set(known.doubtful) <= {len(GOOD)}
        assert run.bodies


DATA = b'"data":{'
OTHERWISE = {
    "blanks": GOOD[0].replace(b":1,", b": 1,", 1),
    "a blank at the end": GOOD[0] + b" ",
    "a carriage return": GOOD[0] + b"\r",
    "a byte order mark": b"\xef\xbb\xbf" + GOOD[0],
    "an unknown member": GOOD[0][:-1] + b',"more":1}',
    "an unknown column": GOOD[0].replace(DATA, DATA + b'"more":1,'),
    "a column twice": GOOD[0].replace(DATA, DATA + b'"id":5,'),
    "a column less": GOOD[0].replace(b'"id":0,', b""),
    "members in another order": GOOD[0].replace(b'"id":0,"part":""', b'"part":"","id":0'),
    "an integer with a point": GOOD[0].replace(b'"id":0', b'"id":0.0'),
    "an integer with an exponent": GOOD[0].replace(b'"id":0', b'"id":0e0'),
    "minus zero": GOOD[0].replace(b'"id":0', b'"id":-0'),
    "minus zero as a float": GOOD[0].replace(b'"real":0.1', b'"real":-0.0'),
    "a float without a point": GOOD[0].replace(b'"real":0.1', b'"real":1'),
    "a float of many digits": GOOD[0].replace(b'"real":0.1', b'"real":0.1000000000000000055'),
    "an infinite number": GOOD[0].replace(b'"real":0.1', b'"real":1e400'),
    "no number": GOOD[0].replace(b'"real":0.1', b'"real":NaN'),
    "an escape that is not needed": GOOD[0].replace(b'"xx', b'"\\u0078x'),
    "U+0000": GOOD[0].replace(b'"xx', b'"\\u0000x'),
    "U+0000 in a document": GOOD[0].replace(b'"document":{}', b'"document":{"\\u0000":1}'),
    "a lone surrogate": GOOD[0].replace(b'"xx', b'"\\ud800x'),
    "a surrogate as bytes": GOOD[0].replace(b'"xx', b'"\xed\xa0\x80x'),
    "not UTF-8": GOOD[0].replace(b'"xx', b'"\xffx'),
    "not UTF-8 in a document": GOOD[0].replace(b'"document":{}', b'"document":"\xff"'),
    "a member twice in a document": GOOD[0].replace(b'"document":{}', b'"document":{"a":1,"a":2}'),
    "blanks in a document": GOOD[0].replace(b'"document":{}', b'"document":{ }'),
    "a number of a document": GOOD[0].replace(b'"document":{}', b'"document":1E5'),
    "a control character": GOOD[0].replace(b'"document":{}', b'"document":"\x01"'),
    "as deep as may be": GOOD[0].replace(b'"document":{}', b'"document":' + b"[" * 62 + b"]" * 62),
    "too deep": GOOD[0].replace(b'"document":{}', b'"document":' + b"[" * 63 + b"]" * 63),
    "far too deep": GOOD[0].replace(b'"document":{}', b'"document":' + b"[" * 9999 + b"]" * 9999),
    "many members": GOOD[0].replace(
        b'"document":{}', b'"document":{%b}' % b",".join(b'"%05d":0' % one for one in range(16_385))
    ),
    "JSON's null": GOOD[0].replace(b'"document":{}', b'"document:json":null'),
    "a document as text": GOOD[0].replace(b'"document":{}', b'"document:json":"18446744073709551616"'),
    "null where it is JSON's": GOOD[0].replace(b'"must":{"b":1,"a":[1.5,"x",false]}', b'"must":null'),
    "no version": GOOD[0].replace(b'"version":1,', b""),
    "version 0": GOOD[0].replace(b'"version":1', b'"version":0'),
    "a version that is too large": GOOD[0].replace(b'"version":1', b'"version":9223372036854775808'),
    "the largest version": GOOD[0].replace(b'"version":1', b'"version":9223372036854775807'),
    "another stream": GOOD[0].replace(b'"every"', b'"other"'),
    "another op": DELETE,
    "two records": GOOD[0] + b"," + GOOD[1],
    "two records with a newline": GOOD[0] + b"\n" + GOOD[1],
    "half a record": GOOD[0][: len(GOOD[0]) // 2],
    "the other half": GOOD[0][len(GOOD[0]) // 2 :],
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_line_that_is_written_otherwise_is_read_in_the_usual_way_or_alike(name: str) -> None:
    known = compare([*GOOD, OTHERWISE[name], *GOOD])
    assert known is not None
    assert set(known.doubtful) <= {len(GOOD)}


@pytest.mark.parametrize("name", OTHERWISE)
def test_where_the_first_line_is_written_otherwise_none_is_read(name: str) -> None:
    compare([OTHERWISE[name], *GOOD])
    assert shape(Op.UPSERT).read([OTHERWISE["members in another order"], *GOOD]) is None


def test_halves_of_a_record_that_are_one_together_are_two_doubtful_lines() -> None:
    known = compare([*GOOD, OTHERWISE["half a record"], OTHERWISE["the other half"], *GOOD])
    assert known is not None
    assert known.doubtful == [len(GOOD), len(GOOD) + 1]


@given(
    st.integers(0, ROWS - 1),
    st.integers(0, 3000),
    st.integers(0, 3),
    st.binary(max_size=3)
    | st.sampled_from([b'"', b"\\", b"0", b".", b"e", b",", b"null", b'"id":1,', b"\n", b"{", b"T24"]),
)
@example(0, 60, 1, b"0")
def test_a_line_of_which_bytes_are_changed_is_never_read_as_another(number: int, at: int, cut: int, put: bytes) -> None:
    good = GOOD[number]
    at %= len(good)
    assert compare([*GOOD, good[:at] + put + good[at + cut :], *GOOD]) is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*KINDS, "id", "part"]), JSON | st.text("0123456789-:.TZP \n", max_size=28))
def test_any_value_in_any_column_is_read_alike(name: str, value: Any) -> None:
    assert compare([*GOOD, line(2, **{name: value}), *GOOD]) is not None


def test_a_stream_with_a_column_that_needs_its_own_way_has_no_known_shape() -> None:
    kind = postgresql.ARRAY(sa.Integer).with_variant(sa.JSON(), "sqlite")
    stream = Stream(
        sa.Table("arrays", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("a", kind))
    )
    assert set(Checker(stream).known_shapes) == {Op.DELETE}


@pytest.mark.parametrize("name", ['a "b"', "a\\b", "a\tb", "a\nb"], ids=["quote", "backslash", "tab", "line"])
def test_a_stream_with_a_column_whose_name_is_written_with_an_escape_has_no_known_shape(name: str) -> None:
    table = sa.Table("odd", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column(name, sa.Text))
    shapes = Checker(Stream(table, name="odd")).known_shapes
    assert (Op.UPSERT in shapes, Op.DELETE in shapes) == (False, True)


def test_a_stream_of_very_many_columns_has_a_known_shape() -> None:
    columns = [sa.Column(f"column {number}", sa.Text) for number in range(1_500)]
    table = sa.Table("wide", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns)
    written = {"id": 1} | {str(column.name): "\u00e4" for column in columns}
    shape = Checker(Stream(table, name="wide")).known_shapes[Op.UPSERT]
    known = shape.read([record.encode(Record("wide", Op.UPSERT, 1, written))[:-1]])
    assert known is not None
    assert [*known.data] == [written]
