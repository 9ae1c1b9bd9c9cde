"""PostgreSQL's own intervals: months, days and microseconds, none of which has a fixed length in another."""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from exchange.channels.codecs.base import Decode, Json, Refuse, SpelledCodec
from exchange.channels.codecs.temporal import DURATION_SCHEMA, coarser

_MICROSECOND_DIGITS = 6
_SECOND, _MINUTE, _HOUR = 1_000_000, 60_000_000, 3_600_000_000
_YEAR = 12
_NUMBER = "[+-]?[0-9]{1,15}"

MONTHS_SCHEMA = (
    f"^-?P(?=[+-]?[0-9]|T)(?:{_NUMBER}Y)?(?:{_NUMBER}M)?(?:{_NUMBER}D)?"
    f"(?:T(?=[+-]?[0-9])(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}(?:\\.[0-9]{{1,6}})?S)?)?$"
)
"""What such a value may look like. The written schema of a stream has the pattern of an interval without months."""

_WIRE = re.compile(
    f"(-)?P(?:({_NUMBER})Y)?(?:({_NUMBER})M)?(?:({_NUMBER})D)?"
    f"(?:T(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:(([+-]?)[0-9]{{1,15}})(?:\\.([0-9]{{1,6}}))?S)?)?"
)
_POSTGRESQL = re.compile(
    "(?:([+-]?[0-9]+) years? ?)?(?:([+-]?[0-9]+) mons? ?)?(?:([+-]?[0-9]+) days? ?)?"
    "(?:([+-]?)([0-9]+):([0-9]{2}):([0-9]{2})(?:\\.([0-9]{1,6}))?)?"
)


class _Interval(NamedTuple):
    """The three parts, each with its own sign."""

    months: int
    days: int
    microseconds: int

    def in_range(self) -> bool:
        """Say whether PostgreSQL has room for it: the largest and the least of all are its infinities."""
        small = -(2**31) <= self.months < 2**31 and -(2**31) <= self.days < 2**31
        return small and -(2**63) <= self.microseconds < 2**63 and self not in _INFINITE


_INFINITE = (_Interval(2**31 - 1, 2**31 - 1, 2**63 - 1), _Interval(-(2**31), -(2**31), -(2**63)))


@dataclass(frozen=True)
class IntervalCodec(SpelledCodec):
    """Intervals with months, days and less, as ISO 8601 durations (``P1Y2M3DT4H5M6.000007S``, negative: ``-P1M``).

    Where signs differ each part has its own: ``P1M-3D``. A day is not 24 hours: ``P1D`` and ``PT24H`` are two values.
    A number in another part than where we write it is understood, unless it is to be ``strict``.
    """

    digits: int
    strict: bool = False
    keyable = False

    @property
    def expected(self) -> str:
        return "an interval such as P1Y2M3DT4H5M6.000007S" + coarser(self.digits)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": MONTHS_SCHEMA if self.strict else DURATION_SCHEMA}

    def from_postgresql(self, text: str) -> str:
        found = _POSTGRESQL.fullmatch(text)
        if found is None or not text:
            raise ValueError
        years, months, days, sign, hours, minutes, seconds, fraction = found.groups("0")
        time = int(hours) * _HOUR + int(minutes) * _MINUTE + int(seconds) * _SECOND + int(f"{fraction:0<6}")
        return _written(_Interval(int(years) * _YEAR + int(months), int(days), -time if sign == "-" else time))

    def check(self, text: str) -> str:
        """Give the one spelling of an interval."""
        interval = self._read(text)
        spelled = _written(interval)
        if self.strict and spelled != text:
            raise ValueError(f"it is written {spelled}")
        return spelled

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        spelled = super().decoder(refuse, sqlite=sqlite)

        def parts(value: Json) -> str:
            months, days, microseconds = self._read(spelled(value))
            return f"{months} months {days} days {microseconds} microseconds"

        return spelled if sqlite else parts

    def _read(self, text: str) -> _Interval:
        found = _WIRE.fullmatch(text)
        if found is None or text[-1] in "PT":
            raise ValueError
        minus, years, months, days, hours, minutes, seconds, sign, fraction = found.groups("0")
        part = int(f"{fraction:0<6}")
        time = int(hours) * _HOUR + int(minutes) * _MINUTE + int(seconds) * _SECOND + (-part if sign == "-" else part)
        interval = _Interval(int(years) * _YEAR + int(months), int(days), time)
        if minus == "-":
            interval = _Interval(*(-one for one in interval))
        if time % 10 ** (_MICROSECOND_DIGITS - self.digits):
            raise ValueError
        if not interval.in_range():
            raise ValueError("it is out of the range of PostgreSQL's")
        return interval


def _written(interval: _Interval) -> str:
    """Write the one canonical form: zeros left out, one sign before it all if all parts are negative."""
    if not any(interval):
        return "PT0S"
    sign = "-" if max(interval) <= 0 else ""
    months, days, microseconds = (-part for part in interval) if sign else interval
    whole, part = divmod(abs(microseconds), _SECOND)
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    years, rest = divmod(abs(months), _YEAR)
    shown = f"{seconds}.{part:06}" if part else str(seconds)
    date = _fields(months < 0, ((years, "Y"), (rest, "M"))) + _fields(days < 0, ((abs(days), "D"),))
    time = _fields(microseconds < 0, ((hours, "H"), (minutes, "M"), (shown if shown != "0" else 0, "S")))
    return f"{sign}P{date}" + (f"T{time}" if time else "")


def _fields(negative: bool, fields: tuple[tuple[int | str, str], ...]) -> str:
    return "".join(f"{'-' if negative else ''}{number}{unit}" for number, unit in fields if number)
