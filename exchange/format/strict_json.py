"""Strict JSON, the only reader and writer of it in the format.

One text has one meaning here: strict UTF-8, no byte order mark, no white space around the value, no duplicate
members, no NaN or infinity, integers within signed 64 bits, numbers that a double keeps, no lone surrogates,
no U+0000, bounded depth and members.

Most lines were written by this same module. Such a line comes out of ``orjson`` byte for byte when what was
read is written again, and that alone rules out duplicate members, white space and numbers that changed on
the way. Only other lines pay for the slow reader.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import repeat
from typing import Any, Final, NamedTuple

import orjson

from exchange.format.errors import RecordError, printable

MAX_DEPTH: Final = 64
"""Objects and arrays within each other, the outermost counted as 1."""

MAX_MEMBERS: Final = 16_384
"""Members of one object."""

MAX_INTEGER: Final = 2**63 - 1
MIN_INTEGER: Final = -(2**63)

_MARK: Final = secrets.token_hex(16)
_BETWEEN: Final = f',"{_MARK}",'.encode()

_SHORTEST_MEMBER: Final = len('"":0,')
ALWAYS_FEW: Final = MAX_MEMBERS * _SHORTEST_MEMBER
"""In so many bytes no object has too many members."""

_LONGEST_INTEGER: Final = len(str(MIN_INTEGER))
_LONGEST_NUMBER: Final = 1_200  # the longest exact double has 767 digits, after at most 308 zeros
_MAYBE_TOO_WIDE: Final = re.compile(rb"[0-9]{19}")
_EXPONENT: Final = re.compile(r"[eE].*")
_WHITE: Final = b" \t\r\n"

# Numbers of 53 bits and less need no second look; what is no JSON type is refused rather than converted.
_NARROW: Final = (
    orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_WIDE: Final = _NARROW & ~orjson.OPT_STRICT_INTEGER


class StrictJsonError(RecordError):
    """A line is not strict JSON; ``why`` says what is wrong with it, whatever the line is called."""

    def __init__(self, why: str) -> None:
        """Word it as of a line."""
        super().__init__("json", "", f"the line is not strict JSON: {why}")
        self.why = why


def loads(line: bytes) -> Any:
    """Read one JSON value. Raises StrictJsonError if the bytes are not strict JSON."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise StrictJsonError(printable(str(error))) from error
    if _is_canonical(line, value) and not _is_unusual(line):
        return value
    return _read_slowly(line)


class Unreadable(NamedTuple):
    """One of many lines is no JSON at all: the one at this place."""

    place: int


def loads_all(lines: Sequence[bytes]) -> list[Any] | Unreadable | None:
    """Read many lines at once, one value each; None if any of them needs a look of its own through ``loads``.

    Of lines that are no JSON the first one is named if it is easily found.

    The lines are read as one array with a mark between each two. Nobody who wrote the lines can know the mark,
    so where every second element is one, each line held exactly one value.
    """
    text = b"[%b]" % _BETWEEN.join(lines)
    try:
        elements = orjson.loads(text)
        canonical = orjson.dumps(elements, option=_NARROW) == text
    except orjson.JSONDecodeError as error:
        return _unreadable(text, lines, error.pos)
    except orjson.JSONEncodeError:
        return None
    values: list[Any] = elements[::2]
    if not canonical or elements[1::2] != [_MARK] * (len(lines) - 1) or len(values) != len(lines):
        return None
    return None if _any_unusual(text, lines) else values


def _unreadable(text: bytes, lines: Sequence[bytes], stopped: int) -> Unreadable | None:
    """Find the line at which the reader stopped, so many characters on, or in the mark behind it."""
    before = text[:stopped] if text.isascii() else text.decode("utf-8", "replace")[:stopped].encode()
    place = before.count(_BETWEEN)
    try:
        orjson.loads(lines[place])
    except orjson.JSONDecodeError:
        return Unreadable(place)
    return None


def are_written(values: Sequence[Any], depth: int) -> bool:
    """Say of texts of JSON values, one in each, whether all are as ``dumps`` writes them and within bounds.

    No, too, where one needs a look of its own: it may be deeper than ``depth``, of many members, a large integer.
    U+0000 is not looked for. The texts may be any bytes-like objects.
    """
    longest = max(map(len, values), default=0)
    if longest > ALWAYS_FEW or (longest > 2 * depth and any(_may_be_deeper(bytes(one), depth) for one in values)):
        return False
    text = b"[%b]" % b",".join(values)
    try:
        elements = orjson.loads(text)
        return len(elements) == len(values) and orjson.dumps(elements, option=_NARROW) == text
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return False


def _may_be_deeper(text: bytes, depth: int) -> bool:
    return text.count(b"{") + text.count(b"[") > depth


def dumps(value: object, nulls: int = 0) -> bytes:
    """Write one JSON value as ``loads`` accepts it; ``RecordError`` of class ``json`` if it cannot be.

    ``nulls`` says how many times the caller knows ``None`` to be in it, which saves time and decides nothing.
    """
    try:
        line, narrow = orjson.dumps(value, option=_NARROW), True
    except orjson.JSONEncodeError:
        try:
            line, narrow = orjson.dumps(value, option=_WIDE), False
        except orjson.JSONEncodeError as error:
            raise StrictJsonError(printable(str(error))) from error
    # orjson writes NaN and infinities as null: more nulls than were known of need a look.
    if not narrow or _is_unusual(line) or line.count(b"null") != nulls:
        _check(value)
    return line


