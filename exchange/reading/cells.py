"""Cells of one column, as people write them, to the values that records' data has: exact, or refused with a sentence.

Many cells are looked at as one text, and one by one only where that does not show that all of them are usual. What the
stream's schema refuses may get through: bodies are checked against it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, tzinfo
from functools import lru_cache, partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from exchange.channels.codecs import JSON_NULL, ColumnCodec, Json
from exchange.channels.codecs.array import ArrayCodec, HstoreCodec
from exchange.channels.codecs.base import TypeCodec
from exchange.channels.codecs.custom import CustomCodec
from exchange.channels.codecs.document import JsonCodec
from exchange.channels.codecs.numeric import BooleanCodec, DecimalCodec, FloatCodec, IntegerCodec
from exchange.channels.codecs.temporal import DateCodec, DateTimeCodec, TimeCodec
from exchange.channels.codecs.text import BytesCodec, EnumCodec, TextCodec, UuidCodec, XmlCodec
from exchange.format import json_pointer, strict_json
from exchange.format.errors import RecordError, described, printable
from exchange.reading import FileFormat
from exchange.reading.json_rows import TOO_DEEP, is_deep, may_be_deep

TRUE = ("true", "t", "yes", "y", "on", "1")
FALSE = ("false", "f", "no", "n", "off", "0")
"""The words of booleans, in upper and lower case."""

Many = Callable[[list[str]], Sequence[Json]]
One = Callable[[str], Json]
Refuse = Callable[..., RecordError]

_ANOTHER_LOOK = (RecordError, LookupError, TypeError, ValueError, OverflowError)
_BLANKS = " \t\u00a0"
_FEW = 16
_MOST_DAYS = 4096
_EXACT_DIGITS = 15
"""A double keeps every number of so many characters."""


@dataclass(frozen=True)
class Cells:
    """One column's cells."""

    name: str
    many: Many
    """From cells that stand for a value; what it raises says that each is to be looked at by itself."""
    one: One
    """From one of them; raises RecordError."""
    null: RecordError | None
    """What is wrong with a cell that stands for NULL."""
    blank_is_null: bool = False
    """Whether an empty cell is NULL even where it is quoted: it can't be a value."""

    def values(self, cells: list[str | None]) -> tuple[Sequence[Json], Mapping[int, RecordError]]:
        """Give the values, and what is wrong with the cells that have none, by their places."""
        if self.blank_is_null and "" in cells:
            cells = [cell or None for cell in cells]
        try:
            if None not in cells:
                return self.many(cells), {}  # type: ignore[arg-type]
            if self.null is None and self.many is _as_they_are:
                return cells, {}
            if self.null is None:
                made = iter(self.many([cell for cell in cells if cell is not None]))
                return [None if cell is None else next(made) for cell in cells], {}
        except _ANOTHER_LOOK:
            pass
        values: list[Json] = []
        bad: dict[int, RecordError] = {}
        for at in range(0, len(cells), _FEW):
            self._few(cells[at : at + _FEW], values, bad)
        return values, bad

    def _few(self, cells: list[str | None], values: list[Json], bad: dict[int, RecordError]) -> None:
        try:
            if None not in cells:
                values += self.many(cells)  # type: ignore[arg-type]
                return
        except _ANOTHER_LOOK:
            pass
        for cell in cells:
            value = self._one(cell)
            if isinstance(value, RecordError):
                bad[len(values)] = value
                value = None
            values.append(value)

    def _one(self, cell: str | None) -> Json | RecordError:
        try:
            return self.null if cell is None else self.one(cell)
        except RecordError as error:
            return error


def cells_of(codec: ColumnCodec, written: FileFormat) -> Cells:
    """Make the reader of a column's cells in a file."""
    refuse = partial(_refusal, codec)
    many, one = _MADE.get(type(codec.type_codec), _others)(codec.type_codec, written, refuse)
    null = None
    if isinstance(codec.type_codec, JsonCodec) and not codec.nullable:
        null = refuse(None, "JSON's null is written null")
    blank_is_null = "" in written.nulls and isinstance(codec.type_codec, _NEVER_BLANK)
    return Cells(codec.name, many, one, null, blank_is_null)


