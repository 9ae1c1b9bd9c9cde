from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from exchange.bulk import DEPTH, ahead, uncollected


def test_items_come_in_order_and_what_is_raised_comes_last() -> None:
    def items() -> Iterator[int]:
        yield from range(50)
        raise ZeroDivisionError

    found: list[int] = []
    with pytest.raises(ZeroDivisionError):
        found.extend(ahead(items()))

    assert found == list(range(50))


def test_a_consumer_that_leaves_ends_the_thread_and_it_was_never_far_ahead() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(1_000_000):
            made.append(number)
            yield number

    before = threading.active_count()
    with closing(ahead(items())) as numbers:
        assert next(numbers) == 0

    assert threading.active_count() == before
    assert len(made) <= DEPTH + 3


def test_the_collector_is_back_after_bulk_work_even_if_that_fails() -> None:
    assert gc.isenabled()
    def fail() -> None:
        with uncollected():
            assert not gc.isenabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert gc.isenabled()
