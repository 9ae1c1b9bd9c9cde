"""Channels on the command line and by task: listed, paused and let go on, in somebody's name."""

from __future__ import annotations

import pytest

from exchange.celery import tasks
from exchange.settings import variables
from tests.cli.conftest import Pair


def test_a_channel_is_paused_by_one_person_seen_by_another_and_let_go_on_by_the_third(seeded: Pair) -> None:
    side = seeded.response
    said = side.do("channels", "pause", "directory", "--reason", "a migration", "--as", "ada").out
    assert said.startswith("channel directory is paused since ")
    assert said.endswith("by ada: a migration\n")
    rows = {one["channel"]: one for one in side.do("channels", "--json").lines}
    assert (rows["directory"]["state"], rows["directory"]["paused"]["who"]) == ("paused", "ada")
    assert rows["requests"]["state"] == "runs"
    assert "channel directory is paused since" in side.do("status").err
    by_name = {one["channel"]: one for one in side.do("status", "--json").line["channels"]}
    assert by_name["directory"]["paused"]["reason"] == "a migration"
    (found,) = [one for one in side.run("doctor", "--json").lines if one["check"] == "paused"]
    assert (found["level"], found["command"]) == ("warning", "exchange channels resume directory --reason TEXT")
    assert "by ada: a migration" in side.refused("export", "directory", code=1)
    assert "by ada: a migration" in side.do("export").err
    assert side.do("channels", "resume", "directory", "--reason", "done", "--as", "bob").out == (
        "channel directory goes on with the next export\n"
    )
    entries = side.do("audit", "--limit", "9", "--json").lines
    assert {(one["who"], one["action"], one["why"]) for one in entries if "channel" in one["action"]} == {
        ("ada", "pause_channel", "a migration"),
        ("bob", "resume_channel", "done"),
    }


def test_a_wrong_name_is_refused_by_command_by_task_and_in_the_setting(
    seeded: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = seeded.response
    assert "expected a declared one" in side.refused("channels", "pause", "nowhere", "--reason", "x", code=2)
    assert "goes out here, not in" in side.refused(
        "channels", "pause", "directory", "--direction", "in", "--reason", "x", code=2
    )
    for value, expected in (
        ("nowhere", "expected a declared channel (directory, requests, responses), found nowhere"),
        ("directory:in", "expected directory or directory:out, as it goes out here, found directory:in"),
        ("a b", "EXCHANGE_CHANNELS_OFF: expected names of channels with commas between"),
    ):
        assert expected in side.refused("channels", EXCHANGE_CHANNELS_OFF=value, code=2)
    listed = side.do("channels", "--json", EXCHANGE_CHANNELS_OFF="requests").lines
    assert {one["channel"]: one["state"] for one in listed}["requests"] == "off"
    for variable in variables():
        monkeypatch.delenv(variable.name, raising=False)
    for name, value in {"EXCHANGE_BROKER_URL": "redis://localhost:1/0", **side.environment}.items():
        monkeypatch.setenv(name, value)
    assert tasks.pause_channel(reason="x", channel="directory")["state"] == "paused"
    assert tasks.export(channel="directory")["verdict"] == "busy"
    assert tasks.export()["paused"][0]["channel"] == "directory"
    assert tasks.resume_channel(reason="x", channel="directory")["changed"]
