"""What lies on a terminal: nothing is broken, whatever the width, and everything is found again."""

from __future__ import annotations

import pytest

from exchange.cli import layout

STEM = "orders_and_their_confirmations_-a38e7decb85a-0000000002"
MOMENT = "2026-11-28 03:34:01Z"
KEY = '{"id": "50-of-the-year-2026"}'
NEXT = "`exchange dead-letters retry 8`"
WORDS = f"it waits since {MOMENT}, for 2 h 5 min, as {KEY} is missing; {NEXT} tries it again ({NEXT})."
HEADINGS = ["batch", "direction", "state", "records", "updated", "message"]
ROWS = [
    [STEM, "in", "waiting", "8", MOMENT, WORDS],
    [STEM[:-1] + "3", "in", "applied", "12,000", MOMENT, ""],
    ["a", "in", "held", "7", MOMENT, "x" * 200],
]


def plain(text: str, _kind: str) -> str:
    return text


def in_one(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize("width", [30, 57, 80, 120, 200, 400])
def test_every_value_is_whole_and_no_line_longer_than_the_terminal_but_for_what_has_one_of_its_own(width: int) -> None:
    lines = layout.fitted(HEADINGS, ROWS, width, plain)
    assert all(value in in_one(lines) for row in ROWS for value in row)
    assert all(any(whole in line for line in lines) for whole in (STEM, MOMENT, KEY, NEXT, "2 h 5 min", "x" * 200))
    assert all(len(line) <= width or len(layout.pieces(line)) == 1 for line in lines)
    assert lines[0].startswith("each: direction in," if width < 400 else "batch  ")


def test_what_fits_is_a_table_with_numbers_to_the_right_and_words_wrapped_in_its_last_column() -> None:
    lines = layout.fitted(["batch", "records", "message"], [["a", "8", WORDS], ["b", "12,000", "well"]], 80, plain)
    assert lines[0] == "batch  records  message"
    assert lines[1].startswith("a            8  it waits since 2026-11-28 03:34:01Z, for 2 h 5 min, as")
    assert lines[2].startswith(" " * 16 + KEY)
    assert lines[-1] == "b       12,000  well"


def test_fields_stand_beside_their_names_or_below_them() -> None:
    fields = [["state", "parked"], ["key", "x" * 90], ["message", WORDS]]
    lines = layout.fitted(["field", "value"], fields, 80, plain)
    assert lines[:3] == ["state    parked", "key", "  " + "x" * 90]
    assert lines[3].startswith("message  it waits since")


def test_wide_is_one_line_a_record_however_long() -> None:
    assert len(layout.whole(HEADINGS, ROWS, plain)) == 1 + len(ROWS)


def test_an_empty_list_has_its_headings() -> None:
    assert layout.fitted(HEADINGS, [], 80, plain) == ["batch  direction  state  records  updated  message"]
