"""The records of control and checkpoint batches: FORMAT.md, "What the two sides tell each other".

A receipt says how far a channel was applied, a heartbeat that its sender lives and what it sent, a request what
shall be sent again, a digest what a stream's rows are. Each is the ``data`` of an upsert; its shape is checked by a
JSON Schema, what it means by whoever hears it. Ranges are pairs of first and last, both included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Self

import jsonschema_rs

from exchange.format import json_pointer
from exchange.format.as_dict import fields_as_json
from exchange.format.errors import RecordError, printable
from exchange.format.manifest import DIGEST as MANIFEST_DIGEST
from exchange.format.manifest import MAX_MANIFEST_BYTES
from exchange.format.moments import to_rfc3339
from exchange.format.names import EPOCH, MAX_SEQUENCE, NAME
from exchange.format.record import MAX_STREAM_LENGTH
from exchange.format.strict_json import MAX_INTEGER

RECEIPT: Final = "_receipt"
HEARTBEAT: Final = "_heartbeat"
REPAIR: Final = "_repair"
DIGEST: Final = "_digest"

VERSION: Final = 1
"""The schema version of all of them."""

BUCKETS: Final = 1024
"""Into so many parts a stream's keys fall, by their hash; another number may come."""

MAX_RANGES: Final = 100
MAX_REFUSED: Final = 100
MAX_LETTERS: Final = 20
MAX_UNDECIDED: Final = 20
MAX_MORE_RANGES: Final = 5_000
MAX_BUCKETS: Final = 65_536
MAX_DOUBTS: Final = 500
MAX_READS: Final = 1_000
MOST_SENT: Final = 4096
"""How many of each one record holds at most: what is left out comes with a later one.

Ranges beyond the first ``MAX_RANGES`` of ``missing`` and ``lost`` are members of their own, ``missing_more`` and
``lost_more``, that a reader of an earlier version passes over.
"""

MAX_DOUBT_BYTES: Final = 16_384
"""So long are the keys of all rows in doubt together: a manifest has other members, too."""

MAX_CONTAINED: Final = 1_000_000
"""So many batches a snapshot stands for at most: a reader keeps a row of each that it did not get."""

MOST_VERSION: Final = 2**62
"""What counts microseconds since 1970 reaches it in a hundred thousand years."""

MAX_WORDS: Final = 500
"""Characters of a sentence."""

SNAPSHOT: Final = "snapshot"
CHECKPOINT: Final = "checkpoint"

Range = tuple[int, int]


@dataclass(frozen=True)
class RefusedBatch:
    """A batch that was not taken, and why."""

    sequence: int
    reason: str
    message: str


@dataclass(frozen=True)
class Sample:
    """A record that was parked: never its data. ``key`` is None where it could not be read."""

    stream: str | None
    key: Mapping[str, Any] | None
    error: str
    message: str


@dataclass(frozen=True)
class Proof:
    """Line 1 of a manifest and its signature line, as they came: its sender can see that it wrote them."""

    manifest: str
    signature: str | None


@dataclass(frozen=True)
class Receipt:
    """How far the writer of the receipt has come in a channel that it reads, in one epoch.

    ``through``: all up to this sequence took effect, but those ``missing``, ``refused`` or ``given_up``; a missing
    range may lie behind it, and one beyond the first ``MAX_RANGES`` does. ``digest`` is that of the manifest there.
    ``parked_now`` counts letters that still wait.
    """

    channel: str
    epoch: str
    through: int
    digest: str | None = None
    missing: tuple[Range, ...] = ()
    refused: tuple[RefusedBatch, ...] = ()
    given_up: tuple[Range, ...] = ()
    applied: int = 0
    duplicate: int = 0
    stale: int = 0
    parked: int = 0
    parked_now: int = 0
    letters: tuple[Sample, ...] = ()
    agreement: tuple[Mapping[str, Any], ...] = ()
    proof: Proof | None = None

    def as_data(self) -> dict[str, Any]:
        """Give the record's data."""
        return _with_ranges_apart(fields_as_json(self), "missing")

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Read the record's data. Raises RecordError."""
        known = _known(cls, RECEIPT, data)
        return cls(
            **{
                **known,
                "missing": _ranges(data, "missing") + _ranges(data, "missing_more"),
                "refused": tuple(RefusedBatch(**_of(RefusedBatch, one)) for one in data["refused"]),
                "given_up": _ranges(data, "given_up"),
                "letters": tuple(Sample(**_of(Sample, one)) for one in data["letters"]),
                "agreement": tuple(data["agreement"]),
                "proof": _proof(data["proof"]),
            }
        )


