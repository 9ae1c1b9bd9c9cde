"""The ledger by the page: whatever is asked, the pages together are what looking at every row would give."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction
from exchange.operating import batch_pages
from exchange.operating.batch_pages import BatchFilters, BatchRow
from tests.crossing.forging import EPOCH
from tests.crossing.sides import Side
from tests.performance.history import LONG_AGO

STATES = {
    "in": ("applied", "applied", "held", "quarantined", "waiting"),
    "out": ("acknowledged", "published", "rejected"),
}


@pytest.fixture
def ledger(receiver: Side) -> list[dict[str, Any]]:
    """Fill a ledger whose clock was wrong now and then; give its rows."""
    dice = random.Random(7)
    rows = []
    for number in range(1, 301):
        direction = dice.choice(["in", "out"])
        channel = dice.choice(["forth", "control"] if direction == "in" else ["back", "control"])
        state = dice.choice(STATES[direction])
        moment = LONG_AGO + timedelta(minutes=dice.choice([number, number, 0]))
        reason = "corrupt" if state == "quarantined" else "limits" if state == "held" else None
        rows.append(
            {
                "direction": direction,
                "channel": channel,
                "epoch": EPOCH,
                "sequence": number,
                "stem": f"{channel}-{EPOCH}-{number:010d}",
                "state": state,
                "reason": reason,
                "signature": f'{{"algorithm":"ed25519","key":"k{number % 3}"' if direction == "in" else None,
                "trace": f"00-{number % 40:032x}-{number:016x}-01",
                "created_at": moment,
                "updated_at": moment,
            }
        )
    with receiver.engine.begin() as connection:
        ids = connection.scalars(
            sa.insert(tables.batch).returning(tables.batch.c.id, sort_by_parameter_order=True), rows
        )
        for row, number in zip(rows, ids, strict=True):
            row["id"] = number
    return rows


def paged(side: Side, filters: BatchFilters, limit: int = 7) -> Iterator[BatchRow]:
    """Give what all pages have, and see that each counts right."""
    after, seen = None, 0
    while True:
        with reading(side.engine) as connection:
            page = batch_pages.page(side.site, connection, filters, after=after, limit=limit)
        assert page is not None
        assert len(page.batches) <= limit
        seen += len(page.batches)
        assert page.count.number >= len(page.batches)
        yield from page.batches
        after = page.after
        if after is None:
            assert page.count.number == seen or not page.count.exact
            return


def meant(row: dict[str, Any], filters: BatchFilters) -> bool:
    """Say the same of one row in plain words."""
    asked = {**vars(filters)}
    since, until, stem = asked.pop("since"), asked.pop("until"), asked.pop("stem")
    trace, key = asked.pop("trace"), asked.pop("key")
    routine = row["channel"] == "control" and row["state"] not in {"held", "quarantined", "waiting"}
    named = filters.channel or stem or trace or filters.reason
    return (
        all(wanted is None or row[name] == wanted for name, wanted in asked.items())
        and (since is None or row["created_at"] >= since)
        and (until is None or row["created_at"] < until)
        and row["stem"].startswith(stem or "")
        and (trace is None or row["trace"].startswith(f"00-{trace}-"))
        and (key is None or f'"key":"{key}"' in (row["signature"] or ""))
        and bool(named or not routine)
    )


HOUR = LONG_AGO + timedelta(hours=1)

ASKED = [
    BatchFilters(),
    BatchFilters(channel="control"),
    BatchFilters(state=BatchState.APPLIED),
    BatchFilters(direction=Direction.OUT, since=HOUR),
    BatchFilters(channel="forth", since=HOUR, until=HOUR + timedelta(hours=2)),
    BatchFilters(reason="corrupt"),
    BatchFilters(reason="corrupt", channel="forth", until=HOUR),
    BatchFilters(stem="forth"),
    BatchFilters(stem=f"forth-{EPOCH}-00000001"),
    BatchFilters(stem=f"back-{EPOCH}", state=BatchState.PUBLISHED, since=HOUR),
    BatchFilters(trace=f"{7:032x}"),
    BatchFilters(trace=f"{7:032x}", direction=Direction.IN),
    BatchFilters(key="k1"),
    BatchFilters(key="k1", state=BatchState.HELD, since=HOUR),
    BatchFilters(channel="nowhere"),
    BatchFilters(stem="zz"),
]


def test_all_pages_together_are_what_looking_at_every_batch_gives(
    receiver: Side, ledger: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_pages, "LOOKED_AT", 20)
    for filters in ASKED:
        found = [row.id for row in paged(receiver, filters)]
        expected = [row for row in ledger if meant(row, filters)]
        assert sorted(found) == sorted(row["id"] for row in expected), filters
        if not (filters.stem or filters.key):
            newest = sorted(expected, key=lambda row: (row["created_at"], row["id"]), reverse=True)
            assert found == [row["id"] for row in newest], filters


def test_a_page_goes_on_after_no_batch_that_is_gone(receiver: Side, ledger: list[dict[str, Any]]) -> None:
    with reading(receiver.engine) as connection:
        assert batch_pages.page(receiver.site, connection, BatchFilters(), after=len(ledger) + 1) is None
