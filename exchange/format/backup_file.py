"""What a backup says of itself: ``manifest.json``, one JSON object, and beside it the signature over its exact bytes.

It names every file with its size and SHA-256, and what was in the database at the one moment that all of it is of: how
far each channel was, how many rows each table had, and a digest of each stream's rows.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Self

from exchange.format.manifest import DIGEST
from exchange.format.moments import from_rfc3339, to_rfc3339
from exchange.format.names import EPOCH, NAME
from exchange.format.signed_file import FileFault, Rule, checked, integer, matching, or_null, read_object, text

FORMAT: Final = "exchange-backup/1"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.json.sig"
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_SIGNATURE_BYTES: Final = 8 * 1024

FILE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
"""A file of a backup lies in its folder itself."""


@dataclass(frozen=True)
class BackupFile:
    """One file of a backup."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ChannelAt:
    """How far a channel was, and the digest of its last manifest."""

    direction: str
    channel: str
    epoch: str
    sequence: int
    digest: str | None


@dataclass(frozen=True)
class StreamRows:
    """The rows of a stream: how many there are, and a digest of them all (``tables.bucket_digests``)."""

    stream: str
    rows: int
    digest: str
    schema_version: int


@dataclass(frozen=True)
class Contents:
    """What a database has, as one transaction saw it: compared before a backup is made and after it is restored.

    ``epoch`` and ``revisions`` are of the exchange's own tables; ``tables`` are all of them and the application's, by
    name with their rows.
    """

    epoch: str | None
    revisions: tuple[str, ...]
    positions: tuple[ChannelAt, ...]
    tables: Mapping[str, int]
    streams: tuple[StreamRows, ...]


@dataclass(frozen=True)
class BackupManifest:
    """One backup. ``database`` says how it was taken: its ``kind`` and ``file``, and for people who took what.

    ``keys`` names the file that this side's keys are in and to whom it is encrypted; None where they were left out.
    ``signing`` is the fingerprint of the key that signed.
    """

    network: str
    peer: str
    created_at: datetime
    producer: str
    signing: str
    database: Mapping[str, Any]
    contents: Contents
    keys: Mapping[str, Any] | None
    files: tuple[BackupFile, ...]

    @property
    def rows(self) -> int:
        """How many rows there are in all."""
        return sum(self.contents.tables.values())

    @property
    def bytes(self) -> int:
        """How large all files are."""
        return sum(one.bytes for one in self.files)

    def encode(self) -> builtins.bytes:
        """Write it as people can read it, too."""
        members = {"format": FORMAT, **vars(self), "created_at": to_rfc3339(self.created_at)}
        members["contents"] = asdict(self.contents)
        members["files"] = [asdict(one) for one in self.files]
        return json.dumps(members, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, content: builtins.bytes) -> Self:
        """Read what a trusted key signed. Raises FileFault."""
        members = read_object(content.removesuffix(b"\n"), MANIFEST)
        if members.get("format") != FORMAT:
            raise FileFault(f"{MANIFEST}: expected the format {FORMAT}, found another: it may be of a later version")
        values = checked(members, _MANIFEST, MANIFEST)
        contents = checked(values["contents"], _CONTENTS, "contents")
        contents["positions"] = tuple(ChannelAt(**checked(one, _AT, "positions")) for one in contents["positions"])
        contents["streams"] = tuple(StreamRows(**checked(one, _ROWS, "streams")) for one in contents["streams"])
        values["files"] = tuple(BackupFile(**checked(one, _FILE, "files")) for one in values["files"])
        return cls(**{**values, "contents": Contents(**contents)})


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an object")  # noqa: TRY004 - a rule says what it expects so
    return value


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError("a list of objects")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("a list of texts")
    return tuple(value)


_COUNT: Final = integer(0)
_MANIFEST: Final[Mapping[str, Rule]] = {
    "network": matching(NAME),
    "peer": matching(NAME),
    "created_at": from_rfc3339,
    "producer": text(1, 255),
    "signing": text(1, 255),
    "database": _object,
    "contents": _object,
    "keys": or_null(_object),
    "files": _objects,
}
_CONTENTS: Final[Mapping[str, Rule]] = {
    "epoch": or_null(matching(EPOCH)),
    "revisions": _texts,
    "positions": _objects,
    "tables": _object,
    "streams": _objects,
}
_AT: Final[Mapping[str, Rule]] = {
    "direction": text(1, 3),
    "channel": matching(NAME),
    "epoch": matching(EPOCH),
    "sequence": _COUNT,
    "digest": or_null(matching(DIGEST)),
}
_ROWS: Final[Mapping[str, Rule]] = {
    "stream": text(1, 63),
    "rows": _COUNT,
    "digest": text(1, 64),
    "schema_version": _COUNT,
}
_FILE: Final[Mapping[str, Rule]] = {"name": matching(FILE_NAME), "bytes": _COUNT, "sha256": matching(DIGEST)}
