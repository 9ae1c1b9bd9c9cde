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
        cells, wrong = self._read(texts)
        if cells is None:
            return self._without_misquoted(records, texts, places, bad)
        width = self._width
        slow = self._doubtful(records, texts, text, cells, wrong)
        right = [at for at in range(len(texts)) if at not in wrong] if wrong else range(len(texts))
        cells = self._with_nulls(cells)
        for at in wrong:
            self._look_at(at, records, texts, places, bad)
        gone: set[int] = set()
        for number, at in enumerate(right) if slow else ():
            if at in slow:
                row = self._look_at(at, records, texts, places, bad)
                if row is None:
                    gone.add(number)
                else:
                    cells[number * width : (number + 1) * width] = row
        columns = [cells[at::width] for at in range(width)]
        if wrong or gone:
            right = [at for number, at in enumerate(right) if number not in gone]
            places = [places[at] for at in right]
        if gone:
            columns = [[cell for number, cell in enumerate(column) if number not in gone] for column in columns]
        return Cut(places, columns, bad)

    def _read(self, texts: Sequence[str]) -> tuple[list[Any] | None, list[int]]:
        """Give the cells of all rows that have as many as the header, and the places of the others.

        No cells if a row is quoted as none can be.
        """
        cells: list[str] = []
        wrong: list[int] = []
        extend, width, count = cells.extend, self._width, 0
        try:
            for row in csv.reader(texts, delimiter=self._delimiter, quotechar=self._quote, strict=True):
                if len(row) == width:
                    extend(row)
                elif width == 1 and not row:  # a blank line, of which the reader makes no cell
                    extend([""])
                else:
                    wrong.append(count)
                count += 1
        except csv.Error:
            return None, []
        return (cells, wrong) if count == len(texts) else (None, [])

    def _without_misquoted(
        self, records: Sequence[bytes], texts: Sequence[str], places: Sequence[int], bad: dict[int, RecordError]
    ) -> Cut:
        """Cut rows but those that are quoted as none can be; one by one where the reader minds something else."""
        misquoted = {at for at, record in enumerate(records) if self._quote in texts[at] and not self._is_whole(record)}
        left = [at for at in range(len(texts)) if at not in misquoted]
        for at in misquoted:
            self._look_at(at, records, texts, places, bad)
        if misquoted:
            text = "\n".join([texts[at] for at in left])
            return self._quoted([records[at] for at in left], text, [places[at] for at in left], bad)
        rows = [self._look_at(at, records, texts, places, bad) for at in left]
        return Cut(
            [places[at] for at, row in enumerate(rows) if row is not None],
            self._columns([row for row in rows if row is not None]),
            bad,
        )

    def _doubtful(
        self,
        records: Sequence[bytes],
        texts: Sequence[str],
        text: str,
        cells: Sequence[str],
        wrong: Sequence[int],
    ) -> set[int]:
        """Give the places of rows of which the reader may have made something else than they say.

        Quoted, the words of NULL are texts; and it takes a quote within a plain cell as it is.
        """
        slow: set[int] = set()
        if not self._nulls.isdisjoint(cells) and self._has_quoted_null(text):
            slow = {at for at, one in enumerate(texts) if self._quote in one and self._has_quoted_null(one)}
        if self._quote in "".join(cells):
            slow |= {at for at, one in enumerate(records) if self._quote in texts[at] and not self._is_whole(one)}
        return slow.difference(wrong)

    def _has_quoted_null(self, text: str) -> bool:
        lines = f"\n{text}\n"
        return any(word in lines for word in self._quoted_nulls)

    def _is_whole(self, record: bytes) -> bool:
        return self._grammar is not None and self._grammar.whole.match(record) is not None

    def _look_at(
        self,
        at: int,
        records: Sequence[bytes],
        texts: Sequence[str],
        places: Sequence[int],
        bad: dict[int, RecordError],
    ) -> list[Cell] | None:
        """Cut one row, or note what is wrong with it; None for that and for a blank one."""
        if self._width > 1 and not records[at].strip():
            return None
        try:
            return self._row(texts[at])
        except RecordError as error:
            bad[places[at]] = error
            return None

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