@dataclass(frozen=True)
class Sent:
    """How far the writer of a heartbeat has come in a channel that it sends; ``lost`` it can't send again.

    A snapshot that contains what is lost from ``contained_from`` on was sent, or will be; None: nothing is promised.
    """

    channel: str
    epoch: str
    through: int
    lost: tuple[Range, ...] = ()
    contained_from: int | None = None


@dataclass(frozen=True)
class Heard:
    """The newest control batch that was heard of the other side."""

    epoch: str
    sequence: int
    proof: Proof | None = None


@dataclass(frozen=True)
class Takes:
    """What the writer of a heartbeat takes of one batch at most: records, and bytes of content."""

    records: int
    content_bytes: int


@dataclass(frozen=True)
class ReadStream:
    """A stream that the writer of a heartbeat reads, from schema version ``oldest`` on.

    ``digest`` is of its schema in ``version``, the newest that it knows: of what counts in it, as FORMAT.md says.
    """

    stream: str
    oldest: int
    version: int
    digest: str


@dataclass(frozen=True)
class PausedChannel:
    """A channel, by its declared name, of which the writer of a heartbeat sends nothing or takes nothing in.

    ``direction`` is as its writer sees it; ``since`` is by its clock, None if nobody knows.
    """

    channel: str
    direction: str
    since: datetime | None = None


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life; the next one is due after ``period_seconds``.

    ``undecided`` are manifests of the other side, one of each epoch that nothing proves to come after the present one;
    ``takes`` is None of a writer of an earlier version. ``reads`` are all streams that its writer reads, if it says so;
    ``paused`` are the channels that stand still there, ``newest_version`` is the greatest one of a row that it got.
    """

    epoch: str
    period_seconds: float
    next_expected_by: datetime
    sent: tuple[Sent, ...] = ()
    heard: Heard | None = None
    undecided: tuple[Proof, ...] = ()
    takes: Takes | None = None
    reads: tuple[ReadStream, ...] | None = None
    paused: tuple[PausedChannel, ...] = ()
    newest_version: int | None = None

    def as_data(self) -> dict[str, Any]:
        """Give the record's data."""
        data = fields_as_json(self) | {"next_expected_by": to_rfc3339(self.next_expected_by)}
        for one, said in zip(self.paused, data["paused"], strict=True):
            said["since"] = one.since and to_rfc3339(one.since)
        for name in ("undecided", "takes", "paused"):
            if not data[name]:
                del data[name]
        for name in ("reads", "newest_version"):
            if data[name] is None:
                del data[name]
        for one in data["sent"]:
            _with_ranges_apart(one, "lost")
            if one["contained_from"] is None:
                del one["contained_from"]
        return data

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Read the record's data. Raises RecordError."""
        known = _known(cls, HEARTBEAT, data)
        if len({one["channel"] for one in data["sent"]}) < len(data["sent"]):
            raise RecordError("schema", "/data/sent", "sent: expected each channel once, found one of them again")
        heard, reads = data["heard"], data.get("reads")
        return cls(
            **{
                **known,
                "next_expected_by": datetime.fromisoformat(data["next_expected_by"]),
                "sent": tuple(
                    Sent(**{**_of(Sent, one), "lost": _ranges(one, "lost") + _ranges(one, "lost_more")})
                    for one in data["sent"]
                ),
                "heard": heard and Heard(**{**_of(Heard, heard), "proof": _proof(heard["proof"])}),
                "undecided": tuple(Proof(**_of(Proof, one)) for one in data.get("undecided", ())),
                "takes": Takes(**_of(Takes, data["takes"])) if "takes" in data else None,
                "paused": tuple(_paused(one) for one in data.get("paused", ())),
                "reads": None if reads is None else tuple(ReadStream(**_of(ReadStream, one)) for one in reads),
            }
        )


@dataclass(frozen=True)
class PeerRequest:
    """What a side asks of the other one: a ``snapshot`` or a ``checkpoint`` of a channel that it reads.

    ``name`` is the request's own; a snapshot that answers it says so. ``streams`` and ``buckets`` (of ``of``) are None
    for all. With ``prune`` rows that the snapshot does not have are to go.
    """

    name: str
    channel: str
    want: str
    streams: tuple[str, ...] | None = None
    buckets: tuple[int, ...] | None = None
    of: int = BUCKETS
    prune: bool = False
    reason: str = ""

    def as_data(self) -> dict[str, Any]:
        """Give the record's data."""
        return fields_as_json(self)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Read the record's data. Raises RecordError."""
        known = _known(cls, REPAIR, data)
        buckets = data["buckets"]
        if buckets is not None and max(buckets, default=0) >= data["of"]:
            raise RecordError("schema", "/data/buckets", f"buckets of {data['of']}: expected numbers below it")
        return cls(**{**known, "streams": _tuple(data["streams"]), "buckets": _tuple(buckets)})


