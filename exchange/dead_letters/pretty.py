"""A record laid out for reading, with a mark where it fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

INDENT = "  "


class Line(NamedTuple):
    """One line; ``fails`` says that what it shows is at fault."""

    text: str
    fails: bool


def laid_out(value: Any, pointer: str) -> list[Line]:
    """Write a JSON value over many lines. If the place that ``pointer`` names is missing, its nearest parent fails."""
    places = {place for place, _ in _lines(value, "", "", "")}
    while pointer and pointer not in places:
        pointer = pointer.rpartition("/")[0]
    return [Line(text, bool(pointer) and place == pointer) for place, text in _lines(value, "", "", "")]


def _lines(value: Any, place: str, before: str, indent: str) -> Iterator[tuple[str, str]]:
    """Give each line with the pointer of the value that begins on it; a closing bracket has none."""
    match value:
        case dict() if value:
            members: list[tuple[str, str, Any]] = [
                (_step(name), f"{_text(name)}: ", one) for name, one in value.items()
            ]
            opening, closing = "{}"
        case list() if value:
            members = [(str(number), "", one) for number, one in enumerate(value)]
            opening, closing = "[]"
        case _:
            yield place, f"{indent}{before}{_text(value)}"
            return
    yield place, f"{indent}{before}{opening}"
    for number, (step, name, one) in enumerate(members, 1):
        lines = list(_lines(one, f"{place}/{step}", name, indent + INDENT))
        if number < len(members):
            lines[-1] = (lines[-1][0], lines[-1][1] + ",")
        yield from lines
    yield "-", f"{indent}{closing}"


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