def _any_unusual(text: bytes, lines: Sequence[bytes]) -> bool:
    """Tell if ``_is_unusual`` may be true of any of the lines of which ``text`` consists."""
    return (
        max(map(len, lines), default=0) > ALWAYS_FEW
        or b"\\u0000" in text
        or _most(b"{", lines) + _most(b"[", lines) > MAX_DEPTH
    )


def _most(mark: bytes, lines: Sequence[bytes]) -> int:
    return max(map(bytes.count, lines, repeat(mark)), default=0)


def dumps_all(values: list[Any]) -> list[bytes] | None:
    """Write many values at once, as ``dumps`` writes each; None if any of them needs a look of its own.

    What can't be seen in many lines at little cost is taken on trust: that there is no NaN, no infinity, and
    nothing deeper than MAX_DEPTH.
    """
    write = orjson.dumps
    try:
        lines = [write(value, None, _NARROW) for value in values]
    except orjson.JSONEncodeError:
        return None
    text = b"".join(lines)
    unusual = (b"\\" in text and b"\\u0000" in text) or max(map(len, lines), default=0) > ALWAYS_FEW
    return None if unusual else lines


def dumps_scalars(values: Sequence[Any]) -> list[bytes]:
    """Write many values that hold no others, each as ``dumps`` writes it; TypeError if any needs a look of its own.

    Taken on trust as by ``dumps_all``, and besides that none is an object or an array and none has U+0000.
    """
    # One call for all: no text has a line break within, so the blanks before each say where it begins.
    return orjson.dumps(values, None, _NARROW | orjson.OPT_INDENT_2)[4:-2].split(b",\n  ") if values else []


def dumps_each(values: Sequence[Any]) -> list[bytes]:
    """Write many values of any kind, each as ``dumps`` writes it; TypeError or ValueError if any needs a look.

    Taken on trust as by ``dumps_all``, and besides that there is no U+0000.
    """
    write = orjson.dumps
    texts = [write(value, None, _NARROW) for value in values]
    if max(map(len, texts), default=0) > ALWAYS_FEW:
        raise ValueError
    return texts


def _is_unusual(line: bytes) -> bool:
    """Tell cheaply whether a line may break a bound; most that look so do not."""
    return (
        line.count(b"{") + line.count(b"[") > MAX_DEPTH
        or (b"\\" in line and b"\\u0000" in line)
        or len(line) > ALWAYS_FEW
    )


def _is_canonical(line: bytes, value: object) -> bool:
    try:
        return orjson.dumps(value, option=_NARROW) == line
    except orjson.JSONEncodeError:
        pass
    try:
        return orjson.dumps(value, option=_WIDE) == line and not _MAYBE_TOO_WIDE.search(line)
    except orjson.JSONEncodeError:
        return False


def _read_slowly(line: bytes) -> Any:
    """Read again, looking at each member and each number as it was written."""
    if line[0] in _WHITE or line[-1] in _WHITE:
        raise StrictJsonError("white space around the value")
    try:
        value = _SLOW.decode(line.decode("utf-8", "strict"))
    except RecursionError as error:
        raise StrictJsonError(_TOO_DEEP) from error
    _check(value)
    return value


def _check(value: object) -> None:
    """Look for what JSON can say and the format cannot: level by level, so that depth costs no stack."""
    level = [value]
    depth = 0
    while level:
        below: list[object] = []
        containers = False
        for item in level:
            if isinstance(item, dict):
                if len(item) > MAX_MEMBERS:
                    raise StrictJsonError(f"an object of more than {MAX_MEMBERS} members")
                containers = True
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                containers = True
                below.extend(item)
            else:
                _check_scalar(item)
        if containers:
            depth += 1
        if depth > MAX_DEPTH:
            raise StrictJsonError(_TOO_DEEP)
        level = below


def _check_scalar(value: object) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise StrictJsonError("the character U+0000")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise StrictJsonError(f"the number {value}")
    elif isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise StrictJsonError(_TOO_WIDE)


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members; raises StrictJsonError if two have one name."""
    made = dict(pairs)
    if len(made) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise StrictJsonError(f'the member "{printable(twice, 80)}" twice in one object')
    return made


def _integer(text: str) -> int:
    if len(text) <= _LONGEST_INTEGER and MIN_INTEGER <= (value := int(text)) <= MAX_INTEGER:
        return value
    raise StrictJsonError(f"{_TOO_WIDE} ({printable(text, 40)})")


def _number(text: str) -> float:
    """Keep a number if the double nearest to it, written with as many digits, is that number again."""
    if len(text) <= _LONGEST_NUMBER:
        digits = len(_EXPONENT.sub("", text).replace(".", "").strip("-0").lstrip("0")) or 1
        value = float(text)
        with suppress(ArithmeticError):  # an exponent beyond what Decimal takes
            # repr first: of two equally near shortest spellings it takes the other one than format.
            if Decimal(text) in (Decimal(repr(value)), Decimal(format(value, f".{digits}g"))):
                return value
    raise StrictJsonError(f"a number that a double does not keep ({printable(text, 40)})")


_TOO_DEEP: Final = f"objects and arrays nested deeper than {MAX_DEPTH}"
_TOO_WIDE: Final = "an integer outside 64 bits"
_SLOW: Final = json.JSONDecoder(object_pairs_hook=members, parse_int=_integer, parse_float=_number)
