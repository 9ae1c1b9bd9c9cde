"""Which bucket and which shard a key falls to, and what a row's hash is: alike on every database.

Both sides work them out by themselves, from records as they are on the wire, so what is here is part of the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final
from zlib import crc32

import orjson

HASH_BYTES: Final = 16
"""So much of a row's SHA-256 counts: buckets are compared to find what was lost, not to keep a forger out."""

_SORTED: Final = orjson.OPT_SORT_KEYS
_SHARD_BLANKS: Final = ((b'":', b'" : '), (b',"', b', "'))
_NUMBER_SPELT_IN_TWO_WAYS: Final = re.compile(rb"[0-9](?:\.0|e)|-0")
_WIDEST: Final = 2**63


def key_text(key: Mapping[str, Any]) -> bytes:
    """Write a key, in the order of its stream's key, as the JSON that buckets and shards are made of."""
    return orjson.dumps(key)


def bucket_of(key: Mapping[str, Any], of: int) -> int:
    """Give the bucket of a key, from 0; ``key`` as a record has it, in the order of its stream's key."""
    return bucket_of_text(key_text(key), of)


def bucket_of_text(text: bytes, of: int) -> int:
    """Give the same from the key's ``key_text``."""
    return crc32(text) % of


def share_of_buckets(percent: int, of: int) -> int:
    """Say below which bucket of ``of`` a key falls to so many per cent of the keys: more per cent keep all of those."""
    return -(-of * percent // 100)


def shard_of(text: bytes, of: int) -> int:
    """Give the shard of a key from its ``key_text``: that in which the sender's database sends it.

    Databases compare the texts that they write themselves; those are told apart here by PostgreSQL's blanks.
    """
    for ours, theirs in _SHARD_BLANKS:
        text = text.replace(ours, theirs)
    return sha256(text).digest()[0] % of


def row_hash(data: Mapping[str, Any]) -> bytes:
    """Give the hash of a record's data: 16 bytes. Raises TypeError for what is no JSON."""
    return sha256(orjson.dumps(data, None, _SORTED)).digest()[:HASH_BYTES]


def one_spelling(document: Any) -> Any:
    """Give a JSON document with its numbers spelt in one way: a database may keep 5.0 as 5."""
    if document is None or not _NUMBER_SPELT_IN_TWO_WAYS.search(orjson.dumps(document)):
        return document
    return _normalised(document)


def _normalised(value: Any) -> Any:
    if type(value) is float and value.is_integer() and -_WIDEST <= value < _WIDEST:
        return int(value)
    if type(value) is dict:
        return {name: _normalised(member) for name, member in value.items()}
    if type(value) is list:
        return [_normalised(member) for member in value]
    return value
