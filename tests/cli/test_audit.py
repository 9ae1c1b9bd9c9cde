"""What people do on the command line is written down, before it is done and with what came of it."""

from __future__ import annotations

import fcntl
import os
import pwd
from pathlib import Path

import pytest

from tests.cli.conftest import Pair, Side

ME = pwd.getpwuid(os.getuid()).pw_name


def audited(side: Side, *words: str) -> list[dict[str, object]]:
    """Give the audit, newest first."""
    return side.do("audit", "--json", *words).lines


def test_what_is_done_by_hand_is_in_the_audit_with_who_when_where_what_why_and_the_result(any_pair: Pair) -> None:
    response = any_pair.response
    response.do("seed")
    response.do("export", "directory", "--as", "ada", "--reason", "they ask for it")
    response.do("import")
    imported, exported = audited(response)
    assert exported == exported | {
        "who": "ada",
        "action": "export",
        "arguments": {"channel": "directory"},
        "why": "they ask for it",
    }
    assert [batch["records"] for batch in exported["result"]["batches"]] == [5]  # type: ignore[index]
    assert str(exported["origin"]).startswith("command line, ")
    assert str(exported["at"]).endswith("+00:00")
    assert (imported["who"], imported["action"], imported["why"]) == (ME, "import", None)
    nothing = {"batches": [], "ignored": 0, "unpaired": 0, "trouble": None, "handed": [], "reunited": []}
    assert imported["result"] == nothing


def test_whoever_is_named_by_as_is_named_in_the_history_of_what_they_did(seeded: Pair, stem: str) -> None:
    seeded.carry()
    seeded.request.do("import", "--as", "ada")
    found = seeded.request.do("batches", "--json").line
    assert found["batch"] == stem
    assert "ada" in seeded.request.do("batches", "show", stem).out


def test_the_audit_is_filtered(pair: Pair) -> None:
    side = pair.request
    side.do("export", "--as", "ada")
    side.do("import", "--as", "bob")
    side.do("prune", "--as", "ada")
    assert [one["action"] for one in audited(side)] == ["prune", "import", "export"]
    assert [one["action"] for one in audited(side, "--who", "ada")] == ["prune", "export"]
    assert [one["who"] for one in audited(side, "--action", "import")] == ["bob"]
    assert [one["action"] for one in audited(side, "--limit", "1")] == ["prune"]
    assert len(audited(side, "--since", "1h")) == 3
    assert audited(side, "--since", "2999-01-01") == []
    assert audited(side, "--until", "2001-01-01T00:00:00+02:00") == []
    assert side.do("audit", "--who", "eve").err == "nothing of this kind was done by hand\n"


@pytest.mark.parametrize("moment", ["yesterday", "8", "8y", "2026-13-01"])
def test_a_moment_that_is_none_is_refused(pair: Pair, moment: str) -> None:
    assert "expected a moment as 2026" in pair.request.refused("audit", "--since", moment, code=2)


@pytest.mark.parametrize("option", ["--as", "--reason"])
@pytest.mark.parametrize("words", ["", " ", "\x1b[2J", "x" * 1001])
def test_a_name_or_a_reason_that_nobody_could_read_is_refused_and_nothing_is_done(
    seeded: Pair, option: str, words: str
) -> None:
    assert option in seeded.response.refused("export", option, words, code=2)
    assert len(audited(seeded.response)) == 1  # the export before


def test_what_fails_is_in_the_audit_with_its_sentence(pair: Pair) -> None:
    (pair.request.home / "incoming/.exchange-folder").unlink()
    sentence = pair.request.refused("import", code=1)
    [entry] = audited(pair.request)
    assert entry["result"] == {"failed": sentence}


def test_a_channel_that_is_being_exported_is_busy_and_the_command_says_by_whom_at_once(seeded: Pair) -> None:
    side = seeded.response
    side.execute("UPDATE profile_type SET daily_limit = daily_limit + 1")
    with Path(f"{side.home}/exchange.db-export-directory.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = side.run("export", "--json")
    assert done.code == 1
    assert done.err.startswith("export directory is busy: ")
    [entry] = audited(side, "--limit", "1")
    assert entry["result"]["busy"][0]["verdict"] == "busy"  # type: ignore[index]


def test_people_see_the_audit_as_a_table_without_control_characters(pair: Pair) -> None:
    pair.request.do("prune", "--as", "ada", "--reason", "disk is full")
    heading, row = pair.request.do("audit").out.splitlines()
    assert heading.split("\t") == ["at", "who", "action", "arguments", "why", "result", "from"]
    assert row.split("\t")[1:6] == ["ada", "prune", "", "disk is full", "nothing to do"]
