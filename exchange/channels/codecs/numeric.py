"""Integers, decimals, floats and booleans."""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from math import copysign, isfinite
from typing import Any

import sqlalchemy as sa

from exchange.channels.codecs.base import (
    Decode,
    Encode,
    EncodeColumn,
    Json,
    Refuse,
    TypeCodec,
    WriteColumn,
    all_of,
    as_is,
    raw,
    stored,
)
from exchange.format import strict_json

_MOST_DIGITS_BEFORE, _MOST_DIGITS_AFTER = 131_072, 16_383
"""PostgreSQL's own bounds of a numeric column that declares none."""


@dataclass(frozen=True)
class IntegerCodec(TypeCodec):
    """Integers of 16, 32 or 64 bits."""

    bits: int
    bound_as_is = frozenset([int])

    @property
    def expected(self) -> str:
        return f"a whole number of {self.bits} bits"

    def schema(self) -> dict[str, Any]:
        bound = 2 ** (self.bits - 1)
        return {"type": "integer", "minimum": -bound, "maximum": bound - 1}

    def selected(self, column: sa.Column[Any], *, sqlite: bool) -> sa.ColumnElement[Any]:
        return stored(column) if sqlite else raw(column)

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        return self.decoder(refuse, sqlite=sqlite) if sqlite else as_is

    def text_encoder(self, refuse: Refuse) -> Encode:  # noqa: ARG002 - PostgreSQL has checked it
        return int

    def column_encoder(self, refuse: Refuse, *, sqlite: bool) -> EncodeColumn:  # noqa: ARG002 - the schema has the bounds
        return all_of(int)

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn:
        encode, bound = self.column_encoder(refuse, sqlite=sqlite), 2 ** (self.bits - 1)

        def written(values: Sequence[Any]) -> list[bytes]:
            encode(values)
            if min(values) < -bound or max(values) >= bound:
                raise ValueError
            return strict_json.dumps_scalars(values)

        return written

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        least, most = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

        def whole(value: Any) -> int:
            if type(value) is int and least <= value <= most:
                return value
            raise refuse(value)

        return whole

    def family(self) -> type:
        """Let a variant have any width: SQLite has only one."""
        return IntegerCodec


@dataclass(frozen=True)
class BooleanCodec(TypeCodec):
    """Booleans; SQLite keeps 0 and 1."""

    expected = "true or false"

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def selected(self, column: sa.Column[Any], *, sqlite: bool) -> sa.ColumnElement[Any]:
        return stored(column) if sqlite else raw(column)

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        if not sqlite:
            return as_is

        def truth(value: Any) -> bool:
            if type(value) is int and 0 <= value <= 1:
                return value == 1
            raise refuse(value)

        return truth

    def text_encoder(self, refuse: Refuse) -> Encode:  # noqa: ARG002
        return "true".__eq__

    def column_encoder(self, refuse: Refuse, *, sqlite: bool) -> EncodeColumn:
        return super().column_encoder(refuse, sqlite=sqlite) if sqlite else all_of(bool)

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn:
        encode = self.column_encoder(refuse, sqlite=sqlite)
        return lambda values: [b"true" if value else b"false" for value in encode(values)]

    def checked_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        return as_is

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        def truth(value: Json) -> bool:
            if value is True or value is False:
                return bool(value)
            raise refuse(value)

        return truth


@dataclass(frozen=True)
class FloatCodec(TypeCodec):
    """Floats of 64 bits, or of 32 if ``single``: then only numbers that come back as they went in."""

    single: bool
    keyable = False

    @property
    def expected(self) -> str:
        return "a finite number that 32 bits keep" if self.single else "a finite number"

    def schema(self) -> dict[str, Any]:
        return {"type": "number"}

    def selected(self, column: sa.Column[Any], *, sqlite: bool) -> sa.ColumnElement[Any]:
        # PostgreSQL's driver gives the very float; its text would have to be read back.
        return stored(column) if sqlite else raw(column)

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        if sqlite:
            return self.decoder(refuse, sqlite=sqlite)

        def finite(value: float) -> float:
            if isfinite(value):
                return value
            raise refuse(value)

        return finite

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn:
        encode, only_floats = self.column_encoder(refuse, sqlite=sqlite), all_of(float)
        return lambda values: strict_json.dumps_scalars(only_floats(encode(values)))

    def text_encoder(self, refuse: Refuse) -> Encode:
        finite = self.encoder(refuse, sqlite=False)
        return lambda text: finite(float(text))

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        def real(value: Any) -> float:
            if type(value) is float and isfinite(value):
                if sqlite and value == 0 and copysign(1, value) < 0:
                    raise refuse(value, "SQLite drops the sign of zero")
                return value
            if type(value) is int and -_EXACT_WHOLE <= value <= _EXACT_WHOLE:
                return float(value)
            raise refuse(value)

        def short(value: Any) -> float:
            number = real(value)
            if _single_keeps(number):
                return number
            raise refuse(value)

        return short if self.single else real


_EXACT_WHOLE = 2**53


