"""No state of a link that files alone can mend needs a person: what was refused or lost is superseded by a snapshot."""

from __future__ import annotations

import copy
import json
import resource
import time
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.format import manifest, strict_json
from exchange.format.batch import ReadLimits
from exchange.format.errors import Problem, Verdict
from exchange.link import epochs, gaps, send_requests
from exchange.outgoing import answers, exporter, resend
from tests.crossing import shop
from tests.crossing.healing import different, go_round, unsettled
from tests.crossing.sides import Link, Side

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


@pytest.mark.parametrize(
    "case",
    [*CASES[:2], *(pytest.param(one, marks=pytest.mark.thorough) for one in CASES[2:])],
    ids=lambda case: case.__name__,
)
def test_children_whose_parents_did_not_come_wait_for_those_and_nothing_stands_still(case: Any, small: Link) -> None:
    hurry(small)
    a_first_batch(small)

    case(small)

    assert settled(small) < 8
    if case is parents_are_lost_on_their_way_and_from_the_kept_files:
        # The channel waits for the snapshot that its sender promises beside the loss: nothing had to be parked.
        assert small.other.all(sa.select(tables.dead_letter.c.id)) == []
        assert [state for _, state in gaps_of(small.other)] == ["superseded"] * 2


@pytest.mark.parametrize(
    "case",
    [CASES[0], *(pytest.param(one, marks=pytest.mark.torture) for one in CASES[1:])],
    ids=lambda one: one.__name__,
)
def test_where_nothing_is_parked_the_batch_is_refused_and_a_snapshot_takes_its_place(case: Any, small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    refuse_bad_records(small)
    if case is children_came_before_a_snapshot_was_asked_for:
        case = parents_were_there_before_capture_and_a_snapshot_is_asked_for

    case(small)

    assert settled(small) < 12


def refuse_bad_records(link: Link) -> None:
    """Have both sides declare a channel that takes no batch with a bad record."""
    for side in (link.one, link.other):
        strict = copy.copy(side.site.channels[0])
        strict.on_invalid = "reject"
        side.site = replace(side.site, channels=(strict, *side.site.channels[1:]))


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


def spoil(link: Link, first: int, number: int = 12) -> None:
    """Have rows sent that the other side refuses, more of them than a batch may have."""
    refuses = "BEFORE INSERT ON account WHEN new.age = 100 BEGIN SELECT RAISE(ABORT, 'not here'); END"
    link.other.execute(f"CREATE TRIGGER strict {refuses}")
    rows = [{"id": one, "name": "a", "age": 100 if one < first + number else 1} for one in range(first, first + 20)]
    link.one.execute(sa.insert(shop.account), rows)


def states(side: Side, direction: str) -> list[tuple[int, str, str | None]]:
    """Give the sequence, state and reason of a channel's batches that are not simply there."""
    batch = tables.batch.c
    rows = side.all(
        sa.select(batch.sequence, batch.state, batch.reason)
        .where(batch.channel == "forth", batch.direction == direction)
        .where(batch.state.not_in(["applied", "acknowledged"]))
        .order_by(batch.sequence)
    )
    return [(row.sequence, row.state, row.reason) for row in rows]


def gaps_of(side: Side) -> list[tuple[int, str]]:
    """Give what is or was missing."""
    return [tuple(row) for row in side.all(sa.select(tables.gap.c.sequence, tables.gap.c.state).order_by("sequence"))]


def test_a_snapshot_takes_the_place_of_a_refused_batch_and_of_what_waits_behind_it(small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    spoil(small, 100)
    small.one.export()
    small.one.execute(sa.insert(shop.place), family(small)[0])
    go_round(small)
    assert states(small.other, "in") == [(2, "quarantined", "rejected"), (3, "waiting", "gap")]
    small.one.execute(sa.insert(shop.visit), family(small)[1])

    for _ in range(8):
        go_round(small)

    assert different(small) == ["account"]  # the good ones are there, and of each bad one a letter says why not
    assert {row["id"] for row in small.other.rows(shop.account)} == {1, *range(112, 120)}
    assert len({row.key for row in parked(small)}) == 12
    through = max(sequence for sequence, _ in gaps_of(small.other))
    passed = range(2, through + 1)
    assert through in {3, 4}  # what was sealed before the refusal was told
    assert states(small.other, "in") == [(one, "discarded", "superseded") for one in passed]
    assert gaps_of(small.other) == [(one, "superseded") for one in passed]
    assert [one for one in states(small.one, "out") if one[1] == "rejected"] == [
        (one, "rejected", "given_up") for one in passed
    ]
    assert list(small.other.site.spool.folders.quarantine.glob("*.jsonl*")) == []
    (event,) = small.other.all(sa.select(tables.event.c.cause).where(tables.event.c.to_state == "discarded").limit(1))
    assert event.cause.startswith("superseded: snapshot forth-")
    message = small.other.all(sa.select(tables.batch.c.message).where(tables.batch.c.message.contains("in place of")))
    assert [row.message for row in message] == [f"taken in place of 2-{through}, which it contains"]


def test_a_snapshot_takes_the_place_of_a_refused_batch_however_little_ahead_others_may_be(small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    small.other.limit(look_ahead=1)
    spoil(small, 100)
    small.one.export()
    small.one.execute(sa.insert(shop.place), family(small)[0])
    small.one.export()
    for _ in range(6):
        go_round(small)
    assert different(small) == ["account"]
    assert {state for _, state, _ in states(small.other, "in")} == {"discarded"}


@pytest.mark.thorough
def test_a_snapshot_takes_the_place_of_a_refused_batch_however_many_were_sent_behind_it(small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    spoil(small, 100)
    small.one.export()
    behind = (tables.position.c.direction == "out", tables.position.c.channel == "forth")
    small.one.execute(sa.update(tables.position).where(*behind).values(sequence=12_000))
    small.one.execute(sa.insert(shop.place), family(small)[0])

    for _ in range(8):
        go_round(small)

    assert different(small) == ["account"]
    assert [state for _, state in gaps_of(small.other)] == ["superseded"] * 12_000


@pytest.mark.thorough
def test_what_was_sent_of_a_refused_batch_changes_nothing_if_it_comes_again(small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    spoil(small, 100)
    small.one.export()
    go_round(small)
    for _ in range(6):
        go_round(small)
    resend.resend_by_hand(small.one.site, "forth", [2])
    small.there.carry()

    outcomes = small.other.take_in().batches

    assert [one.message for one in outcomes if one.verdict is Verdict.DUPLICATE and one.channel == "forth"] == [
        "this side went on without it (superseded); it comes too late and changes nothing"
    ]


@pytest.mark.thorough
def test_a_channel_that_waits_for_a_person_is_not_answered_and_a_few_answers_a_day_are_enough(small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    refuse_bad_records(small)
    small.one.site.channels[0].on_refused = "wait"
    spoil(small, 100)
    for _ in range(4):
        go_round(small)
    asked = sa.select(tables.resync.c.id).where(tables.resync.c.want == "snapshot")
    assert small.one.all(asked) == []
    assert [level for level, _ in standing(small)] == [True]

    small.one.site.channels[0].on_refused = "snapshot"
    for _ in range(20):
        go_round(small)

    assert len(small.one.all(asked)) == answers.MOST_ANSWERS
    ((needs_a_person, problem),) = standing(small)
    assert needs_a_person
    assert problem.command == "exchange resync forth --prune-missing"
    small.one.execute("UPDATE account SET age = 1")
    small.one.execute(sa.update(tables.resync).values(created_at=now() - 2 * answers.DAY))
    assert settled(small, 12)
    assert standing(small) == []


def standing(link: Link) -> list[tuple[bool, Problem]]:
    """Give what the sending side says of channels that stand still."""
    with reading(link.one.engine) as connection:
        return answers.refusals(link.one.site, connection, now())


def test_a_loss_is_answered_though_as_many_requests_are_open_as_may_be(small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    with small.one.engine.begin() as connection:
        for number in range(send_requests.MOST_OPEN):
            send_requests.add_request(
                connection, channel="forth", want="snapshot", streams=["seat"], buckets=[number], reason="a test"
            )
    parents_are_lost_on_their_way_and_from_the_kept_files_unexported(small)

    assert settled(small) < 8


def parents_are_lost_on_their_way_and_from_the_kept_files_unexported(link: Link) -> None:
    """Seal a batch, and lose its files before they are published."""
    link.one.execute(sa.insert(shop.place), family(link)[0])
    link.one.seal(link.one.site.channels[0])
    for path in link.one.site.spool.folders.sealed.glob("forth-*-0000000002*"):
        path.unlink()


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


def test_what_is_more_than_the_other_side_takes_is_not_sent_again_for_ever_but_in_smaller_batches(small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    small.other.limit(read=ReadLimits(max_records=8))
    small.one.execute(sa.insert(shop.place), family(small)[0])
    small.one.export()  # before it has heard what the other side takes
    small.one.execute(sa.insert(shop.visit), family(small)[1])

    assert settled(small, 12) < 12
    assert attempts(small) == 1
    refused = small.other.all(sa.select(tables.event.c.cause).where(tables.event.c.cause.contains("more than the 8")))
    assert "EXCHANGE_MAX_RECORDS" in refused[0].cause


def sign_anew(link: Link, **claims: Any) -> None:
    """Have the newest batch be one of whose manifest its sender signed what breaks the format."""
    folders = link.one.site.spool.folders
    path = max(folders.outgoing.glob("forth-*.manifest.jsonl"))
    line = strict_json.dumps(json.loads(path.read_bytes().split(b"\n")[0]) | claims)
    for folder in (folders.outgoing, folders.sealed):
        draft = folder / "draft"
        draft.write_bytes(line + b"\n" + link.one.key.sign(line).encode() + b"\n")
        draft.rename(folder / path.name)
    mine = sa.update(tables.batch).where(tables.batch.c.stem == path.name.partition(".")[0])
    link.one.execute(mine.values(digest=manifest.digest(line)))


def attempts(link: Link) -> int:
    """Say how often the batch of the channel that was sent most often was sent."""
    sent = sa.select(tables.batch.c.attempt).where(tables.batch.c.direction == "out", tables.batch.c.channel == "forth")
    return max(int(row.attempt) for row in link.one.all(sent))


@pytest.mark.parametrize(
    "claims",
    [{"created_at": "soon"}, pytest.param({"sequence": "two"}, marks=pytest.mark.thorough)],
    ids=["a member", "no place"],
)
def test_a_signed_manifest_that_is_itself_malformed_is_told_and_answered_by_a_snapshot(
    claims: dict[str, Any], small: Link
) -> None:
    hurry(small)
    a_first_batch(small)
    small.one.execute(sa.insert(shop.place), family(small)[0])
    small.one.export()
    sign_anew(small, **claims)
    small.one.execute(sa.insert(shop.visit), family(small)[1])

    assert settled(small, 10) < 10
    assert attempts(small) == 1
    assert [row for row in states(small.other, "in") if row[1] != "discarded"] == []
    assert list(small.other.site.spool.folders.quarantine.glob("*.jsonl*")) == []


@pytest.mark.thorough
def test_a_batch_in_a_format_that_is_not_known_here_is_not_asked_for_again_and_again(small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    small.one.execute(sa.insert(shop.place), family(small)[0])
    small.one.export()
    sign_anew(small, format="exchange-batch/2")
    small.one.execute(sa.insert(shop.visit), family(small)[1])

    for _ in range(8):
        go_round(small)

    assert attempts(small) == 1
    assert ("rejected", "unsupported") in {row[1:] for row in states(small.one, "out")}
    assert len(list(small.other.site.spool.folders.incoming.glob("forth-*-0000000002*.manifest.jsonl"))) == 1


@pytest.mark.thorough
def test_where_no_batch_is_small_enough_a_few_answers_are_sent_and_the_setting_is_named(small: Link) -> None:
    hurry(small)
    a_first_batch(small)
    small.one.limit(read=ReadLimits(max_content_bytes=20_000))
    small.other.execute(sa.insert(shop.note), [{"id": 1, "account": 1, "text": "long " * 5000}])
    for _ in range(20):
        go_round(small)

    asked = sa.select(tables.resync.c.id).where(tables.resync.c.want == "snapshot")
    assert len(small.other.all(asked)) == answers.MOST_ANSWERS
    with reading(small.other.engine) as connection:
        ((needs_a_person, problem),) = answers.refusals(small.other.site, connection, now())
    assert needs_a_person
    assert "EXCHANGE_MAX_CONTENT_BYTES" in problem.remedy
