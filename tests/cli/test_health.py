"""``exchange health``: one line for a monitor, and the exit codes of Nagios."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Pair

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
