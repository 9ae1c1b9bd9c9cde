"""Reading many lines at once must be exactly as strict as reading them one by one."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.format import record, strict_json
from exchange.format.errors import RecordError
from exchange.format.record import Record

GOOD = b'{"stream":"s","op":"upsert","version":7,"data":{"id":1}}'
NESTED = b'{"stream":"s","op":"upsert","version":7,"data":{"id":%b}}'

LINES = {
    "good": GOOD,
    "delete": b'{"stream":"s","op":"delete","version":8,"key":{"id":1}}',
    "spaces": b'{"stream": "s", "op": "upsert", "version": 7, "data": {"id": 1}}',
    "two values": GOOD + b"," + GOOD,
    "begins an array": b'{"stream":"s","op":"upsert","version":7,"data":{"id":[{}',
    "ends an array": b"{}]}}",
    "a mark of its own": GOOD + b',"' + b"0" * 32 + b'",' + GOOD,
    "twice a member": b'{"stream":"s","op":"upsert","version":7,"version":8,"data":{"id":1}}',
    "U+0000": b'{"stream":"s","op":"upsert","version":7,"data":{"id":"\\u0000"}}',
    "too deep": NESTED % (b"[" * 63 + b"]" * 63),
    "as deep as may be": NESTED % (b"[" * 62 + b"]" * 62),
    "too wide": b'{"stream":"s","op":"upsert","version":7,"data":{"id":18446744073709551616}}',
    "64 bits": b'{"stream":"s","op":"upsert","version":9223372036854775807,"data":{"id":-9223372036854775808}}',
    "no number": b'{"stream":"s","op":"upsert","version":7,"data":{"id":NaN}}',
    "not UTF-8": b'{"stream":"s","op":"upsert","version":7,"data":{"id":"\xff"}}',
    "a carriage return": GOOD + b"\r",
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "a number": b"7",
    "many members": b'{"stream":"s","op":"upsert","version":7,"data":{%b}}'
    % b",".join(b'"%d":0' % number for number in range(strict_json.MAX_MEMBERS + 1)),
}


@cache
def alone(line: bytes) -> Record | str:
    try:
        return record.decode(line)
    except RecordError as error:
        return error.sentence


def one_by_one(lines: list[bytes]) -> list[Record | str]:
    return [alone(line) for line in lines]


def all_at_once(lines: list[bytes]) -> list[Record | str]:
    run = record.decode_run(lines)
    if run is None:
        return one_by_one(lines)
    if isinstance(run, strict_json.Unreadable):
        (sentence,) = one_by_one([lines[run.place]])
        assert isinstance(sentence, str), "what is readable is not called unreadable"
        others = all_at_once([*lines[: run.place], *lines[run.place + 1 :]])
        return [*others[: run.place], sentence, *others[run.place :]]
    return [Record(run.stream, run.op, version, body) for version, body in zip(run.versions, run.bodies, strict=True)]


@pytest.mark.parametrize("first", LINES)
def test_two_lines_read_together_mean_what_each_means_alone(first: str) -> None:
    for second, line in LINES.items():
        lines = [GOOD, LINES[first], line, GOOD]

        assert all_at_once(lines) == one_by_one(lines), f"{first}, then {second}"


@settings(deadline=None)
@given(st.lists(st.sampled_from(list(LINES.values())), max_size=8))
def test_any_lines_read_together_mean_what_each_means_alone(lines: list[bytes]) -> None:
    assert all_at_once(lines) == one_by_one(lines)


@pytest.mark.parametrize("broken", [b"{", b'{"stream":"s","op":"up', b'{"a":1', b"nonsense"])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_line_that_is_no_json_is_found_among_others(broken: bytes, place: int) -> None:
    lines = ['{"stream":"s","op":"upsert","version":7,"data":{"id":"ä😀"}}'.encode()] * 5
    lines.insert(place, broken)

    assert record.decode_run(lines) == strict_json.Unreadable(place)


def test_a_value_spread_over_two_lines_is_not_hidden_by_a_line_with_two() -> None:
    lines = [LINES["begins an array"], LINES["ends an array"], LINES["two values"]]

    assert strict_json.loads_all(lines) is None
    assert record.decode_run(lines) is None


def test_usual_lines_need_no_second_look() -> None:
    run = record.decode_run([GOOD] * 100)

    assert isinstance(run, record.RecordRun)
    assert run.versions == [7] * 100


@pytest.mark.parametrize("name", LINES)
def test_a_run_is_of_one_stream_and_one_op_and_has_no_bad_record(name: str) -> None:
    fits = name in {"good", "as deep as may be"}

    assert isinstance(record.decode_run([GOOD, LINES[name]]), record.RecordRun) == fits


@pytest.mark.parametrize(
    "line",
    [
        GOOD.replace(b'"s"', b'"t"'),
        GOOD.replace(b'"s"', b'["s"]'),
        GOOD.replace(b'"s"', b'""'),
        GOOD.replace(b"7", b"0"),
        GOOD.replace(b"7", b"7.5"),
        GOOD.replace(b"7", b"true"),
        GOOD.replace(b'"upsert"', b'"remove"'),
        GOOD.replace(b'"upsert"', b"{}"),
        GOOD.replace(b'{"id":1}', b"[]"),
        GOOD.replace(b'"data"', b'"key"'),
        GOOD[:-1] + b',"key":{"id":1}}',
        GOOD[:-1] + b',"later":1}',
        b"[1,2,3,4]",
        b'"four"',
    ],
)
def test_whatever_is_not_alike_is_read_by_itself(line: bytes) -> None:
    assert record.decode_run([GOOD, line]) is None
    assert record.decode_run([line, GOOD]) is None


def test_a_stream_that_is_no_text_makes_no_run_even_if_all_lines_say_so() -> None:
    assert record.decode_run([GOOD.replace(b'"s"', b"7")] * 2) is None
