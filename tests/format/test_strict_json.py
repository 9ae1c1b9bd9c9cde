from __future__ import annotations

import json as stdlib_json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exchange.format import strict_json
from exchange.format.errors import RecordError

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
@example(2.0**-24)  # two shortest spellings are equally near: 5.960464477539062e-08 and ...3e-08
def test_every_value_reads_back_whoever_wrote_it(value: Any) -> None:
    for line in (
        strict_json.dumps(value),
        stdlib_json.dumps(value).encode(),
        stdlib_json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
    ):
        read = strict_json.loads(line)
        assert read == value
        assert repr(read) == repr(value)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"{} {}",
        b'{"a":1,}',
        b"{'a':1}",
        b"[1,2",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        "{}".encode("utf-16-le"),
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"a\tb"',
        b'"\x00"',
        b'"\\x41"',
        b"NaN",
        b"-Infinity",
        b"Infinity",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"/* no */ 1",
    ],
)
def test_what_is_not_json_is_refused(line: bytes) -> None:
    with pytest.raises(RecordError) as refused:
        strict_json.loads(line)
    assert refused.value.error == "json"
    assert refused.value.sentence.startswith("the line is not strict JSON: ")


@pytest.mark.parametrize(
    "line,about",
    [
        (b" {}", "white space"),
        (b"{} ", "white space"),
        (b"{}\r", "white space"),
        (b"\t{}", "white space"),
        (b"{}\n", "white space"),
        (b'{"a":1,"a":1}', 'the member "a" twice'),
        (b'{"a":1,"\\u0061":2}', 'the member "a" twice'),
        (b'[{"x":{"a":1,"b":2,"a":3}}]', 'the member "a" twice'),
        (rb'{"\u001b":1,"\u001b":1}', r'the member "\\x1b" twice'),
        (b"9223372036854775808", "64 bits"),
        (b"-9223372036854775809", "64 bits"),
        (b"18446744073709551615", "64 bits"),
        (b"18446744073709551616", "64 bits"),
        (b'{"a":[{"b":18446744073709551616}]}', "64 bits"),
        (b"1" * 300, "64 bits"),
        (b"1" * 5000, "infinity"),
        (b"1e400", "json|infinity"),
        (b"-1e400", "infinity"),
        (b"5e-325", "double"),
        (b"1e-400", "double"),
        (b"1e-99999999999999999999999", "double"),
        (b"0.12345678901234567890", "double"),
        (b"9007199254740993.0", "double"),
        (b"0." + b"1" * 5000, "double"),
        (b'"\\u0000"', r"U\+0000"),
        (b'{"a\\u0000":1}', r"U\+0000"),
        (b'["\\\\\\u0000"]', r"U\+0000"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
        (b"[" * 900 + b"]" * 900, "deeper than 64"),
        (b"[" * 1020 + b"]" * 1020, "deeper than 64|nest|recursion|depth"),
        (b"[" * 100_000 + b"]" * 100_000, "deeper than 64|nest|recursion|depth"),
        (b"[" * 100_000, "json"),
    ],
)
def test_json_that_is_not_strict_is_refused(line: bytes, about: str) -> None:
    with pytest.raises(RecordError, match=f"(?i){about}") as refused:
        strict_json.loads(line)
    assert refused.value.error == "json"
    assert refused.value.sentence.isprintable()
    assert len(refused.value.sentence) < 300


@pytest.mark.parametrize(
    "line,value",
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"9007199254740993", 2**53 + 1),
        (b"-0", 0),
        (b"-0.0", -0.0),
        (b"1e3", 1000.0),
        (b"1E+2", 100.0),
        (b"1.50", 1.5),
        (b"1.0000000000000000000000000", 1.0),
        (b"0.10000000000000001", 0.1),
        (b"4.9406564584124654e-324", 5e-324),
        (b"1.7976931348623157e308", 1.7976931348623157e308),
        (b"0e5", 0.0),
        (b"100000000000000000000.0", 1e20),
        (b'"\\\\u0000"', "\\u0000"),
        (b'"\\ud834\\udd1e"', "\U0001d11e"),
        ('"\u2028\u2029\u0085\x7f"'.encode(), "\u2028\u2029\x85\x7f"),
        (b'"\\/"', "/"),
        (b'{ "a" : [ 1 , 2 ] }', {"a": [1, 2]}),
        (b'{"":{"":1}}', {"": {"": 1}}),
        (b'"' + b"[{" * 200 + b'"', "[{" * 200),
    ],
)
def test_unusual_but_strict_json_is_read(line: bytes, value: object) -> None:
    read = strict_json.loads(line)
    assert repr(read) == repr(value)


