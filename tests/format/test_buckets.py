"""Buckets, shards and row hashes: what both sides work out by themselves, and must work out alike."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.format.buckets import bucket_of, key_text, one_spelling, row_hash, shard_of

KEYS = st.dictionaries(st.text(min_size=1, max_size=5), st.integers(-(2**63), 2**63 - 1) | st.text(), min_size=1)


@given(KEYS, st.integers(1, 65_536))
def test_a_key_falls_to_the_bucket_that_the_format_says(key: dict[str, Any], of: int) -> None:
    text = json.dumps(key, separators=(",", ":"), ensure_ascii=False).encode()

    assert bucket_of(key, of) == zlib.crc32(text) % of


def test_a_rows_hash_does_not_depend_on_the_order_of_its_members() -> None:
    one = {"b": 1, "a": {"d": [1, {"f": 2, "e": 3}], "c": "ü"}}
    other = {"a": {"c": "ü", "d": [1, {"e": 3, "f": 2}]}, "b": 1}
    text = '{"a":{"c":"ü","d":[1,{"e":3,"f":2}]},"b":1}'

    assert row_hash(one) == row_hash(other) == hashlib.sha256(text.encode()).digest()[:16]


@pytest.mark.parametrize(
    "document,spelt",
    [
        (5.0, 5),
        ({"a": [1e3, -0.0, 1.5, "5.0"]}, {"a": [1000, 0, 1.5, "5.0"]}),
        (1e300, 1e300),
        (None, None),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_a_number_of_a_document_is_spelt_in_one_way(document: Any, spelt: Any) -> None:
    assert json.dumps(one_spelling(document)) == json.dumps(spelt)


def test_a_key_falls_to_the_shard_to_which_a_database_sends_it() -> None:
    theirs = b'{"id" : "6513270e-0000-4000-8000-00000000abcd", "number" : 7}'
    text = key_text({"id": "6513270e-0000-4000-8000-00000000abcd", "number": 7})

    assert shard_of(text, 5) == hashlib.sha256(theirs).digest()[0] % 5
