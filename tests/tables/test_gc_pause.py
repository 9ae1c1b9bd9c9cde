from __future__ import annotations

import gc

import pytest

from exchange.tables.gc_pause import uncollected


def test_the_collector_is_back_after_bulk_work_even_if_that_fails() -> None:
    assert gc.isenabled()

    def fail() -> None:
        with uncollected():
            assert not gc.isenabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert gc.isenabled()