def test_64_levels_are_read_and_written() -> None:
    deep = b"[" * 64 + b"]" * 64
    assert strict_json.dumps(strict_json.loads(deep)) == deep


def test_the_exact_digits_of_a_double_are_kept() -> None:
    assert strict_json.loads(b"0.1000000000000000055511151231257827021181583404541015625") == 0.1


def test_an_object_has_a_bounded_number_of_members() -> None:
    def members(count: int) -> dict[str, int]:
        return {str(n): n for n in range(count)}

    most = members(strict_json.MAX_MEMBERS)
    assert strict_json.loads(strict_json.dumps(most)) == most
    assert len(strict_json.loads(orjson.dumps([most] * 2))) == 2
    with pytest.raises(RecordError, match="members"):
        strict_json.loads(orjson.dumps({"a": members(strict_json.MAX_MEMBERS + 1)}))
    with pytest.raises(RecordError, match="members"):
        strict_json.dumps({"a": members(strict_json.MAX_MEMBERS + 1)})


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"a": [None, float("inf")]},
        [None, None, float("-inf")],
        2**63,
        -(2**63) - 1,
        {"a": 2**64},
        "\0",
        {"\0": 1},
        "\ud800",
        {1: 2},
        b"bytes",
        {1, 2},
        1 + 2j,
        __import__("datetime").datetime(2026, 11, 22),
        __import__("decimal").Decimal(1),
    ],
)
def test_what_has_no_form_is_never_written(value: object) -> None:
    with pytest.raises(RecordError, match="not strict JSON"):
        strict_json.dumps(value)


def test_what_is_too_deep_is_never_written() -> None:
    deep: list[Any] = []
    for _ in range(64):
        deep = [deep]
    with pytest.raises(RecordError, match="deeper"):
        strict_json.dumps(deep)
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(RecordError, match="not strict JSON"):
        strict_json.dumps(deep)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_record_error(line: bytes) -> None:
    try:
        value = strict_json.loads(line)
    except RecordError:
        return
    assert strict_json.loads(strict_json.dumps(value)) == value


@given(values, st.data())
def test_damaged_json_is_a_value_or_a_record_error(value: Any, data: st.DataObject) -> None:
    line = bytearray(strict_json.dumps(value))
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = strict_json.loads(bytes(line))
    except RecordError:
        return
    assert strict_json.loads(strict_json.dumps(read)) == read


def test_many_values_are_written_as_each_by_itself() -> None:
    values = [{"a": 1.5, "b": ["ü", None, -(2**53) + 1]}, [], "line\u2028", 0]
    assert strict_json.dumps_all(values) == [
        strict_json.dumps(value, nulls) for value, nulls in zip(values, (1, 0, 0, 0), strict=True)
    ]
    assert strict_json.dumps_all([]) == []


@pytest.mark.parametrize(
    "value", [2**53, 2**64, "\0", "\\u0000", ["\ud800"], {1: 2}, {str(n): n for n in range(20_000)}]
)
def test_one_value_of_many_that_needs_a_look_of_its_own_sends_all_of_them_there(value: object) -> None:
    assert strict_json.dumps_all([1, value, 2]) is None
