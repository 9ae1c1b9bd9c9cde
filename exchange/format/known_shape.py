"""Lines of one stream and op as our own writer writes them, many read at once and kept by columns.

What was read is written again and compared: a line that comes out otherwise, has a member too many or a value that its
column does not take is doubtful, which says nothing against it. It is left to ``record``, which reads every line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec.structs import astuple

from exchange.format import strict_json
from exchange.format.record import MAX_BODY_DEPTH, ByColumns, Op

DOCUMENT: Final = msgspec.Raw
"""The type of a column of JSON of any kind: its values are given as the texts that they are."""

ONE_OF: Final[Any] = Literal
"""The type of some texts and integers, given as a tuple or as one."""

MOST_DOUBTFUL: Final = 0.5
"""The share of doubtful lines from which all are left to the other reader."""

_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class KnownColumn(NamedTuple):
    """What is asked of one column's values: a type as ``msgspec`` has them, and what else of many that are not null."""

    type: Any
    fits: Callable[[Sequence[Any]], bool] | None = None


class KnownLines(NamedTuple):
    """What was read of some lines, without the doubtful ones, whose places are given in order."""

    versions: list[int]
    data: ByColumns
    doubtful: Sequence[int]


class KnownShape:
    """Reads the lines of one stream and op."""

    def __init__(self, stream: str, op: Op, columns: Mapping[str, KnownColumn]) -> None:
        """Take the columns in the order in which the writer has them, of which there is at least one."""
        self._columns = columns
        # Names of columns may be no names of Python's.
        fields = [(f"c{at}", column.type) for at, column in enumerate(columns.values())]
        renamed = {field: name for (field, _), name in zip(fields, columns, strict=True)}
        # Without gc: none of them can be in a circle.
        values = msgspec.defstruct("Values", fields, rename=renamed, forbid_unknown_fields=True, gc=False)
        version = Annotated[int, msgspec.Meta(ge=1, le=strict_json.MAX_INTEGER)]
        members = [("stream", ONE_OF[stream]), ("op", ONE_OF[op.value]), ("version", version)]
        body = ("data" if op is Op.UPSERT else "key", values)
        line = msgspec.defstruct("Line", [*members, body], forbid_unknown_fields=True, gc=False)
        self._decoder = msgspec.json.Decoder(line)
        self._encoder = msgspec.json.Encoder()
        self._version, self._body = attrgetter("version"), attrgetter(body[0])

    def read(self, lines: Sequence[bytes]) -> KnownLines | None:
        """Read lines without their newlines; None if the first one or most are doubtful."""
        records, doubtful = self._records(lines)
        if records is None:
            return None
        versions = [*map(self._version, records)]
        columns: dict[str, list[Any]] = {}
        misfits: set[int] = set()
        by_columns = zip(*map(astuple, map(self._body, records)), strict=True)
        for (name, column), some in zip(self._columns.items(), by_columns, strict=True):
            values = [*some]
            columns[name], found = _texts(values) if column.type is DOCUMENT else (values, _misfits(values, column))
            misfits.update(found)
        data = ByColumns(columns)
        if misfits:
            read = [place for place in range(len(lines)) if place not in doubtful]
            doubtful = doubtful.union(read[at] for at in misfits)
            data = data.without(misfits)
            versions = [version for at, version in enumerate(versions) if at not in misfits]
        return None if len(doubtful) > len(lines) * MOST_DOUBTFUL else KnownLines(versions, data, sorted(doubtful))

    def _records(self, lines: Sequence[bytes]) -> tuple[list[Any] | None, set[int]]:
        """Read the records of lines, and say which lines are doubtful."""
        text = b"\n".join(lines) + b"\n"
        if not _has_nul(text):
            try:
                records = self._decoder.decode_lines(text)
            except _UNREADABLE:
                pass
            else:
                if len(records) == len(lines) and self._encoder.encode_lines(records) == text:
                    return records, set()
        read = [*map(self._record, lines)]
        doubtful = {place for place, one in enumerate(read) if one is None}
        return (None if 0 in doubtful else [one for one in read if one is not None]), doubtful

    def _record(self, line: bytes) -> Any:
        if _has_nul(line):
            return None
        try:
            record = self._decoder.decode(line)
        except _UNREADABLE:
            return None
        return record if self._encoder.encode(record) == line else None


def _has_nul(text: bytes) -> bool:
    """Say whether U+0000 may be in it, as an escape: most texts have none at all, which takes less to see."""
    return b"\\" in text and b"\\u0000" in text


def _misfits(values: list[Any], column: KnownColumn) -> Iterator[int]:
    """Give the places of values that don't fit."""
    fits = column.fits
    if fits is None:
        return
    some = [value for value in values if value is not None] if None in values else values
    if not fits(some):
        yield from (at for at, value in enumerate(values) if value is not None and not fits([value]))


def _texts(documents: Sequence[Any]) -> tuple[list[str], list[int]]:
    """Give the texts of documents, and the places of those that are not written as we write them."""
    if strict_json.are_written(documents, MAX_BODY_DEPTH):
        return b"\n".join(documents).decode().split("\n"), []
    misfits = [at for at, one in enumerate(documents) if not strict_json.are_written([one], MAX_BODY_DEPTH)]
    return [bytes(one).decode("utf-8", "replace") for one in documents], misfits
