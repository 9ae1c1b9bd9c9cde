"""Batches that were refused, in a person's hands: looked at, let in with every check made, or given up."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa

from exchange.channels import Channel
from exchange.database import tables
from exchange.database.locks import locked
from exchange.database.tables import BatchState
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.incoming import importer, quarantine, release, replay
from exchange.operating import status
from tests.crossing.forging import Forger, account, delete, last_byte_changed, upsert
from tests.crossing.shop import account as account_table
from tests.crossing.sides import Side

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")


def strict(side: Side) -> None:
    """Let the channel refuse a batch with a bad record."""

    def rejecting(channel: Channel) -> Channel:
        changed = copy.copy(channel)
        changed.on_invalid = "reject"
        return changed

    side.site = replace(side.site, channels=tuple(map(rejecting, side.site.channels)))


def states(side: Side) -> list[tuple[str, str | None]]:
    """Give what the ledger says of each batch."""
    rows = side.all(sa.select(tables.batch.c.state, tables.batch.c.reason).order_by(tables.batch.c.id))
    return [tuple(row) for row in rows]


def lying(side: Side, folder: str) -> list[str]:
    """Name the files of a folder."""
    return sorted(path.name for path in (side.home / folder).iterdir())


def labels(side: Side) -> list[str]:
    return [one.label for one in quarantine.list_quarantined(side.site).batches]


@contextmanager
def somebody_at_work(side: Side) -> Iterator[None]:
    """Hold the channel's lock."""
    with locked(side.engine, "import forth"):
        yield


def damaged(forger: Forger) -> str:
    """Deliver a batch whose data file was damaged on its way, and see it quarantined."""
    batch = forger.make([account(1, 1)], follow=False)
    forger.deliver(batch, data=last_byte_changed(batch.data))
    [outcome] = forger.receiver.take_in().batches
    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, Reason.CORRUPT)
    return batch.stem


BAD = [account(1, 1), account(2, 2, age=500), account(3, 3), account(4, 4, age="old"), b'{"stream": 7}']


def rejected(forger: Forger, records: list[dict[str, object] | bytes] = BAD) -> str:  # type: ignore[assignment]
    """Deliver a batch with bad records to a channel that takes none, and see it refused."""
    strict(forger.receiver)
    stem = forger.send(records)
    [outcome] = forger.receiver.take_in().batches
    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, Reason.REJECTED)
    return stem


# Look


