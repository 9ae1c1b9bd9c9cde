"""The manifest: what a batch says it is. Line 1 is the claim, line 2 is who signed it.

Only bytes are signed and compared: nothing is written anew in order to check it.
"""

from __future__ import annotations

import base64
import binascii
import builtins
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from exchange.format import strict_json, traces
from exchange.format.errors import (
    BatchError,
    Corrupt,
    Fault,
    Incomplete,
    RecordError,
    Unsupported,
    Untrusted,
    described,
    printable,
)
from exchange.format.moments import to_rfc3339
from exchange.format.names import CONTROL, DATA_ENDINGS, EPOCH, KEY_NAME, MAX_SEQUENCE, NAME, BatchName
from exchange.format.record import MAX_STREAM_LENGTH

FORMAT: Final = "exchange-batch/1"

MAX_MANIFEST_BYTES: Final = 65_536
"""Size of a whole manifest file."""

DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_TRACE: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_MAX_TEXT_LENGTH: Final = 200


class BatchKind(StrEnum):
    """What a batch is for (FORMAT.md, "The manifest file")."""

    CHANGES = "changes"
    SNAPSHOT = "snapshot"
    CHECKPOINT = "checkpoint"
    CONTROL = "control"


class OpCounts(NamedTuple):
    """Records of one stream, by op."""

    upsert: int = 0
    delete: int = 0


@dataclass(frozen=True)
class Manifest:
    """The claim of a batch, checked. ``extra`` holds the members that this version does not know.

    ``shards``: of how many shards the channel is one; 1 if it is none.
    """

    channel: str
    source: str
    target: str
    epoch: str
    sequence: int
    kind: BatchKind
    created_at: datetime
    producer: str
    schemas: Mapping[str, int]
    records: Mapping[str, OpCounts]
    encoding: tuple[str, ...]
    sha256: str
    bytes: int
    content_sha256: str
    content_bytes: int
    previous: str | None
    trace: str | None = None
    shards: int = 1
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def name(self) -> BatchName:
        """The place of the batch, as its first publication is called."""
        return BatchName(self.channel, self.epoch, self.sequence)

    @property
    def total(self) -> int:
        """Records of all streams: the lines of the content."""
        return sum(map(sum, self.records.values()))

    @classmethod
    def parse(cls, line: builtins.bytes) -> Self:
        """Read line 1 of a manifest file, without its newline.

        Raises ``Unsupported`` for a format that we do not know, ``Corrupt`` for anything else that is wrong,
        with a sentence that names the member, what was expected and what was found.
        """
        members = _Members(_object(line))
        if members.text("format") != FORMAT:
            raise Unsupported(
                f'the manifest\'s format: expected "{FORMAT}", found {described(members.value("format"))}'
            )
        manifest = cls(
            channel=members.matching("channel", NAME),
            source=members.matching("source", NAME),
            target=members.matching("target", NAME),
            epoch=members.matching("epoch", EPOCH),
            sequence=members.integer("sequence", 1, MAX_SEQUENCE),
            kind=members.kind("kind"),
            created_at=members.moment("created_at"),
            producer=members.text("producer"),
            schemas=members.schemas("schemas"),
            records=members.counts("records"),
            encoding=members.encoding("encoding"),
            sha256=members.matching("sha256", DIGEST),
            bytes=members.integer("bytes", 0),
            content_sha256=members.matching("content_sha256", DIGEST),
            content_bytes=members.integer("content_bytes", 0),
            previous=members.matching_or_null("previous", DIGEST),
            trace=members.optional("trace", _TRACE),
            shards=members.integer_or_absent("shards", 1),
            extra=members.rest(),
        )
        _agree(manifest)
        return manifest

    def as_dict(self) -> dict[str, Any]:
        """Give what it says, for people and scripts."""
        return {
            "channel": self.channel,
            "source": self.source,
            "target": self.target,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "kind": self.kind.value,
            "created_at": self.created_at.isoformat(),
            "producer": self.producer,
            "schemas": dict(self.schemas),
            "records": {name: counts._asdict() for name, counts in self.records.items()},
            "encoding": list(self.encoding),
            "sha256": self.sha256,
            "bytes": self.bytes,
            "content_sha256": self.content_sha256,
            "content_bytes": self.content_bytes,
            "previous": self.previous,
            "trace": self.trace,
            **({"shards": self.shards} if self.shards != 1 else {}),
            **({"extra": dict(self.extra)} if self.extra else {}),
        }

    @property
    def trace_id(self) -> str:
        """Give the trace of the batch, by which both sides' logs and spans speak of it."""
        return traces.trace_id(self.trace, self.source, str(self.name))

    @property
    def span_id(self) -> str:
        """Give the id of the span that sealed the batch."""
        return traces.span_id(self.trace, self.source, str(self.name))

    @property
    def measures(self) -> dict[str, Any]:
        """Give what a span of the batch says of it, and where it belongs."""
        return {
            "trace": self.trace_id,
            "parent": self.span_id,
            "channel": self.channel,
            "sequence": self.sequence,
            "records": self.total,
            "bytes": self.bytes,
        }

    @property
    def named(self) -> dict[str, Any]:
        """Give what a line of the log says of which batch it is about."""
        return {
            "channel": self.channel,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "batch": str(self.name),
            "trace": self.trace_id,
        }

    def encode(self) -> builtins.bytes:
        """Write line 1, without its newline; ``ValueError`` if ``parse`` would not give it back."""
        claim: dict[str, Any] = {
            "format": FORMAT,
            "channel": self.channel,
            "source": self.source,
            "target": self.target,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "kind": self.kind.value,
            "created_at": to_rfc3339(self.created_at),
            "producer": self.producer,
            "schemas": dict(self.schemas),
            "records": {stream: counts._asdict() for stream, counts in self.records.items()},
            "encoding": list(self.encoding),
            "sha256": self.sha256,
            "bytes": self.bytes,
            "content_sha256": self.content_sha256,
            "content_bytes": self.content_bytes,
            "previous": self.previous,
        }
        if self.trace is not None:
            claim["trace"] = self.trace
        if self.shards != 1:
            claim["shards"] = self.shards
        try:
            line = strict_json.dumps(claim | dict(self.extra))
            agreed = Manifest.parse(line) == self
        except (BatchError, RecordError) as error:
            raise ValueError(f"this manifest breaks the format: {error}") from error
        if not agreed:
            raise ValueError("this manifest would be read back as another one")
        return line


