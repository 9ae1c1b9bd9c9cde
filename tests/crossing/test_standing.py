"""No state of a link that files alone can mend needs a person: what was refused or lost is superseded by a snapshot."""

from __future__ import annotations

import json
import resource
import time
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.format.errors import Verdict
from exchange.link import epochs, gaps, send_requests
from exchange.outgoing import exporter
from tests.crossing import shop
from tests.crossing.healing import different, go_round, unsettled
from tests.crossing.sides import Link

ROUNDS = 25


def family(link: Link, first: int = 1) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Give twenty parents, and twenty children of theirs."""
    numbers = range(first, first + 20)
    parents = [{"country": "at", "number": number, "name": f"place {number}"} for number in numbers]
    return parents, [{"id": number, "country": "at", "number": number} for number in numbers]


def lose_the_files(link: Link) -> None:
    """Lose what lies on its way."""
    for path in link.one.site.spool.folders.outgoing.glob("forth-*"):
        path.unlink()


def settled(link: Link, rounds: int = ROUNDS) -> int:
    """Let both sides go on until they agree and nothing is left to do; give in how many rounds."""
    for number in range(rounds):
        if not different(link) and not unsettled(link) and not parked(link):
            return number
        go_round(link)
    assert different(link) == [], unsettled(link)
    assert parked(link) == []
    assert unsettled(link) == []
    return rounds


def parked(link: Link) -> list[Any]:
    """Give the letters that wait on the receiving side."""
    letter = tables.dead_letter.c
    return link.other.all(sa.select(letter.stream, letter.key, letter.error).where(letter.state == "parked"))


def hurry(link: Link) -> None:
    """Ask for what is missing at once, and give a sign of life with every export."""
    for side in (link.one, link.other):
        side.limit(gap_seconds=0, period_seconds=1e-6)


def a_first_batch(link: Link) -> None:
    """Have one batch cross, so that both sides know each other."""
    link.one.execute(sa.insert(shop.account), [{"id": 1, "name": "first"}])
    settled(link)


def parents_are_lost_and_a_new_epoch_begins(link: Link) -> None:
    parents, children = family(link)
    link.one.execute(sa.insert(shop.place), parents)
    link.one.export()
    lose_the_files(link)
    link.one.execute(sa.insert(shop.visit), children)
    epochs.begin_epoch(link.one.site, "a test")


def parents_are_lost_on_their_way_and_from_the_kept_files(link: Link) -> None:
    parents, children = family(link)
    link.one.execute(sa.insert(shop.place), parents)
    (sealed,) = link.one.export().batches
    lose_the_files(link)
    for path in link.one.site.spool.folders.sealed.glob(f"{sealed.batch}*"):
        path.unlink()
    link.one.execute(sa.insert(shop.visit), children)


def parents_were_there_before_capture_and_a_snapshot_is_asked_for(link: Link) -> None:
    parents, children = family(link)
    link.one.execute(sa.insert(shop.place), parents)
    link.one.execute(sa.delete(tables.change))
    link.one.execute(sa.insert(shop.visit), children)
    send_requests.add_snapshot_requests(link.one.site, "forth")


def children_came_before_a_snapshot_was_asked_for(link: Link) -> None:
    parents, children = family(link)
    link.one.execute(sa.insert(shop.place), parents)
    link.one.execute(sa.delete(tables.change))
    link.one.execute(sa.insert(shop.visit), children)
    go_round(link)
    assert len(parked(link)) == 20
    send_requests.add_snapshot_requests(link.one.site, "forth")


def a_person_goes_on_without_the_parents(link: Link) -> None:
    parents, children = family(link)
    link.one.execute(sa.insert(shop.place), parents)
    (sealed,) = link.one.export().batches
    lose_the_files(link)
    link.one.execute(sa.insert(shop.visit), children)
    link.other.limit(gap_seconds=3600)
    go_round(link)
    gaps.accept_by_hand(link.other.site, "forth", sealed.sequence, sealed.sequence, "a test")


CASES = (
    parents_are_lost_and_a_new_epoch_begins,
    parents_are_lost_on_their_way_and_from_the_kept_files,
    parents_were_there_before_capture_and_a_snapshot_is_asked_for,
    children_came_before_a_snapshot_was_asked_for,
    a_person_goes_on_without_the_parents,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_children_whose_parents_did_not_come_wait_for_those_and_nothing_stands_still(case: Any, small: Link) -> None:
    hurry(small)
    a_first_batch(small)

    case(small)

    assert settled(small) < 8


def kinds(link: Link) -> list[str]:
    """Give the kinds of the batches that were sealed in the present epoch, in order."""
    batch, epoch = tables.batch.c, sa.select(tables.network.c.epoch).scalar_subquery()
    rows = link.one.all(
        sa.select(batch.manifest)
        .where(batch.channel == "forth", batch.direction == "out", batch.epoch == epoch)
        .order_by(batch.sequence)
    )
    return [json.loads(row.manifest)["kind"] for row in rows]


def test_a_snapshot_of_a_whole_channel_goes_before_the_changes_and_brings_what_its_rows_refer_to(small: Link) -> None:
    parents, children = family(small)
    small.one.limit(batch_records=6)
    small.one.execute(sa.insert(shop.place), parents[:10])
    small.one.execute(sa.delete(tables.change))
    small.one.execute(sa.insert(shop.visit), children[:10])
    epochs.begin_epoch(small.one.site, "a test")
    asked = iter([False, False, False])
    exporter.export(small.one.site, stopping=lambda: next(asked, True))
    small.one.execute(sa.insert(shop.place), [{"country": "aa", "number": 1, "name": "behind the cursor"}])
    small.one.execute(sa.insert(shop.visit), [{"id": 99, "country": "aa", "number": 1}])

    small.one.export()

    said = kinds(small)
    assert said == sorted(said, reverse=True)
    assert {*said} == {"snapshot", "changes"}
    small.there.carry()
    assert {one.verdict for one in small.other.take_in().batches} == {Verdict.APPLIED}
    assert not small.other.all(sa.select(tables.dead_letter.c.id))
    assert different(small) == []


@pytest.mark.torture
@pytest.mark.parametrize("records", [100_000])
def test_a_hundred_thousand_children_without_parents_are_parked_and_retried_in_little_memory(
    records: int, alike: Link
) -> None:
    some = range(0, records, 1000)
    for first in some:
        rows = [{"country": "at", "number": number, "name": "p"} for number in range(first, first + 1000)]
        alike.one.execute(sa.insert(shop.place), rows)
    alike.one.execute(sa.delete(tables.change))
    for first in some:
        rows = [{"id": number, "country": "at", "number": number} for number in range(first, first + 1000)]
        alike.one.execute(sa.insert(shop.visit), rows)
    alike.one.export()
    alike.there.carry()
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()

    (done,) = alike.other.take_in().batches

    grown, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - begun
    print(f"{records / seconds:.0f} orphans a second, {grown / 1024:.0f} MiB")  # noqa: T201 - a figure to compare
    assert (done.verdict, done.records.parked) == (Verdict.APPLIED, records)
    assert grown < 100 * 1024
    send_requests.add_snapshot_requests(alike.one.site, "forth", ["place"])
    alike.one.export()
    alike.there.carry()
    begun = time.monotonic()
    alike.other.take_in()
    print(f"{records / (time.monotonic() - begun):.0f} retried a second")  # noqa: T201
    assert parked(alike) == []
    assert different(alike) == []
