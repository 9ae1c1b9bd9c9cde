"""What stands, on the command line: listed, silenced for a time, tried; and the same by task."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from exchange.api import RefusedArgument
from exchange.celery import tasks, work
from exchange.operating.doctor.finding import Alarm, Finding, Level
from exchange.settings import load_settings
from tests.cli.conftest import Pair, Side
from tests.watching.receivers import receiving
from tests.watching.test_watcher import look

HELD = Finding(
    "batches",
    Level.FAULT,
    "1 batch: held for a person",
    "",
    "exchange batches show x",
    alarm=Alarm.HELD,
    subject="requests",
)


def told(side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    (tmp_path / "secret").write_text("0123456789abcdef\n")
    side.environment |= {"EXCHANGE_NOTIFY": f"ops={url}", "EXCHANGE_NOTIFY_SECRET_FILE": str(tmp_path / "secret")}
    for name, value in {"EXCHANGE_BROKER_URL": "redis://localhost:1/0", **side.environment}.items():
        monkeypatch.setenv(name, value)
    work.hold_settings(load_settings())
    work.forget_settings()


def test_an_alarm_is_listed_with_who_was_told_and_silenced_for_a_time_by_command_and_by_task(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = pair.response
    with receiving(500) as receiver:
        told(side, tmp_path, monkeypatch, receiver.url)
        assert side.do("alarms").out == "no alarms stand\n"
        look(load_settings(), HELD)
        out = side.do("alarms").out
        assert "fault    held of requests: 1 batch: held for a person" in out
        assert "to\n         ops" in out or "to ops" in out
        assert "untold   ops was not reached: it answered 500" in out
        told_of = {
            one["level"]: one["message"] for one in side.run("doctor", "--json").lines if one["check"] == "watch"
        }
        assert told_of["warning"] == "ops has not taken 1 messages: it answered 500"
        assert told_of["ok"] == "ops are told what is not well"
        os.utime(load_settings().watch_file, (1, 1))
        assert "nobody watches this side since" in side.run("doctor").out
        why = ("--reason", "they are told")
        assert "expected one of link_silent" in side.refused("alarms", "silence", "hold", "--for", "2h", *why, code=2)
        assert "such as 90m or 2h, found '2'" in side.refused("alarms", "silence", "held", "--for", "2", *why, code=2)
        made = side.do(
            "alarms", "silence", "held", "--subject", "requests", "--for", "2h", *why, "--as", "ada", "--json"
        )
        assert (made.line["who"], made.line["reason"]) == ("ada", "they are told")
        (row,) = side.do("alarms", "--json").lines
        assert row["silenced_until"] == made.line["until"]
        assert "silenced until" in side.do("alarms").out
        assert "is not silenced" in side.refused("alarms", "unsilence", "held", code=2)
        assert tasks.unsilence_alarm(alarm="held", subject="requests")["message"] == "people are told of held again"
        with pytest.raises(RefusedArgument, match="expected a length of time"):
            tasks.silence_alarm(alarm="held", length="soon", reason="why")
        assert tasks.silence_alarm(alarm="held", length="1d", reason="why")["subject"] == ""
        look(load_settings())
        assert side.do("alarms").out.splitlines()[-1] == "no alarms stand"
        assert [one["action"] for one in side.do("audit", "--json").lines] == ["unsilence_alarm", "silence_alarm"]


def test_a_trial_says_what_everybody_answered(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = pair.response
    assert "found nobody" in side.refused("alarms", "test", code=2)
    with receiving(200, 404, 200) as receiver:
        told(side, tmp_path, monkeypatch, receiver.url)
        assert side.do("alarms", "test").out == "ok       ops: it was taken\n"
        done = side.run("alarms", "test", "--json")
        assert done.code == 1
        assert "it answered 404" in done.line["said"]
        told_all = tasks.test_alarms()
        assert told_all["message"] == "1 of 1 were reached", told_all
        assert [json.loads(one.body)["level"] for one in receiver.requests] == ["ok"] * 3
        assert side.do("alarms", "messages").err == "nobody was told anything yet\n"
