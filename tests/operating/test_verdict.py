"""Whether a person is needed: what comes first of all that was found, and what the sentence says."""

from __future__ import annotations

from datetime import timedelta

from exchange.database import clock
from exchange.operating.doctor.finding import Alarm, Finding, Level, Whose, fault, ok, warning
from exchange.operating.doctor.verdict import judge

MODE = fault("keys", "secret.pem is 0644", command="chmod 600 secret.pem", alarm=Alarm.KEY, subject="secret")


def test_what_keeps_rows_from_crossing_comes_before_what_does_not_and_a_files_mode_last() -> None:
    since = clock.now() - timedelta(hours=2)
    letters = fault("letters", "9 dead letters are parked", alarm=Alarm.DEAD_LETTERS)
    worker = fault("work", "no worker works any more", "start the worker", alarm=Alarm.WORKER, since=since)
    silent = warning("link", "request is silent", alarm=Alarm.LINK_SILENT, subject="request")
    found: list[Finding] = [ok("clock", "it goes"), MODE, letters, silent, worker]
    verdict = judge(found)
    assert (verdict.level, verdict.first, verdict.more) == (Level.FAULT, worker, 2)
    assert verdict.words == (
        "A person is needed, since 2 h: no worker works any more (whose fault: ours); start the worker; 2 more"
    )
    found.remove(worker)
    assert judge(found).first == letters
    found.remove(letters)
    assert judge(found).first == MODE


def test_nobody_is_needed_for_what_mends_itself_and_what_shows_that_all_is_well_is_said() -> None:
    gap = warning("batches", "2 batches are missing", "they are asked for", alarm=Alarm.GAP, subject="rows")
    paused = warning("paused", "channel rows is paused")
    verdict = judge([gap, paused])
    assert (verdict.level, verdict.first, verdict.whose) == (Level.WARNING, paused, Whose.NOBODY)
    assert judge([gap]).words == (
        "Nobody is needed; worth knowing: 2 batches are missing (whose fault: the carrier's); they are asked for"
    )
    alive = ok("link", "request was heard of 3 s ago", since=clock.now(), subject="request")
    assert judge([ok("clock", "it goes"), alive]).words == "Nobody is needed: request was heard of 3 s ago"
    assert judge([]).words == "Nobody is needed: all is well"