@dataclass(frozen=True)
class Digest:
    """What the rows of a stream are at a checkpoint: of each bucket how many, and the sum of their hashes.

    The hashes are of records in this ``schema_version`` of the stream.
    """

    stream: str
    rows: int
    counts: tuple[int, ...]
    digests: tuple[str, ...]
    schema_version: int

    def as_data(self) -> dict[str, Any]:
        """Give the record's data."""
        return fields_as_json(self)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Read the record's data. Raises RecordError."""
        known = _known(cls, DIGEST, data)
        if len(data["counts"]) != len(data["digests"]) or sum(data["counts"]) != data["rows"]:
            raise RecordError(
                "schema", "/data/counts", "expected as many counts as digests, which add up to the number of rows"
            )
        return cls(**{**known, "counts": tuple(data["counts"]), "digests": tuple(data["digests"])})


@dataclass(frozen=True)
class Doubt:
    """Rows of a stream that its sender has and could not send: they may be there on the other side, as they were.

    ``keys`` names them. ``more`` are beyond what is told, so that no row of the stream may go. ``nameless`` have a key
    that no record can hold: no record ever brought them.
    """

    stream: str
    keys: tuple[Mapping[str, Any], ...] = ()
    more: int = 0
    nameless: int = 0


@dataclass(frozen=True)
class Part:
    """What a manifest of kind ``snapshot`` says in its member ``snapshot``: which part of which snapshot it is.

    Its records have one ``version``. With the ``last`` part everything of ``streams`` and ``buckets`` has come; rows
    of the streams in ``prune`` that are older than ``version`` are then no longer there, and so are those of a stream
    in ``doubts``, but for those in doubt. ``answers`` names the request. All that the batches of its channel and epoch
    from the first through the last sequence of ``contains`` say is in it. Parts ``before`` this one had so many
    records, and all of them are ``expected`` to have about so many.
    """

    name: str
    version: int
    part: int
    last: bool
    streams: tuple[str, ...]
    buckets: tuple[int, ...] | None = None
    of: int = BUCKETS
    prune: tuple[str, ...] = ()
    answers: str | None = None
    doubts: tuple[Doubt, ...] = ()
    contains: Range | None = None
    before: int | None = None
    expected: int | None = None

    @property
    def pruned(self) -> frozenset[str]:
        """The streams of which rows are to go that the snapshot did not bring."""
        return frozenset((*self.prune, *(one.stream for one in self.doubts if not one.more)))

    @property
    def is_whole(self) -> bool:
        """Whether its sender says that it is of all rows of its channel."""
        return self.contains is not None and self.buckets is None

    def as_data(self) -> dict[str, Any]:
        """Give the member."""
        data = fields_as_json(self)
        if not self.doubts:
            del data["doubts"]
        for name in ("contains", "before", "expected"):
            if data[name] is None:
                del data[name]
        return data

    @classmethod
    def parse(cls, data: Any) -> Self:
        """Read the member. Raises RecordError."""
        if not isinstance(data, dict):
            raise RecordError("schema", "/snapshot", "the manifest's snapshot: expected an object")
        _check("snapshot", data)
        known = _of(cls, data)
        return cls(
            **{
                **known,
                "streams": tuple(data["streams"]),
                "buckets": _tuple(data["buckets"]),
                "prune": tuple(data["prune"]),
                "doubts": tuple(
                    Doubt(**{**_of(Doubt, one), "keys": tuple(one["keys"])}) for one in data.get("doubts", ())
                ),
                "contains": _tuple(data.get("contains")),
            }
        )


def within(sequence: int, ranges: Iterable[Range]) -> bool:
    """Say whether a sequence lies in one of the ranges."""
    return any(first <= sequence <= last for first, last in ranges)


def ranges(sequences: Iterable[int], most: int = MAX_RANGES) -> tuple[Range, ...]:
    """Write ascending sequences as ranges, the first ``most`` of them."""
    found: list[list[int]] = []
    for sequence in sequences:
        if found and found[-1][1] + 1 == sequence:
            found[-1][1] = sequence
        elif len(found) == most:
            break
        else:
            found.append([sequence, sequence])
    return tuple((first, last) for first, last in found)


