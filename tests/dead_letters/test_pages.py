from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.tables import DeadLetterState, Direction, dead_letter
from exchange.dead_letters import pages, search, selections
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.store import Brief, brief
from tests.dead_letters.conftest import MANY, NOW

PARKED = DeadLetterState.PARKED
A_BATCH = "channel_1-0123456789ab-0000000007"

ASKED: dict[str, tuple[Filters, Callable[[Brief], bool]]] = {
    "everything": (Filters(), lambda _: True),
    "a state": (Filters(PARKED), lambda one: one.state is PARKED),
    "channels": (
        Filters(channels=("channel_0", "channel_2")),
        lambda one: one.channel in {"channel_0", "channel_2"},
    ),
    "a channel that is none": (Filters(channels=("nowhere",)), lambda _: False),
    "stream, error and direction": (
        Filters(stream="stream_1", error="schema", direction=Direction.IN),
        lambda one: (one.stream, one.error, one.direction) == ("stream_1", "schema", Direction.IN),
    ),
    "a fingerprint": (Filters(fingerprint=f"{7:016x}"), lambda one: one.fingerprint == f"{7:016x}"),
    "a batch": (Filters(batch=A_BATCH), lambda one: one.batch == A_BATCH),
    "a batch and a state": (Filters(PARKED, batch=A_BATCH), lambda one: one.batch == A_BATCH and one.state is PARKED),
    "keys": (Filters(keys=('{"id":3}', '{"id":4}')), lambda one: one.key in {'{"id":3}', '{"id":4}'}),
    "a key and words": (
        Filters(keys=('{"id":3}',), text="BAD"),
        lambda one: one.key == '{"id":3}' and "bad" in one.message.lower(),
    ),
    "since": (Filters(since=NOW - timedelta(hours=1)), lambda one: one.created_at >= NOW - timedelta(hours=1)),
    "until": (Filters(until=NOW - timedelta(hours=1)), lambda one: one.created_at < NOW - timedelta(hours=1)),
    "a state and a time": (
        Filters(PARKED, since=NOW - timedelta(hours=2), until=NOW - timedelta(hours=1)),
        lambda one: one.state is PARKED and NOW - timedelta(hours=2) <= one.created_at < NOW - timedelta(hours=1),
    ),
    "words": (Filters(text="worse"), lambda one: "worse" in one.message),
    "words of a state": (Filters(PARKED, text="bad"), lambda one: one.state is PARKED and "Bad" in one.message),
    "words and a channel": (
        Filters(channels=("channel_1",), text="number 1"),
        lambda one: one.channel == "channel_1" and "number 1" in one.message,
    ),
    "signs that a pattern would mean": (Filters(text="0% of_"), lambda one: "0% of_" in one.message),
    "words that nobody wrote": (Filters(text="nobody"), lambda _: False),
}

each_filter = pytest.mark.parametrize("asked", ASKED)
either_way = pytest.mark.parametrize("oldest_first", [False, True], ids=["newest first", "oldest first"])


_every: dict[str, list[Brief]] = {}
"""What each kind of database has."""


def expected(connection: Connection, meant: Callable[[Brief], bool], *, oldest_first: bool) -> list[int]:
    """Find the same by reading all of them, once: no test changes them."""
    every = _every.setdefault(connection.dialect.name, [])
    every += [] if every else map(brief, connection.execute(sa.select(dead_letter)))
    found = [one for one in every if meant(one)]
    found.sort(key=lambda one: (one.created_at, one.id), reverse=not oldest_first)
    return [one.id for one in found]


def all_pages(connection: Connection, filters: Filters, *, oldest_first: bool, limit: int) -> list[int]:
    """Turn the pages to the last one."""
    ids: list[int] = []
    place = None
    for _ in range(MANY):
        page = pages.page(connection, filters, after=place, limit=limit, oldest_first=oldest_first)
        assert page.cut or page.after is None or len(page.letters) == limit
        ids += [one.id for one in page.letters]
        if page.after is None:
            return ids
        place = pages.cursor(connection, page.after)
        assert place is not None
    raise AssertionError("the pages have no end")


@each_filter
def test_pages_put_together_are_all_that_is_meant_in_order(many: Connection, asked: str) -> None:
    filters, meant = ASKED[asked]
    for oldest_first in (False, True):
        wanted = expected(many, meant, oldest_first=oldest_first)
        assert all_pages(many, filters, oldest_first=oldest_first, limit=len(wanted) // 4 + 1) == wanted  # four pages
        first = pages.page(many, filters, limit=MANY, oldest_first=oldest_first)
        assert [one.id for one in first.letters] == wanted
        assert (first.count.letters, first.count.exact) == (len(wanted), True)


@pytest.mark.same_on("postgresql")
@either_way
@pytest.mark.parametrize("asked", [name for name in ASKED if "words" in name or "signs" in name])
def test_a_search_that_ends_early_goes_on_where_it_ended(
    many: Connection, monkeypatch: pytest.MonkeyPatch, asked: str, *, oldest_first: bool
) -> None:
    monkeypatch.setattr(search, "LOOKED_AT", 20)
    monkeypatch.setattr(search, "LOOKING_SECONDS", 0)
    filters, meant = ASKED[asked]
    assert all_pages(many, filters, oldest_first=oldest_first, limit=10) == expected(
        many, meant, oldest_first=oldest_first
    )
    if not filters.keys:
        page = pages.page(many, filters, oldest_first=oldest_first)
        assert page.cut
        assert not page.count.exact


def test_a_count_within_a_time_goes_only_so_far(many: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    filters = Filters(since=NOW - timedelta(hours=1))
    exact = pages.counted(many, filters)
    monkeypatch.setattr("exchange.dead_letters.pages.COUNTED", 20)
    assert exact.exact
    assert exact.letters > 20
    assert pages.counted(many, filters) == (20, False)


def test_filters_come_back_from_what_was_written_of_them() -> None:
    for filters, _ in ASKED.values():
        assert Filters.parse(filters.as_dict()) == filters
    with pytest.raises((ValueError, TypeError, KeyError)):
        Filters.parse({"nonsense": 1})


@either_way
def test_a_selection_is_paged_and_filtered_as_it_was_kept(many: Connection, *, oldest_first: bool) -> None:
    selections.create_selection(many, "fix1", Filters(stream="stream_1"))
    for filters, meant in (
        (Filters(selection="fix1"), ASKED["stream, error and direction"][0].only("stream")),
        (Filters(PARKED, selection="fix1", text="worse"), Filters(PARKED, text="worse")),
        (Filters(selection="fix1", batch=A_BATCH), Filters(batch=A_BATCH)),
        (Filters(selection="nobody's"), Filters(fingerprint="none")),
    ):
        wanted = many.scalars(
            sa.select(dead_letter.c.id).where(*meant.where(), dead_letter.c.stream == "stream_1")
        ).all()
        ids = all_pages(many, filters, oldest_first=oldest_first, limit=10)
        assert sorted(ids) == sorted(wanted)
        assert filters.batch or ids == sorted(wanted, reverse=not oldest_first)
        assert pages.counted(many, filters) == (len(wanted), True)


def test_conditions_alone_mean_the_same(many: Connection) -> None:
    for filters, meant in ASKED.values():
        found = many.scalars(sa.select(dead_letter.c.id).where(*filters.where())).all()
        assert sorted(found) == sorted(expected(many, meant, oldest_first=True))
