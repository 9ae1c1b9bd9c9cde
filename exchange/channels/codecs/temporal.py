"""Dates, times, date-times and intervals: texts in, texts out.

Neither database's text needs to become a Python object to cross: its shape is matched, the day looked up in
the calendar, and the text handed on. So infinity, years before 1 and after 9999 are found, not stumbled over.
"""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from exchange.channels.codecs.base import (
    Decode,
    Encode,
    EncodeColumn,
    Json,
    Refuse,
    SpelledCodec,
    TypeCodec,
    WriteColumn,
    as_is,
    in_shape,
)

_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"  # there is no year 0
_DATE = f"{_YEAR}-[0-9]{{2}}-[0-9]{{2}}"
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_MICROSECOND_DIGITS = 6
_ISO_DATE_LENGTH = len("2026-11-22")
_ISO_DATE_TIME_LENGTH = len("2026-11-22 06:15:00.000000")

_SQLITE_TIME = re.compile(f"({_TIME})(?:\\.([0-9]{{1,6}})0*)?".encode())
_SQLITE_DATE_TIME = re.compile(
    f"({_DATE})[ T]({_TIME})(?:\\.([0-9]{{1,6}})0*)?(Z|[+-][0-9]{{2}}:?[0-9]{{2}})?".encode()
)


def _fraction(digits: int) -> str:
    """Six digits after the point, of which the column keeps the first few."""
    kept, lost = f"[0-9]{{{digits}}}" if digits else "", "0" * (_MICROSECOND_DIGITS - digits)
    return rf"\.{kept}{lost}"


