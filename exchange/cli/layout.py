"""How words and tables lie on a terminal: whatever its width, nothing that people read or copy is broken. Pure.

What is longer than a line has one of its own, whole: the terminal goes on with it below, and copies it as one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rich.cells import cell_len

LEAST_WORDS = 28
"""Words in a table's last column are wrapped if it has so many cells; else each record is a paragraph."""

FEW_COLUMNS = 3
"""A table of no more columns keeps those that are alike in every row."""

FEW_ROWS = 4
"""A table of no more rows that has room keeps them, too."""

GAP = "  "
_FIELD = ("name", "value")

Paint = Callable[[str, str], str]
"""Gives a padded text in the style of a kind: ``head``, ``name``, ``dim``, or a cell's value."""

_TOGETHER = re.compile(
    r"\S*`[^`]+`\S*"  # a command
    r"|\S*\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?(?:Z| UTC)?\S*"  # a moment
    r"|\S*\b\d+ (?:d|h|min|s)(?: \d+ (?:h|min|s))?\b\S*"  # a length of time
    r"|\S*\{\"[^{}]*\}\S*"  # a key
    r"|\|[^|]*\|"  # a row of bars
    r"|\S+"
)


def pieces(text: str) -> list[tuple[str, str]]:
    """Cut a text into what stays together, each with the space before it."""
    found, end = [], 0
    for match in _TOGETHER.finditer(text):
        found.append((text[end : match.start()], match.group()))
        end = match.end()
    return found


def wrapped(text: str, width: int, indent: str = "", first: str | None = None) -> list[str]:
    """Wrap a text between its pieces; ``first`` stands before its first line, ``indent`` before the others."""
    line, lines, begun = indent if first is None else first, [], False
    for space, piece in pieces(text):
        if begun and cell_len(line) + cell_len(space) + cell_len(piece) > width:
            lines.append(line)
            line, begun = indent, False
        line += space + piece if begun else piece
        begun = True
    return [*lines, line]


def is_prose(value: str) -> bool:
    """Whether a value may be wrapped: it has more than one piece."""
    return len(pieces(value)) > 1


def whole(headings: Sequence[str], rows: Sequence[Sequence[str]], paint: Paint) -> list[str]:
    """Lay rows out as a table, however wide."""
    widths = _widths(headings, rows)
    aligned = _numbers(rows, len(headings))
    return [
        _line(headings, widths, aligned, lambda text, _: paint(text, "head")),
        *(_line(row, widths, aligned, paint) for row in rows),
    ]


def fitted(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, paint: Paint, *, steady: bool = False
) -> list[str]:
    """Lay rows out in lines of at most ``width`` cells: as a table, or where that has no room as paragraphs.

    What is alike in all of several rows is said once, before them; not of a ``steady`` table, or one of a few rows,
    that has room for it.
    """
    stays = steady or len(rows) <= FEW_ROWS
    if stays and sum(_widths(headings, rows)) + len(GAP) * (len(headings) - 1) <= width:
        return whole(headings, rows, paint)
    kept = [at for at in range(len(headings)) if at == 0 or not _alike(rows, at) or len(headings) <= FEW_COLUMNS]
    same = [(headings[at], rows[0][at]) for at in range(len(headings)) if at not in kept]
    before = [paint(one, "dim") for one in _flow([f"{name} {value}" for name, value in same if value], width, "each: ")]
    headings = [headings[at] for at in kept]
    rows = [[row[at] for at in kept] for row in rows]
    widths = _widths(headings, rows)
    if sum(widths) + len(GAP) * (len(widths) - 1) <= width:
        return [*before, *whole(headings, rows, paint)]
    left = width - sum(widths[:-1]) - len(GAP) * (len(widths) - 1)
    if left >= max(LEAST_WORDS, *(cell_len(piece) for row in rows for _, piece in pieces(row[-1])), 0):
        return [*before, *_with_words(headings, rows, [*widths[:-1], left], paint)]
    if len(headings) == len(_FIELD):
        return [*before, *(line for row in rows for line in _field(row[0].ljust(widths[0]), row[1], width, paint))]
    return [*before, *(line for row in rows for line in _paragraph(headings, row, width, paint))]


