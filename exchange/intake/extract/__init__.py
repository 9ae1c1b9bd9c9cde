"""Rows of a stream into a file of people, as ``exchange intake`` reads them back: one moment of the database, streamed.

Values are written as they cross, so what could not cross is not written either: such a row is left out, and said.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from exchange.channels.codecs import LOOK_AT_EACH
from exchange.channels.schemas import Checker
from exchange.channels.stream import Stream
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.format.as_dict import AsDict
from exchange.format.errors import RecordError, printable
from exchange.intake.extract.copied import CopiedCsv
from exchange.intake.extract.lines import Body, Csv, JsonLines, Lines
from exchange.intake.extract.refused import ExtractRefused
from exchange.intake.extract.target import Target
from exchange.intake.extract.where import Condition, clause, read_conditions, without_value
from exchange.site import Site
from exchange.tables import capture
from exchange.tables.gc_pause import gc_paused

__all__ = ["Asked", "ExtractRefused", "Extracted", "extract"]

ROWS_AT_ONCE = 200
"""So many rows are in memory, unless they are long."""
MOST_TOLD = 10
"""So many rows that can't be written are told of one by one."""


@dataclass(frozen=True)
class Asked:
    """What is to be written, as people say it."""

    stream: str
    to: Path | None
    """None is standard output."""
    format: str | None = None
    """One of ``FORMATS``, where the file's name does not say it."""
    columns: Sequence[str] = ()
    """As files call them; none: all."""
    where: Sequence[str] = ()
    sensitive: bool = False
    """Whether columns that are hidden from people are written, too."""
    raw: bool = False
    """Whether texts that a spreadsheet would compute stay as they are."""
    replace: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Say it for the audit: what conditions compare with may be somebody's, and an audit is never erased."""
        return {
            "stream": self.stream,
            "to": None if self.to is None else str(self.to),
            "format": self.format,
            "columns": list(self.columns) or None,
            "where": [without_value(one) for one in self.where] or None,
            "sensitive": self.sensitive or None,
            "raw": self.raw or None,
            "replace": self.replace or None,
        }


@dataclass(frozen=True)
class Extracted(AsDict):
    """What was written."""

    stream: str
    file: str | None
    format: str
    columns: tuple[str, ...]
    rows: int
    refused: int
    """How many rows have a value that can't cross, and were left out."""
    hidden: tuple[str, ...]
    """Columns that were left out because they are sensitive."""
    defused: int
    """How many texts have an apostrophe before them, because a spreadsheet would compute them."""
    sentences: tuple[str, ...]
    """Of the first of the refused rows why; they may quote values."""

    def without_values(self) -> dict[str, Any]:
        """Give the fields but what may quote a value."""
        return {name: value for name, value in self.as_dict().items() if name != "sentences"}


