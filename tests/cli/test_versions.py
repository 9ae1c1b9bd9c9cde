"""Floods, and versions far ahead, on the command line and by task, for people and for scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.celery import tasks, work
from exchange.celery.arguments import RefusedCall
from exchange.format.errors import TransientError
from tests.cli.conftest import Pair, Side


@pytest.fixture
def flooded(seeded: Pair) -> Side:
    """Give a side into whose incoming folder somebody put files that nobody signed."""
    side = seeded.request
    for number in range(1, 13):
        name = f"directory-0123456789ab-{number:010d}.manifest.jsonl"
        (side.home / "incoming" / name).write_text('{"format":"exchange-batch/1"}\n')
    return side


def last_audit(side: Side) -> dict[str, object]:
    return side.do("audit", "--limit", "1", "--json").line


def test_a_flood_is_told_of_counted_shown_and_cleared(flooded: Side) -> None:
    done = flooded.do("import")
    assert "12 batches that nobody vouches for were put aside" in done.err
    group = flooded.do("quarantine", "strangers", "--json").line
    assert (group["cause"], group["batches"], len(group["samples"])) == ("untrusted", 12, 10)
    heading, row = flooded.do("quarantine", "strangers").out.splitlines()
    assert heading.startswith("day\tcause\tbatches")
    assert "\tuntrusted\t12\t" in row
    status = flooded.do("status")
    assert "12 batches came that nobody vouches for (untrusted)" in status.err
    assert [one["batches"] for one in flooded.do("status", "--json").line["strangers"]] == [12]
    checks = [one for one in flooded.run("doctor", "--json").lines if one["check"] == "strangers"]
    assert [(one["level"], one["remedy"]) for one in checks] == [
        ("warning", "`exchange quarantine strangers` shows them by day and cause")
    ]
    full = flooded.run("doctor", "--json", EXCHANGE_STRANGER_FILES="12").lines
    assert any("what comes now stays in incoming" in one["message"] for one in full)
    cleared = flooded.do("quarantine", "clear", "--reason", "a script went wild", "--as", "ada", "--json").line
    assert cleared == {"removed": 12}
    entry = last_audit(flooded)
    assert (entry["who"], entry["action"], entry["why"]) == ("ada", "clear_strangers", "a script went wild")
    assert flooded.do("quarantine").err == "nothing is in quarantine\n"


def test_what_there_is_no_room_for_is_said_to_stay(flooded: Side) -> None:
    done = flooded.do("import", EXCHANGE_STRANGER_FILES="5")
    assert "7 batches that nobody vouches for stay in incoming: of such 5 files" in done.err


def test_versions_are_let_in_listed_and_audited(seeded: Pair) -> None:
    side = seeded.request
    assert "no channel's versions" in side.do("versions").err
    done = side.do("versions", "let-in", "directory", str(2**62), "--reason", "its clock was set wrong", "--json").line
    assert (done["channel"], done["version"], done["reason"]) == ("directory", 2**62, "its clock was set wrong")
    assert side.do("versions", "--json").line["version"] == 2**62
    assert f"directory\t{2**62}\t" in side.do("versions").out
    entry = last_audit(side)
    assert (entry["action"], entry["why"]) == ("let_in_versions", "its clock was set wrong")
    assert "may be as far ahead" in side.do("versions", "let-in", "directory", "7", "--reason", "no, right").out
    assert "expected one that is received here" in side.refused(
        "versions", "let-in", "requests", "7", "--reason", "x", code=2
    )


def test_a_frozen_row_is_freed_and_audited(seeded: Pair) -> None:
    seeded.carry()
    side = seeded.request
    side.do("import")
    side.execute(f'UPDATE "user" SET exchange_version = {2**62} WHERE id = 1')
    done = side.do("versions", "free", "user", '{"id":1}', "--reason", "frozen")
    assert f'its row of user {{"id":1}} had version {2**62} and has none now' in done.out
    assert last_audit(side)["action"] == "free_row"
    assert side.do("versions", "free", "user", '{"id":1}', "--reason", "again", "--json").line["version"] is None
    assert "nothing was done" in side.refused("versions", "free", "user", '{"id":77}', "--reason", "x", code=1)


def test_the_tasks_do_the_same(flooded: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    flooded.do("import")
    work.forget_settings()
    for name, value in {"EXCHANGE_BROKER_URL": "redis://localhost:1/0", **flooded.environment}.items():
        monkeypatch.setenv(name, value)
    assert tasks.clear_strangers()["removed"] == 12
    assert tasks.let_in_versions(channel="directory", version=7, reason="so it is")["version"] == 7
    with pytest.raises(RefusedCall, match="version: expected a whole number"):
        tasks.let_in_versions(channel="directory", version=True, reason="x")
    with pytest.raises(TransientError, match="neither a row nor a delete"):
        tasks.free_row(stream="user", key='{"id":7777}')
    with pytest.raises(RefusedCall, match="key: expected a name"):
        tasks.free_row(stream="user", key=7)
    assert not list(Path(flooded.home / "strangers").iterdir())
    work.forget_settings()
