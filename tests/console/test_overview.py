"""The overview and the page of the far side: what they say is what both databases say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exchange.database.tables import BatchState, Direction
from tests.console.lossy import Far, Lossy, lossy
from tests.console.served import Answer, Browser, console


@pytest.mark.thorough
def test_what_is_said_of_the_far_side_is_right_while_the_carrier_loses_every_fifth_file(tmp_path: Path) -> None:
    with lossy(tmp_path) as link, console(link.settings("plant")) as browser:
        assert "nothing yet" in browser.get("/").words
        seen = set[Far]()
        for batches in (3, 2, 3, 1, 0, 2, 0):
            link.round(batches)
            compare(link, browser)
            if (far := link.heard()) is not None:
                seen.add(far)
        assert len(seen) > 2, "the far side was the same all the time"
        assert any(far.asked for far in seen), "nothing was ever missing there"
        assert link.resent() > 0, "nothing was ever sent again"
        link.honest = True
        for _ in range(4):
            link.round()
        compare(link, browser)
        sent = link.places("plant", Direction.OUT, BatchState.ACKNOWLEDGED)
        assert sent == set(range(1, 12))
        page = browser.get("/")
        assert "misses nothing" in page.words
        assert "has through 11" in page.words


def compare(link: Lossy, browser: Browser) -> None:
    """See that the pages say what the office was when it spoke last, and what the plant's ledger has."""
    overview, page, far = browser.get("/"), browser.get("/peer"), link.heard()
    if far is None:
        assert "was ever heard of it" in page.words
        return
    if far.through:
        assert f"has through {far.through}" in overview.words
    assert far.asked <= missing(page) <= far.missing
    assert missing(overview) == missing(page)
    acknowledged = link.places("plant", Direction.OUT, BatchState.ACKNOWLEDGED)
    assert acknowledged <= link.places("office", Direction.IN, BatchState.APPLIED)
    assert cell(page, "Acknowledged") == cell(overview, "Acknowledged") == len(acknowledged)
    assert cell(page, "Sent again") == link.resent()
    under_way = sum(len(link.places("plant", Direction.OUT, one)) for one in (BatchState.SEALED, BatchState.PUBLISHED))
    assert cell(overview, "In flight") == under_way


def cell(page: Answer, label: str) -> int:
    """Give the number in the cell of the one channel that is sent."""
    found = re.search(rf'data-label="{label}">([0-9]+)', page.body)
    assert found is not None, label
    return int(found[1])


def missing(page: Answer) -> frozenset[int]:
    """Give the sequences that a page says are missing there."""
    ranges = r"batch(?:es)? ([0-9]+(?: to [0-9]+)?(?:, [0-9]+(?: to [0-9]+)?)*)"
    said = re.search(rf"(?:has through [0-9]+, misses|Missing there:) {ranges}", page.words)
    if said is None:
        return frozenset()
    pairs = (re.findall("[0-9]+", one) for one in said[1].split(","))
    return frozenset(n for one in pairs for n in range(int(one[0]), int(one[-1]) + 1))