@dataclass(frozen=True)
class Signature:
    """Line 2 of a manifest file: ``signature`` is over the bytes of line 1 without its newline."""

    algorithm: str
    key: str
    signature: bytes

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Read line 2, without its newline; ``Untrusted`` if it is no signature."""
        try:
            members = _Members(_object(line))
            algorithm = members.text("algorithm")
            key = members.matching("key", KEY_NAME)
            encoded = members.text("signature").encode()
            signature = base64.b64decode(encoded, validate=True)
        except (Corrupt, binascii.Error) as error:
            raise Untrusted(f"line 2 of the manifest file is no signature: {error}") from error
        # Several spellings of one signature would be several files of one batch.
        if base64.b64encode(signature) != encoded:
            raise Untrusted("line 2 of the manifest file is no signature: signature: not in canonical base64")
        return cls(algorithm, key, signature)

    def encode(self) -> bytes:
        """Write line 2, without its newline."""
        encoded = base64.b64encode(self.signature).decode("ascii")
        return strict_json.dumps({"algorithm": self.algorithm, "key": self.key, "signature": encoded})


def digest(line: bytes) -> str:
    """Give the SHA-256 of line 1 in hex: what the next manifest's ``previous`` says."""
    return hashlib.sha256(line).hexdigest()


def join_manifest(line: bytes, signature: Signature | None) -> bytes:
    """Make a manifest file's content; ``ValueError`` when it would be longer than a reader accepts."""
    content = line + b"\n" if signature is None else line + b"\n" + signature.encode() + b"\n"
    if len(content) > MAX_MANIFEST_BYTES:
        raise ValueError(f"a manifest of {len(content)} bytes; at most {MAX_MANIFEST_BYTES} are read")
    return content


