"""Lines of a batch to rows: decoded, checked against their schema and made rows, many at once where all are good.

Each step over many records is one call: that is three times as fast as one record after the other. Where a step
refuses any of them and can say which, only those are looked at by themselves; else the bad ones are looked for in
smaller and smaller parts. So each is found and costs its neighbours little.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from exchange.channels.schemas import Checker
from exchange.format import record as records
from exchange.format.batch import LongLine, too_long
from exchange.format.errors import RecordError, printable
from exchange.format.known_shape import KnownShape
from exchange.format.manifest import OpCounts
from exchange.format.record import ByColumns, Op, Record, RecordRun
from exchange.format.strict_json import Unreadable
from exchange.site import Site
from exchange.tables import version_limit
from exchange.tables.loader import Loader, Rows

_Member = TypeVar("_Member")

UNDECLARED = "undeclared"
"""The class of a record's fault whose stream was taken out of the declaration here: nothing is wrong with it."""

PARTS = 8
"""Into so many parts records are cut that can't all be taken together."""


class Decoded(NamedTuple):
    """The rows of records of one stream and one op."""

    stream: str
    rows: Rows


class BadLine(NamedTuple):
    """A line's number, its bytes and why it has no row."""

    number: int
    line: bytes
    error: RecordError


class Decoder:
    """Decodes the lines of one batch. Uses no connection."""

    def __init__(self, site: Site, schemas: Mapping[str, int], loader: Loader, newest: int) -> None:
        """Prepare for a batch whose manifest lists ``schemas``, of which no version above ``newest`` is taken."""
        self._newest = newest
        self._site = site
        self._schemas = schemas
        self._loader = loader
        self._counts: Counter[tuple[str, Op]] = Counter()

    def decode(self, lines: Sequence[bytes], first: int) -> Iterator[Decoded | BadLine]:
        """Decode lines that follow each other, the first of them with the number ``first``."""
        numbers: Sequence[int] = range(first, first + len(lines))
        if LongLine in {*map(type, lines)}:
            long = {place for place, line in enumerate(lines) if type(line) is LongLine}
            for place in long:
                error = too_long(lines[place], self._site.limits.read.max_record_bytes)
                yield BadLine(numbers[place], lines[place], error.kept())
            lines, numbers = _without(long, lines), _without(long, numbers)
        for some in _runs(lines):
            yield from self._decode_known(lines[some], numbers[some])

    def _decode_known(self, lines: Sequence[bytes], numbers: Sequence[int]) -> Iterator[Decoded | BadLine]:
        """Decode what is as our own writer writes it by columns, and every other line in the usual way."""
        head = _HEAD.match(lines[0])
        stream, op = head[1].decode() if head else "", Op(head[2].decode()) if head else Op.UPSERT
        shape = self._shape(stream, op)
        known = None if shape is None else shape.read(lines)
        if known is None or max(known.versions) > self._newest:
            yield from self._decode(lines, numbers)
            return
        if known.doubtful:
            doubtful = known.doubtful
            yield from self._decode([lines[place] for place in doubtful], [numbers[place] for place in doubtful])
            lines, numbers = _without({*doubtful}, lines), _without({*doubtful}, numbers)
        self._counts[stream, op] += len(lines)
        yield from _make_rows(self._loader, lines, numbers, RecordRun(stream, op, known.versions, known.data))

    def _shape(self, stream: str, op: Op) -> KnownShape | None:
        """Give what reads records of the stream by columns: those of the current version, if it is declared here."""
        checker = self._site.checkers.get(stream)
        if checker is None or not self._loader.takes(stream):
            return None
        return checker.known_shapes.get(op) if self._schemas.get(stream) == checker.stream.schema_version else None

    def _decode(self, lines: Sequence[bytes], numbers: Sequence[int]) -> Iterator[Decoded | BadLine]:
        run = records.decode_run(lines)
        while isinstance(run, Unreadable):
            place = run.place
            yield from self._decode_alone(lines[place], numbers[place])
            lines = [*lines[:place], *lines[place + 1 :]]
            numbers = [*numbers[:place], *numbers[place + 1 :]]
            run = records.decode_run(lines)
        if run is not None:
            self._counts[run.stream, run.op] += len(lines)
            yield from self._validate(lines, numbers, run)
        elif len(lines) == 1:
            yield from self._decode_alone(lines[0], numbers[0])
        elif lines:
            for part in _parts(len(lines)):
                yield from self._decode(lines[part], numbers[part])

    def counts(self) -> dict[str, OpCounts]:
        """Count the records so far of the streams that the manifest lists, bad ones too if they could be read."""
        return {
            stream: OpCounts(*(self._counts[stream, op] for op in (Op.UPSERT, Op.DELETE)))
            for stream in self._schemas.keys() & {stream for stream, _ in self._counts}
        }

    def _validate(self, lines: Sequence[bytes], numbers: Sequence[int], run: RecordRun) -> Iterator[Decoded | BadLine]:
        """Check the records of ``lines``, lift them to the current schema version, and make their rows."""
        if run.stream in self._schemas and not self._loader.takes(run.stream):
            sentence = f"stream {printable(run.stream)} is not declared here any more"
            for number, line in zip(numbers, lines, strict=True):
                yield BadLine(number, line, RecordError(UNDECLARED, "/stream", sentence))
            return
        refused: set[int] = set()
        bodies = [*run.bodies]
        if max(run.versions, default=0) > self._newest:
            refused = {place for place, version in enumerate(run.versions) if version > self._newest}
            for place in refused:
                yield BadLine(
                    numbers[place],
                    lines[place],
                    version_limit.fault(run.versions[place], self._newest, self._site.peer),
                )
        for place in self._places_to_check(run):
            if place in refused:
                continue
            record = Record(run.stream, run.op, run.versions[place], bodies[place])
            try:
                bodies[place] = checked(self._site, self._schemas, record).body
            except RecordError as error:
                refused.add(place)
                yield BadLine(numbers[place], lines[place], error.kept())
        if refused:
            lines, numbers = _without(refused, lines), _without(refused, numbers)
            run = run._replace(versions=_without(refused, run.versions))
            bodies = _without(refused, bodies)
        if lines:
            yield from _make_rows(self._loader, lines, numbers, run._replace(bodies=bodies))

    def _places_to_check(self, run: RecordRun) -> Iterable[int]:
        """Give the places of the records that need a look of their own: refused ones, or all of another version."""
        checker = self._site.checkers.get(run.stream)
        if checker is None or self._schemas.get(run.stream) != checker.stream.schema_version:
            return range(len(run.bodies))
        return checker.refused(run.bodies) if run.op is Op.UPSERT else checker.refused_keys(run.bodies)

    def _decode_alone(self, line: bytes, number: int) -> Iterator[Decoded | BadLine]:
        try:
            record = records.decode(line)
        except RecordError as error:
            yield BadLine(number, line, error.kept())
            return
        self._counts[record.stream, record.op] += 1
        run = RecordRun(record.stream, record.op, [record.version], [record.body])
        yield from self._validate([line], [number], run)


