"""Rows as lines of CSV or JSON, as ``exchange intake`` reads them back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Self

import orjson

from exchange.channels.codecs import ColumnCodec, as_is, json_null_member
from exchange.channels.stream import Stream
from exchange.format.formulas import SUSPECT, defused
from exchange.intake.extract.kinds import Kind, kind_of

Body = dict[str, Any]
Cells = Callable[[Sequence[Body]], list[str]]


class Lines(ABC):
    """Writes rows into an open file; entered for all of them, so that it can end the file."""

    defused = 0
    """How many texts have an apostrophe before them."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    @abstractmethod
    def write(self, bodies: Sequence[Body]) -> None:
        """Write rows. Raises OSError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:  # noqa: B027 - most formats have no end
        """End the file, unless the block raised something."""


class JsonLines(Lines):
    """One JSON object a line: a row's data as a record has it."""

    def write(self, bodies: Sequence[Body]) -> None:
        """Write rows. Raises OSError."""
        if bodies:
            self._out.write(b"\n".join(map(orjson.dumps, bodies)) + b"\n")


class Csv(Lines):
    """CSV with a header: NULL is an empty cell without quotes, an empty text one with them.

    Unless ``raw`` a text that a spreadsheet would compute has an apostrophe before it; ``defused`` counts them.
    """

    def __init__(self, out: BinaryIO, stream: Stream, *, raw: bool) -> None:
        super().__init__(out)
        self._raw = raw
        self._columns = [self._cells(stream.codecs[column.name]) for column in stream.columns]
        header = ",".join(map(_quoted_if_needed, stream.names))
        self._out.write(header.encode() + b"\n")

    def write(self, bodies: Sequence[Body]) -> None:
        """Write rows. Raises OSError."""
        if bodies:
            cells = [column(bodies) for column in self._columns]
            lines = map(",".join, zip(*cells, strict=True))
            self._out.write(("\n".join(lines) + "\n").encode())

    def write_ready(self, lines: bytes) -> None:
        """Write lines that are CSV already. Raises OSError."""
        self._out.write(lines)

    def _cells(self, codec: ColumnCodec) -> Cells:
        name, kind = str(codec.name), kind_of(codec)
        if kind is Kind.DOCUMENT:
            return _documents(codec, name)
        if kind is Kind.WORDS:
            return lambda bodies: self._mixed([body[name] for body in bodies])
        cell = _CELL[kind]
        return lambda bodies: ["" if (v := body[name]) is None else cell(v) for body in bodies]

    def cell_of(self, kind: Kind) -> Callable[[list[Any]], list[str]]:
        """Give what makes cells of a column's values, none of them null."""
        if kind is Kind.WORDS:
            return self._mixed
        cell = _CELL[kind]
        return lambda values: [cell(value) for value in values]

    def _mixed(self, values: list[Any]) -> list[str]:
        """Write texts, nulls, and the numbers that an enumeration may have."""
        if {str}.issuperset(map(type, values)):
            return self.words(values)
        return ["" if v is None else repr(v) if type(v) is int else self.words([v])[0] for v in values]

    def words(self, texts: list[str]) -> list[str]:
        """Write texts that people wrote."""
        if not self._raw and not SUSPECT.isdisjoint({text[:1] for text in texts}):
            texts = [self._defused(text) for text in texts]
        if '"' in "".join(texts):
            return ['"' + text.replace('"', '""') + '"' for text in texts]
        return [f'"{text}"' for text in texts]

    def _defused(self, text: str) -> str:
        shown = defused(text)
        self.defused += shown is not text
        return shown


def _json(value: Any) -> str:
    return '"' + orjson.dumps(value).decode().replace('"', '""') + '"'


_CELL: dict[Kind, Callable[[Any], str]] = {
    Kind.TRUTH: {True: "true", False: "false"}.__getitem__,
    Kind.WHOLE: int.__repr__,
    Kind.REAL: repr,
    Kind.SPELLED: as_is,
    Kind.CODED: '"{}"'.format,
    Kind.JSON: _json,
}


def _documents(codec: ColumnCodec, name: str) -> Cells:
    member = json_null_member(name)
    null = "" if codec.has_two_nulls else "null"

    def cell(body: Body) -> str:
        if name in body:
            return null if body[name] is None else _json(body[name])
        text = body[member]
        return "null" if text is None else '"' + text.replace('"', '""') + '"'

    return lambda bodies: [*map(cell, bodies)]


def _quoted_if_needed(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set('",\r\n ') or not name else name
