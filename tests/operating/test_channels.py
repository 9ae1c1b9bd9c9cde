"""A channel that a person pauses stands still from its next batch on, whoever works, and loses nothing by it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import clock, pauses
from exchange.database.locks import reading
from exchange.database.pauses import Paused
from exchange.database.tables import BatchState, Direction, batch, gap, resync
from exchange.format.control import Heartbeat, PausedChannel
from exchange.format.errors import RecordError, Verdict
from exchange.incoming import importer
from exchange.link import peer_state, peer_statements, reconcile, send_requests
from exchange.operating.channels import ChannelState, list_channels, pause_channel, resume_channel
from exchange.operating.prune import prune_expired
from exchange.outgoing import control_batch, exporter, resend
from tests.crossing import shop
from tests.crossing.sides import Link, Side

# What these show the databases have no say in, but where they are given both.
pytestmark = pytest.mark.same_on("postgresql")


def write(side: Side, first: int, number: int) -> None:
    side.execute(sa.insert(shop.account), [{"id": one, "name": str(one)} for one in range(first, first + number)])


def accounts(side: Side) -> int:
    return len(side.rows(shop.account))


def sent(side: Side, *states: BatchState) -> list[int]:
    here = (batch.c.channel == "forth", batch.c.direction == Direction.OUT, batch.c.state.in_(states or BatchState))
    return [row.sequence for row in side.all(sa.select(batch.c.sequence).where(*here).order_by(batch.c.sequence))]


def test_nothing_of_a_paused_channel_goes_out_until_it_goes_on_and_the_other_side_knows(small: Link) -> None:
    pause_channel(small.one.site, "forth", "stock-taking")
    write(small.one, 1, 3)
    run = small.one.export()

    assert (run.batches, run.trouble) == ((), None)
    assert [str(one).partition(" since")[0] for one in run.paused] == ["channel forth is paused"]
    small.there.carry()
    small.other.take_in()
    (there,) = [one for one in list_channels(small.other.site) if one.channel == "forth"]
    assert there.state is ChannelState.PAUSED_THERE
    assert accounts(small.other) == 0
    (here,) = [one for one in list_channels(small.one.site) if one.channel == "forth"]
    assert (here.state, here.pending) == (ChannelState.PAUSED, 3)

    resume_channel(small.one.site, "forth")
    small.round()
    assert accounts(small.other) == 3
    assert {one.state for one in list_channels(small.other.site)} == {ChannelState.RUNS}


def test_an_export_that_runs_stops_at_its_next_batch(alike: Link) -> None:
    alike.one.limit(batch_records=2)
    write(alike.one, 1, 10)
    looked: list[int] = []

    def look() -> bool:
        looked.append(len(sent(alike.one)))
        if looked[-1] == 2 and not pauses_of(alike.one):
            pause_channel(alike.one.site, "forth", "enough")
        return False

    run = exporter.export(alike.one.site, stopping=look)
    assert sent(alike.one) == [1, 2] == sent(alike.one, BatchState.PUBLISHED)
    assert ([one.channel for one in run.paused], run.trouble) == (["forth"], None)
    resume_channel(alike.one.site, "forth")
    alike.round()
    assert accounts(alike.other) == 10


def pauses_of(side: Side) -> Any:
    with reading(side.engine) as connection:
        return pauses.paused(connection, side.site.off)


def test_an_import_that_runs_stops_at_its_next_batch_and_its_files_stay_where_they_are(alike: Link) -> None:
    alike.one.limit(batch_records=2)
    write(alike.one, 1, 6)
    alike.one.export()
    alike.there.carry()
    lying = {one.name for one in alike.other.site.spool.folders.incoming.iterdir()}

    def look() -> bool:
        if accounts(alike.other) == 2 and not pauses_of(alike.other):
            pause_channel(alike.other.site, "forth", "enough")
        return False

    run = importer.import_batches(alike.other.site, stopping=look)
    assert [one.verdict for one in run.batches if one.channel == "forth"] == [Verdict.APPLIED, Verdict.BUSY]
    again = alike.other.take_in()
    assert [one.channel for one in again.paused] == ["forth"]
    assert not [one for one in again.batches if one.channel == "forth"]
    left = {one.name for one in alike.other.site.spool.folders.incoming.iterdir()}
    assert {one for one in lying if "-0000000002" in one or "-0000000003" in one} <= left

    resume_channel(alike.other.site, "forth")
    alike.other.take_in()
    assert accounts(alike.other) == 6


def test_what_lies_here_of_a_paused_channel_is_not_asked_for_and_what_was_missing_before_is_not_taken_for_applied(
    small: Link,
) -> None:
    small.other.limit(gap_seconds=0)
    pause_channel(small.other.site, "forth", "a migration")
    for number in range(2):
        write(small.one, 10 * number, 2)
        small.one.export()
    for side in (small.one, small.other):
        control_batch.publish_control_batch(side.site)
        small.round()

    assert small.other.all(sa.select(gap)) == []
    assert sent(small.one, BatchState.PUBLISHED) == [1, 2]
    assert not resend.resend_due(small.one.site, importer.never)
    resume_channel(small.other.site, "forth")
    small.round()
    control_batch.publish_control_batch(small.other.site)
    small.round()
    assert sent(small.one, BatchState.ACKNOWLEDGED) == [1, 2]


@pytest.mark.thorough
def test_snapshots_and_comparisons_of_a_paused_channel_wait_for_it(small: Link) -> None:
    write(small.one, 1, 3)
    small.round()
    pause_channel(small.one.site, "forth", "a migration")
    send_requests.add_snapshot_requests(small.one.site, "forth", None, prune=True, reason="a doubt")
    reconcile.request_checkpoints(small.one.site, "forth")
    small.round()
    open_requests = sa.select(resync.c.state).where(resync.c.state == "asked")
    assert len(small.one.all(open_requests)) == 2
    resume_channel(small.one.site, "forth")
    small.round()
    small.round()
    assert small.one.all(open_requests) == []
    (agreed,) = [one for one in reconcile.report_agreement(small.other.site, "forth") if one.stream == "account"]
    assert agreed.state == reconcile.EQUAL


def test_of_a_paused_channel_nothing_is_sent_again_nor_pruned(small: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    write(small.one, 1, 1)
    small.one.site = replace(small.one.site, one_way=True)
    small.one.export()
    pause_channel(small.one.site, "forth", "a migration")
    small.one.limit(retention_days=1, copies=3, copy_seconds=1)
    small.one.execute(sa.update(batch).values(updated_at=clock.now() - timedelta(days=9)))
    monkeypatch.setenv(clock.AHEAD, str(2 * 3600))
    assert not resend.resend_due(small.one.site, importer.never)
    prune_expired(small.one.site)
    assert small.one.all(sa.select(batch.c.pruned_at).where(batch.c.channel == "forth")) == [(None,)]
    with pytest.raises(Paused, match=r"paused since .* by .*: a migration; `exchange channels resume forth"):
        resend.resend_by_hand(small.one.site, "forth", [1])


def test_a_channel_that_a_setting_names_stands_still_and_no_command_lets_it_go_on(small: Link) -> None:
    small.one.site = replace(small.one.site, off=frozenset({(Direction.OUT, "forth")}))
    write(small.one, 1, 1)
    (found,) = small.one.export().paused
    assert str(found).startswith("channel forth is off by EXCHANGE_CHANNELS_OFF; take it out of")
    with pytest.raises(RecordError, match="is off by EXCHANGE_CHANNELS_OFF"):
        resume_channel(small.one.site, "forth")


def test_a_heartbeat_says_what_is_paused_and_an_earlier_reader_passes_over_it(small: Link) -> None:
    pause_channel(small.one.site, "back", "a migration")
    small.there.carry()
    small.other.take_in()
    with reading(small.other.engine) as connection:
        there = peer_state.read_peer_state(small.other.site, connection)
    assert there.takes_nothing_in("back")
    assert not there.sends_nothing("back")
    beat = Heartbeat("0" * 12, 300, clock.now(), paused=(PausedChannel("back", "in", clock.now()),))
    assert Heartbeat.parse(beat.as_data()) == beat
    assert "paused" not in replace(beat, paused=()).as_data()
    assert peer_statements.heartbeat(None) is None


def test_a_person_is_told_who_paused_it_before_and_what_there_is_no_channel_of(small: Link) -> None:
    first = pause_channel(small.one.site, "forth", "one reason")
    again = pause_channel(small.one.site, "forth", "another")
    assert (first.changed, again.changed) == (True, False)
    assert "one reason" in again.message
    for name, way in (("nowhere", None), ("forth", Direction.IN)):
        with pytest.raises(RecordError):
            pause_channel(small.one.site, name, "why", way)
