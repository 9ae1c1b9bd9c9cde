"""Request codes: what a channel misses, short enough to be read out where no file goes back.

Crockford's Base32: 32 digits without I, L, O and U, read in either case, O for 0 and I or L for 1. The first four
digits stand for channel and epoch, so that a code that was meant for another one is not obeyed; then come the ranges,
each as its distance from the one before and its length; the last digit checks all others (Luhn's rule to the base
of 32): one wrong digit is always found, and two that changed places nearly always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from exchange.format.control import Range
from exchange.format.errors import printable
from exchange.format.names import MAX_SEQUENCE

MAX_RANGES: Final = 6
"""So many ranges one code names at most: nobody reads out more."""

MAX_SEQUENCES: Final = 1_000
"""And so many sequences in all: what is more than that is no matter of a code."""

MAX_DIGITS: Final = 200
"""No code is longer; in practice it has about ten digits."""

_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE: Final = 32
_READ: Final = {digit: value for value, digit in enumerate(_DIGITS)} | {"O": 0, "I": 1, "L": 1}
_TAG_DIGITS: Final = 4
_GROUP: Final = 4


def encode(channel: str, epoch: str, missing: Iterable[Range]) -> str:
    """Write a code for the first of these ascending ranges, in groups of four digits."""
    values = list(_tag(channel, epoch))
    reached, left = 0, MAX_SEQUENCES
    for first, end in list(missing)[:MAX_RANGES]:
        last = min(end, first + left - 1)
        if last >= first:
            values += [*_number(first - reached - 1), *_number(last - first)]
            reached, left = last, left - (last - first + 1)
    values.append(_check(values))
    text = "".join(_DIGITS[value] for value in values)
    return "-".join(text[start : start + _GROUP] for start in range(0, len(text), _GROUP))


def decode(code: str, flows: Iterable[tuple[str, str]]) -> tuple[str, str, list[Range]]:
    """Read a code: channel, epoch and ranges. ``flows`` are the channels and epochs that it may be of.

    Raises ValueError with a sentence.
    """
    values = _values(code)
    if len(values) < _TAG_DIGITS + 3 or _check(values[:-1]) != values[-1]:
        raise ValueError(f"{printable(repr(code), 80)} is no request code: a digit is wrong or missing; read it again")
    flow = next((one for one in flows if list(_tag(*one)) == values[:_TAG_DIGITS]), None)
    if flow is None:
        raise ValueError(
            f"{printable(repr(code), 80)} is of no channel that this side sends in its present epoch; take a new code"
            " from `exchange gaps` on the other side, and see that this is the side that sends"
        )
    wanted = list(_ranges(values[_TAG_DIGITS:-1], code))
    asked = sum(last - first + 1 for first, last in wanted)
    if asked > MAX_SEQUENCES:
        raise ValueError(
            f"{printable(repr(code), 80)} is no request code: it asks for {asked} batches, at most {MAX_SEQUENCES} are"
            " sent again for one"
        )
    return (*flow, wanted)


def _ranges(values: list[int], code: str) -> Iterator[Range]:
    numbers: list[int] = []
    number, weight = 0, 1
    for value in values:
        number, weight = number + value % 16 * weight, weight * 16
        if value < 16:  # noqa: PLR2004 - the fifth bit says that more follows
            numbers.append(number)
            number, weight = 0, 1
    last = 0
    for distance, more in zip(numbers[::2], numbers[1::2], strict=False):
        first, last = last + distance + 1, last + distance + 1 + more
        yield first, last
    if weight > 1 or len(numbers) % 2 or last > MAX_SEQUENCE:
        raise ValueError(f"{printable(repr(code), 80)} is no request code: it names no sequences; read it again")


def _values(code: str) -> list[int]:
    digits = [digit for digit in code.upper() if digit not in "- "]
    unknown = next((digit for digit in digits if digit not in _READ), None)
    if unknown is not None or len(digits) > MAX_DIGITS:
        raise ValueError(
            f"{printable(repr(code), 80)} is no request code: expected digits and letters in groups of four,"
            f" found {printable(repr(unknown)) if unknown else f'{len(digits)} of them'}"
        )
    return [_READ[digit] for digit in digits]


def _tag(channel: str, epoch: str) -> Iterator[int]:
    digest = hashlib.sha256(f"{channel}-{epoch}".encode()).digest()
    return (byte % _BASE for byte in digest[:_TAG_DIGITS])


def _number(number: int) -> Iterator[int]:
    """Write a number four bits a digit, the lowest first; the fifth bit says that more follows."""
    while number > 15:  # noqa: PLR2004
        yield 16 + number % 16
        number //= 16
    yield number


def _check(values: list[int]) -> int:
    total = 0
    for place, value in enumerate(reversed(values)):
        doubled = value * (2 - place % 2)
        total += doubled // _BASE + doubled % _BASE
    return -total % _BASE