def extract(
    site: Site,
    asked: Asked,
    *,
    out: BinaryIO | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Extracted:
    """Write the rows that are meant; the file appears whole, for our eyes only, or not at all.

    ``out`` is what standard output means. Raises ExtractRefused, TransientError, OSError, and Stopped.
    """
    whole = _stream(site, asked.stream)
    target = Target.of(asked.to, asked.format)
    conditions = read_conditions(whole, asked.where)
    if not asked.sensitive:
        _refuse_hidden(whole, [*asked.columns, *(one.column for one in conditions)])
    hidden = () if asked.sensitive or asked.columns else tuple(n for n in whole.names if n in whole.sensitive)
    stream = _narrowed(whole, asked.columns or [name for name in whole.names if name not in hidden])
    if target.format == "csv" and len(stream.columns) == 1 and stream.columns[0].nullable:
        raise ExtractRefused(
            f"columns: {stream.names[0]} alone may be NULL, which as a line of CSV would be an empty one; name a"
            " column of the key, too, or write .jsonl"
        )
    refused: list[str] = []
    rows = 0
    with (
        _database_errors(),
        reading(site.engine, one_moment=True) as connection,
        target.open(replace=asked.replace, out=out) as file,
    ):
        source = _Source(site, connection, whole, stream, conditions)
        writer = _writer(target, file, stream, raw=asked.raw)
        with writer, gc_paused(), closing(source.write(writer)) as pieces:
            for written, sentences in pieces:
                rows += written
                refused += sentences[: max(0, MOST_TOLD - len(refused))]
                site.progress.add(written + len(sentences))
                if stopping():
                    raise ExtractRefused("it was stopped")
    return Extracted(
        whole.name,
        None if target.file is None else str(target.file),
        target.format,
        stream.names,
        rows,
        source.refused,
        hidden,
        writer.defused,
        tuple(refused),
    )


@contextmanager
def _database_errors() -> Iterator[None]:
    """Turn a database that fails into TransientError; a disk or a pipe that does says so itself."""
    try:
        yield
    except SQLAlchemyError:
        with transient_errors():
            raise


class _Source:
    """The rows of one transaction, as bodies that the stream's schema takes."""

    def __init__(
        self, site: Site, connection: Connection, whole: Stream, stream: Stream, conditions: Sequence[Condition]
    ) -> None:
        self.refused = 0
        self._connection = connection
        self._stream = stream
        self._checker = site.checkers[whole.name] if stream.columns == whole.columns else Checker(stream)
        self._encode = stream.encoder(connection.dialect)
        self._encode_all = stream.rows_encoder(connection.dialect)
        self._key = stream.key_encoder(connection.dialect)
        clauses = [clause(connection, whole, one) for one in conditions]
        selected = [stream.codecs[column.name].selected(connection.dialect) for column in stream.columns]
        keys = [stream.codecs[column.name].selected(connection.dialect) for column in stream.key]
        self._select = sa.select(*selected, *(key.label(f"exchange_key_{n}") for n, key in enumerate(keys)))
        self._select = self._select.select_from(stream.table).where(*clauses)

    def write(self, writer: Lines) -> Generator[tuple[int, list[str]]]:
        """Write all rows; give of some at a time how many were written, and why others are left out."""
        copied = capture.copied(self._connection, self._select) if isinstance(writer, Csv) else None
        if isinstance(writer, Csv) and copied is not None:
            types, lines = copied
            if CopiedCsv.takes(self._stream, types):
                yield from self._write_copied(writer, types, lines)
                return
        at_once = capture.fetch_rows(self._connection, self._stream, ROWS_AT_ONCE)
        width = len(self._stream.columns)
        with closing(capture.streamed(self._connection, self._select, at_once)) as found:  # type: ignore[type-var]
            for rows in found:
                columns = [*zip(*rows, strict=True)][:width]
                try:
                    bodies = self._encode_all(columns)
                except LOOK_AT_EACH:
                    yield self._each(writer, rows)
                    continue
                if self._checker.accepts_all(bodies):
                    writer.write(bodies)
                    yield len(bodies), []
                else:
                    yield self._each(writer, rows)

    def _write_copied(
        self, writer: Csv, types: Sequence[int], lines: Iterator[list[bytes]]
    ) -> Generator[tuple[int, list[str]]]:
        copied = CopiedCsv(self._stream, self._checker, self._connection.dialect, types, writer)
        with closing(lines) as pieces:  # type: ignore[type-var]
            for some in pieces:
                try:
                    made = copied.lines(some)
                except LOOK_AT_EACH:
                    yield self._each(writer, copied.rows_of(some))
                else:
                    writer.write_ready(made)
                    yield len(some), []

    def _each(self, writer: Lines, rows: Sequence[capture.Row]) -> tuple[int, list[str]]:
        """Write rows but those that can't be; give how many were, and why the others were not."""
        width = len(self._stream.columns)
        bodies: list[Body] = []
        sentences: list[str] = []
        for row in rows:
            try:
                body = self._encode(row[:width])
                self._checker.check_data(body)
                bodies.append(body)
            except RecordError as error:
                self.refused += 1
                sentences.append(f"{self._named(row[width:])}: {error.sentence}")
        writer.write(bodies)
        return len(bodies), sentences

    def _named(self, key: Sequence[Any]) -> str:
        try:
            shown = self._stream.shown(self._key(key))
        except RecordError:
            return "a row whose key can't cross either"
        return printable(", ".join(f"{name} {value}" for name, value in shown.items()), 200)


def _stream(site: Site, name: str) -> Stream:
    streams = {stream.name: stream for channel in site.channels for stream in channel.streams}
    if name not in streams:
        raise ExtractRefused(f"stream: expected one of {', '.join(sorted(streams))}, found {printable(repr(name), 80)}")
    return streams[name]


def _refuse_hidden(stream: Stream, named: Sequence[str]) -> None:
    for name in named:
        if name in stream.sensitive:
            raise ExtractRefused(f"{printable(name, 80)} is sensitive: --sensitive writes it, which the audit says")


def _narrowed(stream: Stream, names: Sequence[str]) -> Stream:
    """Give the stream with some of its columns, in their order. Raises ExtractRefused."""
    known = dict(zip(stream.names, stream.columns, strict=True))
    for name in names:
        if name not in known:
            raise ExtractRefused(
                f"columns: expected some of {printable(', '.join(known), 400)}, found {printable(repr(name), 80)}"
            )
    if len({*names}) < len(names):
        raise ExtractRefused("columns: expected each column once")
    narrow = copy.copy(stream)
    narrow.columns, narrow.names = tuple(known[name] for name in names), tuple(names)
    return narrow


def _writer(target: Target, file: BinaryIO, stream: Stream, *, raw: bool) -> Lines:
    match target.format:
        case "csv":
            return Csv(file, stream, raw=raw)
        case "jsonl":
            return JsonLines(file)
    from exchange.intake.extract.parquet import Parquet  # noqa: PLC0415 - it is made of an extra's parts

    return Parquet(file, stream)