def decode_own(
    checker: Checker,
    loader: Loader,
    lines: Sequence[bytes],
    numbers: Sequence[int],
    bodies: list[dict[str, Any]] | ByColumns,
) -> Iterator[Decoded | BadLine]:
    """Check the values of own rows of the checker's stream, and make their rows. Uses no connection."""
    refused: set[int] = set()
    suspects = checker.refused_columns(bodies) if isinstance(bodies, ByColumns) else checker.refused(bodies)
    for place in sorted(suspects):
        try:
            checker.check_data(bodies[place])
        except RecordError as error:
            refused.add(place)
            yield BadLine(numbers[place], lines[place], error.kept())
    if refused:
        lines, numbers = _without(refused, lines), _without(refused, numbers)
        bodies = bodies.without(refused) if isinstance(bodies, ByColumns) else _without(refused, bodies)
    if lines:
        yield from _make_rows(loader, lines, numbers, RecordRun(checker.stream.name, Op.UPSERT, [], bodies))


def _make_rows(
    loader: Loader, lines: Sequence[bytes], numbers: Sequence[int], run: RecordRun
) -> Iterator[Decoded | BadLine]:
    try:
        yield Decoded(run.stream, loader.rows(numbers, lines, run))
    except RecordError as error:
        if len(lines) == 1:
            yield BadLine(numbers[0], lines[0], error.kept())
            return
        for part in _parts(len(lines)):
            some = RecordRun(run.stream, run.op, run.versions[part], run.bodies[part])
            yield from _make_rows(loader, lines[part], numbers[part], some)


_HEAD = re.compile(rb'\{"stream":"([a-z][a-z0-9_]*)","op":"(upsert|delete)",')
"""How our own writer begins a line."""


def _runs(lines: Sequence[bytes]) -> Iterator[slice]:
    """Cut lines where another stream or op begins."""
    if lines and _head(lines[0]) == _head(lines[-1]):  # then most likely of those between, too
        yield slice(0, len(lines))
        return
    start = 0
    for _, run in groupby(lines, _head):
        end = start + sum(1 for _ in run)
        yield slice(start, end)
        start = end


def _head(line: bytes) -> bytes:
    head = _HEAD.match(line)
    return head[0] if head else b""


def _without(places: Collection[int], members: Sequence[_Member]) -> list[_Member]:
    return [one for place, one in enumerate(members) if place not in places]


def _parts(count: int) -> Iterator[slice]:
    size = math.ceil(count / PARTS)
    return (slice(start, start + size) for start in range(0, count, size))


def checked(site: Site, schemas: Mapping[str, int], record: Record) -> Record:
    """Check a record against its stream's schema and lift it to the current one. Raises RecordError.

    Asks no database.
    """
    version = schemas.get(record.stream)
    if version is None:
        msg = f"stream {printable(record.stream)} is not listed in the manifest's schemas"
        raise RecordError("record", "/stream", msg)
    checker = site.checkers[record.stream]
    if record.op is Op.DELETE:
        checker.check_key(record.body)
        return record
    checker.check_data(record.body, version)
    stream = checker.stream
    if version == stream.schema_version:
        return record
    lifted = record._replace(body=stream.upgrade(record.body, version))
    checker.check_data(lifted.body, stream.schema_version)
    return lifted
