"""Numbers, dates, lists and names out of signed files are bounded before they size, loop or compute anything."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel
from exchange.channels.channel import MAX_SHARDS
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.database.tables import agreement, batch, dead_letter, gap, peer, position, receipt
from exchange.dead_letters.store import MOST_KEY_BYTES
from exchange.format.errors import Reason, Verdict
from exchange.format.names import MAX_SEQUENCE
from exchange.format.strict_json import MAX_INTEGER
from exchange.incoming import control_batch
from exchange.link import asked_requests, gaps, peer_state, receipts, reconcile
from exchange.outgoing import resend
from exchange.outgoing.control_batch import publish_control_batch
from tests.crossing.conftest import trusted_forger
from tests.crossing.forging import EPOCH, account, delete, upsert
from tests.crossing.rubbish import limited
from tests.crossing.shop import channels, note
from tests.crossing.sides import Side
from tests.crossing.talking import CONTROL, Mouth, letters, take_in

PART = {
    "name": "s-1",
    "version": 9,
    "part": 1,
    "last": True,
    "streams": ["account"],
    "buckets": None,
    "of": 1024,
    "prune": ["account"],
    "answers": None,
}
HEARTBEAT = {
    "epoch": EPOCH,
    "period_seconds": 300,
    "next_expected_by": "2026-11-22T06:20:00Z",
    "sent": [],
    "heard": None,
}


def heartbeat(**other: Any) -> dict[str, Any]:
    return upsert("_heartbeat", 1, **{**HEARTBEAT, **other})


def in_any_order(side: Side) -> None:
    """Let batches of the incoming channel be applied as they come."""
    forth, back = channels
    unordered = Channel(forth.name, forth.source, forth.target, forth.streams, ordered=False)
    side.site = replace(side.site, channels=(unordered, back))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("part", [MAX_SEQUENCE, 10**9])
def test_a_snapshots_last_part_is_no_number_to_count_up_to(quick_receiver: Side, ordered: bool, part: int) -> None:
    if not ordered:
        in_any_order(quick_receiver)
    forger = trusted_forger(quick_receiver)
    forger.send([], claims={"kind": "snapshot", "schemas": {"account": 1}, "snapshot": {**PART, "part": part}})
    forger.send([account(1, 1)])
    with limited():
        run = quick_receiver.take_in()
    assert run.trouble is None
    assert [one.verdict for one in run.batches] == [Verdict.APPLIED, Verdict.APPLIED]


def test_a_part_beyond_every_sequence_is_malformed(quick_receiver: Side) -> None:
    forger = trusted_forger(quick_receiver)
    wrong = {**PART, "part": MAX_INTEGER}
    forger.send([], claims={"kind": "snapshot", "schemas": {"account": 1}, "snapshot": wrong})
    [outcome] = quick_receiver.take_in().batches
    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, Reason.MALFORMED)
    assert str(MAX_SEQUENCE) in outcome.message


def test_an_applied_part_that_an_older_version_let_through_stops_no_snapshot(quick_receiver: Side) -> None:
    forger = trusted_forger(quick_receiver)
    claims = {"kind": "snapshot", "schemas": {"account": 1}}
    forger.send([], claims={**claims, "snapshot": {**PART, "last": False}})
    quick_receiver.take_in()
    [row] = quick_receiver.all(sa.select(batch.c.manifest))
    quick_receiver.execute(sa.update(batch).values(manifest=row.manifest.replace('"part": 1,', f'"part": {10**18},')))
    forger.send([], claims={**claims, "snapshot": {**PART, "part": 2}})
    [outcome] = quick_receiver.take_in().batches
    assert outcome.verdict is Verdict.APPLIED


@pytest.mark.parametrize(
    "wrong",
    [{"period_seconds": 300, "sent": [{"channel": "forth", "epoch": EPOCH, "through": 2.0, "lost": []}]}],
)
def test_a_number_with_a_fraction_is_no_integer(quick_receiver: Side, wrong: dict[str, Any]) -> None:
    mouth = Mouth(trusted_forger(quick_receiver))
    assert mouth.say(heartbeat(**wrong)).records.parked == 1
    [letter] = letters(quick_receiver)
    assert (letter.error, letter.pointer) == ("schema", "/data/sent/0/through")
    assert "expected an integer" in letter.message


def test_a_channel_is_spoken_of_once_in_a_heartbeat(quick_receiver: Side) -> None:
    mouth = Mouth(trusted_forger(quick_receiver))
    many = [
        {"channel": "forth", "epoch": f"{number:012x}", "through": MAX_SEQUENCE, "lost": [[1, MAX_SEQUENCE]]}
        for number in range(500)
    ]
    assert mouth.say(heartbeat(sent=many)).records.parked == 1
    assert quick_receiver.all(sa.select(gap)) == []


def test_of_shards_that_no_side_can_have_nothing_is_missed(quick_receiver: Side) -> None:
    quick_receiver.limit(look_ahead=5)
    mouth = Mouth(trusted_forger(quick_receiver))
    many = [
        {"channel": f"forth_{number}", "epoch": EPOCH, "through": MAX_SEQUENCE, "lost": []} for number in range(500)
    ]
    assert mouth.say(heartbeat(sent=many)).records.applied == 1
    missed = {row.channel for row in quick_receiver.all(sa.select(gap.c.channel))}
    assert missed == {f"forth_{number}" for number in range(MAX_SHARDS)}
    assert quick_receiver.site.channel("forth_0", MAX_SHARDS + 1) is None
    assert quick_receiver.site.channel("forth_00") is None


@pytest.mark.parametrize("due", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
@pytest.mark.parametrize("written", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_no_date_is_too_far_to_be_shown(quick_receiver: Side, due: str, written: str) -> None:
    mouth = Mouth(trusted_forger(quick_receiver))
    assert mouth.say(heartbeat(next_expected_by=due), created_at=written).records.applied == 1
    with reading(quick_receiver.engine) as connection:
        life = peer_state.read_peer_state(quick_receiver.site, connection).life
    assert life is not None
    assert life.heard_at <= life.expected_by <= life.heard_at + peer_state.FURTHEST


def test_what_a_checkpoint_claims_to_hold_is_not_counted_before_it_is_read(quick_receiver: Side) -> None:
    in_any_order(quick_receiver)
    forger = trusted_forger(quick_receiver)
    forger.sequence = 2  # two are missing before it, so it is of no use
    many = {"_digest": {"upsert": MAX_INTEGER, "delete": 0}}
    forger.send([], claims={"kind": "checkpoint", "schemas": {"_digest": 1}, "records": many})
    [outcome] = quick_receiver.take_in().batches
    assert (outcome.verdict, outcome.reason) == (Verdict.QUARANTINED, Reason.LIMITS)
    assert quick_receiver.all(sa.select(position)) == []


def test_bad_records_of_many_bytes_wait_for_nothing_in_memory(quick_receiver: Side) -> None:
    long = b'{"stream":"_heartbeat","op":"upsert","version":1,"data":{"a":"' + b"x" * 1_000_000 + b'"}}'
    mouth = Mouth(trusted_forger(quick_receiver))
    with limited(192 * 1024**2):
        outcome = mouth.say(*[long] * 90, records={"_heartbeat": {"upsert": 90}}, schemas={"_heartbeat": 1})
    assert outcome.records.parked == 90


def test_a_key_that_is_none_or_too_long_for_an_index_is_parked_and_harms_no_later_batch(receiver: Side) -> None:
    forger = trusted_forger(receiver)
    long = secrets.token_hex(5 * MOST_KEY_BYTES)
    forger.send([delete("account", 1, id=long), delete("account", 2, id=[1, {"a": 2}]), account(3, 3)])
    [first] = take_in(receiver).batches
    assert (first.verdict, first.records.applied, first.records.parked) == (Verdict.APPLIED, 1, 2)
    keys = {row.key for row in receiver.all(sa.select(dead_letter.c.key))}
    assert keys == {None, '{"id":[1,{"a":2}]}'}
    forger.send([account(number, 10 + number) for number in range(10_500)])  # so many that letters' keys are read
    [second] = take_in(receiver).batches
    assert (second.verdict, second.records.parked) == (Verdict.APPLIED, 0)


def test_a_row_of_a_wanted_snapshot_whose_key_cannot_be_kept_is_parked_as_any_other(quick_receiver: Side) -> None:
    with quick_receiver.engine.begin() as connection:
        asked = asked_requests.ask_peer(
            quick_receiver.site, connection, channel="forth", want="snapshot", reason="a test", who="me"
        )
    forger = trusted_forger(quick_receiver)
    part = {**PART, "prune": [], "answers": asked, "streams": ["everything", "account"]}
    bad = account(2**31, 9)
    claims = {"kind": "snapshot", "schemas": {"account": 1}, "snapshot": part}
    forger.send([bad, account(1, 9)], claims=claims)
    [outcome] = quick_receiver.take_in().batches
    assert (outcome.verdict, outcome.records.applied, outcome.records.parked) == (Verdict.APPLIED, 1, 1)


def test_a_restored_side_leaps_no_further_than_is_proven(quick_receiver: Side) -> None:
    side = quick_receiver
    forth, _ = channels
    side.site = replace(side.site, channels=(forth,))  # it sends words alone
    shown = publish_control_batch(side.site)
    assert shown is not None
    [proof] = side.all(sa.select(batch.c.manifest).where(batch.c.direction == "out"))
    signature = side.key.sign(proof.manifest.encode()).encode().decode()
    side.execute(sa.delete(batch))
    side.execute(sa.delete(position))
    heard = {
        "epoch": shown.epoch,
        "sequence": MAX_SEQUENCE,
        "proof": {"manifest": proof.manifest, "signature": signature},
    }
    side.execute(
        sa.insert(position).values(
            direction="out", channel=CONTROL, epoch=shown.epoch, sequence=0, digest=None, current=1, adopted_at=now()
        )
    )
    Mouth(trusted_forger(side)).say(heartbeat(heard=heard))
    [at] = side.all(sa.select(position.c.sequence).where(position.c.direction == "out"))
    assert at.sequence == shown.sequence + control_batch.SKIPPED_PLACES


KEPT = ("", "null", "[]", "{", '{"sent": 1}', '{"sent": [{"channel": "forth"}]}', "9" * 5_000, "[" * 5_000, '"\\ud800"')
"""What a row may hold that an older version wrote, or a hand."""


@pytest.mark.parametrize("said", KEPT)
def test_rows_that_cannot_be_read_break_no_command_and_no_import(quick_receiver: Side, said: str) -> None:
    side = quick_receiver
    side.execute(sa.insert(note).values(id=1, text="hello"))
    assert side.export().trouble is None
    epoch = side.all(sa.select(position.c.epoch).where(position.c.direction == "out"))[0].epoch
    moment = now()
    row = {"epoch": epoch, "sequence": 1, "sent_at": moment, "heard_at": moment, "said": said}
    side.execute(sa.insert(peer).values(id=1, **row))
    side.execute(sa.insert(receipt).values(channel="back", epoch=epoch, through=1, said=said, heard_at=moment))
    compared = {"channel": "forth", "epoch": epoch, "sequence": 1, "compared_at": moment, "sent": 1, "received": 1}
    for stream, texts in (("account", {"buckets": said, "found": "{}"}), ("place", {"buckets": "2.0", "found": said})):
        side.execute(sa.insert(agreement).values(direction="in", stream=stream, **compared, **texts))
    forger = trusted_forger(side)
    forger.send([account(1, 1)])
    run = take_in(side)
    assert run.trouble is None
    assert [one.verdict for one in run.batches] == [Verdict.APPLIED]
    assert {one.stream: one.buckets for one in reconcile.report_agreement(side.site, "forth")}["place"] == 2
    with reading(side.engine) as connection:
        look = peer_state.read_peer_state(side.site, connection)
        assert look.life is not None
        assert look.life.period_seconds == side.site.limits.period_seconds
        assert look.channels == {}
        assert resend.lost_places(connection, "back", epoch) == ()
        assert receipts.build_receipts(side.site, connection, moment)
    assert resend.resend_due(side.site, lambda: False) == ()
    gaps.record_gaps(side.site)


def test_of_what_was_said_only_what_is_known_is_kept(quick_receiver: Side) -> None:
    mouth = Mouth(trusted_forger(quick_receiver))
    assert mouth.say(heartbeat(more={"x": "y" * 1_000})).records.applied == 1
    [row] = quick_receiver.all(sa.select(peer.c.said))
    assert json.loads(row.said).keys() == HEARTBEAT.keys()
