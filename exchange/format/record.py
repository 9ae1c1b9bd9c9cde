"""One record: a line of a data file, as FORMAT.md, "Records" says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import compress, repeat
from operator import itemgetter
from typing import Any, Final, NamedTuple, overload

from exchange.format import strict_json
from exchange.format.errors import RecordError, described
from exchange.format.strict_json import Unreadable

MAX_STREAM_LENGTH: Final = 63
"""Characters of a stream's name."""

MAX_BODY_DEPTH: Final = strict_json.MAX_DEPTH - 2
"""Objects and arrays within each other in one member of a record's data."""


class Op(StrEnum):
    """What a record does to its row."""

    UPSERT = "upsert"
    DELETE = "delete"


class Record(NamedTuple):
    """The state of one row at one version: ``body`` is the row on an upsert, its key on a delete."""

    stream: str
    op: Op
    version: int
    body: dict[str, Any]


Data = dict[str, Any]
"""A record's values by the names that columns have in files."""


class ByColumns(Sequence[Data]):
    """The values of records that all have the same columns, kept by these: a record's dict is made when asked for.

    To make all of them costs as much as all else that is done to a record. In place of a document there is its text.
    """

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        """Take columns, all of one length."""
        self.columns = columns

    def __len__(self) -> int:
        """Count the records."""
        return len(next(iter(self.columns.values()), ()))

    @overload
    def __getitem__(self, place: int) -> Data: ...
    @overload
    def __getitem__(self, place: slice) -> ByColumns: ...
    def __getitem__(self, place: int | slice) -> Data | ByColumns:
        """Give one record's values, or some records."""
        if isinstance(place, slice):
            return ByColumns({name: values[place] for name, values in self.columns.items()})
        return {name: values[place] for name, values in self.columns.items()}

    def __iter__(self) -> Iterator[Data]:
        """Give each record's values."""
        return map(dict, map(zip, repeat(self.columns), zip(*self.columns.values(), strict=True)))

    def __eq__(self, other: object) -> bool:
        """Say whether they are the same values, however they are kept."""
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]

    def without(self, places: Collection[int]) -> ByColumns:
        """Give all but those at some places."""
        stay = [place not in places for place in range(len(self))]
        return ByColumns({name: [*compress(values, stay)] for name, values in self.columns.items()})


class RecordRun(NamedTuple):
    """Records of one stream and one op that follow each other, member by member."""

    stream: str
    op: Op
    versions: list[int]
    bodies: Sequence[Data]


_STREAM, _OP, _VERSION = itemgetter("stream"), itemgetter("op"), itemgetter("version")
_BODIES: Final = {Op.UPSERT: itemgetter("data"), Op.DELETE: itemgetter("key")}
_MEMBERS: Final = len(("stream", "op", "version", "body"))


def encode(record: Record) -> bytes:
    """Write a record as its line, ended by a newline.

    Raises ``RecordError`` if a value has no place in the format. The names of stream and op and the version
    are taken on trust: they are ours.
    """
    stream, op, version, body = record
    member = "data" if op is Op.UPSERT else "key"
    nulls = [*body.values()].count(None)
    return strict_json.dumps({"stream": stream, "op": op.value, "version": version, member: body}, nulls) + b"\n"


def encode_all(stream: str, op: Op, versions: Iterable[int], bodies: Iterable[dict[str, Any]]) -> list[bytes] | None:
    """Write many records as their lines, without the newlines; None if any of them needs ``encode`` by itself.

    Taken on trust besides: there is no NaN and no infinity in the bodies, and no object or array nested in
    others deeper than ``MAX_BODY_DEPTH``.
    """
    member, name = "data" if op is Op.UPSERT else "key", op.value
    return strict_json.dumps_all(
        [
            {"stream": stream, "op": name, "version": version, member: body}
            for version, body in zip(versions, bodies, strict=True)
        ]
    )


_END: Final = b"}}\n"