_NEVER_BLANK = (
    IntegerCodec,
    DecimalCodec,
    FloatCodec,
    BooleanCodec,
    DateCodec,
    TimeCodec,
    DateTimeCodec,
    UuidCodec,
)


def _refusal(codec: ColumnCodec, value: object, why: str = "") -> RecordError:
    if isinstance(value, bytes):  # a document, as its codec read it
        value = value.decode("utf-8", "backslashreplace")
    what = "a value that is not shown" if codec.sensitive else "NULL" if value is None else described(value)
    because = f" ({why})" if why and (not codec.sensitive or value is None) else ""
    sentence = f"{printable(codec.name)}: expected {printable(codec.type_codec.expected, 400)}, found {what}{because}"
    return RecordError("cell", "/data" + json_pointer.join(codec.name), sentence)


def _as_they_are(cells: list[str]) -> list[str]:
    return cells


def _as_it_is(cell: str) -> str:
    return cell


def _each(_cells: list[str]) -> Sequence[Json]:
    raise ValueError


@lru_cache(256)
def _lines_like(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?>(?:{pattern})\n)*+")


def _all_like(pattern: str, cells: list[str]) -> str:
    """Give all cells as lines of one text if each of them is like the pattern; raises ValueError."""
    text = "\n".join(cells) + "\n"
    if not _lines_like(pattern).fullmatch(text) or text.count("\n") != len(cells):
        raise ValueError
    return text


def _cells(text: str) -> list[str]:
    cells = text.split("\n")
    cells.pop()
    return cells


def _like(pattern: str, *, unless: bool = False) -> Many:
    def many(cells: list[str]) -> list[str]:
        if unless:
            raise ValueError
        _all_like(pattern, cells)
        return cells

    return many


def _texts(_kind: Any, _written: FileFormat, _refuse: Refuse) -> tuple[Many, One]:
    return _as_they_are, _as_it_is


# Numbers