@lru_cache(maxsize=4096)  # most rows of a batch share their days; callers bound the text
def _is_day(text: str) -> bool:
    """Say whether a text is a day of the calendar in the one form that we write."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_DATE_SHAPE, _DATE_TIME_SHAPE = b"0000-00-00", b"0000-00-00T00:00:00.000000"
_HOUR_AT, _MINUTE_AT, _SECOND_AT = (len("2026-11-22T"), len("2026-11-22T06:"), len("2026-11-22T06:15:"))
_LAST_HOUR, _LAST_TEN = tuple(b"23"), ord("5")


def _written_moments(texts: Sequence[str], zone: bytes, mark: bytes, *, timed: bool) -> list[bytes]:
    """Write dates, or date-times that have all their digits, with a mark for the zone; ValueError if one is none.

    Looked at in columns: where all have one shape, each digit has its place.
    """
    words = ("\n".join(texts) + "\n").encode()
    if b"T" in words:
        raise ValueError
    words = words.replace(b" ", b"T").replace(zone + b"\n", mark + b"\n")
    shape = (_DATE_TIME_SHAPE if timed else _DATE_SHAPE) + mark
    moments = in_shape(words, _DIGITS, shape)
    real = all(map(_is_day, {text[:_ISO_DATE_LENGTH] for text in texts}))
    if timed and real:
        step = len(shape) + 1
        hours = zip(words[_HOUR_AT::step], words[_HOUR_AT + 1 :: step], strict=True)
        sixties = max(words[_MINUTE_AT::step]), max(words[_SECOND_AT::step])
        real = max(hours) <= _LAST_HOUR and max(sixties) <= _LAST_TEN
    if not real:
        raise ValueError
    return moments


@dataclass(frozen=True)
class DateCodec(TypeCodec):
    """Dates of the years 1 to 9999."""

    expected = "a date YYYY-MM-DD of the years 0001 to 9999"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "date"}

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        def from_postgresql(text: str) -> str:
            # Other lengths: infinity, a year after 9999, or one before 1, which ends in BC.
            if len(text) == _ISO_DATE_LENGTH and text[4] == "-":
                return text
            raise refuse(text)

        def from_sqlite(value: Any) -> str:
            if type(value) is bytes and len(value) == _ISO_DATE_LENGTH and value.isascii():
                text = value.decode()
                if _is_day(text):
                    return text
            raise refuse(value)

        return from_sqlite if sqlite else from_postgresql

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn:
        encode = self.column_encoder(refuse, sqlite=sqlite)
        return lambda values: _written_moments(encode(values), b"", b"", timed=False)

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        def day(value: Json) -> str:
            if type(value) is str and len(value) == _ISO_DATE_LENGTH and _is_day(value):
                return value
            raise refuse(value)

        return day


@dataclass(frozen=True)
class TimeCodec(TypeCodec):
    """Times without zone, written with microseconds; read without them too, except in a key."""

    digits: int
    in_key: bool

    @property
    def expected(self) -> str:
        return "a time HH:MM:SS.ffffff without zone, before 24:00:00" + coarser(self.digits)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{self._pattern()}$"}

    def _pattern(self) -> str:
        fraction = _fraction(self.digits)
        return _TIME + (fraction if self.in_key else f"(?:{fraction})?")

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        digits = self.digits

        def from_postgresql(text: str) -> str:
            if text[:2] != "24":
                return f"{text[:8]}.{text[9:]:0<6}"
            raise refuse(text)

        def from_sqlite(value: Any) -> str:
            if type(value) is bytes and (match := _SQLITE_TIME.fullmatch(value)):
                time, fraction = match.groups(b"")
                if not fraction[digits:].strip(b"0"):
                    return f"{time.decode()}.{fraction.decode():0<6}"
            raise refuse(value)

        return from_sqlite if sqlite else from_postgresql

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        fits = re.compile(self._pattern()).fullmatch

        def time(value: Json) -> str:
            if type(value) is str and fits(value):
                return f"{value[:8]}.{value[9:]:0<6}"
            raise refuse(value)

        return time


_OFFSET = "[+-](?:0[0-9]|1[0-5]):[0-5][0-9](?::[0-5][0-9])?"
_HOURS, _MINUTES = len("+01"), len("+01:30")


@dataclass(frozen=True)
class ZonedTimeCodec(SpelledCodec):
    """Times with the offset that they were given, which is part of the value: 06:15 is not 07:15 an hour east."""

    digits: int
    keyable = False

    @property
    def expected(self) -> str:
        return "a time HH:MM:SS.ffffff+HH:MM with its offset, before 24:00:00" + coarser(self.digits)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_TIME}{_fraction(self.digits)}{_OFFSET}$"}

    def from_postgresql(self, text: str) -> str:
        at = max(text.rfind("+"), text.rfind("-"))
        time, offset = text[:at], text[at:]
        whole = f"{offset}:00" if len(offset) == _HOURS else offset
        return f"{time[:8]}.{time[9:]:0<6}{whole}"

    def check(self, text: str) -> str:
        found = re.fullmatch(f"{_TIME}{_fraction(self.digits)}({_OFFSET})", text)
        if found is None:
            raise ValueError
        offset = found[1]
        if not offset.strip("-0:") and offset[0] == "-":
            raise ValueError("no offset is written +00:00")
        if len(offset) > _MINUTES and offset.endswith(":00"):
            raise ValueError("an offset without seconds is written without them")
        return text


def _with_blank(moment: str) -> str:
    """Write a date-time as SQLAlchemy keeps it on SQLite."""
    return f"{moment[:10]} {moment[11:26]}"


@dataclass(frozen=True)
class DateTimeCodec(TypeCodec):
    """Date-times with microseconds: ``aware`` ones in UTC with a Z, others without.

    SQLite keeps no zone: an aware column's text without one is UTC, as SQLAlchemy's users must keep it.
    """

    aware: bool
    digits: int

    @property
    def expected(self) -> str:
        form = "YYYY-MM-DDTHH:MM:SS.ffffff"
        shape = f"{form}Z in UTC" if self.aware else f"{form} without zone"
        return f"a date-time {shape}, of the years 0001 to 9999{coarser(self.digits)}"

    def schema(self) -> dict[str, Any]:
        named = {"format": "date-time"} if self.aware else {}
        return {"type": "string", **named, "pattern": f"^{self._pattern()}$"}

    def _pattern(self) -> str:
        return f"{_DATE}T{_TIME}{_fraction(self.digits)}{'Z' if self.aware else ''}"

    def family(self) -> Hashable:
        """Let a variant have any precision, but the same zone."""
        return (DateTimeCodec, self.aware)

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        return self._from_sqlite(refuse) if sqlite else self._from_postgresql(refuse)

    def column_encoder(self, refuse: Refuse, *, sqlite: bool) -> EncodeColumn:
        """Most date-times have all their digits: those need no call. The schema knows the rest, but not every day."""
        moment = self.encoder(refuse, sqlite=sqlite)
        zone, mark = ("+00", "Z") if self.aware else ("", "")
        whole = _ISO_DATE_TIME_LENGTH
        longest = whole + len(zone)

        def from_postgresql(texts: Sequence[Any]) -> Sequence[Json]:
            return [
                f"{text[:10]}T{text[11:whole]}{mark}"
                if len(text) == longest and text[10] == " " and text[whole:] == zone
                else moment(text)
                for text in texts
            ]

        def from_sqlite(values: Sequence[Any]) -> Sequence[Json]:
            texts = map(bytes.decode, values)
            moments = [
                f"{text[:10]}T{text[11:]}{mark}" if len(text) == whole and text[10] == " " else moment(text.encode())
                for text in texts
            ]
            if not all(map(_is_day, {moment[:10] for moment in moments})):
                raise ValueError
            return moments

        return from_sqlite if sqlite else from_postgresql

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn | None:
        if self.digits != _MICROSECOND_DIGITS:
            return None
        moment, mark = self.encoder(refuse, sqlite=sqlite), b"Z" if self.aware else b""
        zone = "+00" if self.aware and not sqlite else ""
        longest = _ISO_DATE_TIME_LENGTH + len(zone)

        def with_all_digits(text: str) -> str:
            made = moment(text.encode() if sqlite else text)[:_ISO_DATE_TIME_LENGTH]
            return f"{made.replace('T', ' ')}{zone}"

        def written(values: Sequence[Any]) -> list[bytes]:
            texts = [*map(bytes.decode, values)] if sqlite else values
            if {*map(len, texts)} != {longest}:
                texts = [text if len(text) == longest else with_all_digits(text) for text in texts]
            return _written_moments(texts, zone.encode(), mark, timed=True)

        return written

    def _from_postgresql(self, refuse: Refuse) -> Encode:
        zone, mark = ("+00", "Z") if self.aware else ("", "")
        without = len("2026-11-22 06:15:00")
        whole, longest = without + len(zone), without + 1 + _MICROSECOND_DIGITS + len(zone)
        cut = -len(zone) or None

        def moment(text: str) -> str:
            size = len(text)
            # Infinity has no blank there, later years have it further on, years before 1 end in BC.
            if text[10:11] != " " or not whole <= size <= longest or not text.endswith(zone) or text[-1] == "C":
                raise refuse(text)
            if size == longest:
                return f"{text[:10]}T{text[11:cut]}{mark}"
            if size == whole:
                return f"{text[:10]}T{text[11:cut]}.000000{mark}"
            return f"{text[:10]}T{text[11:cut]}{'0' * (longest - size)}{mark}"

        return moment

    def _from_sqlite(self, refuse: Refuse) -> Encode:
        aware, digits, mark = self.aware, self.digits, "Z" if self.aware else ""
        usual = re.compile(f"{_DATE} {_TIME}{_fraction(digits)}".encode()).fullmatch

        def moment(value: Any) -> str:
            if type(value) is not bytes:
                raise refuse(value)
            if usual(value) and _is_day((text := value.decode())[:10]):
                return f"{text[:10]}T{text[11:]}{mark}"
            return seldom(value)

        def seldom(value: bytes) -> str:
            match = _SQLITE_DATE_TIME.fullmatch(value)
            if match is None:
                raise refuse(value)
            day, time, fraction, zone = (part.decode() for part in match.groups(b""))
            if not _is_day(day) or (zone and not aware) or fraction[digits:].strip("0"):
                raise refuse(value)
            text = f"{day}T{time}.{fraction:0<6}"
            if zone in {"", "Z"}:
                return text + mark
            try:
                utc = datetime.fromisoformat(text + zone).astimezone(UTC)
            except (ValueError, OverflowError) as error:
                raise refuse(value) from error
            return utc.replace(tzinfo=None).isoformat(timespec="microseconds") + mark

        return moment

    def checked_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        if not self.aware:  # only the format date-time, with its zone, knows the days of each month
            return self.decoder(refuse, sqlite=sqlite)
        return _with_blank if sqlite else as_is

    def checked_column_decoder(self, refuse: Refuse, *, sqlite: bool) -> Callable[[list[Json]], list[Any]]:
        if not (self.aware and sqlite):
            return super().checked_column_decoder(refuse, sqlite=sqlite)
        return lambda values: "\n".join(values).replace("T", " ").replace("Z", "").split("\n") if values else []

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        fits = re.compile(self._pattern()).fullmatch

        def moment(value: Json) -> str:
            if type(value) is str and fits(value) and _is_day(value[:10]):
                return value
            raise refuse(value)

        def with_blank(value: Json) -> str:
            return _with_blank(moment(value))

        return with_blank if sqlite else moment


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - SQLAlchemy keeps such an interval as this plus it, without zone
_MICROSECOND = timedelta(microseconds=1)
_SECOND, _MINUTE, _HOUR, _DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
_MOST_MICROSECONDS = timedelta.max // _MICROSECOND

_NUMBER = "[+-]?[0-9]{1,15}"
_DURATION = re.compile(
    f"(-)?P(?:({_NUMBER})D)?(?:T(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:(([+-]?)[0-9]{{1,15}})(?:\\.([0-9]{{1,6}}))?S)?)?"
)
DURATION_SCHEMA = (
    f"^-?P(?=[+-]?[0-9]|T)(?:{_NUMBER}D)?"
    f"(?:T(?=[+-]?[0-9])(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}(?:\\.[0-9]{{1,6}})?S)?)?$"
)
_POSTGRESQL_INTERVAL = re.compile(
    "(?:(-?[0-9]+) days? ?)?(?:([+-]?)([0-9]+):([0-9]{2}):([0-9]{2})(?:\\.([0-9]{1,6}))?)?"
)


@dataclass(frozen=True)
class DurationCodec(TypeCodec):
    """Intervals of days and less, as ISO 8601 durations (``P1DT2H3M4.000005S``, negative: ``-P1D``).

    Months and years have no fixed length, so they are refused. A day is 24 hours. Where the database has no
    such type SQLAlchemy keeps a date-time, so much after 1970; so it does if not ``native``.
    """

    native: bool
    digits: int
    keyable = False

    @property
    def expected(self) -> str:
        return "an interval of days, hours, minutes and seconds such as P1DT2H3M4.000005S" + coarser(self.digits)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": DURATION_SCHEMA}

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        read = _interval_text if self.native and not sqlite else _since_epoch
        step = 10 ** (_MICROSECOND_DIGITS - self.digits)

        def duration(value: Any) -> str:
            microseconds = read(value)
            if microseconds is None or abs(microseconds) > _MOST_MICROSECONDS or microseconds % step:
                raise refuse(value)
            return duration_text(microseconds)

        return duration

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        step = 10 ** (_MICROSECOND_DIGITS - self.digits)

        def microseconds_of(value: Json) -> int:
            microseconds = _read_duration(value) if type(value) is str else None
            if microseconds is None or abs(microseconds) > _MOST_MICROSECONDS or microseconds % step:
                raise refuse(value)
            return microseconds

        def interval(value: Json) -> str:
            microseconds = microseconds_of(value)
            sign = "-" if microseconds < 0 else ""
            days, rest = divmod(abs(microseconds), _DAY)
            return f"{sign}{days} days {sign}{rest} microseconds"

        def since_epoch(value: Json) -> str:
            try:
                moment = _EPOCH + timedelta(microseconds=microseconds_of(value))
            except OverflowError as error:
                raise refuse(value, "SQLAlchemy keeps it as a date after 1970, and this one has no date") from error
            return moment.isoformat(" ", timespec="microseconds")

        return interval if self.native and not sqlite else since_epoch


def _interval_text(text: str) -> int | None:
    """Read what PostgreSQL writes under IntervalStyle postgres, in microseconds; None if it has months."""
    match = _POSTGRESQL_INTERVAL.fullmatch(text)
    if match is None or not text:
        return None
    days, sign, hours, minutes, seconds, fraction = match.groups("0")
    time = int(hours) * _HOUR + int(minutes) * _MINUTE + int(seconds) * _SECOND + int(f"{fraction:0<6}")
    return int(days) * _DAY + (-time if sign == "-" else time)


def _since_epoch(value: Any) -> int | None:
    if type(value) is str:
        value = value.encode()
    match = _SQLITE_DATE_TIME.fullmatch(value) if type(value) is bytes else None
    if match is None or match[4] is not None:
        return None
    day, time, fraction = (part.decode() for part in match.groups(b"")[:3])
    if not _is_day(day):
        return None
    return (datetime.fromisoformat(f"{day}T{time}.{fraction:0<6}") - _EPOCH) // _MICROSECOND


def _read_duration(text: str) -> int | None:
    """Read an ISO 8601 duration without months, in microseconds; each field may have a sign of its own."""
    match = _DURATION.fullmatch(text)
    if match is None or text[-1] in "PT":
        return None
    minus, days, hours, minutes, seconds, sign, fraction = match.groups("0")
    part = int(f"{fraction:0<6}")
    total = (
        int(days) * _DAY
        + int(hours) * _HOUR
        + int(minutes) * _MINUTE
        + int(seconds) * _SECOND
        + (-part if sign == "-" else part)
    )
    return -total if minus == "-" else total


def duration_text(microseconds: int) -> str:
    """Write the one canonical form: each field below the next larger one, zeros left out."""
    if not microseconds:
        return "PT0S"
    days, rest = divmod(abs(microseconds), _DAY)
    hours, rest = divmod(rest, _HOUR)
    minutes, rest = divmod(rest, _MINUTE)
    seconds, part = divmod(rest, _SECOND)
    shown_seconds = f"{seconds}.{part:06}" if part else seconds
    time = "".join(f"{number}{unit}" for number, unit in ((hours, "H"), (minutes, "M"), (shown_seconds, "S")) if number)
    sign = "-" if microseconds < 0 else ""
    day = f"{days}D" if days else ""
    return f"{sign}P{day}T{time}" if time else f"{sign}P{day}"


def coarser(digits: int) -> str:
    """Say, after "expected ...", that a column keeps fewer digits of a second."""
    return "" if digits == _MICROSECOND_DIGITS else f", in which only {digits} digits after the point may not be 0"
