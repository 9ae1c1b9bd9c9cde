"""Dead letters as a table for people: CSV in which no cell is a formula, a control character or a secret."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import BinaryIO

from exchange.channels.stream import HIDDEN
from exchange.dead_letters.file_rows import PeoplesFile
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.store import Parked
from exchange.format.errors import printable
from exchange.format.formulas import defused
from exchange.site import Site

COLUMNS = (
    "id",
    "direction",
    "channel",
    "stream",
    "op",
    "key",
    "version",
    "state",
    "error",
    "message",
    "pointer",
    "batch",
    "line",
    "producer",
    "attempts",
    "created_at",
    "updated_at",
    "seen",
    "first_seen",
    "last_seen",
    "intake",
    "record",
)
LONGEST_CELL = 32_000
"""Spreadsheets cut longer ones, or refuse them."""


def write_table(site: Site, out: BinaryIO, letters: Iterable[tuple[Parked, PeoplesFile | None]]) -> int:
    """Write a line of headings and one for each letter, which may be a row of a file; give how many. All are quoted."""
    count = 0
    mask = Mask(site.channels)
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    lines = csv.writer(text, quoting=csv.QUOTE_ALL)
    lines.writerow(COLUMNS)
    for letter, file in letters:
        lines.writerow([cell(value) for value in _values(mask, letter, file)])
        count += 1
    text.detach()
    return count


def cell(value: object) -> str:
    """Write a value so that a spreadsheet shows it and does nothing else with it."""
    return defused("" if value is None else printable(str(value), LONGEST_CELL))


def _values(mask: Mask, letter: Parked, file: PeoplesFile | None) -> list[object]:
    record = mask.record(letter, letter.record, file)
    shown = mask.brief(letter)
    return [*(getattr(shown, name) for name in COLUMNS[:-1]), HIDDEN if record is None else record]
