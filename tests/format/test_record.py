from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.format.errors import RecordError
from exchange.format.record import Op, Record, decode, encode

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
bodies = st.dictionaries(
    texts,
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.lists(texts | st.none(), max_size=3),
    max_size=6,
)
records = st.builds(
    Record,
    texts.filter(bool),
    st.sampled_from(Op),
    st.integers(1, 2**63 - 1),
    bodies,
)


@given(records)
def test_every_record_reads_back(record: Record) -> None:
    line = encode(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert decode(line[:-1]) == record


def test_records_are_written_as_the_format_says() -> None:
    upsert = Record("request", Op.UPSERT, 1795328952461793, {"id": 7, "note": None})
    delete = Record("request", Op.DELETE, 1795328952461794, {"id": 7})
    assert encode(upsert) == (
        b'{"stream":"request","op":"upsert","version":1795328952461793,"data":{"id":7,"note":null}}\n'
    )
    assert encode(delete) == b'{"stream":"request","op":"delete","version":1795328952461794,"key":{"id":7}}\n'


def test_an_op_is_an_op_after_reading() -> None:
    line = encode(Record("request", Op.DELETE, 1, {}))
    assert decode(line[:-1]).op is Op.DELETE


def test_unknown_members_are_ignored() -> None:
    line = b'{"later":[1],"version":5,"key":{"id":1},"op":"delete","stream":"s","before":null}'
    assert decode(line) == Record("s", Op.DELETE, 5, {"id": 1})


GOOD = {"stream": '"s"', "op": '"upsert"', "version": "1", "data": "{}"}


def _line(**members: str | None) -> bytes:
    return ("{" + ",".join(f'"{n}":{v}' for n, v in {**GOOD, **members}.items() if v is not None) + "}").encode()


def test_the_line_that_the_next_test_damages_is_good() -> None:
    assert decode(_line()) == Record("s", Op.UPSERT, 1, {})


@pytest.mark.parametrize(
    "line,pointer",
    [
        (b"[]", ""),
        (b"null", ""),
        (b'"text"', ""),
        (b"{}", ""),
        (_line(stream=None), ""),
        (_line(stream="null"), "/stream"),
        (_line(stream="1"), "/stream"),
        (_line(stream='""'), "/stream"),
        (_line(stream='"' + "s" * 64 + '"'), "/stream"),
        (_line(op=None), ""),
        (_line(op='"insert"'), "/op"),
        (_line(op='"UPSERT"'), "/op"),
        (_line(op="1"), "/op"),
        (_line(op="[]"), "/op"),
        (_line(op="{}"), "/op"),
        (_line(version=None), ""),
        (_line(version="0"), "/version"),
        (_line(version="-1"), "/version"),
        (_line(version="1.0"), "/version"),
        (_line(version="true"), "/version"),
        (_line(version='"1"'), "/version"),
        (_line(version="null"), "/version"),
        (_line(data=None), ""),
        (_line(data="null"), "/data"),
        (_line(data="[]"), "/data"),
        (_line(data=None, key="{}"), ""),
        (_line(key="{}"), "/data"),
        (_line(key="null"), "/data"),
        (_line(op='"delete"'), ""),
        (_line(op='"delete"', key="{}"), "/key"),
        (_line(op='"delete"', data=None, key="[]"), "/key"),
    ],
)
def test_what_is_no_record_is_refused_and_the_member_named(line: bytes, pointer: str) -> None:
    with pytest.raises(RecordError) as refused:
        decode(line)
    assert refused.value.error == "record"
    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    "line",
    [_line(version="9223372036854775808"), _line(stream='"s","stream":"s"'), _line() + b"\r", b" " + _line()],
)
def test_what_is_not_strict_json_is_no_record(line: bytes) -> None:
    with pytest.raises(RecordError) as refused:
        decode(line)
    assert refused.value.error == "json"


@pytest.mark.parametrize("value", ["\0", float("nan"), [None, float("inf")], 2**63, "\ud800", b"", object()])
def test_a_value_without_a_form_is_never_written(value: Any) -> None:
    for body in ({"a": value}, {"a": value, "b": None}, {"b": None, "a": [value]}):
        with pytest.raises(RecordError):
            encode(Record("s", Op.UPSERT, 1, body))


def test_the_word_null_in_a_text_is_no_null() -> None:
    record = Record("s", Op.UPSERT, 1, {"a": "null null", "b": None})
    assert decode(encode(record)[:-1]) == record