def _integer_cells(kind: IntegerCodec, written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    return partial(_integers, kind.bits), partial(
        _integer, kind.decoder(refuse, sqlite=False), _number_of(written), refuse
    )


def _decimal_cells(kind: DecimalCodec, written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    return _decimals(kind, written), partial(_decimal, kind, _number_of(written), refuse)


def _float_cells(kind: FloatCodec, written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    def many(cells: list[str]) -> list[float]:
        numbers = _floats(written.decimal, cells)
        return [*map(short, numbers)] if kind.single else numbers

    short = kind.decoder(refuse, sqlite=False)
    return many, partial(_float, kind, _number_of(written), refuse)


def _boolean_cells(_kind: BooleanCodec, _written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    spelled = {word: word in TRUE for word in TRUE + FALSE}
    words = {one: true for word, true in spelled.items() for one in (word, word.upper(), word.capitalize())}
    return lambda cells: [words[cell] for cell in cells], partial(_boolean, words, refuse)


def _integers(bits: int, cells: list[str]) -> list[int]:
    numbers = [*map(int, cells)]
    bound = 1 << (bits - 1)
    if numbers and not (-bound <= min(numbers) and max(numbers) < bound):
        raise ValueError
    # Python takes blanks, _ and the digits of other scripts as well.
    text = "".join(cells)
    if not text.isascii() or not text.replace("-", "").isdigit():
        raise ValueError
    return numbers


def _decimals(kind: DecimalCodec, written: FileFormat) -> Many:
    pattern = str(kind.schema()["pattern"])[1:-1].replace("$)", r"\n)")
    if written.decimal != ",":
        return _like(pattern)
    with_comma = pattern.replace(r"\.", ",")

    def many(cells: list[str]) -> list[str]:
        return _cells(_all_like(with_comma, cells).replace(",", "."))

    return many


_PLAIN_NUMBERS = re.compile(r"[0-9.\-]*+")


def _floats(decimal: str, cells: list[str]) -> list[float]:
    text = "".join(cells)
    if decimal == "," or not _PLAIN_NUMBERS.fullmatch(text) or max(map(len, cells), default=0) > _EXACT_DIGITS:
        raise ValueError
    return [*map(float, cells)]


_Parts = tuple[str, str, str, str]
"""Sign, digits before the point without needless zeros, digits behind it, exponent."""


def _number_of(written: FileFormat) -> Callable[[str], _Parts | None]:
    """Make what takes a number apart; None is no number, or nobody said that signs group its digits."""
    point, other = re.escape(written.decimal), "." if written.decimal == "," else ","
    group = rf"(?P<by>[ \u00a0\u202f'\u2019{other}])[0-9]{{3}}(?:(?P=by)[0-9]{{3}})*"
    grouped = rf"(?P<grouped>[0-9]{{1,3}}{group})|" if written.grouping else "(?P<grouped>(?!))|"
    shape = re.compile(
        rf"(?P<sign>[+\-\u2212]?)(?:{grouped}(?P<whole>[0-9]*))(?:{point}(?P<fraction>[0-9]*))?"
        r"(?:[eE](?P<exponent>[+-]?[0-9]{1,5}))?"
    )

    def parts(cell: str) -> _Parts | None:
        """Take one apart."""
        found = shape.fullmatch(cell.strip(_BLANKS))
        if found is None:
            return None
        grouped, whole, fraction = found["grouped"], found["whole"] or "", found["fraction"] or ""
        if grouped:
            whole = "".join(filter(str.isdecimal, grouped))
        if not whole and not fraction:
            return None
        return (
            "-" if found["sign"] in {"-", "\u2212"} else "",
            whole.lstrip("0") or "0",
            fraction,
            found["exponent"] or "",
        )

    return parts


_SHORTENED = "a number with an exponent may have been shortened by a spreadsheet: write all its digits"
_UNSIGNED = "where digits are grouped or a comma is the decimal sign, say so: decimal"


def _integer(check: Callable[[int], Json], number_of: Callable[[str], _Parts | None], refuse: Refuse, cell: str) -> int:
    parts = number_of(cell)
    if parts is None:
        raise refuse(cell, _UNSIGNED if _may_be_grouped(cell) else "")
    sign, whole, fraction, exponent = parts
    if exponent:
        raise refuse(cell, _SHORTENED)
    if fraction.strip("0") or len(whole) > len(str(2**64)):
        raise refuse(cell)
    try:
        return int(check(int(sign + whole)))
    except RecordError:
        raise refuse(cell) from None


def _decimal(kind: DecimalCodec, number_of: Callable[[str], _Parts | None], refuse: Refuse, cell: str) -> str:
    parts = number_of(cell)
    if parts is None:
        raise refuse(cell, _UNSIGNED if _may_be_grouped(cell) else "")
    sign, whole, fraction, exponent = parts
    if exponent:
        raise refuse(cell, _SHORTENED)
    if kind.precision is not None:
        if fraction[kind.scale :].strip("0"):
            raise refuse(cell)
        fraction = fraction[: kind.scale]
        if kind.in_key:
            fraction = fraction.ljust(kind.scale, "0")
    text = f"{whole}.{fraction}" if fraction else whole
    text = text if not text.strip("0.") else sign + text
    try:
        return str(kind.decoder(refuse, sqlite=False)(text))
    except RecordError:
        raise refuse(cell) from None


def _float(kind: FloatCodec, number_of: Callable[[str], _Parts | None], refuse: Refuse, cell: str) -> float:
    parts = number_of(cell)
    if parts is None:
        raise refuse(cell, _UNSIGNED if _may_be_grouped(cell) else "")
    sign, whole, fraction, exponent = parts
    try:
        value = strict_json.loads(f"{sign}{whole}.{fraction or '0'}{'e' if exponent else ''}{exponent}".encode())
        return float(kind.decoder(refuse, sqlite=False)(value))
    except RecordError:
        raise refuse(cell, "64 bits do not keep all its digits" if not kind.single else "") from None


def _may_be_grouped(cell: str) -> bool:
    return "," in cell and not cell.strip("0123456789.,-+' \u00a0\u202f\u2019")


def _boolean(words: Mapping[str, bool], refuse: Refuse, cell: str) -> bool:
    found = words.get(cell.strip(_BLANKS).lower())
    if found is None:
        raise refuse(cell, f"{', '.join(TRUE)} or {', '.join(FALSE)}")
    return found


# Dates and times

_ISO = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?"
    r" ?(Z|z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)
_SECONDS = "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_FINER = "finer than a microsecond"
_DIGITS = 6


def _moment_cells(kind: DateTimeCodec, written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    moments = _Moments(kind, written, refuse)
    return moments.many, moments.one


def _date_cells(kind: DateCodec, written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    formats = tuple(one for one in written.dates if _has_year(one))
    alike = _like("[0-9]{4}-[0-9]{2}-[0-9]{2}", unless=any(map(_is_like_iso, formats)))

    def many(cells: list[str]) -> Sequence[Json]:
        """Take days of the calendar."""
        for day in {*alike(cells)}:
            date.fromisoformat(str(day))
        return cells

    return many, lru_cache(_MOST_DAYS)(partial(_date, kind, formats, refuse))


def _time_cells(kind: TimeCodec, written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    return _each, partial(_time, kind, tuple(one for one in written.dates if not _has_year(one)), refuse)


class _Moments:
    """Cells of a column of date-times."""

    def __init__(self, kind: DateTimeCodec, written: FileFormat, refuse: Refuse) -> None:
        self._kind, self._refuse = kind, refuse
        self._formats = tuple(one for one in written.dates if _has_year(one))
        self._zone: tzinfo | None = ZoneInfo(written.time_zone) if written.time_zone else None
        self._told_first = any(map(_is_like_iso, self._formats))
        self._check = kind.decoder(refuse, sqlite=False)

    def many(self, cells: list[str]) -> list[str]:
        """Take many that are written like the first one, in UTC if they have a zone."""
        found = _ISO.fullmatch(cells[0]) if cells else None
        if found is None or self._told_first:
            raise ValueError
        digits, zone = len(found[4] or ""), found[5] or ""
        if found[3] is None or digits > _DIGITS or bool(zone) != self._kind.aware or zone in {"z", "UTC"}:
            raise ValueError
        fraction = rf"\.[0-9]{{{digits}}}" if digits else ""
        text = _all_like(rf"{_SECONDS}{fraction}{re.escape(zone)}", cells)
        if zone.strip("Z+-0:"):
            return _in_utc(text, zone)
        if digits < _DIGITS or zone not in {"", "Z"}:
            zeros = ("" if digits else ".") + "0" * (_DIGITS - digits)
            text = text.replace(f"{zone}\n", f"{zeros}{'Z' if self._kind.aware else ''}\n")
        made = _cells(text.replace(" ", "T"))
        if self._kind.digits < _DIGITS:
            return [str(self._check(moment)) for moment in made]
        for day in {moment[:10] for moment in made}:
            date.fromisoformat(day)
        return made

    def one(self, cell: str) -> str:
        """Take one, as a told format or ISO 8601 has it."""
        text = cell.strip(_BLANKS)
        told = _told(self._formats, text)
        if told is None:
            return self._iso(cell, text)
        if len(told) > 1:
            raise self._refuse(cell, "two of the told formats read it differently")
        return self._written(cell, told.pop())

    def _iso(self, cell: str, text: str) -> str:
        found = _ISO.fullmatch(text)
        if found is None:
            raise self._refuse(cell, "ISO 8601, or a format of dates that was told")
        day, clock, seconds, fraction, zone = (part or "" for part in found.groups())
        if fraction[_DIGITS:].strip("0"):
            raise self._refuse(cell, _FINER)
        offset = {"": "", "z": "+00:00", "Z": "+00:00", "UTC": "+00:00"}.get(zone, zone)
        try:
            moment = datetime.fromisoformat(f"{day}T{clock}:{seconds or '00'}.{fraction[:_DIGITS]:0<6}{offset}")
        except ValueError as error:
            raise self._refuse(cell, printable(str(error))) from None
        return self._written(cell, moment)

    def _written(self, cell: str, moment: datetime) -> str:
        if not self._kind.aware:
            if moment.tzinfo is not None:
                raise self._refuse(cell, "the column keeps no zone")
            return str(self._checked(cell, moment.isoformat(timespec="microseconds")))
        if moment.tzinfo is None:
            if self._zone is None:
                raise self._refuse(cell, "it has no zone: say which one is meant, time_zone")
            moment = self._in_zone(cell, moment, self._zone)
        try:
            utc = moment.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:
            raise self._refuse(cell) from None
        return str(self._checked(cell, utc.isoformat(timespec="microseconds") + "Z"))

    def _checked(self, cell: str, text: str) -> Json:
        try:
            return self._check(text)
        except RecordError:
            raise self._refuse(cell) from None

    def _in_zone(self, cell: str, moment: datetime, zone: tzinfo) -> datetime:
        here, later = moment.replace(tzinfo=zone), moment.replace(tzinfo=zone, fold=1)
        if here.utcoffset() != later.utcoffset():
            raise self._refuse(
                cell, "when clocks were put back or forth, it means two moments or none: write its offset"
            )
        return here


def _in_utc(lines: str, zone: str) -> list[str]:
    """Give moments that all have this offset in UTC."""
    offset = datetime.fromisoformat(f"2000-01-01T00:00:00{zone}").utcoffset()
    if offset is None:
        raise ValueError
    utc = [moment - offset for moment in map(datetime.fromisoformat, _cells(lines.replace(f"{zone}\n", "\n")))]
    return [f"{moment.isoformat(timespec='microseconds')}Z" for moment in utc]


def _told(formats: Sequence[str], text: str) -> set[datetime] | None:
    """Read a text by each of the formats; None if none of them fits."""
    found = set()
    for one in formats:
        try:
            found.add(datetime.strptime(text, one))  # noqa: DTZ007 - whoever calls knows the zone
        except ValueError:
            continue
    return found or None


def _has_year(told: str) -> bool:
    return any(mark in told for mark in ("%Y", "%y", "%c", "%x", "%G"))


def _is_like_iso(told: str) -> bool:
    """Say whether a format may read what looks like ISO 8601 as another day."""
    return told.startswith(("%Y-%d", "%y"))


def _date(kind: DateCodec, formats: Sequence[str], refuse: Refuse, cell: str) -> str:
    text = cell.strip(_BLANKS)
    told = _told(formats, text)
    if told is not None:
        if len(told) > 1:
            raise refuse(cell, "two of the told formats read it differently")
        moment = told.pop()
        if moment.time() != time():
            raise refuse(cell, "the column keeps no time of day")
        text = f"{moment.year:04}-{moment.month:02}-{moment.day:02}"
    try:
        return str(kind.decoder(refuse, sqlite=False)(text))
    except RecordError:
        raise refuse(cell, "or a format of dates that was told") from None


_TIME = re.compile(r"([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?")


def _time(kind: TimeCodec, formats: Sequence[str], refuse: Refuse, cell: str) -> str:
    text = cell.strip(_BLANKS)
    found = _TIME.fullmatch(text)
    told = _told(formats, text)
    if told is not None:
        if len(told) > 1:
            raise refuse(cell, "two of the told formats read it differently")
        text = told.pop().time().isoformat(timespec="microseconds")
    elif found is not None:
        clock, seconds, fraction = (part or "" for part in found.groups())
        if fraction[_DIGITS:].strip("0"):
            raise refuse(cell, _FINER)
        text = f"{clock}:{seconds or '00'}.{fraction[:_DIGITS]:0<6}"
    try:
        return str(kind.decoder(refuse, sqlite=False)(text))
    except RecordError:
        raise refuse(cell) from None


# Others


def _enum_cells(kind: EnumCodec, _written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    # A text before a number of the same digits.
    wires = {str(wire): wire for _, wire in sorted(kind.wires, key=lambda one: isinstance(one[1], str))}

    def one(cell: str) -> str | int:
        found = wires.get(cell, wires.get(cell.strip(_BLANKS)))
        if found is None:
            raise refuse(cell)
        return found

    return lambda cells: [wires[cell] for cell in cells], one


_UUID = re.compile(r"\{?([0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12})\}?")


def _uuid(refuse: Refuse, cell: str) -> str:
    found = _UUID.fullmatch(cell.strip(_BLANKS))
    if found is None:
        raise refuse(cell)
    return str(UUID(found[1]))


def _uuid_cells(kind: UuidCodec, _written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    return _like(str(kind.schema()["pattern"])[1:-1]), partial(_uuid, refuse)


def _bytes_cells(kind: BytesCodec, _written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    octets = kind.decoder(refuse, sqlite=True)

    def many(cells: list[str]) -> list[str]:
        """Take base64; what is written otherwise, or is none, raises."""
        for cell in cells:
            octets(cell)
        return cells

    return many, partial(_bytes, kind, refuse)


def _document_cells(kind: JsonCodec, _written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    encode = kind.encoder(refuse, sqlite=False)

    def one(cell: str) -> Json:
        value = encode(cell)
        if may_be_deep(cell.encode()) and is_deep(value):
            raise refuse(value, TOO_DEEP)
        return JSON_NULL if value is None else value

    return _each, one


def _structured_cells(kind: ArrayCodec | HstoreCodec, _written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    return _each, partial(_structured, kind, refuse)


def _custom_cells(kind: CustomCodec, _written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    return _each, partial(_custom, kind, refuse)


def _others(kind: TypeCodec, _written: FileFormat, refuse: Refuse) -> tuple[Many, One]:
    return _each, partial(_spelled, kind, refuse)


def _bytes(kind: BytesCodec, refuse: Refuse, cell: str) -> str:
    if cell.startswith("\\x"):
        try:
            return base64.b64encode(bytes.fromhex(cell[2:])).decode()
        except ValueError:
            raise refuse(cell, "or as hex behind \\x") from None
    kind.decoder(refuse, sqlite=True)(cell)
    return cell


def _structured(kind: ArrayCodec | HstoreCodec, refuse: Refuse, cell: str) -> Json:
    if isinstance(kind, HstoreCodec) and not cell.startswith("{"):
        return kind.text_encoder(refuse)(cell)
    try:
        value = strict_json.loads(cell.strip(_BLANKS).encode())
    except strict_json.StrictJsonError as error:
        raise refuse(cell, f"as JSON has it: {error.why}") from None
    kind.taken(value, refuse)
    return value


def _custom(kind: CustomCodec, refuse: Refuse, cell: str) -> Json:
    if kind.schema()["type"] == "string":
        return cell
    try:
        return strict_json.loads(cell.strip(_BLANKS).encode())
    except strict_json.StrictJsonError as error:
        raise refuse(cell, error.why) from None


def _spelled(kind: TypeCodec, refuse: Refuse, cell: str) -> Json:
    """Take a cell as the wire has such values, or as PostgreSQL writes them."""
    check = kind.decoder(refuse, sqlite=False)
    try:
        check(cell)
    except RecordError as error:
        try:
            value = kind.text_encoder(refuse)(cell)
            check(value)
        except _ANOTHER_LOOK:
            raise error from None
        return value
    return cell


_MADE: Mapping[type[TypeCodec], Callable[[Any, FileFormat, Refuse], tuple[Many, One]]] = {
    TextCodec: _texts,
    XmlCodec: _texts,
    IntegerCodec: _integer_cells,
    DecimalCodec: _decimal_cells,
    FloatCodec: _float_cells,
    BooleanCodec: _boolean_cells,
    DateTimeCodec: _moment_cells,
    DateCodec: _date_cells,
    TimeCodec: _time_cells,
    EnumCodec: _enum_cells,
    UuidCodec: _uuid_cells,
    BytesCodec: _bytes_cells,
    JsonCodec: _document_cells,
    ArrayCodec: _structured_cells,
    HstoreCodec: _structured_cells,
    CustomCodec: _custom_cells,
}
