"""Which keys count, when and for what: by the receiver's own word and clock, at every single batch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels import Channel
from exchange.database.clock import AHEAD
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.database.tables import BatchState, batch, dead_letter
from exchange.dead_letters import file as letter_file
from exchange.dead_letters.file import FileFault
from exchange.files import keys, spool
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.format.key_terms import Terms
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.incoming import importer, quarantine, replay
from exchange.operating import batch_pages, untrust
from exchange.operating.batch_pages import BatchFilters
from exchange.results import Imported
from tests.crossing import shop
from tests.crossing.forging import EPOCH, Forger, account
from tests.crossing.sides import Side

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000
HOUR = timedelta(hours=1)


@dataclass
class Clock:
    """The receiver's clock as it judges keys: it goes on when a test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def go_on(self, time: timedelta) -> None:
        self._patch.setenv(AHEAD, str(time.total_seconds()))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def side(quick_receiver: Side) -> Side:
    """Give the receiver, with keys in its folder that are read anew before every batch, as in life."""
    folder = quick_receiver.home / "keys"
    quick_receiver.site = replace(quick_receiver.site, read_trusted=lambda: keys.load_trusted(folder))
    return quick_receiver


def trust(side: Side, key: SigningKey, terms: Terms | None = None) -> None:
    """Trust a key as a person does; the next run finds it."""
    brought = side.home.with_name(f"{key.name}.pem")
    brought.write_bytes(key.public_pem())
    keys.trust(side.home / "keys", keys.candidate(brought), terms)
    side.site = side.site.with_present_trust()


@pytest.fixture
def forger(side: Side) -> Forger:
    """Give somebody who writes batches by hand; nobody trusts his key yet."""
    return Forger(side, SigningKey.generate("by-hand"))


def verdicts(side: Side) -> list[tuple[Verdict, Reason | None]]:
    run = side.take_in()
    assert run.trouble is None
    return [(one.verdict, one.reason) for one in run.batches]


def only(side: Side) -> Imported:
    (outcome,) = side.take_in().batches
    return outcome


def ids(side: Side) -> list[int]:
    return [row["id"] for row in side.rows(shop.account)]


UNTRUSTED = (Verdict.QUARANTINED, Reason.UNTRUSTED)


# The time of a key


@pytest.mark.parametrize("created_at", ["2001-01-01T00:00:00Z", "2026-11-22T06:15:00Z", "9999-01-01T00:00:00Z"])
def test_what_comes_after_its_keys_time_is_untrusted_whatever_date_it_bears(
    side: Side, forger: Forger, clock: Clock, created_at: str
) -> None:
    trust(side, forger.key, Terms(not_after=now() + HOUR))
    forger.send([account(1, FIRST)], claims={"created_at": created_at})
    assert verdicts(side) == [(Verdict.APPLIED, None)]
    clock.go_on(2 * HOUR)
    forger.send([account(2, FIRST + 1)], claims={"created_at": created_at})
    outcome = only(side)
    assert (outcome.verdict, outcome.reason) == UNTRUSTED
    assert 'signed by "by-hand", a key that is trusted until' in outcome.message
    assert "exchange keys trust" in outcome.message
    assert outcome.message.isprintable()
    assert ids(side) == [1]


def test_what_comes_before_its_keys_time_is_untrusted_and_let_in_once_that_has_begun(
    side: Side, forger: Forger, clock: Clock
) -> None:
    trust(side, forger.key, Terms(not_before=now() + HOUR))
    stem = forger.send([account(1, FIRST)])
    assert verdicts(side) == [UNTRUSTED]
    clock.go_on(2 * HOUR)
    assert [one.verdict for one in replay.replay_batches(side.site, stem).batches] == [Verdict.APPLIED]
    assert ids(side) == [1]


@pytest.mark.parametrize("again", [False, True])
def test_what_waits_since_before_its_keys_time_was_over_is_applied_all_the_same(
    side: Side, forger: Forger, clock: Clock, again: bool
) -> None:
    clock.go_on(HOUR / 60)  # what waits has lain there for a while, and is remembered
    trust(side, forger.key, Terms(not_after=now() + HOUR))
    new_key = SigningKey.generate("newer")
    trust(side, new_key)
    old_key, forger.key = forger.key, new_key
    missing = forger.make([account(1, FIRST)])
    forger.key = old_key
    forger.send([account(2, FIRST + 1)])
    assert verdicts(side) == [(Verdict.WAITING, Reason.GAP)]
    clock.go_on(2 * HOUR)
    if again:  # another process, which remembers nothing
        side.site = replace(side.site, spool=spool.Spool(side.site.spool.folders))
    assert verdicts(side) == [(Verdict.WAITING, Reason.GAP)]
    late = forger.send([account(3, FIRST + 2)])
    forger.deliver(missing)
    outcomes = {one.batch: (one.verdict, one.reason) for one in side.take_in().batches}
    assert outcomes.pop(late) == UNTRUSTED
    assert set(outcomes.values()) == {(Verdict.APPLIED, None)}
    assert ids(side) == [1, 2]


