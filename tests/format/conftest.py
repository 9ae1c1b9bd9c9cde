"""Batches made to order, so that a test can damage them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
import zstandard

from exchange.format.manifest import BatchKind, Manifest, OpCounts, join_manifest
from exchange.format.record import Op, Record, encode
from exchange.format.signing import SigningKey, TrustedKeys


@dataclass(frozen=True)
class Sealed:
    """A batch in memory: its data file's bytes, and the manifest that speaks of them."""

    manifest: Manifest
    data: bytes
    key: SigningKey

    @property
    def content(self) -> bytes:
        """The manifest file."""
        line = self.manifest.encode()
        return join_manifest(line, self.key.sign(line))

    @property
    def trusted(self) -> TrustedKeys:
        return TrustedKeys.from_pems({self.key.name: self.key.public_pem()})

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.data)

    def saying(self, **changes: Any) -> Sealed:
        """Give the same data under a manifest that says something else."""
        return replace(self, manifest=replace(self.manifest, **changes))

    def holding(self, data: bytes) -> Sealed:
        """Give other bytes, of which the manifest says what a careful liar would."""
        told = self.saying(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        return replace(told, data=data)


Seal = Callable[..., Sealed]


def _records() -> list[Record]:
    rows = [Record("request", Op.UPSERT, 100 + n, {"id": n, "query": f"parcel {n}"}) for n in range(1, 4)]
    return [*rows, Record("request", Op.DELETE, 200, {"id": 9})]


def _seal(
    content: bytes | None = None,
    *,
    encoding: tuple[str, ...] = ("zstd",),
    counts: OpCounts | None = None,
    key: SigningKey | None = None,
) -> Sealed:
    if content is None:
        content = b"".join(map(encode, _records()))
        counts = counts or OpCounts(3, 1)
    data = zstandard.compress(content) if encoding else content
    manifest = Manifest(
        channel="requests",
        source="request",
        target="response",
        epoch="4f1c0a9be2d7",
        sequence=1,
        kind=BatchKind.CHANGES,
        created_at=datetime(2026, 11, 22, 6, 15, tzinfo=UTC),
        producer="exchange 0.1.0",
        schemas={"request": 1},
        records={"request": counts or OpCounts(content.count(b"\n"))},
        encoding=encoding,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        content_sha256=hashlib.sha256(content).hexdigest(),
        content_bytes=len(content),
        previous=None,
    )
    return Sealed(manifest, data, key or SigningKey.generate("request-2026a"))


@pytest.fixture
def seal() -> Seal:
    """Seal a content: four records of the stream request, unless another one is given."""
    return _seal
