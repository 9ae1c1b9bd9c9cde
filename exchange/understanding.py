"""Lines of a batch to rows: read, checked against their schema and decoded, many at once where all are good.

Each step over many records is one call: that is three times as fast as one record after the other. Where a step
refuses any of them they are taken in smaller pieces, and the last pieces line by line, so that each bad line is
found, and costs its neighbours little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from exchange.format import record as records
from exchange.format.errors import RecordError, printable
from exchange.format.manifest import Counts
from exchange.format.record import Op, Record, Run
from exchange.loader import Loader, Rows
from exchange.site import Site

PIECES = 24
"""Into so many pieces many lines are cut when one of them is bad: with a bad one in a hundred most are good."""

FEW_LINES = 8
"""As many lines are not worth a try together."""


class Good(NamedTuple):
    """Records of one stream, understood: their rows, and how many bytes their lines have."""

    stream: str
    rows: Rows
    size: int


class Bad(NamedTuple):
    """A line's number, its bytes and why it has no row."""

    number: int
    line: bytes
    error: RecordError


class Understanding:
    """Reads the lines of one batch."""

    def __init__(self, site: Site, schemas: Mapping[str, int], loader: Loader) -> None:
        """Prepare for a batch whose manifest lists ``schemas``."""
        self._site = site
        self._schemas = schemas
        self._loader = loader
        self._counts: Counter[tuple[str, Op]] = Counter()

    def of(self, lines: Sequence[bytes], first: int) -> Iterator[Good | Bad]:
        """Understand lines that follow each other, the first of them with the number ``first``."""
        good = self._together(lines, first)
        if good is not None:
            yield good
            return
        size = max(FEW_LINES, len(lines) // PIECES)
        for start in range(0, len(lines), size):
            piece = lines[start : start + size]
            good = self._together(piece, first + start) if size > FEW_LINES else None
            if good is not None:
                yield good
            else:
                yield from self._one_by_one(piece, first + start)

    def counts(self) -> dict[str, Counts]:
        """Count the records so far of the streams that the manifest lists, bad ones too if they could be read."""
        streams = {stream for stream, _ in self._counts}
        return {name: Counts(*(self._counts[name, op] for op in (Op.UPSERT, Op.DELETE))) for name in streams}

    def _together(self, lines: Sequence[bytes], first: int) -> Good | None:
        """Understand lines whose records are good and alike; None if they are not."""
        run = records.decode_run(lines)
        if run is None:
            return None
        checker = self._site.checkers.get(run.stream)
        if checker is None or self._schemas.get(run.stream) != checker.stream.schema_version:
            return None
        if not (checker.accepts_all if run.op is Op.UPSERT else checker.accepts_all_keys)(run.bodies):
            return None
        try:
            rows = self._loader.rows(range(first, first + len(lines)), run)
        except RecordError:
            return None
        self._counts[run.stream, run.op] += len(lines)
        return Good(run.stream, rows, sum(map(len, lines)))

    def _one_by_one(self, lines: Sequence[bytes], first: int) -> Iterator[Good | Bad]:
        for number, line in enumerate(lines, first):
            try:
                record = records.decode(line)
                if record.stream in self._schemas:
                    self._counts[record.stream, record.op] += 1
                record = checked(self._site, self._schemas, record)
                run = Run(record.stream, record.op, [record.version], [record.body])
                yield Good(record.stream, self._loader.rows([number], run), len(line))
            except RecordError as error:
                yield Bad(number, line, error)


def checked(site: Site, schemas: Mapping[str, int], record: Record) -> Record:
    """Check a record against its stream's schema and lift it to the current one. Raises RecordError."""
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
