"""A file that a person names: loaded where it lies, beside whoever else loads parts of it; or only rehearsed."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection

from exchange.channels.intake import Intake, check_intakes
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import IntakeState
from exchange.files.folder import COPY_BYTES
from exchange.format.as_dict import AsDict
from exchange.format.errors import RecordError, printable, rule_of
from exchange.intake import ledger, standing
from exchange.intake.ledger import Entry, NewFile
from exchange.intake.load import Segment, check_limits, load_part
from exchange.intake.standing import DroppedFile
from exchange.intake.take_in import Bytes, duplicate_of, terms_of, write_down
from exchange.intake.target import NO_LIMIT, Refused, Target, own_stream
from exchange.intake.undo import undo
from exchange.reading import FileRefused, Place
from exchange.reading.cut import Cutter
from exchange.reading.detect import detect
from exchange.reading.read import read
from exchange.site import Site
from exchange.tables.loader import Loader
from exchange.tables.loader.checks import FOREIGN_KEY

BY_HAND = "by-hand"
"""What an intake is called that nobody declared."""

LOOK_SECONDS = 0.5
"""So often it is looked whether others are done with the parts that they load."""


@dataclass(frozen=True)
class Given(AsDict):
    """What became of a file, and what was found out about how it is written."""

    file: DroppedFile
    notes: tuple[str, ...]


@dataclass(frozen=True)
class BadRows(AsDict):
    """So many rows are bad for one reason: ``line`` is the first of them, and ``sentence`` what is wrong there."""

    error: str
    rule: str
    rows: int
    line: int
    sentence: str


@dataclass(frozen=True)
class Rehearsed(AsDict):
    """What would become of a file: nothing of it was changed. ``refused`` says why it would be refused, if so."""

    file: str
    stream: str
    notes: tuple[str, ...]
    rows_read: int
    would_load: int
    bad: tuple[BadRows, ...]
    refused: str | None
    duplicate: str | None


def intake_for(site: Site, name: str | None, stream: str | None) -> Intake:
    """Find the declared intake of a name, or the only one for a stream, or make one for it. Raises FileRefused."""
    if name is not None:
        for one in site.intakes:
            if one.name == name:
                return one
        raise FileRefused(f"no intake is called {printable(name, 80)}; `exchange files` lists those that are declared")
    if stream is None:
        raise FileRefused("say by --stream or --intake what its rows are")
    _, own = own_stream(site, stream)
    declared = [one for one in site.intakes if one.stream_of(site.channels) is own]
    return declared[0] if len(declared) == 1 else Intake(BY_HAND, stream=stream)


@dataclass(frozen=True)
class _Known:
    """A file as it is before it is loaded."""

    new: NewFile
    notes: tuple[str, ...]
    places: list[Place]


def take_in(
    site: Site,
    path: Path,
    intake: Intake,
    who: str,
    *,
    again: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> Given:
    """Load a file to its end, or go on with it where it was left; ``again`` though the same bytes were loaded before.

    Commits as it goes. Raises FileRefused for what is no file of its rows, Busy, and TransientError: then the file
    waits, and whoever comes next goes on.
    """
    known = _look(site, path, intake, who)
    number = _left_behind(site, known.new)
    if number is None:
        stops = [*(place.position for place in known.places[1:]), None]
        number, _ = write_down(site, known.new, list(zip(known.places, stops, strict=True)), again=again)
    while _load_some(site, number, stopping) and not stopping():
        time.sleep(LOOK_SECONDS)  # others are at all that is left
    with transient_errors(), reading(site.engine) as connection:
        return Given(standing.find_file(connection, number).file, known.notes)


def _load_some(site: Site, number: int, stopping: Callable[[], bool]) -> bool:
    """Load the parts that nobody is at; say whether others are at some."""
    with transient_errors(), reading(site.engine) as connection:
        entry, parts = ledger.find(connection, number), ledger.parts(connection, number)
    if entry is not None and entry.state in ledger.TO_UNDO:
        undo(site, number, read)
        return False
    busy = False
    for part in parts:
        if entry is None or entry.state not in ledger.TO_LOAD or stopping():
            return False
        if not part.is_done:
            try:
                entry = load_part(site, number, part.number, read, stopping=stopping)
            except Busy:
                busy = True
    return busy and entry is not None and entry.state in ledger.TO_LOAD


def _left_behind(site: Site, new: NewFile) -> int | None:
    """Find the same file from the same place, as a command that ended before its end has left it."""
    with transient_errors(), reading(site.engine) as connection:
        known = ledger.original_of(connection, new.sha256, new.stream)
    same = known is not None and known.state in ledger.TO_LOAD and known.place == new.place
    return known.id if known is not None and same else None


def _look(site: Site, path: Path, intake: Intake, who: str) -> _Known:
    """Read a file once: how it is written, its digest, and where it can be cut. Raises FileRefused and OSError."""
    if faults := check_intakes([intake], site.channels):
        raise FileRefused("; ".join(faults))
    stream = intake.stream_of(site.channels)
    assert stream is not None, "it was checked"
    own_stream(site, stream.name)
    with opened(path) as file:
        before = os.fstat(file.fileno())
        found = detect(file, path.name, intake, stream, limits=site.limits.read)
        written = found.format
        terms = terms_of(site, intake, stream.name, written, Bytes("", before.st_size, before.st_mtime_ns))
        cutter = Cutter(written, site.limits.intake_part_bytes, site.limits.read.max_record_bytes)
        digest = hashlib.sha256()
        file.seek(0)
        while piece := file.read(COPY_BYTES):
            digest.update(piece)
            cutter.feed(piece)
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or file.tell() != after.st_size:
            raise FileRefused("it is still being written to; bring it again once it is complete")
    place = str(path.resolve())
    new = NewFile(
        intake.name,
        stream.name,
        printable(path.name, 200),
        place,
        digest.hexdigest(),
        after.st_size,
        written,
        terms,
        who,
        intake.priority,
    )
    return _Known(new, tuple(found.notes), [Place(written.start, written.line), *cutter.places])


def opened(path: Path) -> BinaryIO:
    """Open a file that a person named. Raises FileRefused for what is none, and OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileRefused("it is no regular file; name the file itself")
    return open(descriptor, "rb")  # noqa: PTH123 - by its descriptor


