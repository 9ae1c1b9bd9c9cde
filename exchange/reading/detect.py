"""Finds out how a file is written: compression, encoding, dialect and header, and says what it found in sentences."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from exchange.channels.codecs import json_null_member
from exchange.channels.codecs.numeric import DecimalCodec, FloatCodec, IntegerCodec
from exchange.channels.intake import Intake
from exchange.channels.stream import Stream
from exchange.format.batch import ReadLimits
from exchange.format.errors import RecordError, printable
from exchange.reading import FileFormat, FileRefused
from exchange.reading.csv_rows import CsvRows
from exchange.reading.header import Columns
from exchange.reading.json_rows import read_object
from exchange.reading.members import all_members, nothing
from exchange.reading.model_defaults import makers
from exchange.reading.rows import default_values
from exchange.reading.source import compression_of, is_direct, is_taken, member_name, opened, read
from exchange.reading.splitting import Grammar, count_lines, lines_of, split, whole_lines

_SAMPLE = 256 * 1024
_LONGEST_HEADER = 1024 * 1024
_DELIMITERS = ",;\t|"
_ENDINGS = (".gz", ".gzip", ".zst", ".zstd", ".zip")
_JSON_LINES = (".jsonl", ".ndjson", ".json", ".jsonlines")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_TEXT = (
    (b"PAR1", "a Parquet file"),
    (b"%PDF", "a PDF"),
    (b"\xd0\xcf\x11\xe0", "a workbook of a spreadsheet (.xls)"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x1f\x8b", "compressed twice"),
    (b"PK\x03\x04", "an archive within a compressed file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MOST_CONTROL = 0.3
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_COMMA_NUMBER = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:[. \u00a0\u202f'][0-9]{3})+),[0-9]*")
_POINT_NUMBER = re.compile(r"[+-]?[0-9]{1,3}(?:([,' \u00a0\u202f])[0-9]{3})(?:\1[0-9]{3})*(?:\.[0-9]*)?")
_GROUP = 3


@dataclass(frozen=True)
class Detected:
    """How a file is written, and what a person is told of it."""

    format: FileFormat
    notes: list[str]


class _Sample(NamedTuple):
    """A file's beginning."""

    compression: str
    name: str
    """As it is called without its compression."""
    data: bytes
    """Decompressed."""
    whole: bool
    """It is all that there is."""


def detect(
    file: BinaryIO,
    name: str,
    intake: Intake,
    stream: Stream,
    *,
    limits: ReadLimits | None = None,
    still_wanted: Callable[[], None] = nothing,
) -> Detected:
    """Look at a file's beginning, and at which members all rows of JSON lines have; ``name`` is what it is called.

    Raises FileRefused where it is no file of its rows, and what ``still_wanted`` raises, which is called now and then.
    """
    sample = _sample(file, name)
    encoding, mark, notes = _encoding(sample, intake)
    text = _decoded(sample, encoding, mark)
    if sample.compression:
        notes.insert(0, f"compressed with {sample.compression}")
    kind = _kind(sample.name, text, intake)
    started = FileFormat(
        kind=kind,
        compression=sample.compression,
        encoding=encoding,
        dates=tuple(intake.written.dates),
        nulls=tuple(intake.written.nulls),
        time_zone=_zone(intake.written.time_zone),
        defaults=dict(intake.defaults),
        start=mark,
    )
    columns = Columns(stream, intake)
    if kind == "csv":
        found, more = _csv(started, text, intake, stream, columns)
    else:
        most = (limits or ReadLimits()).max_record_bytes

        def rest(first: list[str], wanted: Callable[[str], bool]) -> list[str]:
            return first if sample.whole else all_members(file, started, first, wanted, most, still_wanted)

        found, more = _json_lines(started, text, stream, columns, rest)
    _check_defaults(found, stream)
    notes += more
    if not is_direct(encoding) or encoding != "utf-8":
        return Detected(found, notes)
    try:
        sample.data[: whole_lines(sample.data) if not sample.whole else None].decode()
    except UnicodeDecodeError as error:
        line = count_lines(sample.data[: error.start]) + 1
        notes.append(
            f"line {line} has bytes that are no UTF-8: such rows are bad; if the file is Windows-1252, say so: encoding"
        )
    return Detected(found, notes)


