"""Every verdict of the format's table: real files, damaged bytes, and what each of them leaves behind."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.schemas import Checker
from exchange.database import tables
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.files.batch_files import Listing
from exchange.files.folder import Folder
from exchange.files.shared_folders import MARKER
from exchange.files.spool import Spool
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.format.signing import SigningKey
from exchange.incoming import quarantine, replay, stranger_counts
from exchange.incoming.held import OpenBatches
from exchange.link import receipts
from exchange.operating.status import read_status
from exchange.results import Imported
from tests.crossing import shop
from tests.crossing.forging import EPOCH, Forger, account, age, delete, last_byte_changed, upsert
from tests.crossing.sides import Side

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000
"""A version such as a sender would begin with."""


def only(side: Side) -> Imported:
    """Import, and give the one outcome there is."""
    run = side.take_in()
    assert run.trouble is None
    assert len(run.batches) == 1, run
    return run.batches[0]


def ids(side: Side) -> list[int]:
    """Give the accounts that are there."""
    return [row["id"] for row in side.rows(shop.account)]


def ledger_of(side: Side) -> list[tuple[str, str | None]]:
    """Give state and reason of every batch in the ledger."""
    columns = tables.batch.c
    return [tuple(row) for row in side.all(sa.select(columns.state, columns.reason).order_by(columns.id))]


def kept(folder: Path) -> set[str]:
    """Give the names in a folder."""
    return {path.name for path in folder.iterdir()}


def quarantined(side: Side, stem: str, reason: Reason) -> str:
    """Import a batch that has to be quarantined; say so of everything that it leaves, and give the sentence."""
    before = ids(side)
    outcome = only(side)
    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, reason), outcome
    assert ids(side) == before
    assert ledger_of(side)[-1] == ("quarantined", reason)
    folders = side.site.spool.folders
    sentence = (folders.quarantine / f"{stem}.reason.txt").read_text()
    assert sentence.strip() == outcome.message
    assert sentence.isprintable() or sentence[:-1].isprintable()
    assert f"{stem}.manifest.jsonl" in kept(folders.quarantine)
    assert not kept(folders.work)
    assert kept(folders.incoming) == {MARKER}
    assert side.take_in().batches == ()
    message = side.all(sa.select(tables.batch.c.message).order_by(tables.batch.c.id.desc()).limit(1))[0][0]
    assert message == outcome.message
    return sentence


def put_aside(side: Side, stem: str, reason: Reason) -> str:
    """Import files that nobody vouches for; say so of everything that they leave, and give the sentence."""
    before, known, counted = ids(side), ledger_of(side), batches_of(side, reason)
    outcome = only(side)
    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, reason), outcome
    assert ids(side) == before
    assert ledger_of(side) == known
    folders = side.site.spool.folders
    assert f"{stem}.manifest.jsonl" in kept(folders.strangers)
    assert not kept(folders.quarantine)
    assert not kept(folders.work)
    assert kept(folders.incoming) == {MARKER}
    assert batches_of(side, reason) == counted + 1
    assert outcome.message.isprintable()
    assert side.take_in().batches == ()
    said = [one.message for one in quarantine.list_quarantined(side.site).batches]
    assert outcome.message in said or "have it sent again" in said[0]
    return outcome.message


def batches_of(side: Side, reason: Reason) -> int:
    """Say how many batches were counted that nobody vouches for, of a cause."""
    with reading(side.engine) as connection:
        return sum(one.batches for one in stranger_counts.strangers_by_day(connection) if one.cause is reason)


# Applied


def test_a_batch_written_by_hand_applies(receiver: Side, forger: Forger) -> None:
    stem = forger.send([account(1, FIRST), account(2, FIRST + 1, age=3)])
    outcome = only(receiver)
    assert (outcome.verdict, outcome.records.applied) == (Verdict.APPLIED, 2)
    assert ids(receiver) == [1, 2]
    assert ledger_of(receiver) == [("applied", None)]
    assert kept(receiver.site.spool.folders.archive) == {f"{stem}.manifest.jsonl", f"{stem}.jsonl.zst"}


@pytest.mark.parametrize("compress", [True, False])
def test_an_empty_batch_takes_its_place(quick_receiver: Side, quick_forger: Forger, compress: bool) -> None:
    quick_forger.send([], compress=compress)
    assert only(quick_receiver).verdict is Verdict.APPLIED
    quick_forger.send([account(1, FIRST)], compress=compress)
    assert only(quick_receiver).verdict is Verdict.APPLIED


def test_an_uncompressed_batch_with_unknown_members_applies(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST) | {"later": 1}], compress=False, claims={"later": {"a": [1]}})
    assert only(quick_receiver).records.applied == 1


# Incomplete


def test_a_manifest_without_its_data_file_waits_for_it(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.put(f"{batch.stem}.manifest.jsonl", batch.manifest)
    assert only(quick_receiver).verdict is Verdict.INCOMPLETE
    assert ledger_of(quick_receiver) == [("waiting", "incomplete")]
    assert only(quick_receiver).verdict is Verdict.INCOMPLETE
    quick_forger.put(f"{batch.stem}.jsonl.zst", batch.data[:-1])
    assert only(quick_receiver).verdict is Verdict.INCOMPLETE
    quick_forger.put(f"{batch.stem}.jsonl.zst", batch.data)
    assert only(quick_receiver).verdict is Verdict.APPLIED
    assert ledger_of(quick_receiver) == [("applied", None)]


def test_a_data_file_without_its_manifest_is_no_batch_yet(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.put(f"{batch.stem}.jsonl.zst", batch.data)
    run = quick_receiver.take_in()
    assert (run.batches, run.unpaired, run.ignored) == ((), 1, 0)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_manifest_that_is_cut_waits_for_its_rest(quick_receiver: Side, quick_forger: Forger, cut: int) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch, manifest=batch.manifest[:cut])
    assert only(quick_receiver).verdict is Verdict.INCOMPLETE
    # Nobody vouches for it, unless its last newline is all that is missing.
    assert ledger_of(quick_receiver) == ([("waiting", "incomplete")] if cut == -1 else [])
    quick_forger.deliver(batch)
    assert only(quick_receiver).verdict is Verdict.APPLIED


def test_a_manifest_that_stays_cut_is_quarantined_after_the_grace_period(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    stem = quick_forger.deliver(batch, manifest=batch.manifest[:50])
    age(quick_receiver.site.spool.folders.incoming / f"{stem}.manifest.jsonl", 7200)
    assert "have it sent again" in put_aside(quick_receiver, stem, Reason.INCOMPLETE)


def test_another_digest_of_a_young_file_may_be_a_copy_under_way(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(settle_seconds=60)
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch, data=bytes(len(batch.data)))  # the size is there, the bytes are not: rsync --inplace
    assert only(quick_receiver).verdict is Verdict.INCOMPLETE
    assert f"{batch.stem}.jsonl.zst" in kept(quick_receiver.site.spool.folders.incoming)  # the carrier can go on
    assert not kept(quick_receiver.site.spool.folders.work)
    assert quick_receiver.all(sa.select(tables.attempt)) == []
    quick_forger.deliver(batch)
    assert only(quick_receiver).verdict is Verdict.APPLIED


def test_another_digest_of_a_settled_file_is_corrupt(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(settle_seconds=60)
    batch = quick_forger.make([account(1, FIRST)])
    stem = quick_forger.deliver(batch, data=bytes(len(batch.data)))
    age(quick_receiver.site.spool.folders.incoming / f"{stem}.jsonl.zst", 61)
    assert "SHA-256" in quarantined(quick_receiver, stem, Reason.CORRUPT)


def test_what_stays_incomplete_is_quarantined_after_the_grace_period(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    stem = quick_forger.deliver(batch, data=batch.data[:10])
    assert only(quick_receiver).verdict is Verdict.INCOMPLETE
    quick_receiver.limit(grace_seconds=0)
    assert "have it sent again" in quarantined(quick_receiver, stem, Reason.INCOMPLETE)
    quick_forger.deliver(batch)
    assert only(quick_receiver).verdict is Verdict.APPLIED
    assert ledger_of(quick_receiver) == [("quarantined", "incomplete"), ("applied", None)]


def test_patience_begins_when_a_batch_is_found_incomplete_not_when_it_waited_for_others(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    first, second = quick_forger.make([account(1, FIRST)]), quick_forger.make([account(2, FIRST + 1)])
    quick_forger.deliver(second)
    assert only(quick_receiver).verdict is Verdict.WAITING
    (quick_receiver.site.spool.folders.incoming / f"{second.stem}.jsonl.zst").unlink()
    quick_receiver.execute(sa.update(tables.batch).values(created_at=datetime(2020, 1, 1, tzinfo=UTC)))
    quick_forger.deliver(first)
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.APPLIED, Verdict.INCOMPLETE]
    assert only(quick_receiver).verdict is Verdict.INCOMPLETE
    quick_forger.put(f"{second.stem}.jsonl.zst", second.data)
    assert only(quick_receiver).verdict is Verdict.APPLIED


# Untrusted


def test_an_unsigned_batch_is_untrusted(quick_receiver: Side, quick_forger: Forger) -> None:
    assert put_aside(quick_receiver, quick_forger.send([account(1, FIRST)], signed=False), Reason.UNTRUSTED)


def test_an_unsigned_batch_applies_only_where_no_signature_is_required(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.site = replace(quick_receiver.site, require_signature=False)
    quick_forger.send([account(1, FIRST)], signed=False)
    assert only(quick_receiver).verdict is Verdict.APPLIED
    quick_forger.key = SigningKey.generate("stranger")
    stem = quick_forger.send([account(2, FIRST + 1)])
    assert put_aside(quick_receiver, stem, Reason.UNTRUSTED)  # a signature that is there has to be right


def test_an_unknown_key_is_untrusted(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.key = SigningKey.generate("stranger")
    assert "stranger" in put_aside(quick_receiver, quick_forger.send([account(1, FIRST)]), Reason.UNTRUSTED)


def test_a_known_name_with_another_key_is_untrusted(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.key = SigningKey.generate(quick_forger.key.name)
    assert put_aside(quick_receiver, quick_forger.send([account(1, FIRST)]), Reason.UNTRUSTED)


@pytest.mark.parametrize("place", [0, 20, 150, -30, -5])
def test_an_altered_byte_of_the_manifest_is_untrusted(quick_receiver: Side, quick_forger: Forger, place: int) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    altered = bytearray(batch.manifest)
    altered[place] ^= 1
    stem = quick_forger.deliver(batch, manifest=bytes(altered))
    assert put_aside(quick_receiver, stem, Reason.UNTRUSTED)


def test_an_untrusted_file_takes_no_batchs_place(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    stem = quick_forger.deliver(batch, manifest=batch.line.replace(b"by hand", b"by Hand") + b"\n")
    assert put_aside(quick_receiver, stem, Reason.UNTRUSTED)
    quick_forger.deliver(batch)
    assert only(quick_receiver).verdict is Verdict.APPLIED


def test_an_applied_batch_without_its_signature_is_untrusted(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch)
    only(quick_receiver)
    assert put_aside(quick_receiver, quick_forger.deliver(batch, manifest=batch.line + b"\n"), Reason.UNTRUSTED)


def test_an_unsigned_copy_leaves_the_row_of_a_waiting_batch_alone(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.make([])
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch)
    assert only(quick_receiver).verdict is Verdict.WAITING
    quick_forger.deliver(batch, manifest=batch.line + b"\n")
    assert only(quick_receiver).reason is Reason.UNTRUSTED
    assert ledger_of(quick_receiver) == [("waiting", "gap")]


def test_a_waiting_batch_whose_files_went_away_is_said_to_be_gone_and_may_come_again(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    first, second = quick_forger.make([]), quick_forger.make([account(1, FIRST)])
    stem = quick_forger.deliver(second)
    assert only(quick_receiver).verdict is Verdict.WAITING
    for path in (quick_receiver.home / "incoming").glob(f"{stem}.*"):
        path.unlink()

    gone = only(quick_receiver)

    assert (gone.verdict, gone.reason) == (Verdict.QUARANTINED, Reason.INCOMPLETE)
    assert "went away" in gone.message
    assert quick_receiver.take_in().batches == ()
    quick_forger.deliver(first)
    quick_forger.deliver(second)
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.APPLIED, Verdict.APPLIED]
    assert [one.quarantined for one in read_status(quick_receiver.site).channels if one.direction == "in"] == [0]


def test_a_waiting_batch_that_another_process_applies_meanwhile_is_not_said_to_be_gone(
    quick_receiver: Side, quick_forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = quick_forger.make([]), quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(second)
    assert only(quick_receiver).verdict is Verdict.WAITING
    quick_forger.deliver(first)

    def apply_meanwhile(_spool: Spool, _stem: str) -> bool:
        monkeypatch.undo()
        quick_receiver.take_in()
        return False

    monkeypatch.setattr(Spool, "has", apply_meanwhile)
    with reading(quick_receiver.engine) as connection:
        waiting = OpenBatches(quick_receiver.site, connection)

    assert list(waiting.quarantine_gone(Listing((), 0, 0))) == []
    assert ledger_of(quick_receiver) == [("applied", None), ("applied", None)]


def test_a_batch_that_is_given_back_while_it_is_looked_for_did_not_go_away(
    quick_receiver: Side, quick_forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_receiver.limit(settle_seconds=60)
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch, data=last_byte_changed(batch.data))
    assert only(quick_receiver).verdict is Verdict.INCOMPLETE
    with reading(quick_receiver.engine) as connection:
        waiting = OpenBatches(quick_receiver.site, connection)
    folders, look = quick_receiver.site.spool.folders, Folder.has
    for path in folders.incoming.glob(f"{batch.stem}*"):
        path.rename(folders.work / path.name)  # another process has just claimed it

    def give_back(folder: Folder, name: str) -> bool:
        found = look(folder, name)
        for path in folders.work.glob(f"{batch.stem}*"):
            path.rename(folders.incoming / path.name)
        return found

    monkeypatch.setattr(Folder, "has", give_back)
    assert list(waiting.quarantine_gone(Listing((), 0, 0))) == []


def test_a_line_of_a_stream_that_the_manifest_does_not_list_is_parked(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    stranger = account(2, FIRST + 1) | {"stream": "nothing"}
    claims = {"schemas": {"account": 1}, "records": {"account": {"upsert": 2, "delete": 0}}}
    quick_forger.deliver(quick_forger.make([account(1, FIRST), stranger], claims=claims))

    outcome = only(quick_receiver)

    assert (outcome.verdict, outcome.records.applied, outcome.records.parked) == (Verdict.APPLIED, 1, 1)


# Corrupt


def of_content(content: bytes, **claims: Any) -> dict[str, Any]:
    return {"content": content, "claims": {"schemas": {"account": 1}, **claims}}


GOOD = json.dumps(account(1, FIRST)).encode()
COUNTS = {"records": {"account": {"upsert": 1, "delete": 0}}}
CORRUPT: dict[str, dict[str, Any]] = {
    "the last line is not ended": of_content(GOOD, **COUNTS),
    "a blank line": of_content(GOOD + b"\n\n", **COUNTS),
    "a line of blanks": of_content(b"  \n" + GOOD + b"\n", records={"account": {"upsert": 2, "delete": 0}}),
    "a byte order mark": of_content(b"\xef\xbb\xbf" + GOOD + b"\n", **COUNTS),
    "more lines than counted": of_content(GOOD + b"\n" + GOOD + b"\n", **COUNTS),
    "fewer lines than counted": of_content(GOOD + b"\n", records={"account": {"upsert": 2, "delete": 0}}),
    "other operations than counted": of_content(GOOD + b"\n", records={"account": {"upsert": 0, "delete": 1}}),
    "another stream than counted": of_content(
        GOOD + b"\n", schemas={"account": 1, "seat": 1}, records={"seat": {"upsert": 1, "delete": 0}}
    ),
    "content longer than claimed": of_content(GOOD + b"\n", **COUNTS, content_bytes=len(GOOD)),
    "content shorter than claimed": of_content(GOOD + b"\n", **COUNTS, content_bytes=len(GOOD) + 2),
    "another content digest": of_content(GOOD + b"\n", **COUNTS, content_sha256="0" * 64),
    "another data digest": of_content(GOOD + b"\n", **COUNTS, sha256="0" * 64),
    "longer than claimed": of_content(GOOD + b"\n", **COUNTS, bytes=10),
    "no compression": {"data": GOOD + b"\n", **of_content(GOOD + b"\n", **COUNTS)},
    "more content than we take": of_content(GOOD + b"\n", **COUNTS, content_bytes=2**50),
    "more records than we take": of_content(GOOD + b"\n", records={"account": {"upsert": 2**40, "delete": 0}}),
    "a count that is a word": of_content(GOOD + b"\n", records={"account": {"upsert": "1", "delete": 0}}),
    "no channel": of_content(GOOD + b"\n", **COUNTS, channel=...),
    "an epoch in capitals": of_content(GOOD + b"\n", **COUNTS, epoch="0123456789AB"),
    "an unknown encoding": of_content(GOOD + b"\n", **COUNTS, encoding=["zip"]),
    "an unknown kind": of_content(GOOD + b"\n", **COUNTS, kind="other"),
}
OF_THE_FILES = {
    "another data digest",
    "longer than claimed",
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_batch_that_breaks_the_format_is_corrupt(quick_receiver: Side, quick_forger: Forger, kind: str) -> None:
    quick_forger.send([account(9, FIRST - 1)])
    assert only(quick_receiver).verdict is Verdict.APPLIED
    stem = quick_forger.send(**CORRUPT[kind], follow=False)
    if CORRUPT[kind]["claims"].get("epoch"):
        stem = stem.replace("0123456789AB", EPOCH)
        incoming = quick_receiver.site.spool.folders.incoming
        for path in incoming.glob("*0123456789AB*"):
            path.rename(incoming / path.name.replace("0123456789AB", EPOCH))
    reason = Reason.CORRUPT if kind in OF_THE_FILES else Reason.LIMITS if "than we take" in kind else Reason.MALFORMED
    assert quarantined(quick_receiver, stem, reason)
    with reading(quick_receiver.engine) as connection:
        (told,) = receipts.build_receipts(quick_receiver.site, connection, now())
    # The same bytes would be refused again: so they are not asked for.
    assert [one.reason for one in told.refused] == ([] if reason is Reason.CORRUPT else [reason])
    quick_forger.send([account(2, FIRST + 2)])  # its place is free for the right one
    assert only(quick_receiver).verdict is Verdict.APPLIED
    assert ids(quick_receiver) == [2, 9]
    assert quick_receiver.all(sa.select(tables.dead_letter)) == []


def test_bytes_after_the_compressed_content_are_corrupt(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)], follow=False)
    quick_forger.deliver(quick_forger.make([account(1, FIRST)], data=batch.data + b"more", follow=False))
    assert quarantined(quick_receiver, batch.stem, Reason.MALFORMED)


def test_a_truncated_batch_that_claims_to_be_so_is_corrupt_and_changes_nothing(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    records = [account(n, FIRST + n) for n in range(5_000)]
    whole = quick_forger.make(records, follow=False)
    quick_forger.deliver(quick_forger.make(records, data=whole.data[:-20], follow=False))
    assert quarantined(quick_receiver, whole.stem, Reason.MALFORMED)


# Unsupported


def upgraded(side: Side, name: str, *streams: Stream) -> None:
    """Give a side another declaration of its incoming channel."""
    channel = Channel(name, "one", "two", streams)
    side.site = replace(
        side.site,
        channels=(channel, shop.channels[1]),
        checkers={stream.name: Checker(stream) for one in (channel, shop.channels[1]) for stream in one.streams},
    )


def held(side: Side, reason: Reason = Reason.UNSUPPORTED) -> str:
    """Import a batch that has to be held, twice; give the sentence."""
    before = ids(side)
    outcome = only(side)
    assert (outcome.verdict, outcome.reason) == (Verdict.HELD, reason)
    assert only(side) == outcome
    assert ids(side) == before
    assert ledger_of(side)[-1] == ("held", reason)
    assert len(side.all(sa.select(tables.event).where(tables.event.c.to_state == "held"))) == 1
    return outcome.message


def test_a_newer_format_is_held(quick_receiver: Side, quick_forger: Forger) -> None:
    stem = quick_forger.send([account(1, FIRST)], claims={"format": "exchange-batch/2"})
    assert "exchange-batch/2" in held(quick_receiver)
    assert {f"{stem}.manifest.jsonl", f"{stem}.jsonl.zst"} < kept(quick_receiver.site.spool.folders.incoming)


def test_a_newer_format_is_applied_after_the_upgrade(
    quick_receiver: Side, quick_forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem = quick_forger.send([account(1, FIRST)], claims={"format": "exchange-batch/2"})
    assert held(quick_receiver)
    monkeypatch.setattr("exchange.format.manifest.FORMAT", "exchange-batch/2")
    assert only(quick_receiver).verdict is Verdict.APPLIED
    columns = tables.batch.c
    assert quick_receiver.all(sa.select(columns.state, columns.stem, columns.records)) == [("applied", stem, 1)]


def test_a_newer_schema_version_is_held_and_applied_after_the_upgrade(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.versions = {"account": 2}
    quick_forger.send([account(1, FIRST)])
    assert "schema version 2" in held(quick_receiver)
    upgraded(quick_receiver, "forth", Stream(shop.account, exclude=["password"], schema_version=2))
    assert only(quick_receiver).verdict is Verdict.APPLIED
    assert ledger_of(quick_receiver) == [("applied", None)]


def test_an_unknown_stream_is_held_until_it_is_declared(quick_receiver: Side, quick_forger: Forger) -> None:
    upgraded(quick_receiver, "forth", Stream(shop.seat))
    quick_forger.send([account(1, FIRST)])
    assert "no stream account" in held(quick_receiver)
    upgraded(quick_receiver, "forth", Stream(shop.account, exclude=["password"]))
    assert only(quick_receiver).verdict is Verdict.APPLIED


def test_an_unknown_channel_is_held_until_it_is_declared(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.channel = "fifth"
    quick_forger.send([account(1, FIRST)])
    assert "fifth" in held(quick_receiver)
    upgraded(quick_receiver, "fifth", Stream(shop.account, exclude=["password"]))
    assert only(quick_receiver).verdict is Verdict.APPLIED


@pytest.mark.parametrize("kind", ["checkpoint", "snapshot"])
def test_kinds_that_are_not_known_here_are_held(quick_receiver: Side, quick_forger: Forger, kind: str) -> None:
    quick_forger.send([account(1, FIRST)], claims={"kind": kind})
    if kind == "snapshot":
        assert only(quick_receiver).verdict is Verdict.APPLIED
    else:
        assert held(quick_receiver)


def test_an_encrypted_batch_is_held(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)], claims={"encoding": ["zstd", "age"]})
    assert held(quick_receiver)


def test_records_of_an_older_schema_version_are_lifted(quick_receiver: Side, quick_forger: Forger) -> None:
    def with_age(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "name": data["name"].upper()}

    new = Stream(shop.account, exclude=["password"], schema_version=2, upgrades={1: with_age})
    upgraded(quick_receiver, "forth", new)
    quick_forger.send([account(1, FIRST), delete("account", FIRST + 1, id=7)])
    assert only(quick_receiver).records.applied == 2
    assert quick_receiver.rows(shop.account)[0]["name"] == "ACCOUNT 1"


def test_an_older_schema_version_without_steps_is_held(quick_receiver: Side, quick_forger: Forger) -> None:
    upgraded(quick_receiver, "forth", Stream(shop.account, exclude=["password"], schema_version=3, upgrades={2: dict}))
    quick_forger.send([account(1, FIRST)])
    assert "upgrade steps begin at 2" in held(quick_receiver)


def test_a_held_batch_holds_back_those_after_it(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.versions = {"account": 2}
    quick_forger.send([account(1, FIRST)])
    quick_forger.versions = {}
    quick_forger.send([account(2, FIRST + 1)])
    verdicts = [one.verdict for one in quick_receiver.take_in().batches]
    assert verdicts == [Verdict.HELD, Verdict.WAITING]
    assert ids(quick_receiver) == []


# Duplicate, conflict, fork, epochs


def test_a_batch_seen_again_is_a_duplicate_and_is_archived(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch)
    assert only(quick_receiver).verdict is Verdict.APPLIED
    quick_receiver.execute(sa.delete(shop.account))  # so that applying it again would show
    for _ in range(2):
        quick_forger.deliver(batch)
        assert only(quick_receiver).verdict is Verdict.DUPLICATE
    again = replace(batch, stem=f"{batch.stem}.r2")
    quick_forger.deliver(again)
    assert only(quick_receiver).verdict is Verdict.DUPLICATE
    assert ids(quick_receiver) == []
    assert ledger_of(quick_receiver) == [("applied", None)]
    archive = kept(quick_receiver.site.spool.folders.archive)
    assert {f"{batch.stem}.manifest.jsonl", f"{batch.stem}~2.manifest.jsonl", f"{again.stem}.manifest.jsonl"} < archive
    assert kept(quick_receiver.site.spool.folders.incoming) == {MARKER}


def test_a_duplicate_without_its_data_file_is_a_duplicate(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch)
    only(quick_receiver)
    quick_forger.put(f"{batch.stem}.manifest.jsonl", batch.manifest)
    assert only(quick_receiver).verdict is Verdict.DUPLICATE


def test_two_publications_at_once_apply_once(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(replace(batch, stem=f"{batch.stem}.r2"))
    quick_forger.deliver(batch)
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.APPLIED, Verdict.DUPLICATE]


def test_a_resent_copy_applies_where_the_first_one_stays_incomplete(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch, data=b"")
    assert only(quick_receiver).verdict is Verdict.INCOMPLETE
    quick_forger.deliver(replace(batch, stem=f"{batch.stem}.r2"))
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.INCOMPLETE, Verdict.APPLIED]
    assert only(quick_receiver).verdict is Verdict.DUPLICATE
    assert ledger_of(quick_receiver) == [("applied", None)]


def test_another_batch_at_an_applied_place_is_a_conflict(quick_receiver: Side, quick_forger: Forger) -> None:
    other = quick_forger.make([account(2, FIRST)], follow=False)
    quick_forger.send([account(1, FIRST)])
    assert only(quick_receiver).verdict is Verdict.APPLIED
    assert quarantined(quick_receiver, quick_forger.deliver(other), Reason.CONFLICT)
    assert ledger_of(quick_receiver) == [("applied", None), ("quarantined", "conflict")]


def test_another_batch_at_a_waiting_place_is_a_conflict(quick_receiver: Side, quick_forger: Forger) -> None:
    first = quick_forger.make([account(1, FIRST)])
    other = quick_forger.make([account(3, FIRST + 2)], follow=False)
    second = quick_forger.make([account(2, FIRST + 1)])
    quick_forger.deliver(second)
    assert only(quick_receiver).verdict is Verdict.WAITING
    stem = quick_forger.deliver(replace(other, stem=f"{other.stem}.r2"))
    outcomes = {one.batch: one.reason for one in quick_receiver.take_in().batches}
    assert outcomes == {second.stem: Reason.GAP, stem: Reason.CONFLICT}
    quick_forger.deliver(first)
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.APPLIED, Verdict.APPLIED]
    assert ids(quick_receiver) == [1, 2]


def test_an_unsupported_batch_at_an_applied_place_is_a_conflict(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.versions = {"account": 2}
    other = quick_forger.make([account(2, FIRST)], follow=False)
    quick_forger.versions = {}
    quick_forger.send([account(1, FIRST)])
    assert only(quick_receiver).verdict is Verdict.APPLIED
    assert quarantined(quick_receiver, quick_forger.deliver(other), Reason.CONFLICT)


def test_an_applied_batch_seen_again_after_its_stream_left_is_a_duplicate(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(batch)
    only(quick_receiver)
    upgraded(quick_receiver, "forth", Stream(shop.seat))
    quick_forger.deliver(batch)
    assert only(quick_receiver).verdict is Verdict.DUPLICATE


def test_two_unsupported_batches_at_one_place_are_a_conflict(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.versions = {"account": 2}
    one = quick_forger.make([account(1, FIRST)], follow=False)
    other = quick_forger.make([account(2, FIRST)], follow=False)
    quick_forger.deliver(one)
    assert held(quick_receiver)
    stem = quick_forger.deliver(replace(other, stem=f"{other.stem}.r2"))
    outcomes = {seen.batch: seen.reason for seen in quick_receiver.take_in().batches}
    assert outcomes == {one.stem: Reason.UNSUPPORTED, stem: Reason.CONFLICT}


def test_a_batch_that_follows_another_history_is_a_fork(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    assert only(quick_receiver).verdict is Verdict.APPLIED
    stem = quick_forger.send([account(2, FIRST + 1)], claims={"previous": "0" * 64}, follow=False)
    assert quarantined(quick_receiver, stem, Reason.FORK)
    stem = quick_forger.send([account(2, FIRST + 1)], claims={"previous": None}, follow=False, attempt=".r2")
    assert quarantined(quick_receiver, stem, Reason.FORK)
    quick_forger.send([account(2, FIRST + 1)])
    assert only(quick_receiver).verdict is Verdict.APPLIED


def test_an_epoch_that_was_left_is_stale(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    late = quick_forger.make([account(1, FIRST + 9, name="late")])
    only(quick_receiver)
    newer = Forger(quick_receiver, quick_forger.key, epoch="ffffffffffff", left=(quick_forger.epoch,))
    newer.send([account(1, FIRST + 5, name="restored")])
    assert only(quick_receiver).verdict is Verdict.APPLIED
    assert quarantined(quick_receiver, quick_forger.deliver(late), Reason.STALE_EPOCH)
    assert quick_receiver.rows(shop.account)[0]["name"] == "restored"


def test_a_new_epoch_begins_with_its_first_batch(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    only(quick_receiver)
    newer = Forger(quick_receiver, quick_forger.key, epoch="ffffffffffff", left=(quick_forger.epoch,))
    first = newer.make([account(2, FIRST + 5)])
    newer.send([account(3, FIRST + 6)])
    assert only(quick_receiver).verdict is Verdict.WAITING
    quick_forger.send([account(4, FIRST + 1)])  # the old one goes on until then
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.APPLIED, Verdict.WAITING]
    newer.deliver(first)
    assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.APPLIED, Verdict.APPLIED]
    assert ids(quick_receiver) == [1, 2, 3, 4]


# Waiting


def test_a_gap_waits_and_shows_and_closes(receiver: Side, forger: Forger) -> None:
    batches = [forger.make([account(n, FIRST + n)]) for n in range(4)]
    for batch in (batches[3], batches[1]):
        forger.deliver(batch)
    run = receiver.take_in()
    assert [(one.verdict, one.reason) for one in run.batches] == [(Verdict.WAITING, Reason.GAP)] * 2
    assert ledger_of(receiver) == [("waiting", "gap")] * 2
    forger.deliver(batches[0])
    verdicts = [one.verdict for one in receiver.take_in().batches]
    assert verdicts == [Verdict.APPLIED, Verdict.APPLIED, Verdict.WAITING]
    forger.deliver(batches[2])
    assert [one.verdict for one in receiver.take_in().batches] == [Verdict.APPLIED, Verdict.APPLIED]
    assert ids(receiver) == [0, 1, 2, 3]
    assert ledger_of(receiver) == [("applied", None)] * 4


def test_an_unordered_channel_applies_what_is_there(quick_receiver: Side, quick_forger: Forger) -> None:
    channel = Channel("forth", "one", "two", shop.channels[0].streams, ordered=False)
    quick_receiver.site = replace(quick_receiver.site, channels=(channel, shop.channels[1]))
    batches = [quick_forger.make([account(1, FIRST + n, name=f"turn {n}")]) for n in range(3)]
    for number in (2, 0, 1):
        quick_forger.deliver(batches[number])
        assert only(quick_receiver).verdict is Verdict.APPLIED
        assert quick_receiver.rows(shop.account)[0]["name"] == "turn 2"
    quick_forger.deliver(batches[1])
    assert only(quick_receiver).verdict is Verdict.DUPLICATE


def test_a_sequence_beyond_the_look_ahead_leaves_nothing(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(look_ahead=10)
    quick_forger.sequence = 10
    quick_forger.send([account(1, FIRST)])
    outcome = only(quick_receiver)
    assert (outcome.verdict, outcome.reason) == (Verdict.WAITING, Reason.LOOK_AHEAD)
    assert ledger_of(quick_receiver) == []


def test_a_batch_for_somebody_else_is_misdirected(quick_receiver: Side, quick_forger: Forger) -> None:
    for claims in ({"target": "three"}, {"source": "three"}, {"source": "two", "target": "one"}):
        stem = quick_forger.send([account(1, FIRST)], claims=claims)
        assert put_aside(quick_receiver, stem, Reason.MISDIRECTED)


def test_names_prove_nothing_and_the_manifest_everything(quick_receiver: Side, quick_forger: Forger) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(replace(batch, stem=f"back-{EPOCH}-0000000077"))
    outcome = only(quick_receiver)
    assert (outcome.verdict, outcome.channel) == (Verdict.APPLIED, "forth")
    position = tables.position.c
    assert quick_receiver.all(sa.select(position.channel, position.sequence)) == [("forth", 1)]


# Lines

BAD_LINES: dict[str, tuple[bytes, str]] = {
    "not UTF-8": (GOOD.replace(b"account 1", b"\xff\xfe"), "json"),
    "not JSON": (b'{"stream":"account"', "json"),
    "a member twice": (GOOD.replace(b'"op"', b'"version": 1, "op"'), "json"),
    "not a number": (GOOD.replace(b"null", b"NaN"), "json"),
    "an integer beyond 64 bits": (GOOD.replace(b"null", b"18446744073709551616"), "json"),
    "nested too deep": (GOOD.replace(b"null", b"[" * 100 + b"]" * 100), "json"),
    "a NUL": (GOOD.replace(b"account 1", b"a\\u0000b"), "json"),
    "a lone surrogate": (GOOD.replace(b"account 1", b"\\ud800"), "json"),
    "text around the object": (GOOD + b" true", "json"),
    "no object": (b"[]", "record"),
    "no stream": (GOOD.replace(b'"stream"', b'"steam"'), "record"),
    "an unknown op": (GOOD.replace(b"upsert", b"insert"), "record"),
    "a version that is true": (GOOD.replace(str(FIRST).encode(), b"true"), "record"),
    "version nought": (GOOD.replace(str(FIRST).encode(), b"0"), "record"),
    "a delete with data": (GOOD.replace(b"upsert", b"delete"), "record"),
    "a missing column": (GOOD.replace(b', "age": null', b""), "schema"),
    "a column too many": (GOOD.replace(b'"age": null', b'"age": null, "password": "x"'), "schema"),
    "a float for an integer": (GOOD.replace(b"null", b"1.0"), "value"),
    "a text too long": (GOOD.replace(b"account 1", b"x" * 41), "schema"),
    "a null that may not be": (GOOD.replace(b'"account 1"', b"null"), "schema"),
    "an integer too great for its column": (GOOD.replace(b"null", b"2147483648"), "schema"),
    "a check constraint": (GOOD.replace(b"null", b"200"), "constraint"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_parked_and_the_rest_applies(quick_receiver: Side, quick_forger: Forger, kind: str) -> None:
    line, error = BAD_LINES[kind]
    quick_forger.send([account(7, FIRST + 7), line, account(8, FIRST + 8)])
    outcome = only(quick_receiver)
    assert (outcome.verdict, outcome.records.applied, outcome.records.parked) == (Verdict.APPLIED, 2, 1), outcome
    assert ids(quick_receiver) == [7, 8]
    assert parked(quick_receiver, outcome) == [(error, 2, line)]


@pytest.mark.same_on
def test_bad_lines_of_every_kind_are_parked_together_and_the_rest_applies(receiver: Side, forger: Forger) -> None:
    receiver.limit(invalid_share=1.0)
    # Those of one key by themselves: the second one of it would be parked for that.
    sent = [json.dumps(account(7, FIRST + 7)).encode()]
    for number, (line, _) in enumerate(BAD_LINES.values(), 100):
        sent += [
            line.replace(b'"id": 1,', b'"id": %d,' % number),
            json.dumps(account(number + 100, FIRST + 9)).encode(),
        ]
    forger.send(sent)
    outcome = only(receiver)
    applied = len(BAD_LINES) + 1
    assert (outcome.records.applied, outcome.records.parked) == (applied, len(BAD_LINES)), outcome
    assert ids(receiver) == [7, *range(200, 200 + len(BAD_LINES))]
    errors = [error for _, error in BAD_LINES.values()]
    assert parked(receiver, outcome) == [*zip(errors, range(2, 2 * applied, 2), sent[1::2], strict=True)]


def parked(side: Side, outcome: Imported) -> list[tuple[str, int, bytes]]:
    """Give cause, line and bytes of each letter, all of them parked by that import."""
    letters = side.all(sa.select(tables.dead_letter).order_by(tables.dead_letter.c.line))
    for letter in letters:
        assert letter.message.isprintable()
        assert (letter.batch, letter.channel, letter.direction) == (outcome.batch, "forth", "in")
        assert letter.state == "parked"
    return [(letter.error, letter.line, bytes(letter.record)) for letter in letters]


@pytest.mark.same_on
def test_a_reference_to_nothing_is_parked_and_named(receiver: Side, forger: Forger) -> None:
    forger.send(
        [
            upsert("place", FIRST, country="at", number=1, name="p"),
            upsert("visit", FIRST + 1, id=1, country="at", number=1),
            upsert("visit", FIRST + 2, id=2, country="at", number=2),
        ]
    )
    assert (outcome := only(receiver)).records.parked == 1, outcome
    [letter] = receiver.all(sa.select(tables.dead_letter))
    assert letter.error == "foreign_key"
    assert "place" in letter.message
    assert [row["id"] for row in receiver.rows(shop.visit)] == [1]


@pytest.mark.same_on
def test_a_taken_unique_value_is_parked_and_names_who_has_it(receiver: Side, forger: Forger) -> None:
    receiver.execute(sa.insert(shop.seat).values(id=5, code="a"))
    forger.send([upsert("seat", FIRST, id=1, code="a", rank=None, row=None)])
    assert only(receiver).records.parked == 1
    [letter] = receiver.all(sa.select(tables.dead_letter))
    assert letter.error == "unique"
    assert "id = 5" in letter.message


def test_a_key_twice_in_one_batch_keeps_the_newest(receiver: Side, forger: Forger) -> None:
    forger.send([account(1, FIRST + 1, name="newest"), account(1, FIRST, name="older")])
    assert only(receiver).records.parked == 1
    assert receiver.rows(shop.account)[0]["name"] == "newest"


def test_a_channel_that_rejects_takes_no_batch_with_a_bad_line(receiver: Side, forger: Forger) -> None:
    channel = Channel("forth", "one", "two", shop.channels[0].streams, on_invalid="reject")
    receiver.site = replace(receiver.site, channels=(channel, shop.channels[1]))
    for bad in (b"{}", GOOD.replace(b"null", b"200")):
        stem = forger.send([account(7, FIRST), bad], follow=False)
        assert quarantined(receiver, stem, Reason.REJECTED)
        for path in receiver.site.spool.folders.quarantine.iterdir():
            path.unlink()
    assert receiver.all(sa.select(tables.dead_letter)) == []


def test_more_bad_lines_than_the_number_allows_refuse_the_batch(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(invalid_records=3, invalid_share=1.0)
    good = [account(n, FIRST + n) for n in range(100)]
    quick_forger.send([*good, *[b"{}"] * 3])
    assert only(quick_receiver).records.parked == 3
    stem = quick_forger.send([*good, *[b"{}"] * 4])
    assert quarantined(quick_receiver, stem, Reason.REJECTED)
    assert len(quick_receiver.all(sa.select(tables.dead_letter))) == 3


def test_more_bad_lines_than_the_share_allows_refuse_the_batch(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(invalid_share=0.1)
    good = [account(n, FIRST + n) for n in range(180)]
    stem = quick_forger.send([*good, *[b"{}"] * 21], follow=False)
    assert quarantined(quick_receiver, stem, Reason.REJECTED)
    quick_forger.send([*good, *[b"{}"] * 20])
    assert only(quick_receiver).records.parked == 20


@pytest.mark.same_on
def test_more_rows_than_the_database_takes_refuse_the_batch(receiver: Side, forger: Forger) -> None:
    receiver.limit(invalid_records=5, invalid_share=1.0)
    records = [account(n, FIRST + n, age=500) for n in range(2, 8)]
    assert quarantined(receiver, forger.send([account(1, FIRST), *records]), Reason.REJECTED)


def test_what_only_misses_a_parent_refuses_no_batch_unless_its_channel_parks_nothing(
    receiver: Side, forger: Forger
) -> None:
    receiver.limit(invalid_records=5, invalid_share=0)
    children = [upsert("visit", FIRST + n, id=n, country="at", number=n) for n in range(20)]
    gone = [delete("place", FIRST + 100 + n, country="at", number=n) for n in range(20)]
    forger.send(children)
    assert only(receiver).records.parked == 20
    forger.send([upsert("place", FIRST + 50 + n, country="at", number=n, name="p") for n in range(20)])
    assert only(receiver).records.applied == 20
    forger.send(gone)
    assert only(receiver).records.parked == 20
    forger.send([delete("visit", FIRST + 200 + n, id=n) for n in range(20)])
    only(receiver)
    with reading(receiver.engine) as connection:
        assert connection.scalars(sa.select(tables.dead_letter.c.state).distinct()).all() == ["applied"]
    assert receiver.rows(shop.place) == []
    receiver.site = replace(receiver.site, channels=tuple(map(rejecting, receiver.site.channels)))
    assert quarantined(
        receiver, forger.send([upsert("visit", FIRST + 300, id=1, country="at", number=1)]), Reason.REJECTED
    )


def rejecting(channel: Channel) -> Channel:
    """Give the same channel, as one that takes no batch with a bad record."""
    other = copy.copy(channel)
    other.on_invalid = "reject"
    return other


# Deletes


def test_too_many_deletes_are_held_for_a_person(receiver: Side, forger: Forger) -> None:
    receiver.limit(deleted_rows=5, deleted_share=0.5)
    forger.send([account(n, FIRST + n) for n in range(10)])
    only(receiver)
    stem = forger.send([delete("account", FIRST + 100 + n, id=n) for n in range(6)])
    assert "--release" in held(receiver, Reason.DELETES)
    assert replay.replay_batches(receiver.site, stem).batches[0].verdict is Verdict.APPLIED
    assert ids(receiver) == [6, 7, 8, 9]
    assert ledger_of(receiver) == [("applied", None)] * 2


def test_few_deletes_and_those_below_the_share_are_not_held(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(deleted_rows=5, deleted_share=0.5)
    quick_forger.send([account(n, FIRST + n) for n in range(12)])
    only(quick_receiver)
    quick_forger.send([delete("account", FIRST + 100 + n, id=n) for n in range(6)])
    assert only(quick_receiver).verdict is Verdict.APPLIED
    quick_receiver.limit(deleted_rows=11)
    quick_forger.send([delete("account", FIRST + 200 + n, id=n) for n in range(6, 11)])
    assert only(quick_receiver).verdict is Verdict.APPLIED


# Versions


@pytest.mark.same_on
def test_older_records_never_change_newer_rows_not_even_deleted_ones(receiver: Side, forger: Forger) -> None:
    forger.send([account(1, FIRST + 10, name="new"), account(2, FIRST + 10), delete("account", FIRST + 11, id=3)])
    only(receiver)
    forger.send([delete("account", FIRST + 20, id=2)])
    only(receiver)
    forger.send(
        [
            account(1, FIRST + 9, name="old"),
            account(2, FIRST + 19, name="back from the dead"),
            account(3, FIRST + 11, name="same version as its delete"),
        ]
    )
    outcome = only(receiver)
    assert outcome.records.as_dict() == {"applied": 0, "duplicate": 1, "stale": 2, "parked": 0}
    assert [(row["id"], row["name"]) for row in receiver.rows(shop.account)] == [(1, "new")]
    forger.send([delete("account", FIRST + 9, id=1), account(2, FIRST + 21, name="really back")])
    assert only(receiver).records.as_dict() == {"applied": 1, "duplicate": 0, "stale": 1, "parked": 0}
    assert [row["id"] for row in receiver.rows(shop.account)] == [1, 2]


def test_a_record_of_the_same_version_is_a_duplicate(receiver: Side, forger: Forger) -> None:
    forger.send([account(1, FIRST)])
    forger.send([account(1, FIRST, name="something else")])
    assert [one.records.duplicate for one in receiver.take_in().batches] == [0, 1]
    assert receiver.rows(shop.account)[0]["name"] == "account 1"


# Files that are no batches


def test_unknown_files_are_left_alone_and_counted(quick_receiver: Side, quick_forger: Forger) -> None:
    names = [".hidden", "readme.txt", "a.tmp", "x.jsonl.zst.part", f"forth-{EPOCH}-1.jsonl"]
    names.append(f"forth-{EPOCH}-0000000001.r1.jsonl")
    for name in names:
        quick_forger.put(name, b"anything")
    run = quick_receiver.take_in()
    assert (run.batches, run.ignored, run.unpaired, run.trouble) == ((), len(names), 0, None)
    assert kept(quick_receiver.site.spool.folders.incoming) == {MARKER, *names}


@pytest.mark.parametrize("which", [".manifest.jsonl", ".jsonl.zst"])
@pytest.mark.parametrize("shape", ["symlink", "dangling", "fifo", "hard link", "folder"])
def test_what_is_no_plain_file_is_never_followed_opened_or_moved(
    quick_receiver: Side, quick_forger: Forger, tmp_path: Path, which: str, shape: str
) -> None:
    batch = quick_forger.make([account(1, FIRST)])
    stem = quick_forger.deliver(batch)
    path = quick_receiver.site.spool.folders.incoming / f"{stem}{which}"
    outside = tmp_path / "outside"
    path.rename(outside)
    match shape:
        case "symlink":
            path.symlink_to(outside)
        case "dangling":
            path.symlink_to(tmp_path / "nowhere")
        case "fifo":
            os.mkfifo(path)
        case "hard link":
            path.hardlink_to(outside)
        case _:
            path.mkdir()
    run = quick_receiver.take_in()
    assert run.trouble is None
    assert run.ignored == 1
    assert [one.verdict for one in run.batches] == ([] if which == ".manifest.jsonl" else [Verdict.INCOMPLETE])
    assert path.lstat()
    assert outside.exists()
    assert ids(quick_receiver) == []


def test_a_lost_marker_stops_everything(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST)])
    marker = quick_receiver.site.spool.folders.incoming / MARKER
    marker.unlink()
    with pytest.raises(TransientError, match="not mounted"):
        quick_receiver.take_in()
    with pytest.raises(TransientError, match="not mounted"):
        quick_receiver.export()
    marker.touch()
    assert only(quick_receiver).verdict is Verdict.APPLIED