def _alike(rows: Sequence[Sequence[str]], at: int) -> bool:
    return len(rows) > 1 and len({row[at] for row in rows}) == 1


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]


def _numbers(rows: Sequence[Sequence[str]], columns: int) -> list[bool]:
    return [bool(rows) and all(row[at].replace(",", "").isdecimal() for row in rows) for at in range(columns)]


def _line(cells: Sequence[str], widths: Sequence[int], to_the_right: Sequence[bool], paint: Paint) -> str:
    drawn = []
    for at, (cell, wide, right) in enumerate(zip(cells, widths, to_the_right, strict=True)):
        padding = " " * (wide - cell_len(cell))
        last = at == len(cells) - 1
        drawn.append(paint(padding + cell if right else cell if last else cell + padding, cell))
    return GAP.join(drawn).rstrip()


def _with_words(
    headings: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], paint: Paint
) -> list[str]:
    """Lay rows out as a table whose last column is wrapped."""
    aligned = _numbers(rows, len(headings))
    indent = " " * (sum(widths[:-1]) + len(GAP) * (len(widths) - 1))
    lines = [_line(headings, widths, aligned, lambda text, _: paint(text, "head"))]
    for row in rows:
        first, *others = wrapped(row[-1], widths[-1])
        lines += [_line([*row[:-1], first], widths, aligned, paint), *(indent + other for other in others)]
    return lines


def _field(name: str, value: str, width: int, paint: Paint) -> list[str]:
    """Lay a value out beside its name, or below it if it has no room there."""
    left = width - cell_len(name) - len(GAP)
    beside = all(cell_len(piece) <= left for _, piece in pieces(value))
    first, *others = wrapped(value, left) if beside else ["", *wrapped(value, width - len(GAP))]
    indent = " " * (cell_len(name) + len(GAP)) if beside else GAP
    shown = f"{paint(name, 'name')}{GAP}{first}" if beside else paint(name.rstrip(), "name")
    return [shown, *(indent + other for other in others)]


def _paragraph(headings: Sequence[str], row: Sequence[str], width: int, paint: Paint) -> list[str]:
    """Lay a record out: its name, then what else is short of it, then what has lines of its own."""
    name, *values = row
    said = [
        (heading, value, f"{heading} {value}") for heading, value in zip(headings[1:], values, strict=True) if value
    ]
    long = [
        one for one in said if cell_len(one[2]) > width - len(GAP) or (is_prose(one[1]) and len(one[2]) > width // 2)
    ]
    short = [one[2] for one in said if one not in long]
    lines = [name, *_flow(short, width, GAP)]
    if len(lines) > 1 and cell_len(name) + cell_len(lines[1]) <= width:
        lines[:2] = [name + lines[1]]
    lines[0] = paint(name, "name") + lines[0].removeprefix(name)
    for heading, value, both in long:
        if cell_len(both) > width - len(GAP) and not is_prose(value):
            lines += [f"{GAP}{heading}", f"{GAP * 2}{value}" if cell_len(value) <= width - len(GAP * 2) else value]
        else:
            lines += wrapped(value, width, GAP * 2, f"{GAP}{heading} ")
    return lines


def _flow(items: Sequence[str], width: int, first: str) -> list[str]:
    """Lay short items out with commas between, as many in a line as it has room for; ``first`` begins the first one."""
    lines: list[str] = []
    line, indent = first, " " * len(first)
    for number, item in enumerate(items, 1):
        ended = item + ("," if number < len(items) else "")
        begun = line not in {first, indent}
        if begun and cell_len(line) + 1 + cell_len(ended) > width:
            lines.append(line)
            line, begun = indent, False
        *full, line = wrapped(ended, width, indent + GAP, line + " " * begun)
        lines += full
    return [*lines, line] if items else []