def test_what_waits_and_came_after_the_moment_that_is_now_the_end_is_untrusted(side: Side, forger: Forger) -> None:
    trust(side, forger.key)
    forger.make()
    forger.send([account(1, FIRST)])
    assert verdicts(side) == [(Verdict.WAITING, Reason.GAP)]
    trust(side, forger.key, Terms(not_after=now() - HOUR))  # the hour in which it was stolen
    assert verdicts(side)[0] == UNTRUSTED
    assert ids(side) == []


def test_what_was_applied_in_its_keys_time_comes_again_as_a_duplicate_and_another_at_its_place_is_untrusted(
    side: Side, forger: Forger, clock: Clock
) -> None:
    trust(side, forger.key, Terms(not_after=now() + HOUR))
    applied = forger.make([account(1, FIRST)], follow=False)
    forger.deliver(applied)
    assert verdicts(side) == [(Verdict.APPLIED, None)]
    clock.go_on(2 * HOUR)
    forger.deliver(applied)
    assert verdicts(side) == [(Verdict.DUPLICATE, None)]
    forger.send([account(2, FIRST)])
    assert verdicts(side) == [UNTRUSTED]
    assert ids(side) == [1]


def test_quarantine_shows_that_a_keys_time_was_over_and_a_later_end_lets_the_batch_in(
    side: Side, forger: Forger
) -> None:
    trust(side, forger.key, Terms(not_after=now() - HOUR))
    stem = forger.send([account(1, FIRST)])
    assert verdicts(side) == [UNTRUSTED]
    report = quarantine.quarantined_detail(side.site, stem).report
    assert (report.reason, report.manifest) == (Reason.UNTRUSTED, None)
    assert "trusted until" in report.checks[-1].detail
    trust(side, forger.key, Terms(not_after=now() + HOUR))
    assert quarantine.quarantined_detail(side.site, stem).report.ok
    assert quarantine.release_files(side.site, stem).verdict is Verdict.APPLIED


# Its channels


@pytest.mark.parametrize(
    "channel, allowed", [("forth", {"forth"}), ("forth", {"control"}), ("control", {"forth"}), ("control", {"control"})]
)
def test_a_key_signs_for_its_channels_alone(side: Side, forger: Forger, channel: str, allowed: set[str]) -> None:
    trust(side, forger.key, Terms(channels=frozenset(allowed)))
    forger.channel = channel
    forger.send([], claims={"kind": "control" if channel == "control" else "changes"})
    outcome = only(side)
    if channel in allowed:
        assert outcome.verdict is Verdict.APPLIED
    else:
        assert (outcome.verdict, outcome.reason) == UNTRUSTED
        assert f"is of {channel}" in outcome.message
        assert side.all(sa.select(batch.c.manifest)) == [(None,)]


@pytest.mark.parametrize("allowed, verdict", [("forth", None), ("forth_1", None), ("forth_0", Reason.UNTRUSTED)])
def test_a_key_for_a_channel_is_for_all_its_shards_and_one_for_a_shard_for_that_one(
    side: Side, forger: Forger, allowed: str, verdict: Reason | None
) -> None:
    forth, back = shop.channels
    sharded = Channel(forth.name, forth.source, forth.target, forth.streams, shards=2)
    side.site = replace(side.site, channels=(sharded, back))
    trust(side, forger.key, Terms(channels=frozenset({allowed})))
    forger.channel = "forth_1"
    forger.send([account(1, FIRST)], claims={"shards": 2})
    assert only(side).reason is verdict


def test_what_a_key_may_not_sign_takes_nobodys_place(side: Side, forger: Forger) -> None:
    trust(side, forger.key, Terms(channels=frozenset({"control"})))
    other = SigningKey.generate("other")
    trust(side, other)
    forger.send([account(1, FIRST)], follow=False)
    assert verdicts(side) == [UNTRUSTED]
    forger.key = other
    forger.send([account(2, FIRST)])
    assert verdicts(side) == [(Verdict.APPLIED, None)]
    assert ids(side) == [2]


@pytest.mark.parametrize(
    "terms, said",
    [
        (Terms(not_after=datetime(2026, 1, 1, tzinfo=UTC)), "trusted until 2026-01-01 00:00:00 UTC"),
        (Terms(channels=frozenset({"forth", "control"})), "is no batch of those"),
        (None, None),
    ],
)
def test_a_file_of_dead_letters_is_within_its_keys_limits_or_refused(
    side: Side, forger: Forger, tmp_path: Path, terms: Terms | None, said: str | None
) -> None:
    trust(side, forger.key)
    forger.send([account(1, FIRST, age=300)])
    side.take_in()
    file = tmp_path / "letters.jsonl"
    letter_file.export_letters(side.site, file)
    *letters, ending, _ = file.read_bytes().splitlines()
    theirs = json.dumps(json.loads(ending) | {"network": side.site.peer}).encode()
    file.write_bytes(b"\n".join([*letters, theirs, forger.key.sign(theirs).encode(), b""]))
    trust(side, forger.key, terms)
    before = side.all(sa.select(dead_letter))
    if said is None:
        assert letter_file.import_letters(side.site, file).network == "one"
        return
    with pytest.raises(FileFault, match=said):
        letter_file.import_letters(side.site, file)
    assert side.all(sa.select(dead_letter)) == before


