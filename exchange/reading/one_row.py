"""One row taken apart by its columns and put together again: so that a person sees it, or parts of it, and mends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exchange.format import strict_json
from exchange.format.errors import RecordError
from exchange.reading import FileFormat
from exchange.reading.csv_rows import CsvRows
from exchange.reading.json_rows import read_objects
from exchange.reading.source import as_utf8
from exchange.reading.splitting import Grammar, split

Parts = dict[str, Any]
"""A row's cells or members, by the names of their columns; what is for no column by what the file calls it."""


def names_of(written: FileFormat) -> list[str]:
    """Say what the cells of a row are called, each otherwise."""
    names: list[str] = []
    for at, cell in enumerate(written.header, 1):
        name = written.columns[at - 1] or cell
        names.append(name if name and name not in names else f"{name} (cell {at})")
    return names


def taken_apart(written: FileFormat, record: bytes) -> Parts:
    """Give a row's cells as texts, None where one stands for NULL; or its members. Raises RecordError."""
    data = as_utf8(record, written.encoding)
    check_is_one(written, data)
    if written.kind == "jsonl":
        _, objects, bad = read_objects([data], {})
        if bad:
            raise bad[0]
        if not objects:
            raise RecordError("ragged", "", "the row is blank")
        called = dict(zip(written.header, names_of(written), strict=True))
        return {called.get(name, name): value for name, value in objects[0].items()}
    cut = CsvRows(written).one_by_one([data], {})
    if cut.bad:
        raise cut.bad[0]
    if not cut.places:
        raise RecordError("ragged", "", "the row is blank")
    return {name: column[0] for name, column in zip(names_of(written), cut.columns, strict=True)}


def put_together(written: FileFormat, parts: Mapping[str, Any]) -> bytes:
    """Write a row as its file has such. Raises RecordError for what it can't say.

    The reader of the file makes the same of it, if ``parts`` are those that it may have.
    """
    names = names_of(written)
    if written.kind == "jsonl":
        called = dict(zip(names, written.header, strict=True))
        row = strict_json.dumps({called.get(name, name): value for name, value in parts.items()})
        return as_encoded(written, row.decode())
    if unknown := [name for name in parts if name not in names]:
        raise RecordError("ragged", "", f"the file has no column {unknown[0]}")
    cells = [_cell(written, parts.get(name)) for name in names]
    return as_encoded(written, written.delimiter.join(cells))


def as_encoded(written: FileFormat, text: str) -> bytes:
    """Give a text in the encoding of the file. Raises RecordError."""
    try:
        return text.encode(written.encoding)
    except UnicodeEncodeError as error:
        raise RecordError(
            "encoding", "", f"{written.encoding} has no character {text[error.start : error.start + 1]!r}"
        ) from None


def as_text(written: FileFormat, record: bytes) -> str:
    """Give a row's text, whatever it is."""
    return record.decode(written.encoding, "backslashreplace")


def check_is_one(written: FileFormat, data: bytes) -> None:
    """Check that a text, in UTF-8 unless the encoding is direct, is one row and no more. Raises RecordError."""
    if len(split(data, Grammar.of(written), last=True).records) > 1:
        raise RecordError("ragged", "", "it is more than one row: a line break belongs into quotes")


def _cell(written: FileFormat, value: Any) -> str:
    if value is None:
        if not written.nulls:
            raise RecordError("cell", "", "the file has no word for NULL")
        return str(next(iter(written.nulls)))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    special = (written.delimiter, written.quote, "\r", "\n") if written.quote else (written.delimiter, "\r", "\n")
    if text not in written.nulls and not any(mark in text for mark in special):
        return text
    if not written.quote:
        raise RecordError("quoting", "", "the file has no quotes, and the cell would need them")
    return f"{written.quote}{text.replace(written.quote, written.quote * 2)}{written.quote}"
