from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.dead_letters.masking import masked
from exchange.dead_letters.show import laid_out

SECRET = "s3cr3t-6f1c"
HIDE = frozenset({"password", "pa\nss"})

plain = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
secrets = st.sampled_from(
    [SECRET, [SECRET], {"a": SECRET}, {"a": [{"b": SECRET, "password": SECRET}]}, [], {}, f'"{SECRET}\\"', 12345678]
)
documents = st.recursive(
    plain | st.dictionaries(st.sampled_from(sorted(HIDE)), secrets, max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def hidden(value: Any) -> Any:
    match value:
        case dict():
            return {name: "(hidden)" if name in HIDE else hidden(one) for name, one in value.items()}
        case list():
            return [hidden(one) for one in value]
        case _:
            return value


@given(documents, layouts)
def test_what_is_sensitive_is_hidden_at_any_depth_and_the_rest_stays(document: Any, layout: dict[str, Any]) -> None:
    text = json.dumps(document, **layout)
    shown = masked(text, HIDE)
    assert shown is not None
    assert SECRET not in shown
    assert json.loads(shown) == hidden(document)
    if hidden(document) == document:
        assert shown == text


@pytest.mark.parametrize(
    "text",
    [
        f'{{"data":{{"password":"{SECRET}"',
        f'{{"password" "{SECRET}"}}',
        f'{{"pass\\u0077ord":"{SECRET}"}}x',
        "[" * 100_000,
        "",
    ],
)
def test_what_is_no_json_is_not_shown_where_something_may_be_sensitive(text: str) -> None:
    assert masked(text, HIDE) is None


def test_a_name_is_known_however_it_is_written_and_however_often() -> None:
    text = f'{{"pass\\u0077ord" : "{SECRET}", "password":["{SECRET}"], "other":"password:"}}'
    assert masked(text, HIDE) == '{"pass\\u0077ord" :"(hidden)", "password":"(hidden)", "other":"password:"}'


@pytest.mark.parametrize(
    "pointer, marked",
    [
        ("/data/name", ['    "name": 5,']),
        ("/data/list/1", ["      2"]),
        ("/data/list", ['    "list": [']),
        ("/data/missing", ['  "data": {']),
        ("/data/a~1b", ['    "a/b": null']),
        ("", []),
    ],
)
def test_a_record_is_marked_where_it_fails(pointer: str, marked: list[str]) -> None:
    value = {"stream": "s", "data": {"name": 5, "list": [1, 2], "empty": {}, "a/b": None}}
    lines = laid_out(value, pointer)
    assert json.loads("".join(line.text for line in lines)) == value
    assert [line.text for line in lines if line.fails] == marked
