"""Ranges and multiranges: PostgreSQL's own text of them, with bounds as the wire has such values by themselves."""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from exchange.channels.codecs.base import SpelledCodec, TypeCodec
from exchange.format.errors import RecordError

_RANGE = re.compile(r"([\[(])([^,\[\](){}]*),([^,\[\](){}]*)([\])])")
_EMPTY = "empty"
_INFINITIES = {"-infinity": -1, "infinity": 1}
_DAY_AFTER_ALL = "10000-01-01"
"""The bound that a range of days up to 9999-12-31 has: such a range is kept by its first day and the day after it."""


class _Bound(NamedTuple):
    """Where a range begins or ends: a place in the order of values, None for no bound, and whether it is in it."""

    place: tuple[int, Any] | None
    included: bool


@dataclass(frozen=True)
class RangeCodec(SpelledCodec):
    """Ranges, or multiranges if ``many``, whose bounds are values of ``element``.

    ``whole`` ranges, those of integers and days, have an included lower and an excluded upper bound. An empty one is
    the word ``empty``. Those of days and moments may have ``infinity`` for a bound, which is not the same as none.
    """

    element: TypeCodec
    whole: bool
    dated: bool
    many: bool
    one_text: bool
    """Whether the server writes a value alike in every session: else it can't be part of a key."""
    long = True

    @property
    def keyable(self) -> bool:  # type: ignore[override]
        return self.one_text

    @property
    def expected(self) -> str:
        form = "[lower,upper)" if self.whole else "[lower,upper), (lower,upper], [lower,upper] or (lower,upper)"
        ranges = f"ranges {form} in braces, in order and apart" if self.many else f"a range {form}, or empty"
        return f"{ranges}, of which each bound is {self.element.expected}"

    def schema(self) -> dict[str, Any]:
        one = r"[\[(][^,\[\](){}]*,[^,\[\](){}]*[\])]"
        pattern = rf"\{{(?:{one}(?:,{one})*)?\}}" if self.many else f"(?:empty|{one})"
        return {"type": "string", "pattern": f"^{pattern}$"}

    def from_postgresql(self, text: str) -> str:
        return _RANGE.sub(self._spelled, text.replace('"', "")) if text != _EMPTY else text

    def _spelled(self, found: re.Match[str]) -> str:
        opening, lower, upper, closing = found.groups()
        return f"{opening}{self._spell(lower)},{self._spell(upper)}{closing}"

    def _spell(self, bound: str) -> str:
        if not bound or self._is_special(bound):
            return bound
        try:
            return str(self.element.text_encoder(_refuse)(bound))
        except RecordError as error:
            raise ValueError(f"its bound {error.sentence}") from error

    def _is_special(self, bound: str) -> bool:
        return self.dated and (bound in _INFINITIES or (self.whole and bound == _DAY_AFTER_ALL))

    def check(self, text: str) -> str:
        if not self.many:
            if text != _EMPTY:
                self._check_one(text)
            return text
        if text[:1] != "{" or text[-1:] != "}" or text == "{":
            raise ValueError
        before: _Bound | None = None
        at, end = 1, len(text) - 1
        while at < end:
            found = _RANGE.match(text, at, end)
            if found is None:
                raise ValueError
            lower, upper = self._check_one(found[0])
            if before is not None and not _apart(before, lower):
                raise ValueError("its ranges are not in order, or touch each other")
            before = upper
            at = found.end()
            if at < end:
                if text[at] != "," or at + 1 == end:
                    raise ValueError
                at += 1
        return text

    def _check_one(self, text: str) -> tuple[_Bound, _Bound]:
        found = _RANGE.fullmatch(text)
        if found is None:
            raise ValueError
        opening, low, high, closing = found.groups()
        lower, upper = self._bound(low, included=opening == "["), self._bound(high, included=closing == "]")
        if (lower.place is None and lower.included) or (upper.place is None and upper.included):
            raise ValueError("where there is no bound none is included")
        if self.whole and not (self._is_plain(lower, included=True) and self._is_plain(upper, included=False)):
            raise ValueError("such a range is written with its first value and the one after its last")
        if lower.place is not None and upper.place is not None:
            both = lower.included and upper.included
            if lower.place > upper.place or (lower.place == upper.place and not both):
                raise ValueError("it is empty, or its bounds are in the wrong order")
        return lower, upper

    @staticmethod
    def _is_plain(bound: _Bound, *, included: bool) -> bool:
        """Say whether a bound is as a range of whole values has it; one that is none or infinite is left as it was."""
        return bound.place is None or bound.place[0] != 0 or bound.included == included

    def _bound(self, text: str, *, included: bool) -> _Bound:
        if not text:
            return _Bound(None, included)
        if self._is_special(text):
            return _Bound((_INFINITIES.get(text, 0), (1, text)), included)
        if isinstance(self.element.schema().get("minimum"), int):
            return _Bound((0, self._whole(text)), included)
        try:
            self.element.decoder(_refuse, sqlite=False)(text)
        except RecordError as error:
            raise ValueError(f"its bound {error.sentence}") from error
        return _Bound((0, (0, text) if self.dated else Decimal(text)), included)

    def _whole(self, text: str) -> int:
        try:
            number = int(text)
            self.element.decoder(_refuse, sqlite=False)(number)
        except (RecordError, ValueError):
            raise ValueError from None
        if str(number) != text:
            raise ValueError
        return number


def _apart(before: _Bound, after: _Bound) -> bool:
    """Say whether there is something between the end of a range and the beginning of the next one."""
    if before.place is None or after.place is None:
        return False
    return before.place < after.place or (before.place == after.place and not before.included and not after.included)


def _refuse(value: object, why: str = "") -> RecordError:
    """Make the error for a bound, which the range's own refusal quotes."""
    return RecordError("value", "", f"{str(value)[:40]} is not taken{f' ({why})' if why else ''}")