class LineWriter:
    """Writes the lines of many records of one stream and op, column by column: just the bytes of ``encode``."""

    def __init__(self, stream: str, op: Op, names: Sequence[str]) -> None:
        """Take the names of the members of a body, in their order."""
        head = strict_json.dumps({"stream": stream, "op": op.value})[:-1] + b',"version":'
        member = b'"data"' if op is Op.UPSERT else b'"key"'
        first, *others = (strict_json.dumps(name) + b":" for name in names)
        openings = (b",%b:{%b" % (member, first), *(b"," + one for one in others))
        self._record = [head, b"", *(piece for opening in openings for piece in (opening, b"")), _END]

    def write(
        self, versions: Sequence[int], columns: Sequence[list[bytes]], instead: Iterable[tuple[int, int, str]] = ()
    ) -> bytes:
        """Write the lines, each with its newline, of their members' JSON texts.

        ``instead``: where a member is JSON's null, and what member says so in its place: (record, column, name).
        Raises ValueError if there is U+0000 in any of them, or where ``instead`` names the first column.
        """
        size = len(self._record)
        pieces = self._record * len(versions)
        for place, texts in enumerate((strict_json.dumps_scalars(versions), *columns)):
            pieces[2 * place + 1 :: size] = texts
        for number, column, name in instead:
            if column == 0:
                raise ValueError
            at, end = number * size + 2 * column + 2, (number + 1) * size - 1
            pieces[at] = pieces[at + 1] = b""
            pieces[end] = b"%b,%b:null%b" % (pieces[end][: -len(_END)], strict_json.dumps(name), _END)
        text = b"".join(pieces)
        if b"\\" in text and b"\\u0000" in text:
            raise ValueError
        return text


def decode(line: bytes) -> Record:
    """Read a record from its line, without the newline.

    Raises ``RecordError`` of class ``json`` or ``record``. Members that the format does not know are ignored.
    """
    return _record(strict_json.loads(line))


def decode_run(lines: Sequence[bytes]) -> RecordRun | Unreadable | None:
    """Read many lines at once, just as strictly: several times faster than one by one.

    None unless all of them are records of one stream and one op without unknown members; then each may be read by
    itself. Where one is no JSON at all, and easily found, its place is given, so that the others may be read without.
    """
    values = strict_json.loads_all(lines)
    if isinstance(values, Unreadable):
        return values
    if not values:
        return None
    try:
        if set(map(len, values)) != {_MEMBERS}:
            return None
        (stream,), (op,) = set(map(_STREAM, values)), set(map(_OP, values))
        versions = list(map(_VERSION, values))
        bodies = list(map(_BODIES[op], values))
    except (TypeError, KeyError, ValueError):
        return None
    named = type(stream) is str and 0 < len(stream) <= MAX_STREAM_LENGTH
    if not named or set(map(type, versions)) != {int} or min(versions) < 1 or set(map(type, bodies)) != {dict}:
        return None
    return RecordRun(stream, Op(op), versions, bodies)


def _record(value: Any) -> Record:
    if type(value) is not dict:
        raise RecordError("record", "", f"a record is an object, found {described(value)}")
    get = value.get
    stream, version, op = get("stream"), get("version"), get("op")
    if type(stream) is not str or not 0 < len(stream) <= MAX_STREAM_LENGTH:
        raise _wrong(value, "stream", f"a string of 1 to {MAX_STREAM_LENGTH} characters")
    if type(version) is not int or version < 1:
        raise _wrong(value, "version", f"an integer from 1 to {strict_json.MAX_INTEGER}")
    if op == "upsert":
        body = get("data")
        if type(body) is not dict or "key" in value:
            raise _wrong(value, "data", "an object, and no key beside it, on an upsert")
        return Record(stream, Op.UPSERT, version, body)
    if op == "delete":
        body = get("key")
        if type(body) is not dict or "data" in value:
            raise _wrong(value, "key", "an object, and no data beside it, on a delete")
        return Record(stream, Op.DELETE, version, body)
    raise _wrong(value, "op", '"upsert" or "delete"')


def _wrong(value: dict[str, Any], member: str, expected: str) -> RecordError:
    # What stands in place of a row is not quoted: nobody can tell whether it may be seen.
    quoted = member not in {"data", "key"} or not isinstance(value.get(member), (str, int, float))
    here = "nothing" if member not in value else described(value[member]) if quoted else "a value that is not shown"
    return RecordError(
        "record", f"/{member}" if member in value else "", f"{member}: expected {expected}, found {here}"
    )