# Rehearsed


class _Undone(Exception):  # noqa: N818 - never leaves this module
    """All was tried, and is rolled back."""


def rehearse(site: Site, path: Path, intake: Intake, who: str) -> Rehearsed:
    """Read all of a file and load it in a transaction that is rolled back; say what would become of it.

    Raises FileRefused for what is no file of its rows, Busy and TransientError.
    """
    known = _look(site, path, intake, who)
    entry = _unwritten(known.new)
    target = Target.of(site, entry)
    start = known.places[0]

    def pieces() -> Iterator[tuple[int, bytes]]:
        with opened(path) as again:
            for piece in read(again, entry.format, target.stream, start, None, site.limits.read):
                yield from zip(piece.numbers, piece.records, strict=True)

    with transient_errors():
        with reading(site.engine) as connection:
            original = ledger.original_of(connection, entry.sha256, entry.stream)
        refused: str | None = None
        segment: _Rehearsal | None = None
        with suppress(_Undone), opened(path) as file, writing(site.engine) as connection:
            segment = _Rehearsal(site, connection, entry, target, pieces)
            rows = read(file, entry.format, target.stream, start, None, site.limits.read)
            try:
                segment.load(start, rows, NO_LIMIT, lambda: None)
            except (Refused, FileRefused) as refusal:
                refused = str(refusal)
            raise _Undone
    assert segment is not None, "it was made a moment ago"
    if refused is None:
        refused = segment.refusal()
    return Rehearsed(
        entry.file,
        entry.stream,
        known.notes,
        segment.came.read,
        0 if refused else segment.came.read - segment.came.parked,
        segment.grouped(),
        refused,
        None if original is None else duplicate_of(original),
    )


def _unwritten(new: NewFile) -> Entry:
    fields: dict[str, Any] = {name: getattr(new, name) for name in NewFile.__dataclass_fields__}
    fields |= dict.fromkeys(("rows_read", "rows_loaded", "rows_parked", "rows_waiting", "attempts"), 0)
    fields |= {"next_try_at": None, "created_at": now(), "started_at": None, "updated_at": now()}
    return Entry(id=0, state=IntakeState.WAITING, **fields)


class _Rehearsal(Segment):
    """All rows of a file as one segment, whose bad rows are counted by their reasons and written nowhere."""

    def __init__(
        self,
        site: Site,
        connection: Connection,
        entry: Entry,
        target: Target,
        again: Callable[[], Iterable[tuple[int, bytes]]],
    ) -> None:
        super().__init__(site, connection, entry, target, again)
        self._allowed, self._parks = NO_LIMIT, True
        self._groups: dict[tuple[str, str], BadRows] = {}

    def _park(self, loader: Loader, number: int, record: bytes, error: RecordError, cause: str = "") -> None:
        del loader, record
        waits = error.error == FOREIGN_KEY
        self.came = self.came._replace(parked=self.came.parked + 1, waiting=self.came.waiting + waits)
        rule = rule_of(error.error, error.pointer, cause)
        sentence = error.sentence.partition("; it is parked")[0]
        one = self._groups.get((error.error, rule)) or BadRows(error.error, rule, 0, number, sentence)
        first = one if one.line <= number else BadRows(error.error, rule, one.rows, number, sentence)
        self._groups[error.error, rule] = BadRows(first.error, first.rule, one.rows + 1, first.line, first.sentence)

    def grouped(self) -> tuple[BadRows, ...]:
        """Give the reasons, the most frequent one first."""
        return tuple(sorted(self._groups.values(), key=lambda one: (-one.rows, one.line)))

    def refusal(self) -> str | None:
        """Say why the file would be refused, if it would be."""
        came = {f"rows_{name}": number for name, number in self.came._asdict().items()}
        try:
            check_limits(self._entry.with_counts(**came), ended=True)
        except Refused as refusal:
            return str(refusal)
        return None