def _sample(file: BinaryIO, name: str) -> _Sample:
    file.seek(0)
    head = file.read(16)
    compression = compression_of(head)
    if compression == "zip":
        name = member_name(file)
    elif compression and name.lower().endswith(_ENDINGS):
        name = name.rpartition(".")[0]
    raw = opened(file, compression)
    data = b""
    while len(data) < _SAMPLE or (len(data) < _LONGEST_HEADER and b"\n" not in data and b"\r" not in data):
        piece = read(raw, _SAMPLE)
        if not piece:
            return _Sample(compression, name, data, whole=True)
        data += piece
    return _Sample(compression, name, data, whole=False)


def _encoding(sample: _Sample, intake: Intake) -> tuple[str, int, list[str]]:
    """Say the encoding, how many bytes its mark has, and what a person is told."""
    data, told = sample.data, intake.written.encoding
    what = next((what for begins, what in _NO_TEXT if data.startswith(begins)), None)
    if what is not None:
        raise FileRefused(f"it is no text but {what}; bring CSV or JSON lines")
    marked = next(((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), None)
    if told is not None and not is_taken(told):
        raise FileRefused(f"encoding {printable(told, 80)} is none that files are read in; UTF-8, UTF-16 and such are")
    if marked is not None:
        mark, encoding = marked
        if told is not None and not codecs.lookup(told).name.startswith(encoding[:6]):
            raise FileRefused(
                f"its encoding was said to be {printable(told)}, it begins with the mark of {encoding.upper()}; leave"
                " out encoding, or say the one that it has"
            )
        return encoding, len(mark), [f"encoding {encoding.upper()}, by the mark at its beginning"]
    if told is not None:
        name = codecs.lookup(told).name
        name = {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}.get(name, name)
        return name, 0, [f"encoding {name.upper()}, as was said"]
    even, odd = data[:_SAMPLE:2].count(0), data[1:_SAMPLE:2].count(0)
    half = min(len(data), _SAMPLE) / 2
    if half and odd > half * 0.4 and even * 4 < odd:
        return "utf-16-le", 0, ["encoding UTF-16-LE, by where its zeros are"]
    if half and even > half * 0.4 and odd * 4 < even:
        return "utf-16-be", 0, ["encoding UTF-16-BE, by where its zeros are"]
    return "utf-8", 0, ["encoding UTF-8"]


def _decoded(sample: _Sample, encoding: str, mark: int) -> str:
    """Give the text of the sample; raises FileRefused where its first line is none."""
    data = sample.data[mark:]
    if is_direct(encoding):
        first = data[: whole_lines(data[:_SAMPLE].partition(b"\n")[0] + b"\n")]
        if _CONTROL.search(first[:_SAMPLE]) or len(_CONTROL.findall(data)) > len(data) * _MOST_CONTROL:
            raise FileRefused("it is no text: its beginning has characters that no text has; bring CSV or JSON lines")
        try:
            first.decode(encoding)
        except UnicodeDecodeError as error:
            raise FileRefused(
                f"its first line is no text in {encoding.upper()}, from byte {mark + error.start + 1} on; say its"
                " encoding, windows-1252 perhaps, or bring it in UTF-8"
            ) from None
    text = data.decode(encoding, "replace")
    return text if sample.whole else text.rstrip("\ufffd")


def _kind(name: str, text: str, intake: Intake) -> str:
    if intake.format != "auto":
        return intake.format
    if text.lstrip().startswith("{") or (not text.strip() and name.lower().endswith(_JSON_LINES)):
        return "jsonl"
    if text.lstrip().startswith("[") and name.lower().endswith(_JSON_LINES):
        raise FileRefused("it is an array of JSON; write one object a line, as `jq -c '.[]'` does")
    return "csv"


def _zone(name: str | None) -> str:
    if name is None:
        return ""
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise FileRefused(f"time zone {printable(name, 80)} is unknown here; name one as Europe/Berlin") from None


def _check_defaults(found: FileFormat, stream: Stream) -> None:
    codecs_by_name = {codec.name: codec for codec in stream.codecs.values()}
    lacking = {name: text for name, text in found.defaults.items() if name not in found.columns}
    try:
        default_values(replace(found, defaults=lacking), codecs_by_name)
    except RecordError as error:
        raise FileRefused(f"what defaults= gives is no value of its column: {error.sentence}") from None
    try:
        makers(found, codecs_by_name)
    except RecordError as error:
        raise FileRefused(f"what the model's default gives is no value of its column: {error.sentence}") from None


# JSON lines


def _json_lines(
    started: FileFormat,
    text: str,
    stream: Stream,
    columns: Columns,
    rest: Callable[[list[str], Callable[[str], bool]], list[str]],
) -> tuple[FileFormat, list[str]]:
    """Match the members of all rows; ``rest`` gives those of the beginning and those behind it."""
    if text.lstrip().startswith("["):
        raise FileRefused("it is an array of JSON; write one object a line, as `jq -c '.[]'` does")
    documents = {json_null_member(name): name for name in stream.names}
    members: dict[str, None] = {}
    lines = [line for line in lines_of(text.encode("utf-8", "replace")) if line.strip()]
    readable = 0
    for line in lines:
        try:
            value = read_object(line)
        except RecordError:
            continue
        if isinstance(value, dict):
            readable += 1
            members |= dict.fromkeys(map(str, value))
    if lines and not readable:
        raise FileRefused("none of its first lines is an object of JSON; write one object a line")
    if not lines:
        return replace(started, defaults={}), ["JSON lines", "it is empty"]
    found = rest([*members], lambda name: name in documents or columns.meant(name) is not None)
    header = columns.header([*dict.fromkeys(documents.get(name, name) for name in found)], what="member")
    defaults = {name: value for name, value in started.defaults.items() if name not in header.columns}
    made = replace(
        started, header=tuple(header.cells), columns=tuple(header.columns), defaults=defaults, given=tuple(header.given)
    )
    return made, ["JSON lines", *header.notes]


# CSV


class _Dialect(NamedTuple):
    """Marks, and what the header is by them."""

    delimiter: str
    quote: str
    cells: list[str]
    known: int


def _csv(
    started: FileFormat, text: str, intake: Intake, stream: Stream, columns: Columns
) -> tuple[FileFormat, list[str]]:
    written = intake.written
    for what, mark in (("delimiter", written.delimiter), ("quote", written.quote)):
        if mark and (len(mark) > 1 or not mark.isascii() or mark in "\r\n\0"):
            raise FileRefused(f"{what} {printable(repr(mark), 80)} is none: it must be one ASCII character")
    said, behind = _said_separator(text)
    body, skipped = _without_blank_lines(text[behind:])
    if not body:
        raise FileRefused("it is empty: not even a header; bring the file whole, with a header in its first line")
    delimiters = written.delimiter or said or _DELIMITERS
    line = lines_of(body.encode("utf-8", "replace"))[0]
    quotes = ("'" if b"'" in line and b'"' not in line else '"',) if written.quote is None else (written.quote,)
    best = max(
        (one for quote in quotes for delimiter in delimiters if (one := _header(body, delimiter, quote, columns))),
        key=lambda one: (one.known, len(one.cells) if one.known else 0),
        default=None,
    )
    if best is None:
        raise FileRefused(
            "its header can't be read: a quote in its first line opens a cell that is never closed, or stands in the"
            " middle of one"
        )
    header = columns.header(best.cells)
    preamble = text[: behind + skipped]
    first = _first_record(body, best.delimiter, best.quote)
    until = (preamble + first).encode(
        started.encoding, "surrogatepass" if started.encoding.startswith("utf") else "replace"
    )
    lines = count_lines((preamble + first).encode("utf-8", "replace"))
    found = replace(
        started,
        delimiter=best.delimiter,
        quote=best.quote,
        header=tuple(header.cells),
        columns=tuple(header.columns),
        defaults={name: value for name, value in started.defaults.items() if name not in header.columns},
        given=tuple(header.given),
        start=started.start + len(until),
        line=1 + lines,
    )
    shown = {"\t": "tab", " ": "blank"}.get(best.delimiter, best.delimiter)
    notes = [
        f"CSV, cells separated by {shown}" + ("" if best.quote == '"' else f", quoted by {best.quote or 'nothing'}")
    ]
    found, more = _with_decimal(found, body[len(first) :], intake, stream)
    return found, [*notes, *more, *header.notes]


def _said_separator(text: str) -> tuple[str, int]:
    """Give the delimiter that a first line ``sep=;`` names, as Excel writes it, and how long that line is."""
    line = re.match(r"[^\r\n]*", text)
    said = _SEPARATOR.fullmatch(line[0]) if line else None
    if said is None or line is None:
        return "", 0
    end = re.compile(r"\r\n|\n|\r|\Z").match(text, line.end())
    return said[1], end.end() if end else line.end()


def _without_blank_lines(text: str) -> tuple[str, int]:
    blank = re.match(r"(?:[ \t]*(?:\r\n|\n|\r))*", text)
    skipped = blank.end() if blank else 0
    return ("" if not text[skipped:].strip() else text[skipped:]), skipped


def _first_record(body: str, delimiter: str, quote: str) -> str:
    """Give the header's text with the end of its line."""
    data = body.encode("utf-8", "surrogatepass")
    grammar = Grammar.of(FileFormat("csv", delimiter=delimiter, quote=quote))
    end = 0
    while end < len(data):
        line = re.compile(rb"[^\r\n]*+(?:\r\n|\n|\r|\Z)").match(data, end)
        end = line.end() if line else len(data)
        found = split(data[:end], grammar, last=end == len(data))
        if found.records:
            used = (
                found.used
                if found.lines is None
                else sum(map(len, data[:end].splitlines(keepends=True)[: found.lines[0]]))
            )
            return data[:used].decode("utf-8", "surrogatepass")
    return body


def _header(body: str, delimiter: str, quote: str, columns: Columns) -> _Dialect | None:
    """Read the header by these marks; None if it can't be."""
    if delimiter == quote:
        return None
    first = _first_record(body, delimiter, quote).rstrip("\r\n")
    grammar = Grammar.of(FileFormat("csv", delimiter=delimiter, quote=quote))
    if grammar is not None and not grammar.whole.match(first.encode("utf-8", "surrogatepass")):
        return None
    try:
        rows = [*csv.reader([first], delimiter=delimiter, quotechar=quote, strict=True)] if quote else []
    except csv.Error:  # a cell of more than 128 KiB
        return None
    cells = rows[0] if rows else first.split(delimiter)
    return _Dialect(delimiter, quote, cells, columns.known(cells))


def _with_decimal(found: FileFormat, rest: str, intake: Intake, stream: Stream) -> tuple[FileFormat, list[str]]:
    """Say the decimal sign of its numbers: as was said, as cells show that can mean nothing else, or the point."""
    told = intake.written.decimal
    if told is not None:
        return replace(found, decimal=told, grouping=True), []
    numbers = [
        at
        for at, name in enumerate(found.columns)
        for codec in stream.codecs.values()
        if codec.name == name and isinstance(codec.type_codec, (IntegerCodec, DecimalCodec, FloatCodec))
    ]
    comma, point = None, None
    for cell in _cells_of(found, rest, numbers):
        comma = comma or (cell if _shows_comma(cell) else None)
        point = point or (cell if _shows_point(cell) else None)
    if comma and point:
        said = f'"{_shown(comma)}" has a decimal comma, "{_shown(point)}" a decimal point'
        return found, [f"{said}: only numbers with a point and ungrouped digits are taken; say which by decimal"]
    if comma:
        return replace(found, decimal=",", grouping=True), [f'decimal comma, as in "{_shown(comma)}"']
    if point:
        return replace(found, grouping=True), [f'decimal point, as in "{_shown(point)}"']
    return found, []


def _shown(cell: str) -> str:
    return re.sub("[0-9]", "9", printable(cell, 40))


def _cells_of(found: FileFormat, rest: str, places: Sequence[int]) -> Iterator[str]:
    if not places or not rest:
        return
    data = rest.encode("utf-8", "surrogatepass")
    records = split(data[: whole_lines(data) or None], Grammar.of(found), last=True).records
    cut = CsvRows(replace(found, encoding="utf-8")).cut(records, {})
    for place in places:
        for cell in cut.columns[place]:
            if cell is not None and ("," in cell or "." in cell):
                yield cell.strip()


def _shows_comma(cell: str) -> bool:
    """Say whether a number can only have a decimal comma: not three digits behind it, or digits grouped by points."""
    if not _COMMA_NUMBER.fullmatch(cell):
        return False
    before, _, after = cell.partition(",")
    return len(after) != _GROUP or not 0 < len(before.lstrip("+-")) <= _GROUP or before.lstrip("+-").startswith("0")


def _shows_point(cell: str) -> bool:
    """Say whether a number can only have a decimal point: digits grouped by commas, and a point or a second group."""
    return "," in cell and _POINT_NUMBER.fullmatch(cell) is not None and ("." in cell or cell.count(",") > 1)
