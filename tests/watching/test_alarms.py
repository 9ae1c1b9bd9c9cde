"""What people are told of, by looks one after the other: pure, by moments that the test gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from exchange.operating.doctor.finding import Alarm, Finding, Level
from exchange.watching.alarms import MOST_AN_HOUR, Rules, Silence, Standing, compare
from exchange.watching.messages import WIDTH, of_news

START = datetime(2026, 11, 28, 3, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WORKER = Finding("work", Level.FAULT, "no worker", "start it", "exchange up", alarm=Alarm.WORKER)
KEY = Finding("keys", Level.WARNING, "a key ends", "make one", "exchange keys new", alarm=Alarm.KEY, subject="a-2026")
GAP = Finding("batches", Level.FAULT, "2 are missing", alarm=Alarm.GAP, subject="orders")
AWAY = Finding("database", Level.FAULT, "it does not answer", alarm=Alarm.DATABASE)


@dataclass
class Looks:
    """Looks a minute apart."""

    rules: Rules = field(default_factory=Rules)
    silences: list[Silence] = field(default_factory=list)
    moment: datetime = START
    known: Sequence[Standing] = ()

    def look(self, *findings: Finding, after: timedelta = MINUTE) -> list[str]:
        self.moment += after
        done = compare(self.known, findings, self.silences, self.rules, self.moment, ["ops"])
        self.known = done.known
        return [f"{one.what} {one.standing.name}" for one in done.news]


def test_a_fault_is_told_once_then_by_reminders_then_that_it_is_gone() -> None:
    looks = Looks()
    assert looks.look(WORKER) == ["new worker"]
    assert [looks.look(WORKER) for _ in range(5)] == [[]] * 5
    assert looks.look(WORKER, after=timedelta(hours=4)) == ["still worker"]
    assert looks.look() == ["gone worker"]
    assert looks.look() == []
    assert looks.look(WORKER, after=timedelta(days=2)) == ["new worker"]


def test_a_warning_is_told_once_it_stands_at_a_second_look_and_again_when_it_becomes_a_fault() -> None:
    looks = Looks()
    assert looks.look(KEY) == []
    assert looks.look() == []
    assert looks.look(KEY) == []
    assert looks.look(KEY) == ["new key of a-2026"]
    worse = Finding("keys", Level.FAULT, "it has ended", alarm=Alarm.KEY, subject="a-2026")
    assert looks.look(worse) == ["worse key of a-2026"]
    assert Looks(Rules(level=Level.FAULT)).look(KEY, after=MINUTE) == []


def test_what_comes_and_goes_is_told_a_few_times_an_hour_and_then_with_how_often_it_was_not() -> None:
    looks = Looks()
    told = [line for number in range(40) for line in looks.look(*([WORKER] if number % 2 == 0 else []))]
    assert len(told) == MOST_AN_HOUR
    assert looks.look(after=timedelta(hours=2)) == []  # it is as people were told
    assert looks.known[0].held_back == (40 - MOST_AN_HOUR) // 2
    looks.moment += MINUTE
    (news,) = compare(looks.known, [WORKER], (), looks.rules, looks.moment, ["ops"]).news
    assert "came and went 18 times" in of_news("here", [news], looks.moment).text


def test_a_silence_keeps_an_alarm_untold_and_its_end_catches_up() -> None:
    until = START + timedelta(hours=1)
    looks = Looks(silences=[Silence("worker", "", until, START, "ada", "moving")])
    assert looks.look(WORKER, GAP) == ["new gap of orders"]
    assert looks.look(WORKER, GAP) == []
    assert looks.look(WORKER, GAP, after=timedelta(hours=1)) == ["new worker"]
    of_one = Silence("gap", "invoices", until + timedelta(hours=9), START, "ada", "known")
    assert not any(of_one.covers(one, looks.moment) for one in looks.known)
    ahead = Silence(
        "worker", "", START + timedelta(days=400), START + timedelta(days=399), "ada", "a clock that was ahead"
    )
    assert not ahead.lasts(looks.moment)


def test_while_the_database_is_away_nothing_that_lies_in_it_is_said_to_be_gone() -> None:
    looks = Looks()
    looks.look(GAP)
    assert looks.look(AWAY) == ["new database"]
    assert looks.look() == ["gone database", "gone gap of orders"]


def test_what_is_found_at_one_look_is_one_message_that_fits_72_columns_and_says_what_to_type() -> None:
    many = [
        Finding("b", Level.FAULT, "x " * 60, "see it", "exchange gaps", alarm=Alarm.GAP, subject=f"channel_{n}")
        for n in range(30)
    ]
    message = of_news("here", compare((), [*many, WORKER], (), Rules(), START, ["ops"]).news, START)
    assert message.title == "[here] fault: gap of channel_0 and 30 more"
    assert max(map(len, message.text.splitlines())) <= WIDTH
    assert "  $ exchange gaps" in message.text
    assert "and 11 more:" in message.text
    assert len(message.alarms) == 31


def test_the_page_has_a_row_for_each_alarm() -> None:
    page = (Path(__file__).parents[2] / "deploy/ALARMS.md").read_text()
    assert re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE) == list(Alarm)
