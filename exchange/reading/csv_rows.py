"""Rows of CSV as columns of cells: many at a time where they are as they should be, else one by one."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from itertools import repeat
from typing import Any, NamedTuple

from exchange.format.errors import RecordError, printable
from exchange.reading import FileFormat
from exchange.reading.source import is_direct
from exchange.reading.splitting import Grammar

Cell = str | None


class Cut(NamedTuple):
    """Rows cut into cells."""

    places: Sequence[int]
    """Of the rows that have cells: those before are bad or blank."""
    columns: list[list[Cell]]
    """By the header's cells; None stands for NULL."""
    bad: dict[int, RecordError]


class CsvRows:
    """Cuts the rows of one file into cells."""

    def __init__(self, written: FileFormat) -> None:
        """Take the file's marks."""
        self._width = len(written.header)
        self._nulls = frozenset(written.nulls)
        self._encoding = written.encoding if is_direct(written.encoding) else "utf-8"
        self._said = written.encoding
        self._delimiter, self._quote = written.delimiter, written.quote
        self._delimiter_bytes = written.delimiter.encode(self._encoding)
        self._grammar = Grammar.of(written)
        quote, other = re.escape(written.quote), re.escape(written.delimiter)
        inside = f"[^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+"
        quoted = f"{quote}({inside}){quote}|" if written.quote else "((?!))|"
        plain = rf"([^{quote}{other}]*+)"
        self._cell = re.compile(rf"(?:{quoted}{plain})(?:({other})|\Z)")
        ends = (written.delimiter, "\n")
        words = [f"{written.quote}{one}{written.quote}" for one in self._nulls if written.quote]
        self._quoted_nulls = [f"{before}{word}{behind}" for word in words for before in ends for behind in ends]

    def cut(self, records: Sequence[bytes], bad: dict[int, RecordError]) -> Cut:
        """Cut rows, but those of which it is known what is wrong with them; blank ones are passed over."""
        bad = dict(bad)
        places: Sequence[int] = range(len(records))
        if bad:
            places = [at for at in places if at not in bad]
        chosen = records if not bad else [records[at] for at in places]
        block = b"\n".join(chosen)
        try:
            text = block.decode(self._encoding)
        except UnicodeDecodeError:
            bad |= {at: error for at in places if (error := self._undecodable(records[at]))}
            return self.cut(records, bad)
        if self._grammar is None or self._grammar.quote not in block:
            return self._plain(chosen, text, places, bad)
        return self._quoted(chosen, text, places, bad)

    def one_by_one(self, records: Sequence[bytes], bad: dict[int, RecordError]) -> Cut:
        """Give the same as ``cut``, looking at each row by itself."""
        bad = dict(bad)
        places, rows = [], []
        for at, record in enumerate(records):
            if at in bad:
                continue
            if error := self._undecodable(record):
                bad[at] = error
            elif self._width > 1 and not record.strip():
                continue
            else:
                try:
                    rows.append(self._row(record.decode(self._encoding)))
                    places.append(at)
                except RecordError as wrong:
                    bad[at] = wrong
        return Cut(places, self._columns(rows), bad)

    def _plain(self, records: Sequence[bytes], text: str, places: Sequence[int], bad: dict[int, RecordError]) -> Cut:
        width, delimiter = self._width, self._delimiter
        counts = [*map(bytes.count, records, repeat(self._delimiter_bytes))]
        if set(counts) - {width - 1}:
            rows = text.split("\n")
            right = [at for at, count in enumerate(counts) if count == width - 1]
            for at, count in enumerate(counts):
                if count != width - 1 and records[at].strip():
                    bad[places[at]] = self._ragged(count + 1)
            places = [places[at] for at in right]
            text = "\n".join([rows[at] for at in right])
        if not places:
            return Cut(places, [[] for _ in range(width)], bad)
        cells: list[Any] = text.replace("\n", delimiter).split(delimiter)
        return Cut(places, [self._with_nulls(cells[at::width]) for at in range(width)], bad)

    def _quoted(self, records: Sequence[bytes], text: str, places: Sequence[int], bad: dict[int, RecordError]) -> Cut:
        texts = text.split("\n")
        if len(texts) != len(records):
            texts = [record.decode(self._encoding) for record in records]
        width = self._width
        if (cells := self._cells(records, texts, text)) is not None:
            return Cut(places, [self._with_nulls(cells[at::width]) for at in range(width)], bad)
        rows, slow = self._read(records, texts)
        good, kept = [], []
        for at, row in enumerate(rows):
            if width > 1 and not records[at].strip():
                continue
            try:
                kept.append(self._row(texts[at]) if at in slow else self._whole(row))
                good.append(places[at])
            except RecordError as error:
                bad[places[at]] = error
        return Cut(good, self._columns(kept), bad)

    def _cells(self, records: Sequence[bytes], texts: Sequence[str], text: str) -> list[Any] | None:
        """Cut rows of which there is nothing to be said, to all their cells; None if there is."""
        cells: list[str] = []
        extend, width, count = cells.extend, self._width, 0
        try:
            for row in csv.reader(texts, delimiter=self._delimiter, quotechar=self._quote, strict=True):
                if len(row) != width:
                    return None
                extend(row)
                count += 1
        except csv.Error:
            return None
        if count != len(texts) or self._has_quoted_nulls(text, cells):
            return None
        return None if self._quote in "".join(cells) and not self._are_whole(records) else cells

    def _has_quoted_nulls(self, text: str, cells: Sequence[str]) -> bool:
        """Say whether a word of NULL may be quoted, and so a text."""
        if self._nulls.isdisjoint(cells):
            return False
        lines = f"\n{text}\n"
        return any(word in lines for word in self._quoted_nulls)

    def _are_whole(self, records: Sequence[bytes]) -> bool:
        """Say whether each row is quoted as it should be: the reader takes a quote within a plain cell as it is."""
        grammar = self._grammar
        return grammar is not None and all(grammar.whole.match(record) for record in records if grammar.quote in record)

    def _read(self, records: Sequence[bytes], texts: Sequence[str]) -> tuple[list[list[str]], set[int]]:
        """Read rows at once; beside them the places of those that need a look of their own."""
        quote = self._quote
        reader = csv.reader(texts, delimiter=self._delimiter, quotechar=self._quote, strict=True)
        try:
            rows = [*reader]
        except csv.Error:
            rows = []
        if len(rows) != len(texts):
            slow = {at for at, text in enumerate(texts) if self._quote in text}
            return [[] if at in slow else text.split(self._delimiter) for at, text in enumerate(texts)], slow
        slow = {
            at
            for at, (text, row) in enumerate(zip(texts, rows, strict=True))
            if quote in text
            and (
                self._has_quoted_nulls(text, row)
                or (any(quote in cell for cell in row) and not self._are_whole((records[at],)))
            )
        }
        return rows, slow

    def _whole(self, row: Sequence[str]) -> list[Cell]:
        if len(row) != self._width:
            raise self._ragged(len(row))
        nulls = self._nulls
        return [None if cell in nulls else cell for cell in row]

    def _row(self, text: str) -> list[Cell]:
        """Cut one row; raises RecordError."""
        cells: list[Cell] = []
        doubled, quote, at, match = self._quote * 2, self._quote, 0, self._cell.match
        while True:
            found = match(text, at)
            if found is None:
                raise RecordError("quoting", "", self._misquoted(len(cells)))
            quoted, plain, delimiter = found.groups()
            if quoted is not None:
                cells.append(quoted.replace(doubled, quote))
            else:
                cells.append(None if plain in self._nulls else plain)
            if not delimiter:
                break
            at = found.end()
        if len(cells) != self._width:
            raise self._ragged(len(cells))
        return cells

    def _columns(self, rows: Sequence[list[Cell]]) -> list[list[Cell]]:
        return [[*column] for column in zip(*rows, strict=True)] if rows else [[] for _ in range(self._width)]

    def _with_nulls(self, cells: list[Cell]) -> list[Cell]:
        nulls = self._nulls
        return cells if nulls.isdisjoint(cells) else [None if cell in nulls else cell for cell in cells]

    def _undecodable(self, record: bytes) -> RecordError | None:
        try:
            record.decode(self._encoding)
        except UnicodeDecodeError as error:
            hint = "; if the file is Windows-1252, say so: encoding" if self._said == "utf-8" else ""
            return RecordError(
                "encoding",
                "",
                f"the row is no text in {printable(self._said)}, from its byte {error.start + 1} on{hint}",
            )
        return None

    def _ragged(self, count: int) -> RecordError:
        return RecordError("ragged", "", f"the row has {count} cell{'s' * (count != 1)}, the header has {self._width}")

    def _misquoted(self, before: int) -> str:
        quote = self._quote
        return (
            f"cell {before + 1} has a quote where none can be: a cell with {quote} in it stands in {quote} as a whole,"
            f" and has {quote}{quote} for each"
        )
