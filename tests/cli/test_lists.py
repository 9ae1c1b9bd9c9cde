"""Every list of every command at a real terminal: two sides on which everything went wrong, under the longest names."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from exchange.cli.layout import pieces
from tests.cli.conftest import Side
from tests.cli.long_names import GAUGES, ORDERS, sides_in_trouble
from tests.cli.terminal import on_terminal

pytestmark = pytest.mark.thorough

LISTS = {
    "receiver": [
        "batches",
        "batches --state applied",
        "quarantine",
        "quarantine list --limit 2",
        "quarantine strangers",
        "gaps",
        "versions",
        "keys list",
        "channels",
        "dead-letters --wide",
        "dead-letters list",
        "dead-letters list --columns id,state,key",
        "dead-letters selections",
        "audit",
        "audit --action retry_dead_letter",
        "epoch",
        "epoch list --received",
        "reconcile --report",
        "batches --columns updated,batch",
    ],
    "sender": ["batches", "pending", "resync", "audit", "epoch list", "keys list", "reconcile --report"],
}
PEOPLES = ["status", "status --since 24h", "doctor", "health", "dead-letters", "dead-letters show 1", "check"]
MOVING = {"age"}
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Side]]:
    with sides_in_trouble(tmp_path_factory.mktemp("sides")) as (sender, receiver):
        yield {"sender": sender, "receiver": receiver}


@pytest.mark.parametrize("name, said", [(name, said) for name, commands in LISTS.items() for said in commands])
def test_no_list_breaks_a_value_or_a_line(sides: dict[str, Side], name: str, said: str) -> None:
    words = said.split()
    piped = [line.split("\t") for line in sides[name].run(*words).out.splitlines()]
    headings, *rows = piped
    assert rows
    for columns in (80, 120):
        shown = ESCAPES.sub("", on_terminal(words, sides[name].environment, columns))
        lines = shown.splitlines()
        assert all(len(line) <= columns or len(pieces(line)) == 1 for line in lines if "--wide" not in words), shown
        in_one = " ".join(shown.split())
        for row in rows:
            for heading, cell in zip(headings, row, strict=False):
                if heading not in MOVING:
                    assert " ".join(cell.split()) in in_one, (heading, cell)
                    assert all(any(piece in line for line in lines) for _, piece in pieces(cell)), (heading, cell)
    assert "\x1b" not in on_terminal(words, sides[name].environment | {"NO_COLOR": "1"})


@pytest.mark.parametrize("said", PEOPLES)
def test_what_else_people_read_breaks_no_line(sides: dict[str, Side], said: str) -> None:
    for side in sides.values():
        shown = ESCAPES.sub("", on_terminal(said.split(), side.environment))
        own = [line for line in shown.splitlines() if '": ' not in line]  # lines of a record are as they are
        assert all(len(line) <= 80 or len(pieces(line)) == 1 or "$ exchange" in line for line in own), shown


def test_a_column_that_is_not_there_is_refused_with_those_that_are(sides: dict[str, Side]) -> None:
    refused = sides["receiver"].refused("gaps", "--columns", "channel,age,colour", code=2)
    assert refused.startswith("--columns: expected some of channel, epoch, first, last,")
    assert refused.endswith("found 'colour'")
    assert "has every field" in sides["receiver"].refused("gaps", "--columns", "channel", "--json", code=2)
    shown = sides["receiver"].do("gaps", "--columns", "since,channel").out.splitlines()
    assert (shown[0], len(shown)) == ("since\tchannel", 3)
    assert {line.split("\t")[1] for line in shown[1:]} == {ORDERS, GAUGES}
