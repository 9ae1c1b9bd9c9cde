"""Files that nobody vouches for, however many: genuine batches go first, and what is kept of the others is bounded."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.files.shared_folders import MARKER
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.incoming import importer, quarantine, release, replay, stranger_counts, strangers, transaction
from exchange.operating import prune, status
from exchange.outgoing import control_batch
from exchange.results import ImportRun
from tests.crossing import shop
from tests.crossing.forging import Forger, account, last_byte_changed
from tests.crossing.sides import Side
from tests.performance.watching import watched

FIRST = 1_700_000_000_000_000


def plant(forger: Forger, count: int, *, size: int = 200, first: int = 1) -> None:
    """Put manifests that nobody signed where batches arrive, with names before all others."""
    for number in range(first, first + count):
        line = json.dumps({"format": "exchange-batch/1", "number": number}).encode()
        forger.put(f"aaa-0123456789ab-{number:010d}.manifest.jsonl", line.ljust(size - 1) + b"\n")


def incoming(side: Side) -> int:
    """Count the manifests that lie where batches arrive."""
    return len(list(side.site.spool.folders.incoming.glob("*.manifest.jsonl")))


def aside(side: Side) -> list[str]:
    """Name what was put aside."""
    return sorted(path.name for path in side.site.spool.folders.strangers.iterdir())


def counted(side: Side) -> dict[str, int]:
    """Give how many batches were counted, by cause."""
    with reading(side.engine) as connection:
        return {one.cause.value: one.batches for one in stranger_counts.strangers_by_day(connection)}


def of_strangers(run: ImportRun) -> tuple[int, int]:
    return run.strangers.put_aside, run.strangers.left


# First come genuine ones


@pytest.fixture
def lying(quick_receiver: Side, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give how many manifests lay in incoming each time that a batch was applied."""
    found: list[int] = []
    apply = transaction.apply_batch

    def watching(*args: Any) -> Any:
        found.append(incoming(quick_receiver))
        return apply(*args)

    monkeypatch.setattr(transaction, "apply_batch", watching)
    return found


def test_genuine_batches_go_before_a_flood_however_it_is_called(
    quick_receiver: Side, quick_forger: Forger, lying: list[int]
) -> None:
    plant(quick_forger, 40)
    stem = quick_forger.send([account(1, FIRST)])
    run = quick_receiver.take_in()
    assert lying == [41]  # nothing was done about the flood before
    assert [one.batch for one in run.batches if one.verdict is Verdict.APPLIED] == [stem]
    assert [row["id"] for row in quick_receiver.rows(shop.account)] == [1]


def test_a_new_batch_goes_before_copies_of_old_ones(
    quick_receiver: Side, quick_forger: Forger, lying: list[int]
) -> None:
    old = quick_forger.send([account(1, FIRST)])
    quick_receiver.take_in()
    kept = {path.name: path.read_bytes() for path in (quick_receiver.home / "archive").iterdir()}
    for attempt in range(2, 9):
        for name, content in kept.items():
            quick_forger.put(name.replace(old, f"{old}.r{attempt}"), content)
    for number in (2, 3):
        quick_forger.send([account(number, FIRST + number)])
    done = quick_receiver.take_in().batches
    assert lying == [1, 9, 8]
    assert [one.verdict for one in done] == [Verdict.DUPLICATE] * 7 + [Verdict.APPLIED] * 2


def test_a_flood_costs_one_row_and_no_more_statements_however_large_it_is(receiver: Side, forger: Forger) -> None:
    receiver.take_in()  # the first run of a home writes it down
    costs = []
    receiver.take_in()  # has the database from then on
    for count in (2, 60):
        plant(forger, count, first=count)
        with watched(receiver.engine) as seen:
            run = receiver.take_in()
        assert of_strangers(run) == (count, 0)
        costs.append(seen.statements)
    assert costs[0] == costs[1]
    assert counted(receiver) == {"untrusted": 62}
    assert receiver.all(sa.select(tables.batch)) == []
    assert receiver.all(sa.select(tables.event)) == []
    assert len(aside(receiver)) == 62  # one file each: no sentence beside it