def shown(wanted: Iterable[Range]) -> str:
    """Write ranges for people: ``5, 7-9``."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in wanted)


def _known(kind: type[Any], stream: str, data: Mapping[str, Any]) -> dict[str, Any]:
    _check(stream, data)
    return _of(kind, data)


def _of(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Give the members that we know: others are ignored."""
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def _check(what: str, data: Mapping[str, Any]) -> None:
    error = next(_JUDGES[what].iter_errors(data), None)
    if error is not None:
        raise RecordError(
            "schema", json_pointer.join("data", *error.instance_path), f"{what}: {printable(error.message, 300)}"
        )
    # To a schema 1.0 is an integer. To us it is none, nor to a database: it would be kept, and come back, as it is.
    fraction = next(_fractions(_SCHEMAS[what], data), None) if _has_floats(data) else None
    if fraction is not None:
        raise RecordError(
            "schema",
            json_pointer.join("data", *fraction),
            f"{what}: expected an integer, found a number with a fraction",
        )


def _has_floats(value: Any) -> bool:
    """Say whether any number in it is written with a fraction or an exponent: most data have none, and many numbers."""
    if isinstance(value, dict):
        return any(type(one) not in _PLAIN and _has_floats(one) for one in value.values())
    if isinstance(value, list):
        return any(type(one) not in _PLAIN and _has_floats(one) for one in value)
    return type(value) is float


_PLAIN = frozenset({int, str, bool, type(None)})


def _fractions(schema: Mapping[str, Any], value: Any) -> Iterator[tuple[str | int, ...]]:
    """Give the places of what the schema takes for an integer and is written with a fraction or an exponent."""
    if type(value) is float and schema.get("type") == "integer":
        yield ()
    for inner in schema.get("anyOf", ()):
        yield from _fractions(inner, value)
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from ((name, *path) for path in _fractions(inner, value[name]))
    if isinstance(value, list) and "items" in schema:
        for place, one in enumerate(value):
            if isinstance(one, (float, list, dict)):
                yield from ((place, *path) for path in _fractions(schema["items"], one))


def _ranges(data: Mapping[str, Any], member: str) -> tuple[Range, ...]:
    found = tuple((first, last) for first, last in data.get(member, ()))
    for first, last in found:
        if last < first:
            raise RecordError("schema", f"/data/{member}", f"{member}: the range from {first} through {last} is empty")
    return found


def _with_ranges_apart(data: dict[str, Any], member: str) -> dict[str, Any]:
    """Move the ranges beyond those that every reader takes into a member of their own, if there are any."""
    if more := data[member][MAX_RANGES:]:
        data[member], data[f"{member}_more"] = data[member][:MAX_RANGES], more
    return data


def _paused(data: Mapping[str, Any]) -> PausedChannel:
    since = data["since"]
    return PausedChannel(**{**_of(PausedChannel, data), "since": since and datetime.fromisoformat(since)})


def _proof(data: Mapping[str, Any] | None) -> Proof | None:
    return None if data is None else Proof(**_of(Proof, data))


def _tuple(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _object(required: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(items: Mapping[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "maxItems": most, "items": items}


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, schema]}


_COUNT = {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER}
_POSITIVE = {**_COUNT, "minimum": 1}
_SEQUENCE = {"type": "integer", "minimum": 1, "maximum": MAX_SEQUENCE}
_THROUGH = {**_SEQUENCE, "minimum": 0}
_CHANNEL = {"type": "string", "pattern": f"^(?:{NAME.pattern})$"}
_EPOCH = {"type": "string", "pattern": f"^(?:{EPOCH.pattern})$"}
_STREAM = {"type": "string", "minLength": 1, "maxLength": MAX_STREAM_LENGTH}
_WORDS = {"type": "string", "maxLength": MAX_WORDS}
_RANGE = {"type": "array", "minItems": 2, "maxItems": 2, "items": _SEQUENCE}
_RANGES, _MORE_RANGES = _list(_RANGE, MAX_RANGES), _list(_RANGE, MAX_MORE_RANGES)
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,80}$"}
_OF = {"type": "integer", "minimum": 1, "maximum": MAX_BUCKETS}
_BUCKETS = _or_null(_list({"type": "integer", "minimum": 0, "maximum": MAX_BUCKETS - 1}, MAX_BUCKETS))
_TEXT = {"type": "string", "maxLength": MAX_MANIFEST_BYTES}
_SHOWN = _object({"manifest": _TEXT, "signature": _or_null(_TEXT)})
_PROOF = _or_null(_SHOWN)

SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    RECEIPT: _object(
        {
            "channel": _CHANNEL,
            "epoch": _EPOCH,
            "through": _THROUGH,
            "digest": _or_null({"type": "string", "pattern": f"^{MANIFEST_DIGEST.pattern}$"}),
            "missing": _RANGES,
            "refused": _list(_object({"sequence": _SEQUENCE, "reason": _WORDS, "message": _WORDS}), MAX_REFUSED),
            "given_up": _RANGES,
            "applied": _COUNT,
            "duplicate": _COUNT,
            "stale": _COUNT,
            "parked": _COUNT,
            "parked_now": _COUNT,
            "letters": _list(
                _object(
                    {
                        "stream": _or_null(_STREAM),
                        "key": _or_null({"type": "object"}),
                        "error": _WORDS,
                        "message": _WORDS,
                    }
                ),
                MAX_LETTERS,
            ),
            "agreement": _list(
                _object(
                    {
                        "stream": _STREAM,
                        "sequence": _SEQUENCE,
                        "sent": _COUNT,
                        "received": _COUNT,
                        "differing": _COUNT,
                        "since": _or_null({"type": "string", "format": "date-time"}),
                    }
                ),
                MAX_RANGES,
            ),
            "proof": _PROOF,
        },
        missing_more=_MORE_RANGES,
    ),
    HEARTBEAT: _object(
        {
            "epoch": _EPOCH,
            "period_seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 10**9},
            "next_expected_by": {"type": "string", "format": "date-time"},
            "sent": _list(
                _object(
                    {"channel": _CHANNEL, "epoch": _EPOCH, "through": _THROUGH, "lost": _RANGES},
                    lost_more=_MORE_RANGES,
                    contained_from=_SEQUENCE,
                ),
                MOST_SENT,
            ),
            "heard": _or_null(_object({"epoch": _EPOCH, "sequence": _SEQUENCE, "proof": _PROOF})),
        },
        newest_version={"type": "integer", "minimum": 1, "maximum": MOST_VERSION},
        undecided=_list(_SHOWN, MAX_UNDECIDED),
        takes=_object({"records": _POSITIVE, "content_bytes": _POSITIVE}),
        paused=_list(
            _object(
                {
                    "channel": _CHANNEL,
                    "direction": {"enum": ["in", "out"]},
                    "since": _or_null({"type": "string", "format": "date-time"}),
                }
            ),
            4096,
        ),
        reads=_list(
            _object(
                {
                    "stream": _STREAM,
                    "oldest": _POSITIVE,
                    "version": _POSITIVE,
                    "digest": {"type": "string", "pattern": f"^{MANIFEST_DIGEST.pattern}$"},
                }
            ),
            MAX_READS,
        ),
    ),
    REPAIR: _object(
        {
            "name": _NAME,
            "channel": _CHANNEL,
            "want": {"enum": [SNAPSHOT, CHECKPOINT]},
            "streams": _or_null(_list(_STREAM, 4096)),
            "buckets": _BUCKETS,
            "of": _OF,
            "prune": {"type": "boolean"},
            "reason": _WORDS,
        }
    ),
    DIGEST: _object(
        {
            "stream": _STREAM,
            "rows": _COUNT,
            "counts": _list(_COUNT, MAX_BUCKETS),
            "digests": _list({"type": "string", "pattern": "^[0-9a-f]{32}$"}, MAX_BUCKETS),
            "schema_version": _POSITIVE,
        }
    ),
}
"""What the data of each looks like; members beside these are ignored."""

_SNAPSHOT = _object(
    {
        "name": _NAME,
        "version": {**_COUNT, "minimum": 1},
        "part": _SEQUENCE,
        "last": {"type": "boolean"},
        "streams": _list(_STREAM, 4096),
        "buckets": _BUCKETS,
        "of": _OF,
        "prune": _list(_STREAM, 4096),
        "answers": _or_null(_NAME),
    },
    contains={"type": "array", "minItems": 2, "maxItems": 2, "items": _THROUGH},
    before=_COUNT,
    expected=_COUNT,
    doubts=_list(
        _object({"stream": _STREAM, "keys": _list({"type": "object"}, MAX_DOUBTS), "more": _COUNT, "nameless": _COUNT}),
        4096,
    ),
)

_SCHEMAS: Final = {**SCHEMAS, "snapshot": _SNAPSHOT}

_JUDGES = {
    name: jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True) for name, schema in _SCHEMAS.items()
}
