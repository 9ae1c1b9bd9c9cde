from __future__ import annotations

import gc

import pytest

from exchange.tables.gc_pause import gc_paused


def test_the_collector_is_back_after_bulk_work_even_if_that_fails() -> None:
    assert gc.isenabled()

    def fail() -> None:
        with gc_paused():
            assert not gc.isenabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert gc.isenabled()