def split_manifest(content: bytes) -> tuple[bytes, Signature | None]:
    """Take a manifest file apart into line 1, without its newline, and the signature, if there is one.

    Line 1 is not looked at: nothing vouches for it yet. Raises ``Incomplete`` when the end is missing,
    ``Corrupt`` when there is too much, ``Untrusted`` when line 2 is no signature.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise Corrupt(f"the manifest file is longer than {MAX_MANIFEST_BYTES} bytes", Fault.MANIFEST)
    if not content.endswith(b"\n"):
        raise Incomplete("the manifest file is empty" if not content else "the manifest file ends within a line")
    match content[:-1].split(b"\n"):
        case [line]:
            return line, None
        case [line, signed]:
            return line, Signature.parse(signed)
        case lines:
            raise Corrupt(
                f"the manifest file has {len(lines)} lines; expected a claim and its signature",
                Fault.MANIFEST,
            )


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = strict_json.loads(line)
    except RecordError as error:
        raise Corrupt(f"the manifest: {error}", Fault.MANIFEST) from error
    if not isinstance(value, dict):
        raise Corrupt(f"the manifest: expected an object, found {described(value)}", Fault.MANIFEST)
    return value


def _agree(manifest: Manifest) -> None:
    """Refuse a claim whose members contradict each other."""
    if manifest.source == manifest.target:
        raise _wrong("target", "another network than the source", manifest.target)
    if (manifest.kind is BatchKind.CONTROL) != (manifest.channel == CONTROL):
        raise _wrong("kind", "control on the channel control, and only there", manifest.kind.value)
    for stream in manifest.records:
        if stream not in manifest.schemas:
            raise _wrong("records", "streams that schemas lists", stream)
    if manifest.total > strict_json.MAX_INTEGER:
        raise _wrong("records", f"counts that add up to at most {strict_json.MAX_INTEGER}", manifest.total)
    if not manifest.encoding and manifest.bytes != manifest.content_bytes:
        raise _wrong("content_bytes", "what bytes says, as nothing is encoded", manifest.content_bytes)
    if not manifest.encoding and manifest.sha256 != manifest.content_sha256:
        raise _wrong("content_sha256", "what sha256 says, as nothing is encoded", manifest.content_sha256)


def _wrong(member: str, expected: str, value: object) -> Corrupt:
    return Corrupt(f"the manifest's {member}: expected {expected}, found {described(value)}", Fault.MANIFEST)


class _Members:
    """The members of an object, each taken once under the rule that the format has for it."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members
        self._taken: set[str] = set()

    def rest(self) -> Mapping[str, Any]:
        return MappingProxyType({name: value for name, value in self._members.items() if name not in self._taken})

    def value(self, member: str) -> Any:
        self._taken.add(member)
        if member not in self._members:
            raise Corrupt(f"the manifest's {member} is missing", Fault.MANIFEST)
        return self._members[member]

    def text(self, member: str) -> str:
        value = self.value(member)
        if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT_LENGTH:
            raise _wrong(member, f"a string of 1 to {_MAX_TEXT_LENGTH} characters", value)
        return value

    def matching(self, member: str, pattern: re.Pattern[str]) -> str:
        value = self.value(member)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _wrong(member, f"a string that matches {pattern.pattern}", value)
        return value

    def matching_or_null(self, member: str, pattern: re.Pattern[str]) -> str | None:
        return None if self.value(member) is None else self.matching(member, pattern)

    def optional(self, member: str, pattern: re.Pattern[str]) -> str | None:
        return self.matching_or_null(member, pattern) if member in self._members else None

    def integer(self, member: str, least: int, most: int = strict_json.MAX_INTEGER) -> int:
        return _integer(member, self.value(member), least, most)

    def integer_or_absent(self, member: str, default: int) -> int:
        return self.integer(member, 1) if member in self._members else default

    def kind(self, member: str) -> BatchKind:
        value = self.value(member)
        if value not in _KINDS:
            raise _wrong(member, f"one of {', '.join(_KINDS)}", value)
        return BatchKind(value)

    def moment(self, member: str) -> datetime:
        text = self.matching(member, _MOMENT)
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise _wrong(member, "an RFC 3339 date-time", text) from error

    def encoding(self, member: str) -> tuple[str, ...]:
        value = self.value(member)
        if not isinstance(value, list) or not all(isinstance(step, str) for step in value):
            raise _wrong(member, "an array of strings", value)
        if tuple(value) not in DATA_ENDINGS:
            raise _wrong(member, 'one of [], ["zstd"], ["age"] and ["zstd","age"]', value)
        return tuple(value)

    def schemas(self, member: str) -> Mapping[str, int]:
        return {
            stream: _integer(f"{member}/{printable(stream, 80)}", version, 1)
            for stream, version in self._streams(member)
        }

    def counts(self, member: str) -> Mapping[str, OpCounts]:
        return {stream: _counts(f"{member}/{printable(stream, 80)}", value) for stream, value in self._streams(member)}

    def _streams(self, member: str) -> Iterable[tuple[str, Any]]:
        value = self.value(member)
        if not isinstance(value, dict):
            raise _wrong(member, "an object", value)
        for stream in value:
            if not 0 < len(stream) <= MAX_STREAM_LENGTH:
                raise _wrong(member, f"names of streams, of 1 to {MAX_STREAM_LENGTH} characters", stream)
        return value.items()


def _integer(member: str, value: object, least: int, most: int = strict_json.MAX_INTEGER) -> int:
    # A bool is an int to Python, and a float may equal one: neither is one on the wire.
    if type(value) is not int or not least <= value <= most:
        raise _wrong(member, f"an integer from {least} to {most}", value)
    return value


def _counts(member: str, value: object) -> OpCounts:
    if not isinstance(value, dict) or not value.keys() <= {"upsert", "delete"}:
        raise _wrong(member, 'an object of the counts "upsert" and "delete"', value)
    return OpCounts(**{op: _integer(f"{member}/{op}", count, 0) for op, count in value.items()})


_KINDS: Final = tuple(kind.value for kind in BatchKind)
