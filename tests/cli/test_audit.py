"""What people do on the command line is written down, before it is done and with what came of it."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import sqlite3
import time
from pathlib import Path

import pytest

from exchange.database import audit_chain, audit_log, make_engine
from tests.cli.conftest import Pair, Side

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

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
    nothing = {"batches": [], "ignored": 0, "unpaired": 0, "trouble": None, "handed": [], "reunited": 0}
    nothing |= {"strangers": {"put_aside": 0, "left": 0, "why": None}, "left_alone": [], "untold": None, "paused": []}
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


def test_nothing_is_done_by_hand_that_can_not_be_written_down(pair: Pair) -> None:
    old = pair.request.home / "tmp/stray.data"
    old.touch()
    writer = sqlite3.connect(pair.request.home / "exchange.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    sentence = pair.request.refused("prune", code=1, EXCHANGE_RETENTION_DAYS="0.0000001")
    assert time.monotonic() - began < 4  # at once, as a person sees it
    writer.close()
    assert " is busy: " in sentence
    assert old.exists()
    assert audited(pair.request) == []


def test_what_is_at_work_or_was_killed_has_no_result(pair: Pair) -> None:
    engine = make_engine(pair.request.database_url)
    with audit_chain.adding(engine, 1) as connection:
        audit_chain.add(connection, {"who": "ada", "origin": "here", "action": "prune"})
    engine.dispose()
    [entry] = audited(pair.request)
    assert entry["result"] is None
    assert "at work, or killed" in pair.request.do("audit").out


def test_long_arguments_and_results_are_cut_and_say_so() -> None:
    kept = json.loads(audit_log._json({"ids": list(range(100_000)), "text": "x" * 100_000}))
    assert kept.keys() == {"ids", "text"}
    assert "100000" in kept["ids"]
    assert len(json.dumps(kept)) < 2000
    assert json.loads(audit_log._json({"ids": list(range(100))}))["ids"] == {"count": 100, "first": list(range(20))}
