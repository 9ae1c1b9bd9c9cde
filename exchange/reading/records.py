"""The rows of a file as bytes, block by block, in bounded memory whatever is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO, NamedTuple

from exchange.format.batch import LongLine
from exchange.format.errors import RecordError
from exchange.reading import FileFormat, Place
from exchange.reading.source import Source
from exchange.reading.splitting import Grammar, count_lines, split, whole_lines, without_end

_BLOCK = 256 * 1024
_MOST_CHECKED = 1024 * 1024
"""Of a line that closes a row which is too long so much is looked at."""
_LINE = re.compile(rb"[^\r\n]*+(?:\r\n|\n|\r|\Z)")


class Block(NamedTuple):
    """Rows that follow each other, as UTF-8 or in the file's encoding of single bytes."""

    records: Sequence[bytes]
    numbers: Sequence[int]
    """The line in which each begins."""
    bad: dict[int, RecordError]
    """What is wrong with those, by their places, that need no look: they are too long or never end."""
    end: Place


class Records:
    """Reads the rows of a file from a place on; rows longer than ``most`` bytes are kept as ``LongLine``."""

    def __init__(self, file: BinaryIO, written: FileFormat, start: Place, stop: int | None, most: int) -> None:
        """Open the file at the place."""
        self._file, self._written, self._stop, self._most = file, written, stop, most
        self._grammar = Grammar.of(written)
        self._at = start
        self._source = Source(file, written, start.position, stop)

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks, of some 256 KiB each if rows are not longer."""
        rest = b""
        last = False
        while not last:
            piece = self._source.read(max(_BLOCK, len(rest)))
            last = not piece
            data = rest + piece
            cut = len(data) if last else whole_lines(data, len(rest) if not whole_lines(rest) else 0)
            found = split(data[:cut], self._grammar, last=last)
            rest = data[found.used :]
            if found.records:
                yield self._block(found.records, found.lines, found.unclosed, data[: found.used])
            if len(rest) > self._most and not found.used:
                block, rest = self._too_long(rest)
                last = False
                yield block

    def _block(self, records: list[bytes], lines: Sequence[int] | None, unclosed: frozenset[int], data: bytes) -> Block:
        count = len(records) if lines is None else sum(lines)
        first = self._at.line
        numbers: Sequence[int] = range(first, first + count)
        if lines is not None and len(records) != count:
            numbers = [*accumulate(lines[:-1], initial=first)]
        bad = {at: never_closed() for at in unclosed}
        if len(data) > self._most:
            for at, record in enumerate(records):
                if len(record) > self._most:
                    records[at] = LongLine.of(record)
                    bad[at] = too_long(len(record), self._most)
        self._at = Place(self._at.position + self._source.length(data), first + count)
        return Block(records, numbers, bad, self._at)

    def _too_long(self, data: bytes) -> tuple[Block, bytes]:
        """Read past a row of which ``data`` is the beginning; gives it with what was read behind it."""
        start, first_end = self._at, None
        quote = b"" if self._grammar is None else self._grammar.quote
        kept, line, quotes, length, lines, raw = LongLine.of(b"", 0), b"", 0, 0, 0, 0
        while data:
            step = self._step(data, quote, odd=bool(first_end))
            kept, line = kept.longer_by(step), (line + step)[: _MOST_CHECKED + 1]
            length, raw = length + len(step), raw + self._source.length(step)
            lines += count_lines(step)
            data = data[len(step) :]
            if quote:
                quotes += step.count(quote)
            if step.endswith((b"\n", b"\r")):
                here = Place(start.position + raw, start.line + lines)
                if not quotes & 1:
                    if first_end and len(line) <= _MOST_CHECKED and not self._closes(line):
                        return self._never_closed(start, first_end, kept)
                    return self._long(start, here, kept, length), data
                first_end = first_end or (here, length)
                line = b""
            data = data or self._source.read(_BLOCK)
        if quotes & 1 and first_end:
            return self._never_closed(start, first_end, kept)
        return self._long(start, Place(start.position + raw, start.line + lines + 1), kept, length), b""

    @staticmethod
    def _step(data: bytes, quote: bytes, *, odd: bool) -> bytes:
        """Take the next line, or as many whole ones as stand before any quote where a cell is open."""
        if odd:
            at = data.find(quote)
            whole = whole_lines(data if at < 0 else data[:at])
            if whole:
                return data[:whole]
        found = _LINE.match(data)
        return found[0] if found else data

    def _closes(self, line: bytes) -> bool:
        return self._grammar is not None and self._grammar.closes.match(line) is not None

    def _long(self, start: Place, end: Place, kept: LongLine, length: int) -> Block:
        kept.length = length
        self._at = end
        return Block([kept], [start.line], {0: too_long(length, self._most)}, end)

    def _never_closed(self, start: Place, first_end: tuple[Place, int], kept: LongLine) -> tuple[Block, bytes]:
        """Take the first line as a bad row, and go back to the one behind it."""
        end, length = first_end
        self._at = end
        self._source = Source(self._file, self._written, end.position, self._stop)
        record = without_end(bytes(kept[:length])) if length <= len(kept) else LongLine.of(kept, length)
        return Block([record], [start.line], {0: never_closed()}, end), b""


def never_closed() -> RecordError:
    """Word that a quoted cell has no end."""
    return RecordError(
        "quoting",
        "",
        "a quote opens a cell that nothing closes as it should; the lines behind it are read as rows of their own",
    )


def too_long(length: int, most: int) -> RecordError:
    """Word that a row is longer than is taken."""
    return RecordError(
        "long", "", f"the row is {length} bytes long, at most {most} are taken (EXCHANGE_MAX_RECORD_BYTES)"
    )
