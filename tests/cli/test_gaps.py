"""Gaps and resends on the command line: listed, accepted, sent again by name and by code."""

from __future__ import annotations

from typing import Any

import pytest

from exchange.api import RefusedArgument
from exchange.celery import tasks, work
from tests.cli.conftest import Pair, Side


@pytest.fixture
def gapped(seeded: Pair, stem: str) -> Pair:
    """Give two networks between which the first of two batches was lost."""
    for path in (seeded.response.home / "outgoing").glob(f"{stem}.*"):
        path.unlink()
    seeded.response.execute("UPDATE profile_type SET daily_limit = daily_limit + 1")
    seeded.response.do("export")
    seeded.carry()
    seeded.request.do("import")
    return seeded


def test_what_is_missing_is_listed_for_people_and_for_scripts(gapped: Pair) -> None:
    done = gapped.request.do("gaps")
    heading, row = done.out.splitlines()
    assert heading.split("\t") == ["channel", "epoch", "first", "last", "state", "since", "age", "refused", "cause"]
    assert row.split("\t")[2:5] == ["1", "1", "missing"]
    assert "what is missing is asked for by itself, after 300 seconds at most" in done.err
    line = gapped.request.do("gaps", "--json").line
    assert (line["channel"], line["first"], line["last"], line["code"]) == ("directory", 1, 1, None)
    assert gapped.request.do("gaps", "--channel", "responses").err.splitlines() == ["nothing is missing"]
    assert "no batch is lost" in gapped.request.do("gaps", "--state", "lost").err
    assert "expected one of" in gapped.request.refused("gaps", "--channel", "nowhere", code=2)
    assert "expected one of missing" in gapped.request.refused("gaps", "--state", "gone", code=2)


def test_a_code_read_out_brings_the_missing_batch(gapped: Pair, stem: str) -> None:
    gapped.request.environment["EXCHANGE_LINK"] = "one-way"
    line = gapped.request.do("gaps").out.splitlines()[-1]
    assert line.startswith("request code of directory in epoch")
    code = line.rpartition(" ")[2]
    assert gapped.request.do("gaps", "--json").line["code"] == code
    again = gapped.response.do("resend", "--code", code.lower(), "--json").line
    assert (again["batch"], again["attempt"]) == (f"{stem}.r2", 2)
    gapped.carry()
    gapped.request.do("import")
    assert gapped.request.do("gaps").err.splitlines() == ["nothing is missing"]
    entry = gapped.response.do("audit", "--limit", "1", "--json").line
    assert (entry["action"], entry["arguments"]) == ("resend", {"code": code.lower()})


def test_batches_are_sent_again_by_name(gapped: Pair, stem: str) -> None:
    rows = gapped.response.do("resend", "directory", "1", "2", "--reason", "the stick is gone").out.splitlines()
    assert [row.split("\t")[0] for row in rows[1:]] == [f"{stem}.r2", f"{stem[:-1]}2.r2"]
    assert "no batch 7" in gapped.response.refused("resend", "directory", "7", code=1)
    for words in (["resend"], ["resend", "directory"], ["resend", "directory", "1", "--code", "A25Q-S20M"]):
        assert "expected CHANNEL and SEQUENCE, or --code" in gapped.response.refused(*words, code=2)
    assert "is sent here" in gapped.response.refused("resend", "nowhere", "1", code=2)
    assert "is no request code" in gapped.response.refused("resend", "--code", "A25Q-S20N", code=1)


def test_a_batch_that_is_lost_is_said_to_be(gapped: Pair, stem: str) -> None:
    for path in (gapped.response.home / "sealed").glob(f"{stem}.*"):
        path.unlink()
    done = gapped.response.run("resend", "directory", "1")
    assert done.code == 1
    assert done.out.splitlines()[1].endswith("\tlost")
    assert "a snapshot of the channel goes in its place" in done.err


def test_a_gap_is_accepted_with_a_reason_and_its_snapshot_asked_for(gapped: Pair) -> None:
    done = gapped.request.do("gaps", "accept", "directory", "1", "--reason", "the stick fell into the sea")
    assert done.out == (
        "directory goes on without 1; its sender is told so and asked for a snapshot with the next receipt\n"
    )
    entry = gapped.request.do("audit", "--limit", "1", "--json").line
    assert (entry["action"], entry["why"]) == ("accept_gap", "the stick fell into the sea")
    assert entry["arguments"] == {"channel": "directory", "sequence": 1}
    assert gapped.request.do("gaps", "--state", "accepted", "--json").line["cause"] == "the stick fell into the sea"
    assert gapped.request.do("import", "--json").lines[0]["verdict"] == "applied"
    again = ("gaps", "accept", "directory", "1", "--reason", "again")
    assert "does not miss 1; " in gapped.request.refused(*again, code=1)


def test_a_gap_may_be_accepted_without_a_snapshot(gapped: Pair) -> None:
    words = (
        "gaps",
        "accept",
        "directory",
        "1",
        "--through",
        "9",
        "--no-snapshot",
        "--reason",
        "nobody needs it",
        "--json",
    )
    done = gapped.request.do(*words).line
    assert (done["sequences"], done["request"]) == ([1], None)
    assert "expected 5 or more" in gapped.request.refused(
        "gaps", "accept", "directory", "5", "--through", "4", "--reason", "x", code=2
    )


def become(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tasks of this process be those of a side."""
    work.forget_settings()
    for name, value in {"EXCHANGE_BROKER_URL": "redis://localhost:1/0", **side.environment}.items():
        monkeypatch.setenv(name, value)


def test_the_tasks_do_the_same(gapped: Pair, stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: dict[str, Any]
    become(gapped.response, monkeypatch)
    (again,) = tasks.resend(channel="directory", sequences=1)["batches"]
    assert (again["batch"], again["state"]) == (f"{stem}.r2", "published")
    for wrong, said in (
        ({}, "expected channel and sequences, or a code"),
        ({"channel": "directory", "sequences": [0]}, "expected a sequence or a list of sequences"),
        ({"channel": "requests", "sequences": [1]}, "expected one that is sent here"),
        ({"code": 5}, "code: expected a name or null"),
    ):
        with pytest.raises(RefusedArgument, match=said):
            tasks.resend(**wrong)
    become(gapped.request, monkeypatch)
    for wrong, said in (
        ({"sequence": "1"}, "sequence: expected a whole number"),
        ({"sequence": 2, "through": 1}, "expected a sequence, and through one behind it"),
        ({"sequence": 1, "no_snapshot": 1}, "no_snapshot: expected true or false"),
        ({"sequence": 1, "channel": "requests"}, "expected one that is received here"),
    ):
        with pytest.raises(RefusedArgument, match=said):
            tasks.accept_gap(**({"channel": "directory", "reason": "lost"} | wrong))
    done = tasks.accept_gap(channel="directory", sequence=1, reason="lost")
    assert (done["sequences"], bool(done["request"])) == ([1], True)
    work.forget_settings()
