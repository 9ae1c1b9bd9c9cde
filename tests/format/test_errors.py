from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.format.errors import Corrupt, Fault, Reason, RecordError, Verdict, described, printable


@pytest.mark.parametrize(
    "text,shown",
    [
        ("plain", "plain"),
        ("Grüße 𝄞", "Grüße 𝄞"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x7f\x85\x9b", r"\x7f\x85\x9b"),
        ("\u202e\u2066\u200f\u061c", r"\u202e\u2066\u200f\u061c"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\ud800", r"\ud800"),
        ("\ufeff", r"\ufeff"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(codec=None), max_size=400), st.integers(1, 300))
def test_shown_text_is_printable_and_bounded(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit


def test_a_long_text_ends_in_an_ellipsis() -> None:
    assert printable("x" * 300) == "x" * 199 + "…"
    assert printable("x" * 200) == "x" * 200


@pytest.mark.parametrize(
    "value,worded",
    [
        (None, "null"),
        (True, "true"),
        (7, "7"),
        (0.5, "0.5"),
        ("a\x1b", '"a\\x1b"'),
        ({}, "an object"),
        ([1], "an array"),
        (b"", "a bytes"),
    ],
)
def test_a_value_found_is_worded_shortly(value: object, worded: str) -> None:
    assert described(value) == worded


def test_words_for_programs_are_lower_case() -> None:
    assert {str(word) for word in (*Verdict, *Reason, *Fault)} == {
        word.name.lower() for word in (*Verdict, *Reason, *Fault)
    }


def test_an_error_reads_as_its_sentence() -> None:
    error = Corrupt("it is cut", Fault.LENGTH)
    assert (str(error), error.sentence, error.reason, error.fault) == (
        "it is cut",
        "it is cut",
        Reason.CORRUPT,
        Fault.LENGTH,
    )
    bad = RecordError("schema", "/data/id", "id is missing")
    assert (str(bad), bad.error, bad.pointer) == ("id is missing", "schema", "/data/id")
