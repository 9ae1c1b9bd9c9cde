"""Batches written by hand, as another program would, with anything about them changed or last_byte_changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from exchange.format.signing import SigningKey
from tests.crossing.sides import Side

EPOCH = "0123456789ab"


def last_byte_changed(data: bytes) -> bytes:
    """Change the last byte, whatever it is."""
    return data[:-1] + bytes([data[-1] ^ 1])


@dataclass
class Batch:
    """A batch's bytes. ``stem`` is how its files are called; ``line`` what is signed."""

    stem: str
    manifest: bytes
    data: bytes
    line: bytes
    ending: str

    @property
    def digest(self) -> str:
        """SHA-256 of line 1."""
        return hashlib.sha256(self.line).hexdigest()


@dataclass
class Forger:
    """Makes the batches of one channel, each following the one before, for ``receiver``.

    Its network has ``left`` some epochs, as an older sender says it: by their names.
    """

    receiver: Side
    key: SigningKey
    channel: str = "forth"
    epoch: str = EPOCH
    sequence: int = 0
    previous: str | None = None
    versions: dict[str, int] = field(default_factory=dict)
    left: tuple[str, ...] = ()

    def make(
        self,
        records: Sequence[dict[str, Any] | bytes] = (),
        *,
        content: bytes | None = None,
        data: bytes | None = None,
        compress: bool = True,
        signed: bool = True,
        follow: bool = True,
        attempt: str = "",
        claims: dict[str, Any] | None = None,
    ) -> Batch:
        """Make the next batch; ``claims`` replace members of its manifest, ``...`` removes one."""
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in records]
        content = b"".join(line + b"\n" for line in lines) if content is None else content
        packed = zstandard.ZstdCompressor().compress(content) if compress else content
        data = packed if data is None else data
        claim: dict[str, Any] = {
            "format": "exchange-batch/1",
            "channel": self.channel,
            "source": self.receiver.site.peer,
            "target": self.receiver.site.network,
            "epoch": self.epoch,
            "sequence": self.sequence + 1,
            "kind": "changes",
            "created_at": "2026-11-22T06:15:00.000000Z",
            "producer": "by hand",
            "schemas": {},
            "records": _counts(records),
            "encoding": ["zstd"] if compress else [],
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "content_sha256": hashlib.sha256(content).hexdigest(),
            "content_bytes": len(content),
            "previous": self.previous,
        }
        claim |= {"left_epochs": [*self.left]} if self.left else {}
        claim["schemas"] = {name: self.versions.get(name, 1) for name in claim["records"]}
        claim.update(claims or {})
        line = json.dumps({name: value for name, value in claim.items() if value is not ...}).encode()
        manifest = line + b"\n" + (self.key.sign(line).encode() + b"\n" if signed else b"")
        stem = f"{self.channel}-{claim['epoch']}-{claim['sequence']:010d}{attempt}"
        batch = Batch(stem, manifest, data, line, ".jsonl.zst" if compress else ".jsonl")
        if follow:
            self.sequence, self.previous = self.sequence + 1, batch.digest
        return batch

    def deliver(self, batch: Batch, *, data: bytes | None = None, manifest: bytes | None = None) -> str:
        """Put a batch into ``incoming``, with other bytes if given; give its stem."""
        self.put(batch.stem + batch.ending, batch.data if data is None else data)
        self.put(batch.stem + ".manifest.jsonl", batch.manifest if manifest is None else manifest)
        return batch.stem

    def put(self, name: str, content: bytes) -> Path:
        """Put a file into ``incoming``."""
        path = self.receiver.site.spool.folders.incoming / name
        path.write_bytes(content)
        return path

    def send(self, records: Sequence[dict[str, Any] | bytes] = (), **how: Any) -> str:
        """Make the next batch and deliver it."""
        return self.deliver(self.make(records, **how))


def upsert(stream: str, version: int, **data: Any) -> dict[str, Any]:
    """Give an upsert record."""
    return {"stream": stream, "op": "upsert", "version": version, "data": data}


def delete(stream: str, version: int, **key: Any) -> dict[str, Any]:
    """Give a delete record."""
    return {"stream": stream, "op": "delete", "version": version, "key": key}


def account(number: int, version: int, **other: Any) -> dict[str, Any]:
    """Give an upsert of an account."""
    return upsert("account", version, **{"id": number, "name": f"account {number}", "age": None, **other})


def age(path: Path, seconds: float) -> None:
    """Make a file look as if it was last written so long ago."""
    found = path.stat()
    os.utime(path, (found.st_atime - seconds, found.st_mtime - seconds))


def _counts(records: Sequence[dict[str, Any] | bytes]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for record in records:
        if isinstance(record, bytes):
            stream, op = "account", "upsert"
        else:
            stream, op = record.get("stream", "account"), record.get("op", "upsert")
        if isinstance(stream, str):
            of_stream = counts.setdefault(stream, {"upsert": 0, "delete": 0})
            of_stream[op if op in of_stream else "upsert"] += 1
    return counts
