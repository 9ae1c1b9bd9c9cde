"""Buckets: into which part of its stream a key falls, on both sides and in every program."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import orjson

from exchange.format.control import BUCKETS


def bucket_of(key: Mapping[str, Any], of: int = BUCKETS) -> int:
    """Give the bucket, 0 to ``of`` - 1, of a key as it is on the wire, its columns in the order of the stream's key."""
    return zlib.crc32(orjson.dumps(key)) % of
