"""What the soak calls flat: as much in its second half as in its first, but for a little."""

from __future__ import annotations

from tests.soak import SLACK, Used, grown


def test_what_grows_from_the_first_half_to_the_second_is_named_and_what_goes_up_and_down_is_not() -> None:
    flat = [Used(400 + 60 * (turn % 2), 12, 300, 40, 100, 900) for turn in range(10)]
    assert grown(flat) == []
    leaking = [one._replace(descriptors=300 + 60 * turn, rows=100 * turn) for turn, one in enumerate(flat)]
    assert grown(leaking) == ["descriptors grew from 420 to 720", "rows grew from 200 to 700"]
    once = [Used(*(value + more for value, more in zip(one, SLACK, strict=True))) for one in flat[5:]]
    assert grown([*flat[:5], *once]) == []