# Trusted no longer


def test_a_key_that_is_trusted_no_longer_counts_no_more_at_the_next_batch_of_the_same_run(
    side: Side, forger: Forger
) -> None:
    trust(side, forger.key)
    stems = [forger.send([account(number, FIRST + number)]) for number in range(1, 4)]
    asked = 0

    def between_batches() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            keys.untrust(side.home / "keys", forger.key.name)
        return False

    run = importer.import_batches(side.site, stopping=between_batches)

    assert [(one.batch, one.verdict) for one in run.batches] == [
        (stems[0], Verdict.APPLIED),
        (stems[1], Verdict.QUARANTINED),
        (stems[2], Verdict.WAITING),
    ]
    assert run.batches[1].reason is Reason.UNTRUSTED
    assert ids(side) == [1]


def test_while_the_keys_cannot_be_read_nothing_is_applied_and_nothing_is_refused(side: Side, forger: Forger) -> None:
    trust(side, forger.key)
    forger.send([account(1, FIRST)])

    def broken() -> TrustedKeys:
        raise TransientError("a key's file is faulty; nothing was changed, the next run tries again")

    whole, side.site = side.site, replace(side.site, read_trusted=broken)
    run = side.take_in()
    assert (run.batches, run.trouble) == ((), "a key's file is faulty; nothing was changed, the next run tries again")
    side.site = whole
    assert verdicts(side) == [(Verdict.APPLIED, None)]


@pytest.fixture
def signed(receiver: Side) -> Forger:
    """Give a sender of whom one batch is applied, one is held and one waits, on each database."""
    folder = receiver.home / "keys"
    receiver.site = replace(receiver.site, read_trusted=lambda: keys.load_trusted(folder))
    receiver.limit(deleted_rows=0, deleted_share=0.0)
    forger, other = Forger(receiver, SigningKey.generate("by_hand")), SigningKey.generate("byXhand")
    for key in (forger.key, other, SigningKey.generate("BY_HAND")):
        trust(receiver, key)
    control = Forger(receiver, forger.key, channel="control")
    control.send([], claims={"kind": "control"})
    forger.send([account(1, FIRST)])
    mine, forger.key = forger.key, other
    forger.send([account(2, FIRST + 1)])
    forger.key = mine
    forger.send([{"stream": "account", "op": "delete", "version": FIRST + 2, "key": {"id": 1}}])
    forger.make()
    forger.send([account(3, FIRST + 4)])
    receiver.take_in()
    return forger


def test_what_a_key_had_signed_that_counts_here_is_listed_as_it_is_trusted_no_longer(signed: Forger) -> None:
    side = signed.receiver
    done = untrust.untrust_key(side.site, side.home / "keys", "by_hand")
    assert done.fingerprint == signed.key.fingerprint
    assert done.counts == {BatchState.WAITING: 1, BatchState.HELD: 1, BatchState.APPLIED: 2}
    stem = f"forth-{EPOCH}-{{:010d}}".format
    assert [(one.batch, one.state.value) for one in done.batches] == [
        (stem(5), "waiting"),
        (stem(3), "held"),
        (stem(1), "applied"),
    ]
    assert all(one.digest for one in done.batches)
    json.dumps(done.as_dict())
    with reading(side.engine) as connection:
        rows = batch_pages.newest(side.site, connection, BatchFilters(key="by_hand"))
    assert [row.batch for row in rows] == [stem(5), stem(3), stem(1)]
    side.site = side.site.with_present_trust()
    assert [reason for _, reason in verdicts(side)][:2] == [Reason.UNTRUSTED] * 2
    assert ids(side) == [1, 2]


@pytest.mark.parametrize("receiver", ["sqlite"], indirect=True)
def test_of_many_the_ones_to_decide_on_come_first_and_the_same_key_under_another_name_is_told(signed: Forger) -> None:
    side = signed.receiver
    side.home.with_name("again.pem").write_bytes(signed.key.public_pem())
    keys.trust(side.home / "keys", keys.candidate(side.home.with_name("again.pem")))
    done = untrust.untrust_key(side.site, side.home / "keys", "by_hand", limit=2)
    assert [one.state.value for one in done.batches] == ["waiting", "held"]
    assert sum(done.counts.values()) == 4
    assert done.still == ("again",)
