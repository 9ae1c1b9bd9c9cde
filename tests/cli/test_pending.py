"""Changes under the name of a stream that is not sent, on the command line and by task."""

from __future__ import annotations

import pytest

from exchange.api import RefusedArgument
from exchange.celery import tasks, work
from tests.cli.conftest import Pair


def test_changes_of_a_stream_that_nobody_sends_are_counted_moved_and_discarded(
    seeded: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = seeded.response
    assert "every change that waits" in side.do("pending").err
    for stream, key in (("users", '{"id"\\:7}'), ("gone", "{}")):
        side.execute(f"INSERT INTO exchange_change (stream, op, key) VALUES ('{stream}', 'D', '{key}')")
    assert side.do("pending", "--json").lines == [
        {"stream": "gone", "changes": 1, "tables": []},
        {"stream": "users", "changes": 1, "tables": []},
    ]
    said = "1 changes wait under the name users, which no channel sends from here"
    assert said in side.do("status").err
    assert [one["stream"] for one in side.do("status", "--json").line["leftovers"]] == ["gone", "users"]
    checks = [one for one in side.run("doctor", "--json").lines if one["check"] == "pending"]
    assert [one["level"] for one in checks] == ["warning", "warning"]
    why = ("--reason", "it was renamed")
    assert "is sent from here" in side.refused("pending", "discard", "user", *why, code=2)
    assert "no change waits under" in side.refused("pending", "discard", "nobody", *why, code=2)
    assert "sends no stream nobody" in side.refused("pending", "move", "users", "nobody", *why, code=2)
    assert "whose key is id" in side.refused("pending", "move", "gone", "user", *why, code=2)
    assert side.do("pending", "move", "users", "user", *why, "--json").line == {
        "stream": "users",
        "changes": 1,
        "to": "user",
    }
    assert side.do("export", "--json").line["records"] == 1
    entry = side.do("audit", "--limit", "2", "--json").lines[-1]
    assert (entry["action"], entry["why"]) in {("move_pending", "it was renamed"), ("export", None)}
    for name, value in {"EXCHANGE_BROKER_URL": "redis://localhost:1/0", **side.environment}.items():
        monkeypatch.setenv(name, value)
    work.forget_settings()
    with pytest.raises(RefusedArgument, match="no change waits under the name users"):
        tasks.move_pending(stream="users", to="user", reason="again")
    assert tasks.discard_pending(stream="gone", reason="nobody reads it")["changes"] == 1
    assert "every change that waits" in side.do("pending").err


def test_an_export_of_a_table_without_its_triggers_fails_with_what_to_do(seeded: Pair) -> None:
    side = seeded.response
    side.execute("DROP TRIGGER exchange_capture_insert_user")
    done = side.run("export")
    assert done.code == 1
    assert "table user is not captured as stream user" in done.err
    assert "op.install_capture('user')" in done.err
    assert "nothing to export" not in done.err
    checks = [one for one in side.run("doctor", "--json").lines if one["check"] == "tables"]
    assert [one["level"] for one in checks] == ["fault"]
