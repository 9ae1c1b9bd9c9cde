from hypothesis import given
from hypothesis import strategies as st

from exchange.format import json_pointer


def test_pointers_read_as_rfc_6901_says() -> None:
    assert json_pointer.join() == ""
    assert json_pointer.join("data", 0, "a/b", "m~n", "") == "/data/0/a~1b/m~0n/"
    assert json_pointer.split("/data/~01") == ["data", "~1"]


@given(st.lists(st.text()))
def test_every_step_is_read_back(steps: list[str]) -> None:
    assert json_pointer.split(json_pointer.join(*steps)) == steps