def test_what_a_run_tells_of_a_flood_is_a_few_and_a_number(quick_receiver: Side, quick_forger: Forger) -> None:
    plant(quick_forger, 40)
    run = quick_receiver.take_in()
    assert [one.reason for one in run.batches] == [Reason.UNTRUSTED] * strangers.MOST_TOLD
    assert run.as_dict()["strangers"] == {"put_aside": 40, "left": 0, "why": None}
    (sentence,) = run.strangers.sentences()
    assert sentence.startswith("40 batches that nobody vouches for were put aside")


def test_a_flood_is_no_news_to_the_other_side(quick_receiver: Side, quick_forger: Forger) -> None:
    plant(quick_forger, 3)
    run = quick_receiver.take_in()
    assert control_batch.after_import(quick_receiver.site, run.batches, importer.never) is None
    assert list(quick_receiver.site.spool.folders.outgoing.glob("control-*")) == []


# Bounded


def test_a_run_puts_aside_so_many_and_the_next_ones_go_on(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(strangers_at_once=10)
    plant(quick_forger, 25)
    runs = [quick_receiver.take_in() for _ in range(4)]
    assert [of_strangers(run) for run in runs] == [(10, 15), (10, 5), (5, 0), (0, 0)]
    assert runs[0].strangers.why == "the next runs take them, 10 at a time"
    assert counted(quick_receiver) == {"untrusted": 25}


def test_no_more_files_are_kept_than_the_settings_allow_and_the_others_stay(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.limit(stranger_files=7)
    plant(quick_forger, 10)
    assert [of_strangers(quick_receiver.take_in()) for _ in range(2)] == [(7, 3), (0, 3)]
    assert (len(aside(quick_receiver)), incoming(quick_receiver)) == (7, 3)
    assert counted(quick_receiver) == {"untrusted": 7}
    assert "exchange quarantine clear" in str(stranger_counts.lack_of_room(quick_receiver.site))
    quick_forger.send([account(1, FIRST)])
    assert quick_receiver.take_in().batches[0].verdict is Verdict.APPLIED
    assert strangers.clear_strangers(quick_receiver.site) == 7
    assert of_strangers(quick_receiver.take_in()) == (3, 0)
    assert stranger_counts.lack_of_room(quick_receiver.site) is None


def test_no_more_bytes_are_kept_than_the_settings_allow_and_smaller_ones_find_room(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.limit(stranger_bytes=1000)
    plant(quick_forger, 1, size=900)
    plant(quick_forger, 1, size=5000, first=2)
    plant(quick_forger, 1, size=100, first=3)
    run = quick_receiver.take_in()
    assert of_strangers(run) == (2, 1)
    assert "EXCHANGE_STRANGER_BYTES" in run.strangers.why
    assert [name[17:27] for name in aside(quick_receiver)] == ["0000000001", "0000000003"]


def test_one_that_is_asked_for_and_finds_no_room_is_said_to_stay(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(stranger_bytes=10)
    plant(quick_forger, 2)
    run = importer.import_batches(quick_receiver.site, stem="aaa-0123456789ab-0000000002")
    (outcome,) = run.batches
    assert (outcome.verdict, outcome.reason, outcome.changed) == (Verdict.WAITING, Reason.UNTRUSTED, False)
    assert "stays in incoming" in outcome.message
    assert list(run.strangers.sentences()) == []


def test_they_are_grouped_by_day_and_cause_with_samples(receiver: Side, forger: Forger) -> None:
    plant(forger, 12)
    stem = forger.send([account(1, FIRST)], claims={"target": "three"})
    receiver.take_in()
    with reading(receiver.engine) as connection:
        groups = {one.cause: one for one in stranger_counts.strangers_by_day(connection)}
    unsigned, foreign = groups[Reason.UNTRUSTED], groups[Reason.MISDIRECTED]
    assert (unsigned.batches, unsigned.bytes, len(unsigned.samples)) == (12, 2400, strangers.MOST_SAMPLES)
    assert unsigned.samples[0]["batch"] == "aaa-0123456789ab-0000000001"
    assert "is not signed" in unsigned.samples[0]["message"]
    assert (foreign.batches, foreign.samples[0]["batch"]) == (1, stem)
    assert foreign.as_dict()["day"] == foreign.day.isoformat()
    said = [str(one.problem) for one in status.read_status(receiver.site).strangers]
    assert len(said) == 2
    assert all("`exchange quarantine strangers`" in sentence for sentence in said)


def test_they_go_with_the_retention_like_the_rest(quick_receiver: Side, quick_forger: Forger) -> None:
    plant(quick_forger, 3)
    quick_receiver.take_in()
    assert prune.prune_expired(quick_receiver.site).strangers == 0
    assert counted(quick_receiver) == {"untrusted": 3}
    quick_receiver.execute(sa.update(tables.stranger).values(day=(now() - timedelta(days=400)).date()))
    quick_receiver.limit(retention_days=1e-9)
    assert prune.prune_expired(quick_receiver.site).strangers == 3
    assert (counted(quick_receiver), aside(quick_receiver)) == ({}, [])


def test_while_somebody_else_is_at_them_they_are_left_to_him(quick_receiver: Side, quick_forger: Forger) -> None:
    plant(quick_forger, 2)
    quick_forger.send([account(1, FIRST)])
    lock = Path(f"{quick_receiver.engine.url.database}-import-of-strangers.lock")
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run = quick_receiver.take_in()
    assert [one.verdict for one in run.batches] == [Verdict.APPLIED]
    assert of_strangers(run) == (0, 2)
    assert counted(quick_receiver) == {}


# In a person's hands


def test_one_is_looked_at_released_and_given_up_by_its_name(quick_receiver: Side, quick_forger: Forger) -> None:
    stranger = SigningKey.generate("stranger")
    trusted = quick_receiver.site.trusted
    quick_forger.key = stranger
    stem = quick_forger.send([account(1, FIRST)])
    quick_receiver.take_in()
    assert quarantine.quarantined_detail(quick_receiver.site, stem).report.reason is Reason.UNTRUSTED
    assert quarantine.release_files(quick_receiver.site, stem).reason is Reason.UNTRUSTED
    with pytest.raises(TransientError, match="`exchange quarantine` also what nobody vouches for"):
        release.reject_batch(quick_receiver.site, stem, "whose is it")
    quick_receiver.site = replace(
        quick_receiver.site, trusted=TrustedKeys.from_pems({stranger.name: stranger.public_pem()})
    )
    assert (
        "a key that is trusted by now signed it" in quarantine.list_quarantined(quick_receiver.site).batches[0].message
    )
    assert replay.replay_batches(quick_receiver.site, stem).batches[0].verdict is Verdict.APPLIED
    assert aside(quick_receiver) == []
    quick_receiver.site = replace(quick_receiver.site, trusted=trusted)
    quick_forger.send([account(2, FIRST + 1)])
    quick_receiver.take_in()
    (left,) = quarantine.list_quarantined(quick_receiver.site).batches
    quarantine.discard_files(quick_receiver.site, left.label, "nobody's")
    assert (aside(quick_receiver), quarantine.list_quarantined(quick_receiver.site).total) == ([], 0)


def test_what_a_person_brings_back_goes_back_though_there_is_no_room(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    plant(quick_forger, 2)
    quick_receiver.take_in()
    quick_receiver.limit(stranger_files=1)
    stem = "aaa-0123456789ab-0000000002"
    assert replay.replay_batches(quick_receiver.site, stem).batches[0].verdict is Verdict.QUARANTINED
    assert len(aside(quick_receiver)) == 2
    assert {path.name for path in quick_receiver.site.spool.folders.incoming.iterdir()} == {MARKER}


def test_genuine_ones_are_listed_before_them_and_no_two_have_one_name(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    batch = quick_forger.make([account(1, FIRST)], follow=False)
    quick_forger.deliver(batch, manifest=batch.line + b"\n")
    quick_receiver.take_in()
    quick_forger.deliver(batch, data=last_byte_changed(batch.data))
    quick_receiver.take_in()
    page = quarantine.list_quarantined(quick_receiver.site)
    assert page.total == 2
    assert [(one.label, one.reason) for one in page.batches] == [
        (f"{batch.stem}~2", "corrupt"),
        (batch.stem, "untrusted"),
    ]


def test_what_our_peer_signed_and_nobody_can_read_has_a_row_of_its_own(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    batch = quick_forger.make([account(1, FIRST)], claims={"bytes": -1})
    stem = quick_forger.deliver(batch)
    (outcome,) = quick_receiver.take_in().batches
    assert (outcome.batch, outcome.reason) == (stem, Reason.MALFORMED)
    rows = quick_receiver.all(sa.select(tables.batch.c.state, tables.batch.c.reason))
    assert [tuple(row) for row in rows] == [("quarantined", "malformed")]
    assert counted(quick_receiver) == {}
