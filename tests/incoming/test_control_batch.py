"""What the other side says is weighed: absurd words change nothing and are shown, proven ones stop a restored side."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.database.tables import (
    BatchState,
    DeadLetterState,
    Direction,
    batch,
    epoch,
    network,
    peer,
    receipt,
    resync,
)
from exchange.dead_letters import edit, retry, transitions
from exchange.format import control
from exchange.format.control import Heartbeat, Receipt, Sent
from exchange.format.errors import RecordError, TransientError, Verdict
from exchange.format.names import MAX_SEQUENCE
from exchange.incoming import control_batch
from exchange.link import peer_state
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres, trusted_forger
from tests.crossing.forging import EPOCH, upsert
from tests.crossing.sides import Link, Side
from tests.crossing.talking import CONTROL, Mouth, add, controls, cross, halted, letters, states, take_in, tell, told

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

BACK = "back"
"""The channel that the receiver sends."""


@pytest.fixture
def mouth(receiver: Side) -> Mouth:
    """Give the other side of one that has sent two batches, on each kind of database."""
    return other_side_of(receiver)


@pytest.fixture
def quick_mouth(quick_receiver: Side) -> Mouth:
    """Give the other side of one on SQLite that has sent two batches."""
    return other_side_of(quick_receiver)


def other_side_of(receiver: Side) -> Mouth:
    """Let a side send two batches; give who speaks for the other one."""
    for number in (1, 2):
        receiver.execute(sa.insert(shop.note).values(id=number, text="hello"))
        assert receiver.export().trouble is None
    return Mouth(trusted_forger(receiver))


def epoch_of(side: Side) -> str:
    [row] = side.all(sa.select(network.c.epoch))
    return str(row.epoch)


def said_receipt(mouth: Mouth, **other: Any) -> dict[str, Any]:
    """Give a receipt of what the side has sent, or of what ``other`` says."""
    data = {
        "channel": BACK,
        "epoch": epoch_of(mouth.side),
        "through": 2,
        "digest": None,
        "missing": [],
        "refused": [],
        "given_up": [],
        "applied": 2,
        "duplicate": 0,
        "stale": 0,
        "parked": 0,
        "parked_now": 0,
        "letters": [],
        "agreement": [],
        "proof": None,
    }
    return upsert("_receipt", 1, **(data | other))


def said_heartbeat(**other: Any) -> dict[str, Any]:
    data = {
        "epoch": EPOCH,
        "period_seconds": 300,
        "next_expected_by": "2026-11-22T06:20:00Z",
        "sent": [],
        "heard": None,
    }
    return upsert("_heartbeat", 1, **(data | other))


def said_request(**other: Any) -> dict[str, Any]:
    data = {
        "name": "ask-1",
        "channel": BACK,
        "want": "snapshot",
        "streams": None,
        "buckets": None,
        "of": 1024,
        "prune": False,
        "reason": "differs",
    }
    return upsert("_repair", 1, **(data | other))


def untouched(side: Side) -> bool:
    """Whether nothing that was said took effect."""
    nothing = not side.all(sa.select(receipt)) and not side.all(sa.select(resync)) and halted(side) is None
    return nothing and set(states(side, BACK).values()) == {BatchState.PUBLISHED}


def test_a_true_receipt_acknowledges(mouth: Mouth) -> None:
    outcome = mouth.say(said_receipt(mouth), said_heartbeat())
    assert (outcome.verdict, outcome.records.applied, outcome.records.parked) == (Verdict.APPLIED, 2, 0)
    assert set(states(mouth.side, BACK).values()) == {BatchState.ACKNOWLEDGED}
    assert letters(mouth.side) == []


ABSURD_RECEIPTS: list[tuple[dict[str, Any], str, str]] = [
    ({"through": 3}, "absurd", "sequence 3 of epoch"),
    ({"through": MAX_SEQUENCE}, "absurd", "the last one sealed here is 2"),
    ({"epoch": "0" * 12}, "absurd", "which this side never had"),
    ({"channel": "forth"}, "absurd", "this side sends no channel forth"),
    ({"channel": CONTROL}, "absurd", "this side sends no channel control"),
    ({"missing": [[1, MAX_SEQUENCE]]}, "absurd", "the last sealed is 2"),
    ({"missing": [[2, 1]]}, "schema", "is empty"),
    ({"missing": [[1, 1]] * 101}, "schema", "_receipt: "),
    ({"given_up": [[9, 9]]}, "absurd", "given_up names sequence 9"),
    ({"refused": [{"sequence": 7, "reason": "x", "message": ""}]}, "absurd", "refused names sequence 7"),
    ({"digest": "0" * 64}, "absurd", "which is not the one sealed"),
    ({"through": "2"}, "schema", "_receipt: "),
    ({"through": -1}, "schema", "_receipt: "),
    ({"through": 10**30}, "json", ""),
    ({"letters": [{}]}, "schema", "_receipt: "),
    (
        {"agreement": [{"stream": "nobody", "sequence": 1, "sent": 1, "received": 1, "differing": 0, "since": None}]},
        "absurd",
        "no stream nobody to agree on",
    ),
    (
        {
            "agreement": [
                {
                    "stream": "note",
                    "sequence": 1,
                    "sent": 1,
                    "received": 1,
                    "differing": 0,
                    "since": "0001-01-01T00:00:00+14:00",
                }
            ]
        },
        "schema",
        "can't be read",
    ),
    ({"proof": {"manifest": "no", "signature": None}, "through": 3}, "absurd", "shows no manifest of ours"),
]


@pytest.mark.parametrize("other, error, words", ABSURD_RECEIPTS)
def test_an_absurd_receipt_is_refused_and_shown_and_acknowledges_nothing(
    quick_mouth: Mouth, other: dict[str, Any], error: str, words: str
) -> None:
    assert_receipt_is_refused(quick_mouth, other, error, words)


@needs_postgres
@pytest.mark.parametrize("receiver", ["postgresql"], indirect=True)
def test_no_absurd_receipt_is_too_much_for_postgresql(mouth: Mouth) -> None:
    for other, error, words in ABSURD_RECEIPTS:
        assert_receipt_is_refused(mouth, other, error, words)


def assert_receipt_is_refused(mouth: Mouth, other: dict[str, Any], error: str, words: str) -> None:
    """Say a receipt, and that nothing came of it but a letter, which stands for those before it."""
    outcome = mouth.say(said_receipt(mouth, **other), said_heartbeat())
    assert (outcome.verdict, outcome.records.applied, outcome.records.parked) == (Verdict.APPLIED, 1, 1)
    [letter] = [one for one in letters(mouth.side) if one.state == DeadLetterState.PARKED]
    assert (letter.error, letter.direction, letter.line) == (error, Direction.IN, 1)
    assert words in letter.message
    assert untouched(mouth.side)
    assert len(mouth.side.all(sa.select(peer))) == 1  # the good word beside it is heard


ABSURD_WORDS: list[tuple[dict[str, Any] | bytes, str, str]] = [
    (said_heartbeat(epoch="0" * 12), "absurd", "but came in a batch of epoch"),
    (said_heartbeat(heard={"epoch": EPOCH, "sequence": 4, "proof": None}), "absurd", "never had"),
    (
        said_heartbeat(sent=[{"channel": "forth", "epoch": EPOCH, "through": 3, "lost": [[2, 9]]}]),
        "absurd",
        "can't be lost",
    ),
    (said_heartbeat(next_expected_by="2026-12-31T23:59:60Z"), "schema", ""),
    (said_heartbeat(period_seconds=0), "schema", "_heartbeat: "),
    (said_request(channel="forth"), "absurd", "this side sends no channel forth"),
    (said_request(streams=["nobody"]), "absurd", "no stream nobody"),
    (said_request(buckets=[1024]), "schema", "expected numbers below it"),
    (said_request(want="everything"), "schema", "_repair: "),
    ({"stream": "_repair", "op": "delete", "version": 1, "key": {"name": "x"}}, "record", "never deleted"),
    (upsert("account", 1, id=1), "record", "speaks of no stream account"),
    (b"not json", "json", ""),
    (b"[]", "record", ""),
]


@pytest.mark.parametrize("record, error, words", ABSURD_WORDS)
def test_absurd_words_are_refused_and_shown_and_change_nothing(
    quick_mouth: Mouth, record: dict[str, Any] | bytes, error: str, words: str
) -> None:
    assert_words_are_refused(quick_mouth, record, error, words)


@needs_postgres
@pytest.mark.parametrize("receiver", ["postgresql"], indirect=True)
def test_no_absurd_words_are_too_much_for_postgresql(mouth: Mouth) -> None:
    for record, error, words in ABSURD_WORDS:
        assert_words_are_refused(mouth, record, error, words)


def assert_words_are_refused(mouth: Mouth, record: dict[str, Any] | bytes, error: str, words: str) -> None:
    """Say something, and that nothing came of it but a letter, which stands for those before it."""
    outcome = mouth.say(record)
    assert (outcome.verdict, outcome.records.applied, outcome.records.parked) == (Verdict.APPLIED, 0, 1)
    [letter] = [one for one in letters(mouth.side) if one.state == DeadLetterState.PARKED]
    assert letter.error == error
    assert words in letter.message
    assert untouched(mouth.side)
    assert mouth.side.all(sa.select(peer)) == []


def test_of_a_flood_of_bad_records_some_are_kept_and_all_are_counted(quick_mouth: Mouth) -> None:
    quick_mouth.side.limit(control_records=150)
    requests = [said_request(name=f"ask-{number}", channel="forth") for number in range(200)]
    outcome = quick_mouth.say(*requests)
    assert outcome.records.parked == 200
    assert len(letters(quick_mouth.side)) == control_batch.MOST_LETTERS


def test_what_is_said_twice_in_one_batch_counts_once(quick_mouth: Mouth) -> None:
    outcome = quick_mouth.say(said_receipt(quick_mouth), said_receipt(quick_mouth, through=0))
    assert (outcome.records.applied, outcome.records.parked) == (1, 1)
    assert told(quick_mouth.side, BACK)["through"] == 2


def test_the_next_control_batch_settles_what_was_refused_of_the_one_before(mouth: Mouth) -> None:
    mouth.say(said_receipt(mouth, through=9))
    mouth.say(said_receipt(mouth, through=9))
    assert [one.state for one in letters(mouth.side)] == [DeadLetterState.SUPERSEDED, DeadLetterState.PARKED]
    mouth.say(said_receipt(mouth))
    assert {one.state for one in letters(mouth.side)} == {DeadLetterState.SUPERSEDED}


def test_a_refused_word_can_be_neither_retried_nor_mended_but_discarded(mouth: Mouth) -> None:
    mouth.say(said_receipt(mouth, through=9))
    [letter] = letters(mouth.side)
    [retried] = retry.retry_letters(mouth.side.site, [letter.id])
    assert not retried.changed
    assert "the next control batch says it anew" in retried.message
    with pytest.raises(TransientError, match="the other side's own word"):
        edit.begin_edit(mouth.side.site, letter.id)
    with mouth.side.engine.begin() as connection:
        assert transitions.discard(connection, letter.id, "seen") is None


def test_an_older_control_batch_says_nothing_any_more(quick_mouth: Mouth) -> None:
    first = quick_mouth.forger.make([said_receipt(quick_mouth)], claims=control_claims("_receipt"))
    quick_mouth.say(said_heartbeat())
    quick_mouth.forger.deliver(first)
    [outcome] = quick_mouth.side.take_in().batches
    assert outcome.verdict is Verdict.DUPLICATE
    assert untouched(quick_mouth.side)


def control_claims(stream: str) -> dict[str, Any]:
    return {"kind": CONTROL, "schemas": {stream: 1}, "records": {stream: {"upsert": 1, "delete": 0}}}


# A database that was restored from an earlier copy


class Restored:
    """A link whose first side can go back to an earlier copy of its SQLite file."""

    def __init__(self, tmp_path: Path, link: Link) -> None:
        self.link = link
        self._copy = tmp_path / "earlier.db"

    @property
    def _file(self) -> Path:
        return Path(str(self.link.one.engine.url.database))

    def save(self) -> None:
        with self.link.one.engine.connect() as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql(f"VACUUM INTO '{self._copy}'")
            connection.exec_driver_sql("BEGIN")

    def restore(self) -> None:
        self.link.one.engine.dispose()
        for file in self._file.parent.glob(f"{self._file.name}-*"):
            if file.name.endswith(("-wal", "-shm")):
                file.unlink()
        shutil.copyfile(self._copy, self._file)


@pytest.fixture
def restored(tmp_path: Path, small: Link) -> Restored:
    """Give a link of which a copy was made after the first batch, and that went on then."""
    add(small.one, 1)
    tell(small.one)
    cross(small)
    found = Restored(tmp_path, small)
    found.save()
    return found


def test_a_restored_side_learns_from_a_receipt_that_it_was_and_stops(restored: Restored) -> None:
    link = restored.link
    add(link.one, 2, 3)
    link.there.carry()
    take_in(link.other)
    restored.restore()
    link.back.carry()
    take_in(link.one)
    because = halted(link.one)
    assert because is not None
    assert because.startswith("two has batch 3 of epoch ")
    assert "of channel forth, signed by this side on" in because
    assert because.endswith("nothing is exported until `exchange epoch new --reason TEXT` begins a new epoch")
    assert states(link.one) == {1: BatchState.ACKNOWLEDGED}
    wrote = controls(link.one)
    tell(link.one)
    assert controls(link.one) == wrote  # a halted side says nothing: its places may be taken


def test_a_restored_side_that_has_gone_on_learns_it_from_a_manifest_that_differs(restored: Restored) -> None:
    link = restored.link
    add(link.one, 2)
    link.there.carry()
    take_in(link.other)
    restored.restore()
    add(link.one, 7, 8, 9)
    link.back.carry()
    take_in(link.one)
    assert "at its place another one was sealed here" in str(halted(link.one))


def test_a_restored_side_learns_it_from_what_waits_far_ahead(restored: Restored) -> None:
    link = restored.link
    add(link.one, 2, 3)
    for file in link.one.site.spool.folders.outgoing.glob("forth-*-0000000002.*"):
        file.unlink()
    link.there.carry()
    take_in(link.other)
    restored.restore()
    tell(link.other)
    link.back.carry()
    take_in(link.one)
    assert "two has batch 3 of epoch" in str(halted(link.one))


def test_a_restored_side_learns_from_the_other_sides_heartbeat_that_it_was(restored: Restored) -> None:
    link = restored.link
    for _ in range(3):
        tell(link.one)
    link.there.carry()
    take_in(link.other)
    tell(link.other)
    restored.restore()
    link.back.carry()
    take_in(link.one)
    assert "of channel control, signed by this side" in str(halted(link.one))


def test_a_restored_side_that_only_receives_needs_nobody_to_be_heard_again(small: Link, tmp_path: Path) -> None:
    only = tuple(channel for channel in shop.channels if channel.source == "two")
    small.one.site = replace(small.one.site, channels=only)
    found = Restored(tmp_path, small)
    tell(small.one)
    found.save()
    for _ in range(3):
        tell(small.one)
    small.there.carry()
    take_in(small.other)
    tell(small.other)
    found.restore()
    small.back.carry()
    take_in(small.one)
    assert halted(small.one) is None
    tell(small.one)
    small.there.carry()
    assert [one.verdict for one in take_in(small.other).batches] == [Verdict.APPLIED]
    [row] = small.other.all(sa.select(peer.c.sequence))
    assert row.sequence == 4 + control_batch.SKIPPED_PLACES + 1


def test_an_epoch_that_was_begun_after_the_copy_was_made_is_a_sign_too_and_one_that_was_left_is_none(
    restored: Restored,
) -> None:
    link = restored.link
    link.one.execute(sa.update(network).values(epoch="b" * 12, created_at=now()))
    add(link.one, 2)
    cross(link)
    assert halted(link.one) is None
    tell(link.other)
    restored.restore()
    link.back.carry()
    take_in(link.one)
    assert "begun before that" in str(halted(link.one))
    # A new epoch is what helps: what is said of the one before it counts no more.
    link.one.execute(sa.update(network).values(epoch="c" * 12, created_at=now(), halted_because=None))
    tell(link.other)
    link.back.carry()
    take_in(link.one)
    assert halted(link.one) is None


def test_the_other_side_is_told_by_an_alarm_that_the_first_one_was_restored(restored: Restored) -> None:
    link = restored.link
    add(link.one, 2)
    link.there.carry()
    take_in(link.other)
    restored.restore()
    for _ in range(3):
        tell(link.one)
    link.there.carry()
    take_in(link.other)
    with reading(link.other.engine) as connection:
        [sentence] = peer_state.read_peer_state(link.other.site, connection).alarms(now())
    assert str(sentence).startswith("one says that it has sealed 1 batches of channel forth, but 2 were applied here")


def test_a_signature_of_ours_under_another_channels_name_proves_nothing(small: Link) -> None:
    add(small.one, 1)
    cross(small)
    proof = told(small.one)["proof"]
    mouth = Mouth(trusted_forger(small.one))
    mouth.forger.epoch, mouth.forger.left = "f" * 12, (epoch_of(small.other),)
    stolen = {**told(small.one), "channel": "forth", "through": 99, "proof": proof}
    outcome = mouth.say(upsert("_receipt", 1, **stolen))
    assert outcome.records.parked == 1
    assert halted(small.one) is None
    faked = {"manifest": proof["manifest"].replace('"sequence":1,', '"sequence":99,'), "signature": proof["signature"]}
    mouth.say(upsert("_receipt", 1, **{**stolen, "proof": faked}))
    assert halted(small.one) is None
    assert [one.error for one in letters(small.one)] == ["absurd", "absurd"]


def test_once_the_new_epoch_is_adopted_nothing_of_the_old_one_is_waited_for(small: Link) -> None:
    add(small.one, 1, 2)
    [(before,)] = small.one.all(sa.select(network.c.epoch))
    small.one.execute(sa.insert(epoch).values(epoch=before, at=now(), who="somebody", reason="the first one"))
    small.one.execute(sa.update(network).values(epoch="c" * 12, created_at=now()))
    add(small.one, 3)
    for file in small.one.site.spool.folders.outgoing.glob("forth-*-0000000002.*"):
        file.unlink()
    cross(small)
    rows = small.one.all(
        sa.select(batch.c.epoch, batch.c.sequence, batch.c.state)
        .where(batch.c.direction == Direction.OUT, batch.c.channel == "forth")
        .order_by(batch.c.id)
    )
    assert [(row.sequence, row.state) for row in rows] == [
        (1, BatchState.DISCARDED),
        (2, BatchState.DISCARDED),
        (1, BatchState.ACKNOWLEDGED),
    ]


def test_ranges_beyond_those_that_earlier_readers_take_are_members_of_their_own() -> None:
    many = tuple((number, number) for number in range(1, 4 * control.MAX_RANGES, 2))
    receipt = Receipt("forth", EPOCH, 0, missing=many).as_data()
    heartbeat = Heartbeat(EPOCH, 300, now(), (Sent("forth", EPOCH, many[-1][1], many),)).as_data()
    for said, member in ((receipt, "missing"), (heartbeat["sent"][0], "lost")):
        assert (len(said[member]), len(said[f"{member}_more"])) == (control.MAX_RANGES, control.MAX_RANGES)
    assert Receipt.parse(receipt).missing == Heartbeat.parse(heartbeat).sent[0].lost == many
    few = Receipt("forth", EPOCH, 0, missing=many[: control.MAX_RANGES]).as_data()
    assert "missing_more" not in few
    with pytest.raises(RecordError):
        Receipt.parse({**few, "missing_more": [[2, 1]]})
