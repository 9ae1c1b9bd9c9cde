"""A sender whose database was made anew, and a receiver that decides what to make of it, on the command line."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from exchange.celery import tasks, work
from exchange.celery.arguments import RefusedCall
from exchange.celery.work.own_side import own_site
from exchange.format.errors import TransientError
from tests.cli.conftest import Pair
from tests.cli.test_gaps import become


@pytest.fixture
def anew(seeded: Pair) -> tuple[Pair, str, str]:
    """Give two networks of which one's database was made anew, the epoch that the other is in, and the one held."""
    response, request = seeded.response, seeded.request
    seeded.carry()
    request.do("import")
    before = response.do("epoch", "list", "--json").line["epoch"]
    for path in response.home.glob("exchange.db*"):
        path.unlink()
    for folder in ("sealed", "outgoing"):
        for path in (response.home / folder).glob("*.jsonl*"):
            path.unlink()
    response.do("migrate")
    response.do("seed")
    response.do("export")
    for path in (response.home / "outgoing").glob("*.jsonl*"):
        shutil.copy(path, request.home / "incoming" / path.name)
    taken = request.run("import", "--json").lines
    assert {(one["verdict"], one["reason"]) for one in taken} == {("held", "unproven_epoch")}
    return seeded, before, response.do("epoch", "list", "--json").line["epoch"]


def present(pair: Pair) -> set[str]:
    """Give the epochs that the receiving side's channels are in."""
    lines = pair.request.do("epoch", "list", "--received", "--json").lines
    return {one["epoch"] for one in lines if one["state"] == "present"}


def test_what_is_held_is_shown_with_the_commands_and_ends_when_the_sender_says_what_it_goes_on_with(
    anew: tuple[Pair, str, str],
) -> None:
    pair, before, held = anew
    said = pair.request.do("status")
    assert f"epoch {held} of response waits for a decision" in said.err
    [alarm] = pair.request.do("status", "--json").line["link"]["alarms"]
    assert f"`exchange epoch adopt {held} --reason TEXT`" in alarm
    [finding] = [one for one in pair.request.run("doctor", "--json").lines if "waits for a decision" in one["message"]]
    assert (finding["check"], finding["level"]) == ("link", "fault")
    assert f"`exchange epoch new --continues {before} --reason TEXT` on response proves it" in finding["remedy"]
    assert present(pair) == {before}
    shown = pair.request.do("epoch", "list", "--received").out
    assert [line.split()[:3] for line in shown.splitlines() if held in line] == [
        ["control", held, "undecided"],
        ["directory", held, "undecided"],
    ]

    begun = pair.response.do("epoch", "new", "--continues", before, "--reason", "the disk burnt", "--json").line
    pair.response.do("export")
    pair.carry()
    pair.request.run("import")
    pair.request.run("import")

    assert present(pair) == {begun["epoch"]}
    assert pair.request.do("status", "--json").line["link"]["alarms"] == []
    row = next(one for one in pair.response.do("audit", "--json").lines if one["action"] == "new_epoch")
    assert (row["arguments"], row["why"]) == ({"continues": before}, "the disk burnt")


def test_a_person_adopts_or_refuses_an_epoch_and_both_are_audited(anew: tuple[Pair, str, str]) -> None:
    pair, _, held = anew
    request = pair.request
    assert request.run("epoch", "adopt", held).code == 2
    done = request.do("epoch", "adopt", held, "--reason", "ada rang them up", "--as", "ada", "--json").line
    assert (done["decision"], done["channels"]) == ("adopted", ["control", "directory"])
    assert present(pair) == {held}
    assert {one["verdict"] for one in request.do("import", "--json").lines} == {"applied"}
    sentence = request.refused("epoch", "refuse", held, "--reason", "no, rather not", code=1)
    assert f"no batch of epoch {held} waits for a decision; nothing was done" in sentence
    rows = request.do("audit", "--json").lines
    assert {(one["action"], one["who"], one["why"]) for one in rows} >= {("adopt_epoch", "ada", "ada rang them up")}


def test_an_epoch_that_is_refused_is_stale(anew: tuple[Pair, str, str]) -> None:
    pair, before, held = anew
    assert "was left" in pair.request.do("epoch", "refuse", held, "--reason", "nobody restored anything").out
    taken = pair.request.run("import", "--json").lines
    assert {one["reason"] for one in taken if one["verdict"] == "quarantined"} == {"stale_epoch"}
    assert present(pair) == {before}


def test_what_no_epoch_is_called_can_not_be_gone_on_with(seeded: Pair) -> None:
    sentence = seeded.response.refused("epoch", "new", "--continues", "yesterday", "--reason", "a slip", code=1)
    assert "expected an epoch, 12 of the digits 0 to 9 and a to f, found 'yesterday'; nothing was done" in sentence


def test_the_tasks_decide_as_the_commands_do(anew: tuple[Pair, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pair, before, held = anew
    become(pair.request, monkeypatch)
    wrong: dict[str, Any] = {"epoch": 7}
    with pytest.raises(RefusedCall, match="epoch: expected a name or null, found 7"):
        tasks.adopt_epoch(**wrong, reason="odd")
    with pytest.raises(TransientError, match=f"no batch of epoch {before} waits for a decision"):
        tasks.refuse_epoch(epoch=before, reason="the wrong one")
    done = tasks.adopt_epoch(epoch=held, reason="read out")
    assert (done["decision"], done["channels"]) == ("adopted", ["control", "directory"])
    assert present(pair) == {held}
    with pytest.raises(TransientError, match="continues: expected an epoch"):
        tasks.new_epoch(reason="a slip", continues="yesterday")
    assert tasks.new_epoch(reason="read out", continues="a" * 12)["before"] != "a" * 12
    own_site().engine.dispose()
    work.forget_settings()