_SINGLE_DIGITS, _SINGLE_MOST_DIGITS = 6, 9
_SINGLE_LEAST, _SINGLE_MOST = 2.0**-126, 2.0**127


def _single_keeps(number: float) -> bool:
    """Say whether this number is what PostgreSQL writes for the 32-bit float nearest to it.

    That is the shortest text that lies nearer to it than to its neighbours. Up to six digits always do.
    """
    size = abs(number)
    if size == 0 or (_SINGLE_LEAST <= size <= _SINGLE_MOST and float(f"{size:.{_SINGLE_DIGITS}g}") == size):
        return True
    try:
        bits = struct.unpack("<I", struct.pack("<f", size))[0]
    except OverflowError:
        return False
    if bits == 0:
        return False
    kept, below, above = _single(bits), _single(bits - 1), _single(bits + 1)
    least = (kept + below) / 2
    most = (kept + above) / 2 if isfinite(above) else kept + (kept - least)
    for digits in range(1, _SINGLE_MOST_DIGITS + 1):
        context = Context(prec=digits)
        near = context.create_decimal_from_float(kept)
        # Below a power of two the neighbour is closer than above it, so the nearest text may miss, the next not.
        for text in (near, context.next_plus(near)):
            if least < float(text) < most:
                return float(text) == size
    return False


def _single(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


@dataclass(frozen=True)
class DecimalCodec(TypeCodec):
    """Decimals, as strings. SQLite keeps a float instead, so there only those that the float gives back.

    ``precision`` None is any decimal; else ``scale`` digits after the point, and ``precision`` in all.
    A part of a key is always written with all its digits, so that equal keys are equal texts.
    """

    precision: int | None
    scale: int
    in_key: bool

    @property
    def long(self) -> bool:  # type: ignore[override]
        return self.precision is None

    @property
    def keyable(self) -> bool:  # type: ignore[override]
        return self.precision is not None

    @property
    def expected(self) -> str:
        if self.precision is None:
            return "a decimal as a string, without exponent"
        after = f"{self.scale}" if self.in_key else f"at most {self.scale}"
        return (
            f"a decimal as a string, with at most {self.precision - self.scale} digits before the point"
            f" and {after} after it"
        )

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{self._pattern()}$"}

    def _pattern(self) -> str:
        if self.precision is None:
            return r"(?:-(?!0(?:\.0+)?$))?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
        before = self.precision - self.scale
        whole = f"(?:0|[1-9][0-9]{{0,{before - 1}}})" if before else "0"
        least = self.scale if self.in_key else 1
        fraction = rf"\.[0-9]{{{least},{self.scale}}}" if self.scale else ""
        if fraction and not self.in_key:
            fraction = f"(?:{fraction})?"
        return rf"(?:-(?!0(?:\.0+)?$))?{whole}{fraction}"

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        if sqlite:
            return self._from_float(refuse)

        def exact(text: str) -> str:
            # NaN and Infinity are the texts that end in no digit.
            if text[-1].isdigit():
                return text
            raise refuse(text)

        return exact

    def _from_float(self, refuse: Refuse) -> Encode:
        fits = re.compile(self._pattern()).fullmatch
        precision, scale = self.precision, self.scale

        def exact(number: Any) -> str:
            if type(number) is not float and type(number) is not int:
                raise refuse(number)
            text = _plain(number) if precision is None else f"{number + 0.0:.{scale}f}"
            if fits(text) and float(text) == number:
                return text
            raise refuse(number, "as SQLite keeps it")

        return exact

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        fits = re.compile(self._pattern()).fullmatch
        precision, scale = self.precision, self.scale

        def exact(value: Json) -> str:
            if type(value) is not str or not fits(value):
                raise refuse(value)
            if precision is None:
                before, _, after = value.lstrip("-").partition(".")
                if len(before) > _MOST_DIGITS_BEFORE or len(after) > _MOST_DIGITS_AFTER:
                    raise refuse(value, "too many digits")
            return value

        def approximate(value: Json) -> float:
            number = float(exact(value))
            back = _plain(number) if precision is None else f"{number:.{scale}f}"
            if back == value or Decimal(back) == Decimal(value):
                return number
            raise refuse(value, "SQLite keeps a float, and this one would come back changed")

        return approximate if sqlite else exact

    def checked_column_decoder(self, refuse: Refuse, *, sqlite: bool) -> Callable[[list[Json]], list[Any]]:
        """Of what the schema accepted only SQLite and a number of any length need a look at each."""
        if self.precision is None or not sqlite:
            return as_is if self.precision is not None else super().checked_column_decoder(refuse, sqlite=sqlite)
        each = super().checked_column_decoder(refuse, sqlite=sqlite)
        return lambda values: [*map(float, values)] if max(map(len, values)) <= _DOUBLE_DIGITS else each(values)


_DOUBLE_DIGITS = 15
"""So many digits of any number come back from a double."""


def _plain(number: float) -> str:
    """Write a number with the fewest digits that give it back, without exponent; infinity stays a word."""
    if not isfinite(number):
        return str(number)
    text = format(Decimal(repr(number)), "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