def test_what_lies_in_quarantine_is_listed_with_reason_sentence_size_and_time(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    stem = damaged(quick_forger)
    [found] = quarantine.list_quarantined(quick_receiver.site).batches
    assert (found.label, found.batch, found.channel, found.sequence) == (stem, stem, "forth", 1)
    assert found.reason == "corrupt"
    assert "it is quarantined and changed nothing" in found.message
    assert found.bytes > 0
    assert found.since is not None
    assert quarantine.list_quarantined(quick_receiver.site, channel="back").total == 0


def test_one_is_looked_at_closely_with_every_check_made_again(quick_receiver: Side, quick_forger: Forger) -> None:
    found = quarantine.quarantined_detail(quick_receiver.site, damaged(quick_forger))
    assert found.report.reason is Reason.CORRUPT
    assert {one.name: one.ok for one in found.report.checks} == {
        **dict.fromkeys(("manifest file", "signature", "claim", "file name"), True),
        "data file": False,
    }
    assert [(event.from_state, event.to_state) for event in found.history] == [(None, "quarantined")]


def test_further_copies_of_a_batch_are_listed_and_handled_one_by_one(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    stem = damaged(quick_forger)
    damaged(quick_forger)
    damaged(quick_forger)
    assert labels(quick_receiver) == [stem, f"{stem}~2", f"{stem}~3"]
    page = quarantine.list_quarantined(quick_receiver.site, limit=1)
    assert ([one.label for one in page.batches], page.total) == ([stem], 3)
    rest = quarantine.list_quarantined(quick_receiver.site, limit=9, after=page.after)
    assert ([one.label for one in rest.batches], rest.after) == ([f"{stem}~2", f"{stem}~3"], None)
    quarantine.discard_files(quick_receiver.site, f"{stem}~2", "a copy")
    assert labels(quick_receiver) == [stem, f"{stem}~3"]
    outcome = quarantine.release_files(quick_receiver.site, f"{stem}~3")
    assert outcome.reason is Reason.CORRUPT


def test_a_stranger_in_quarantine_can_be_looked_at(quick_receiver: Side, quick_forger: Forger) -> None:
    path = quick_forger.put("forth-0123456789ab-0000000001.manifest.jsonl", b"\xff\n")
    quick_receiver.take_in()
    assert not path.exists()
    [found] = quarantine.list_quarantined(quick_receiver.site).batches
    assert found.reason in {"corrupt", "untrusted"}
    assert quarantine.quarantined_detail(quick_receiver.site, found.label).report.reason is not None
    quarantine.discard_files(quick_receiver.site, found.label, "nobody's")
    assert labels(quick_receiver) == []


def test_a_link_that_somebody_put_into_quarantine_is_not_followed(quick_receiver: Side, quick_forger: Forger) -> None:
    stem = damaged(quick_forger)
    folder = quick_receiver.site.spool.folders.quarantine
    (folder / "forth-0123456789ab-0000000009.manifest.jsonl").symlink_to("/etc/passwd")
    assert labels(quick_receiver) == [stem]


@pytest.mark.parametrize("label", ["forth-0123456789ab-0000000077", "forth-0123456789ab-0000000077~2"])
def test_one_that_is_not_there_is_one_sentence(quick_receiver: Side, label: str) -> None:
    for ask in (
        quarantine.quarantined_detail,
        quarantine.release_files,
        lambda site, one: quarantine.discard_files(site, one, "why"),
    ):
        with pytest.raises(TransientError, match="is in quarantine; nothing was done"):
            ask(quick_receiver.site, label)


# Let in


def test_a_released_batch_is_judged_anew_and_no_signature_is_skipped(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    known, stranger = quick_receiver.site.trusted, SigningKey.generate("stranger")
    quick_forger.key = stranger
    stem = quick_forger.send([account(1, 1)])
    quick_receiver.take_in()
    outcome = quarantine.release_files(quick_receiver.site, stem)
    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, Reason.UNTRUSTED)
    assert labels(quick_receiver) == [stem]
    assert quick_receiver.rows(account_table) == []
    quick_receiver.site = replace(
        quick_receiver.site, trusted=TrustedKeys.from_pems({stranger.name: stranger.public_pem()})
    )
    assert quarantine.release_files(quick_receiver.site, stem).verdict is Verdict.APPLIED
    assert (labels(quick_receiver), len(quick_receiver.rows(account_table))) == ([], 1)
    assert known is not quick_receiver.site.trusted


def test_a_released_batch_that_deletes_too_much_is_held_like_any_other(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.limit(deleted_rows=1)
    quick_forger.send([account(n, n) for n in range(1, 5)])
    quick_receiver.take_in()
    trusted = quick_receiver.site.trusted
    quick_receiver.site = replace(quick_receiver.site, trusted=TrustedKeys.from_pems({}))
    stem = quick_forger.send([delete("account", 10 + n, id=n) for n in range(1, 5)])
    quick_receiver.take_in()
    quick_receiver.site = replace(quick_receiver.site, trusted=trusted)
    assert quarantine.release_files(quick_receiver.site, stem).verdict is Verdict.HELD


def test_what_can_not_be_released_as_somebody_is_at_work_stays_in_quarantine(receiver: Side, forger: Forger) -> None:
    stem = damaged(forger)
    before = lying(receiver, "quarantine")
    with somebody_at_work(receiver):
        outcome = quarantine.release_files(receiver.site, stem)
    assert outcome.verdict is Verdict.BUSY
    assert outcome.busy is not None
    assert outcome.busy.who
    assert lying(receiver, "quarantine") == before
    assert "changed nothing" in quarantine.list_quarantined(receiver.site).batches[0].message


# Give up


def test_a_discarded_batch_is_in_the_archive_and_nobodys_worry(quick_receiver: Side, quick_forger: Forger) -> None:
    stem = damaged(quick_forger)
    quarantine.discard_files(quick_receiver.site, stem, "will be sent again")
    assert states(quick_receiver) == [("discarded", "corrupt")]
    assert lying(quick_receiver, "quarantine") == []
    assert lying(quick_receiver, "archive") == [f"{stem}.jsonl.zst", f"{stem}.manifest.jsonl"]
    assert (
        next(one for one in status.read_status(quick_receiver.site).channels if one.channel == "forth").quarantined == 0
    )
    event = release.batch_detail(quick_receiver.site, stem, 10).history[-1]
    assert (event.to_state, event.cause) == ("discarded", "discarded by hand: will be sent again")


def test_a_batch_that_was_given_up_leaves_its_place_to_a_good_one(quick_receiver: Side, quick_forger: Forger) -> None:
    stem = rejected(quick_forger)
    release.reject_batch(quick_receiver.site, stem, "wrong ages")
    quick_forger.sequence, quick_forger.previous = 0, None
    quick_forger.send([account(1, 1)])
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.APPLIED]
    assert [state for state, _ in states(quick_receiver)] == ["rejected", "applied"]


def test_a_batch_that_was_given_up_and_is_carried_again_is_no_news(quick_receiver: Side, quick_forger: Forger) -> None:
    strict(quick_receiver)
    batch = quick_forger.make(BAD)  # type: ignore[arg-type]
    quick_forger.deliver(batch)
    quick_receiver.take_in()
    release.reject_batch(quick_receiver.site, batch.stem, "wrong ages")
    quick_forger.deliver(batch)
    [outcome] = quick_receiver.take_in().batches
    assert (outcome.verdict, outcome.reason) == (Verdict.DUPLICATE, Reason.REJECTED)
    assert "a person has rejected this batch" in outcome.message
    assert states(quick_receiver) == [("rejected", "rejected")]
    assert lying(quick_receiver, "quarantine") == []


def test_a_batch_that_was_given_up_is_applied_once_it_is_good(quick_receiver: Side, quick_forger: Forger) -> None:
    stem = rejected(quick_forger, [account(1, 1), upsert("seat", 2, id=1, code="a", rank=None, row=None, more=1)])
    release.reject_batch(quick_receiver.site, stem, "not yet")
    quick_receiver.site = replace(
        quick_receiver.site, channels=tuple(copy.copy(one) for one in quick_receiver.site.channels)
    )
    for channel in quick_receiver.site.channels:
        channel.on_invalid = "park"
    assert replay.replay_batches(quick_receiver.site, stem).batches[0].verdict is Verdict.APPLIED


def test_a_held_batch_is_rejected_and_not_held_again(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(deleted_rows=1)
    quick_forger.send([account(n, n) for n in range(1, 5)])
    stem = quick_forger.send([delete("account", 10 + n, id=n) for n in range(1, 5)])
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.APPLIED, Verdict.HELD]
    release.reject_batch(quick_receiver.site, stem, "not all of them")
    assert states(quick_receiver)[1] == ("rejected", "deletes")
    assert quick_receiver.take_in().batches == ()
    assert len(quick_receiver.rows(account_table)) == 4


@pytest.mark.parametrize("give_up", [quarantine.discard_files, release.reject_batch])
def test_nothing_is_given_up_while_somebody_is_at_work(receiver: Side, forger: Forger, give_up: object) -> None:
    stem = damaged(forger)
    with somebody_at_work(receiver), pytest.raises(Exception, match="import forth is busy"):
        give_up(receiver.site, stem, "why")  # type: ignore[operator]
    assert states(receiver) == [("quarantined", "corrupt")]
    assert labels(receiver) == [stem]


# Refused for its records


def test_every_bad_record_of_a_refused_batch_is_listed_at_once_and_nothing_is_changed(
    receiver: Side, forger: Forger
) -> None:
    stem = rejected(forger)
    found = release.batch_detail(receiver.site, stem, 100)
    assert found.trial is not None
    assert [(one.line, one.error) for one in found.trial.bad] == [(2, "constraint"), (4, "schema"), (5, "record")]
    assert "account_age" in found.trial.bad[0].message
    assert found.trial.counts.as_dict() == {"applied": 2, "duplicate": 0, "stale": 0, "parked": 3}
    assert receiver.rows(account_table) == []
    assert receiver.all(sa.select(tables.dead_letter)) == []
    assert labels(receiver) == [stem]


def test_of_many_bad_records_so_many_are_listed_as_were_asked_for(quick_receiver: Side, quick_forger: Forger) -> None:
    stem = rejected(quick_forger, [account(n, n, age=500) for n in range(1, 2001)])
    found = release.batch_detail(quick_receiver.site, stem, 7)
    assert found.trial is not None
    assert [one.line for one in found.trial.bad] == [1, 2, 3, 4, 5, 6, 7]
    assert found.trial.counts.parked == 2000


def test_a_refused_batch_is_let_in_with_its_bad_records_parked(receiver: Side, forger: Forger) -> None:
    stem = rejected(forger)
    with pytest.raises(TransientError, match="--park lets the others in"):
        release.release_batch(receiver.site, stem, park=False)
    outcome = release.release_batch(receiver.site, stem, park=True)
    assert outcome.verdict is Verdict.APPLIED
    assert (outcome.records.applied, outcome.records.parked) == (2, 3)
    assert [row["id"] for row in receiver.rows(account_table)] == [1, 3]
    columns = [tables.dead_letter.c[name] for name in ("line", "batch", "state")]
    letters = receiver.all(sa.select(*columns).order_by(tables.dead_letter.c.line))
    assert [tuple(row) for row in letters] == [(2, stem, "parked"), (4, stem, "parked"), (5, stem, "parked")]
    assert labels(receiver) == []
    assert [state for state, _ in states(receiver)] == ["quarantined", "applied"]


def test_a_batch_with_too_large_a_share_of_bad_records_is_let_in_too(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.limit(invalid_records=5)
    stem = quick_forger.send([account(n, n, age=500 if n % 2 else 5) for n in range(1, 41)])
    [outcome] = quick_receiver.take_in().batches
    assert outcome.reason is Reason.REJECTED
    done = release.release_batch(quick_receiver.site, stem, park=True)
    assert (done.records.applied, done.records.parked) == (20, 20)


def test_parking_skips_no_signature(quick_receiver: Side, quick_forger: Forger) -> None:
    stem = rejected(quick_forger)
    quick_receiver.site = replace(quick_receiver.site, trusted=TrustedKeys.from_pems({}))
    untried = release.batch_detail(quick_receiver.site, stem, 10).untried
    assert untried is not None
    assert "by-hand" in untried
    assert release.release_batch(quick_receiver.site, stem, park=True).reason is Reason.UNTRUSTED
    assert quick_receiver.rows(account_table) == []


def test_a_batch_held_for_its_deletes_is_released(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(deleted_rows=1)
    quick_forger.send([account(n, n) for n in range(1, 5)])
    stem = quick_forger.send([delete("account", 10 + n, id=n) for n in range(1, 5)])
    quick_receiver.take_in()
    assert release.release_batch(quick_receiver.site, stem, park=False).verdict is Verdict.APPLIED
    assert quick_receiver.rows(account_table) == []


def test_what_is_neither_held_nor_refused_is_neither_released_nor_rejected(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    stem = quick_forger.send([account(1, 1)])
    quick_receiver.take_in()
    with pytest.raises(TransientError, match="is applied, neither held nor refused"):
        release.release_batch(quick_receiver.site, stem, park=True)
    with pytest.raises(TransientError, match="is applied; only one that is quarantined or held"):
        release.reject_batch(quick_receiver.site, stem, "why")
    for ask in (
        lambda: release.release_batch(quick_receiver.site, "forth-0123456789ab-0000000077", park=True),
        lambda: release.reject_batch(quick_receiver.site, "forth-0123456789ab-0000000077", "why"),
        lambda: release.batch_detail(quick_receiver.site, "forth-0123456789ab-0000000077", 1),
    ):
        with pytest.raises(TransientError, match="the ledger has no batch"):
            ask()
    assert release.batch_detail(quick_receiver.site, stem, 1).trial is None


# A range


def test_a_range_of_kept_batches_is_replayed_in_order(quick_receiver: Side, quick_forger: Forger) -> None:
    stems = [quick_forger.send([account(n, n)]) for n in range(1, 4)]
    quick_receiver.site = replace(quick_receiver.site, trusted=TrustedKeys.from_pems({}))
    quick_receiver.take_in()
    assert labels(quick_receiver) == stems
    quick_receiver.site = replace(
        quick_receiver.site, trusted=TrustedKeys.from_pems({quick_forger.key.name: quick_forger.key.public_pem()})
    )
    done = replay.replay_batches(quick_receiver.site, stems[0], 3)
    assert [(one.batch, one.verdict) for one in done.batches] == [(stem, Verdict.APPLIED) for stem in stems]
    assert (done.missing, done.left, done.trouble) == (0, 0, None)
    again = replay.replay_batches(quick_receiver.site, stems[1], 9)
    assert [one.verdict for one in again.batches] == [Verdict.DUPLICATE] * 2
    assert again.missing == 6
    assert "6 of the range are not kept" in (again.trouble or "")


def test_a_range_ends_behind_the_first_that_does_not_apply_and_leaves_the_rest_where_it_lies(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    batches = [quick_forger.make([account(n, n)]) for n in range(1, 4)]
    for batch in batches:
        quick_forger.deliver(batch, data=last_byte_changed(batch.data) if batch is batches[0] else None)
    quick_receiver.site = replace(quick_receiver.site, trusted=TrustedKeys.from_pems({}))
    quick_receiver.take_in()
    quick_receiver.site = replace(
        quick_receiver.site, trusted=TrustedKeys.from_pems({quick_forger.key.name: quick_forger.key.public_pem()})
    )
    done = replay.replay_batches(quick_receiver.site, batches[0].stem, 3)
    assert [(one.verdict, one.reason) for one in done.batches] == [(Verdict.QUARANTINED, Reason.CORRUPT)]
    assert done.left == 2
    assert labels(quick_receiver) == [one.stem for one in batches]


@pytest.mark.parametrize("first, last", [("forth-0123456789ab-0000000005", 9), ("forth-0123456789ab-0000000005", 4)])
def test_an_empty_range_is_one_sentence(quick_receiver: Side, first: str, last: int) -> None:
    with pytest.raises(TransientError, match="nothing was done"):
        replay.replay_batches(quick_receiver.site, first, last)


def test_another_publication_of_a_batch_stays_where_it_is_when_one_is_brought_back(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    stem = damaged(quick_forger)
    second = quick_forger.make([account(1, 1)], attempt=".r2", follow=False)
    quick_forger.deliver(second, data=last_byte_changed(second.data))
    quick_receiver.take_in()
    assert labels(quick_receiver) == [stem, second.stem]
    quarantine.release_files(quick_receiver.site, stem)
    assert labels(quick_receiver) == [stem, second.stem]
    assert importer.import_batches(quick_receiver.site).batches == ()
    assert BatchState.DISCARDED not in {state for state, _ in states(quick_receiver)}


# Shards


def test_a_refused_batch_of_a_shard_is_shown_and_let_in_under_its_channels_name(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    forth, back = quick_receiver.site.channels
    split = Channel("forth", "one", "two", [forth.stream("account")], on_invalid="reject", shards=2)
    quick_receiver.site = replace(quick_receiver.site, channels=(split, back))
    quick_forger.channel = "forth_1"
    stem = quick_forger.send([account(1, 1), account(2, 2, age=500)], claims={"shards": 2})
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.QUARANTINED]
    assert [one.label for one in quarantine.list_quarantined(quick_receiver.site, channel="forth").batches] == [stem]
    trial = release.batch_detail(quick_receiver.site, stem, 10).trial
    assert trial is not None
    assert (trial.counts.applied, [one.line for one in trial.bad]) == (1, [2])
    assert release.release_batch(quick_receiver.site, stem, park=True).records.parked == 1
