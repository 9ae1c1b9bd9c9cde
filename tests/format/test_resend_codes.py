"""Request codes are short, and a slip of the tongue or the finger is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.format import resend_codes
from exchange.format.names import MAX_SEQUENCE

FLOW = ("requests", "4f1c0a9be2d7")
FLOWS = [("responses", "4f1c0a9be2d7"), FLOW, ("requests", "000000000000")]


@st.composite
def ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Draw ascending ranges that don't touch."""
    starts = draw(
        st.lists(st.integers(1, MAX_SEQUENCE // 1_000), min_size=1, max_size=resend_codes.MAX_RANGES, unique=True)
    )
    most = resend_codes.MAX_SEQUENCES // resend_codes.MAX_RANGES
    return [(first * 1_000, first * 1_000 + draw(st.integers(1, most)) - 1) for first in sorted(starts)]


@given(ranges())
def test_a_code_gives_back_what_was_put_in(missing: list[tuple[int, int]]) -> None:
    code = resend_codes.encode(*FLOW, missing)

    assert resend_codes.decode(code, FLOWS) == (*FLOW, missing)
    assert resend_codes.decode(code.lower().replace("-", " ").replace("0", "o").replace("1", "l"), FLOWS)[2] == missing


def test_the_code_of_one_missing_batch_has_few_digits() -> None:
    assert resend_codes.encode(*FLOW, [(42, 42)]) == "A25Q-S20M"
    assert len(resend_codes.encode(*FLOW, [(4_200, 4_204)]).replace("-", "")) <= 11


@given(ranges(), st.integers(0, 40), st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ"))
def test_one_wrong_digit_is_found(missing: list[tuple[int, int]], place: int, digit: str) -> None:
    code = resend_codes.encode(*FLOW, missing).replace("-", "")
    place %= len(code)
    if code[place] == digit:
        return
    with pytest.raises(ValueError, match="is no request code: a digit is wrong or missing; read it again"):
        resend_codes.decode(code[:place] + digit + code[place + 1 :], FLOWS)


def test_neighbours_that_changed_places_are_found() -> None:
    code = resend_codes.encode(*FLOW, [(42, 42), (1_000, 1_007)]).replace("-", "")
    for place in range(len(code) - 1):
        swapped = code[:place] + code[place + 1] + code[place] + code[place + 2 :]
        if swapped != code and {code[place], code[place + 1]} != {"0", "Z"}:
            with pytest.raises(ValueError, match="read it again"):
                resend_codes.decode(swapped, FLOWS)


def test_more_ranges_than_anybody_reads_out_wait_for_the_next_code() -> None:
    missing = [(10 * number, 10 * number + 3) for number in range(1, 20)]

    assert resend_codes.decode(resend_codes.encode(*FLOW, missing), FLOWS)[2] == missing[: resend_codes.MAX_RANGES]


def test_a_code_asks_for_so_many_batches_and_no_more() -> None:
    code = resend_codes.encode(*FLOW, [(5, 400), (500, 2_000), (3_000, 3_001)])

    assert resend_codes.decode(code, FLOWS)[2] == [(5, 400), (500, 1_103)]


def test_a_code_that_asks_for_a_million_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as generous:
        generous.setattr(resend_codes, "MAX_SEQUENCES", 2_000_000)
        code = resend_codes.encode(*FLOW, [(1, 1_000_000)])
    with pytest.raises(ValueError, match="it asks for 1000000 batches, at most 1000 are sent again for one"):
        resend_codes.decode(code, FLOWS)


def test_a_code_of_another_epoch_is_not_obeyed() -> None:
    with pytest.raises(ValueError, match="is of no channel that this side sends in its present epoch"):
        resend_codes.decode(resend_codes.encode("requests", "ffffffffffff", [(1, 1)]), FLOWS)


@pytest.mark.parametrize("nonsense", ["", "-", "U", "A25Q", "A25Q-S20*", "Ä" * 9, "0" * 201, "\x1b[31m"])
def test_nonsense_is_refused_in_a_sentence(nonsense: str) -> None:
    with pytest.raises(ValueError, match="is no request code") as refused:
        resend_codes.decode(nonsense, FLOWS)
    assert str(refused.value).isprintable()


@given(st.lists(st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ"), max_size=60))
def test_a_code_that_happens_to_check_names_sequences_or_is_refused(digits: list[str]) -> None:
    try:
        _, _, found = resend_codes.decode("A25Q" + "".join(digits), FLOWS)
    except ValueError:
        return
    assert all(1 <= first <= last <= MAX_SEQUENCE for first, last in found)
