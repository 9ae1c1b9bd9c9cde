"""``exchange health``: one line for a monitor, and the exit codes of Nagios."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Pair, Side

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")


def test_health_says_how_a_side_is_in_one_line_with_an_exit_code_by_severity(any_pair: Pair) -> None:
    side = any_pair.response
    quiet = side.run("health", "--quiet")
    assert (quiet.code, len(quiet.out.splitlines())) == (1, 1)
    assert quiet.out.startswith("exchange response WARNING - 0 faults, ")
    assert side.run("health", "--quiet", "--only", "database", "--only", "migrations").code == 0
    (side.home / "outgoing" / ".exchange-folder").unlink()
    bad = side.run("health")
    assert (bad.code, bad.out.split(" - ")[0]) == (2, "exchange response CRITICAL")
    assert "fault    outgoing:" in bad.out
    assert side.run("health", "--only", "folder").code == 2
    assert side.run("health", "--only", "beet").code == 2
    unread = side.run("health", EXCHANGE_EXPORT_EVERY="soon")
    assert (unread.code, unread.out.split(" - ")[0]) == (3, "exchange UNKNOWN")
    away = side.run("health", EXCHANGE_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert away.code == 2
    assert "fault    database:" in away.out


def test_what_is_asked_for_and_not_known_is_not_well(side: Side) -> None:
    side.do("init")
    asked = [word for alarm in ("database", "broker", "beat") for word in ("--only", alarm)]
    (side.home / "exchange.db").touch(mode=0o600)  # as a side that starts has it, before its tables are there
    for words in (asked, ["--only", "beat"], ["--only", "dead_letters"]):
        early = side.run("health", "--quiet", *words)
        assert (early.code, "the database is not as this version needs it" in early.out) == (2, True)
    side.do("migrate")
    up = side.run("health", "--quiet", *asked)
    assert (up.code, "the embedded broker does not run" in up.out) == (1, True)
    (side.home / "exchange.db").unlink()
    assert side.run("health", "--quiet", "--only", "beat").code == 2
    assert side.run("health", "--quiet", "--only", "disk").code == 0
