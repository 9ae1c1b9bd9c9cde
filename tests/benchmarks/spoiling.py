"""Batches of which one record in a hundred is bad, for five different reasons in turn."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import zstandard

from exchange.format.batch import BatchWriter
from exchange.format.manifest import Manifest, digest, join_manifest
from exchange.format.names import data_name, manifest_name
from exchange.format.record import Op
from exchange.format.signing import SigningKey

EVERY = 100

STRICTER = "CREATE UNIQUE INDEX one_of_a_query ON request (query)"
"""What the receiving table needs, so that a value can be taken."""

Spoiler = Callable[[bytes, bytes], bytes]


def _cut(line: bytes, _before: bytes) -> bytes:
    return line[: len(line) // 2]


def _mistyped(line: bytes, _before: bytes) -> bytes:
    return _with(line, priority="high")


def _orphaned(line: bytes, _before: bytes) -> bytes:
    return _with(line, user_id=2_000_000_000)


def _taken(line: bytes, before: bytes) -> bytes:
    return _with(line, query=orjson.loads(before)["data"]["query"])


def _out_of_range(line: bytes, _before: bytes) -> bytes:
    return _with(line, priority=10)


SPOILERS: dict[str, Spoiler] = {
    "not JSON": _cut,
    "breaks its schema": _mistyped,
    "its parent is missing (foreign key)": _orphaned,
    "a unique value is taken": _taken,
    "breaks a CHECK constraint": _out_of_range,
}


def spoil(batches: Path, into: Path, key: SigningKey) -> int:
    """Write every batch again with its bad records, signed by ``key``; give how many those are."""
    into.mkdir()
    spoilt = 0
    previous: str | None = None
    for file in sorted(batches.glob("*.manifest.jsonl")):
        manifest = Manifest.parse(file.read_bytes().split(b"\n")[0])
        content = zstandard.decompress(
            (batches / data_name(manifest.name, manifest.encoding)).read_bytes(), max_output_size=manifest.content_bytes
        )
        data = io.BytesIO()
        writer = BatchWriter(data, manifest.encoding)
        for line, bad in _spoilt(content.splitlines()):
            writer.write(line + b"\n", "request", Op.UPSERT)
            spoilt += bad
        written = writer.close()
        manifest = dataclasses.replace(manifest, previous=previous, **vars(written))
        claim = manifest.encode()
        previous = digest(claim)
        (into / data_name(manifest.name, manifest.encoding)).write_bytes(data.getvalue())
        (into / manifest_name(manifest.name)).write_bytes(join_manifest(claim, key.sign(claim)))
    return spoilt


def _spoilt(lines: list[bytes]) -> Iterator[tuple[bytes, bool]]:
    spoilers = list(SPOILERS.values())
    for number, line in enumerate(lines):
        turn, bad = divmod(number, EVERY)
        if bad == EVERY - 1:
            yield spoilers[turn % len(spoilers)](line, lines[number - 1]), True
        else:
            yield line, False


def _with(line: bytes, **values: Any) -> bytes:
    record = orjson.loads(line)
    record["data"] |= values
    return orjson.dumps(record)
