"""Dead letters that are rows of people's files: read as their file is written, checked and loaded as its rows are.

What a file is like is in its row of the ledger, which stays as long as a letter of it is parked.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.schemas import Checker
from exchange.channels.stream import HIDDEN, Stream
from exchange.database.engine import among
from exchange.database.tables import intake
from exchange.dead_letters.store import Brief
from exchange.format import json_pointer
from exchange.format.batch import ReadLimits
from exchange.format.errors import RecordError
from exchange.format.record import Op, RecordRun
from exchange.reading import FileFormat
from exchange.reading.one_row import Parts, as_encoded, as_text, put_together, taken_apart
from exchange.reading.read import read_row
from exchange.tables.loader import Loader, Rows, Writing
from exchange.tables.loader.staging import row_maker

GONE = "its file is no longer known here, nor how that was written: bring the row again in a file, and discard this"


@dataclass(frozen=True)
class PeoplesFile:
    """How one file is written, and on which terms it was loaded."""

    name: str
    stream: str
    written: FileFormat
    mode: str
    key: tuple[str, ...]


def files_of(connection: Connection, ids: Collection[int]) -> dict[int, PeoplesFile]:
    """Give some files, as far as they are known still."""
    columns = (intake.c.id, intake.c.file, intake.c.stream, intake.c.format, intake.c.terms)
    rows = connection.execute(sa.select(*columns).where(among(connection, intake.c.id, [*ids]))) if ids else ()
    found = {}
    for row in rows:
        terms = json.loads(row.terms)
        # What a replacement lacked is added to what is there: nothing else goes for it.
        mode = "upsert" if terms["mode"] == "replace" else str(terms["mode"])
        written = FileFormat.from_dict(json.loads(row.format))
        found[row.id] = PeoplesFile(row.file, row.stream, written, mode, tuple(terms["key"]))
    return found


def file_of(connection: Connection, letter: Brief) -> PeoplesFile | None:
    """Give the file of a letter that is a row of one; None for another letter, and for a file that is forgotten."""
    return None if letter.intake is None else files_of(connection, [letter.intake]).get(letter.intake)


class FileRows:
    """Reads and loads rows of one file, one by one."""

    def __init__(self, file: PeoplesFile, channel: Channel) -> None:
        """Find its stream. Raises RecordError if the channel has none of this name any more."""
        whole = next((one for one in channel.streams if one.name == file.stream), None)
        if whole is None:
            raise RecordError("undeclared", "", f"stream {file.stream} is not declared here any more")
        columns = file.written.names
        if gone := sorted({*columns}.difference(whole.names)):
            raise RecordError("undeclared", "", f"stream {file.stream} has no column {', '.join(gone)} any more")
        self._file = file
        self.stream, self._checker = _partial(whole, columns, file.key)
        self.channel = channel.with_only(self.stream)
        self.writing = Writing[file.mode.upper()]

    @classmethod
    def of(cls, file: PeoplesFile | None, channel: Channel) -> FileRows:
        """Make it for a file, if that is known still. Raises RecordError."""
        if file is None:
            raise RecordError("file", "", GONE)
        return cls(file, channel)

    def body(self, record: bytes, limits: ReadLimits) -> dict[str, Any]:
        """Read a row and check it as its file's rows were. Raises RecordError. Uses no connection."""
        body = read_row(self._file.written, self.stream, record, limits)
        for _ in self._checker.refused([body]):
            self._checker.check_data(body)
        return body

    def check(self, dialect: sa.Dialect, record: bytes, limits: ReadLimits) -> None:
        """Check all that can be told of a row without a database. Raises RecordError."""
        run = RecordRun(self.stream.name, Op.UPSERT, [], [self.body(record, limits)])
        row_maker(self.stream, dialect, self.writing)([1], run)

    def rows(self, loader: Loader, number: int, record: bytes, limits: ReadLimits) -> Rows:
        """Make the row of one line for a loader. Raises RecordError."""
        run = RecordRun(self.stream.name, Op.UPSERT, [], [self.body(record, limits)])
        return loader.rows([number], [record], run)


@lru_cache(64)
def _partial(stream: Stream, columns: tuple[str, ...], key: tuple[str, ...]) -> tuple[Stream, Checker]:
    partial = stream.only(columns, key)
    return partial, Checker(partial)


# As a person may see it


def hidden_parts(file: PeoplesFile, parts: Mapping[str, Any], sensitive: Collection[str]) -> frozenset[str]:
    """Name the parts of a row that nobody is to see: of a stream with such columns all that is for no column, too."""
    if not sensitive:
        return frozenset()
    known = {name for name in file.written.columns if name is not None}
    return frozenset(name for name in parts if name in sensitive or name not in known)


def shown(parts: Mapping[str, Any], hidden: Collection[str]) -> Parts:
    """Hide values of a row."""
    return {name: HIDDEN if name in hidden else value for name, value in parts.items()}


def text_of(file: PeoplesFile | None, record: bytes, sensitive: Collection[str]) -> str | None:
    """Give a row as text with what is sensitive hidden; None if nobody can tell where that is."""
    if not sensitive:
        return record.decode("utf-8", "backslashreplace") if file is None else as_text(file.written, record)
    try:
        if file is None:
            return None
        parts = taken_apart(file.written, record)
        return as_text(file.written, put_together(file.written, shown(parts, hidden_parts(file, parts, sensitive))))
    except RecordError:
        return None


def mended(file: PeoplesFile, typed: bytes, before: Parts | None, sensitive: Collection[str]) -> bytes:
    """Give a row that a person typed in UTF-8 as its file would have it, with what was hidden put back.

    Raises RecordError.
    """
    try:
        text = typed.decode()
    except UnicodeDecodeError:
        raise RecordError("encoding", "", "expected text in UTF-8") from None
    ending = next((one for one in ("\r\n", "\n", "\r") if text.endswith(one)), "")
    record = as_encoded(file.written, text.removesuffix(ending))
    if not sensitive:
        return record
    parts = taken_apart(file.written, record)
    hidden = [name for name in hidden_parts(file, parts, sensitive) if parts[name] == HIDDEN]
    if lost := [name for name in hidden if name not in (before or {})]:
        what = f"{lost[0]}: what was hidden could not be read, so that it can't be put back: give its value"
        raise RecordError("cell", "/data" + json_pointer.join(lost[0]), what)
    back = {name: (before or {})[name] for name in hidden}
    return put_together(file.written, parts | back) if back else record


def typed(file: PeoplesFile, parts: Mapping[str, Any]) -> bytes:
    """Write a row as a person would type it, in UTF-8. Raises RecordError."""
    return as_text(file.written, put_together(file.written, parts)).encode()


def parts_of(file: PeoplesFile | None, record: bytes) -> Parts | None:
    """Take a row apart; None if it can't be."""
    try:
        return None if file is None else taken_apart(file.written, record)
    except RecordError:
        return None


def ids_of(letters: Sequence[Brief]) -> set[int]:
    """Name the files that letters are rows of."""
    return {one.intake for one in letters if one.intake is not None}
