r"""Where rows begin and end: lines, or several where a quoted cell has line breaks.

A line ends with ``\n``, ``\r\n`` or ``\r``. Quotes stand around a whole cell or nowhere; within it they are doubled. So
a line with an odd number of them either opens a cell that a later line closes, or is bad by itself, and which of the
two it is shows when the next such line is seen. Where rows end does not hang on where reading began.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

from exchange.reading import FileFormat


@dataclass(frozen=True)
class Grammar:
    """The marks of one file's rows, and what lines may look like, for their bytes."""

    quote: bytes
    opens: re.Pattern[bytes]
    """A line that begins a row and leaves a quoted cell open."""
    closes: re.Pattern[bytes]
    """A line that goes on in a quoted cell, closes it, and ends the row."""
    whole: re.Pattern[bytes]
    """A row that is quoted as it should be."""

    @classmethod
    def of(cls, written: FileFormat) -> Grammar | None:
        """Make it for a file; None where no quote means anything."""
        if written.kind != "csv" or not written.quote:
            return None
        q, d = re.escape(written.quote.encode()), re.escape(written.delimiter.encode())
        inside = rb"[^%b]*+(?:%b%b[^%b]*+)*+" % (q, q, q, q)
        cell = rb"(?:%b%b%b|[^%b%b\r\n]*+)" % (q, inside, q, q, d)
        end = rb"(?:\r\n|\n|\r)?\Z"
        return cls(
            written.quote.encode(),
            re.compile(rb"(?:%b%b)*+%b%b\Z" % (cell, d, q, inside)),
            re.compile(rb"%b%b(?:%b%b)*+%b" % (inside, q, d, cell, end)),
            re.compile(rb"%b(?:%b%b)*+%b" % (cell, d, cell, end)),
        )


class Split(NamedTuple):
    """Rows that are whole in some bytes."""

    records: list[bytes]
    """Without the end of their last line."""
    lines: Sequence[int] | None
    """How many lines each is; None: one."""
    unclosed: frozenset[int]
    """Places of those of which a quote opens a cell that nothing closes as it should."""
    used: int
    """How many bytes they are; a row that is not whole yet begins there."""


def split(data: bytes, grammar: Grammar | None, *, last: bool) -> Split:
    """Split bytes that begin where a row does and end where a line does; ``last``: nothing comes behind them."""
    if grammar is None or grammar.quote not in data:
        return Split(lines_of(data), None, frozenset(), len(data))
    lines = data.splitlines(keepends=True)
    counts = map(bytes.count, lines, repeat(grammar.quote))
    odd = [at for at, count in enumerate(counts) if count & 1]
    if not odd:
        return Split(lines_of(data), None, frozenset(), len(data))
    records: list[bytes] = []
    sizes: list[int] = []
    unclosed: set[int] = set()
    done, at = 0, 0
    while at < len(odd):
        first = odd[at]
        records += map(without_end, lines[done:first])
        sizes += repeat(1, first - done)
        done = first
        if grammar.opens.match(lines[first]):
            unclosed.add(len(records))
            if at + 1 == len(odd):
                if not last:
                    return Split(records, sizes, frozenset(unclosed - {len(records)}), sum(map(len, lines[:first])))
            elif grammar.whole.match(joined := b"".join(lines[first : odd[at + 1] + 1])):
                unclosed.discard(len(records))
                records.append(without_end(joined))
                sizes.append(odd[at + 1] + 1 - first)
                done = odd[at + 1] + 1
                at += 2
                continue
        records.append(without_end(lines[first]))
        sizes.append(1)
        done = first + 1
        at += 1
    records += map(without_end, lines[done:])
    sizes += repeat(1, len(lines) - done)
    return Split(records, sizes, frozenset(unclosed), len(data))


def lines_of(data: bytes) -> list[bytes]:
    """Give the lines, without their ends."""
    if b"\r" in data:
        return data.splitlines()
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def count_lines(data: bytes) -> int:
    """Count the ends of lines."""
    carriage = data.count(b"\r")
    return data.count(b"\n") + (carriage - data.count(b"\r\n") if carriage else 0)


def whole_lines(data: bytes, searched: int = 0) -> int:
    """Say how many of the bytes are whole lines; up to ``searched`` no line ends."""
    return max(data.rfind(b"\n", searched), data.rfind(b"\r", searched)) + 1


def without_end(line: bytes) -> bytes:
    """Take the end off a line."""
    return line[:-2] if line.endswith(b"\r\n") else line[:-1] if line.endswith((b"\n", b"\r")) else line
