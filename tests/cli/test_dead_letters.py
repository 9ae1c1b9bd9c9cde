"""What an operator sees of dead letters, by the real command line."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exchange.database import make_engine
from exchange.database.tables import Direction
from exchange.dead_letters import store
from exchange.dead_letters.store import Letter
from tests.cli.conftest import Pair, Side

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

ROOT = Path(__file__).parents[2]
BATCH = "directory-0123456789ab-0000000001"
LETTER = Letter(
    Direction.IN,
    "directory",
    b'{"stream":"user","op":"upsert","version":5,"data":{"id":7,"name":"\xe2\x80\xae\\u001b[2J"}}',
    "schema",
    "email: is missing",
    pointer="/data",
    batch=BATCH,
    line=1,
    stream="user",
    op="upsert",
    key='{"id":7}',
    version=5,
    producer="another 1.0",
)


def park(side: Side, *letters: Letter) -> None:
    engine = make_engine(side.database_url)
    with engine.begin() as connection:
        store.park(connection, letters, "refused on import")
    engine.dispose()


def many() -> list[Letter]:
    others = Letter(Direction.OUT, "requests", b"{}", "value", "title: too long", stream="request", key='{"id":"r1"}')
    mine = [replace(LETTER, key=f'{{"id":{number}}}') for number in range(1, 8)]
    return mine + [replace(others, key=f'{{"id":"r{number}"}}') for number in range(1, 4)]


def at_a_terminal(side: Side, *words: str, **environment: str) -> str:
    """Run a command as a person does, and give what it writes."""
    ours, theirs = pty.openpty()
    full = {**os.environ, **side.environment, "TERM": "dumb", "PYTHONPATH": str(ROOT), **environment}
    with subprocess.Popen(
        [sys.executable, "-m", "exchange", *words], env=full, stdout=theirs, stderr=theirs, stdin=theirs
    ):
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # how Linux says that the last writer has closed a terminal
            pass
        os.close(ours)
    return shown.decode()


def test_the_grouped_view_says_what_is_wrong_how_much_since_when_whose_fault_and_what_next(any_pair: Pair) -> None:
    request = any_pair.request
    assert "no dead letter is parked" in request.do("dead-letters").err
    park(request, *many())

    done = request.do("dead-letters")
    assert "10 dead letters parked, of 2 causes, the oldest since 2" in done.err
    heads, first, second = (line.split("\t") for line in done.out.splitlines())
    told = dict(zip(heads, first, strict=True))
    assert (told["count"], told["channel"], told["stream"], told["direction"]) == ("7", "directory", "user", "in")
    assert (told["error"], told["message"], told["fault"]) == ("schema", "email: is missing", "sender")
    assert (told["example"], told["trend"][-1]) == ("7", "█")
    assert "exchange dead-letters show 7" in told["next"]
    assert second[:1] == ["3"]

    [group, other] = request.do("dead-letters", "--json").lines
    assert (group["letters"], group["fingerprint"], group["example"]) == (7, told["fingerprint"], 7)
    assert (sum(group["trend"]), len(group["trend"]), group["trend_period_seconds"]) == (7, 24, 3600)
    assert (other["fault"], other["direction"]) == ("here", "out")

    only = request.do("dead-letters", "--channel", "requests", "--json").line
    assert only["letters"] == 3
    assert request.do("dead-letters", "--state", "discarded", "--json").out == ""
    request.do("dead-letters", "discard", "7", "--reason", "seen")
    assert request.do("dead-letters", "--state", "discarded", "--json").line["letters"] == 1


def test_a_terminal_gets_a_few_lines_for_each_cause(pair: Pair) -> None:
    park(pair.request, *many())
    shown = at_a_terminal(pair.request, "dead-letters", PYTHONIOENCODING="utf-8")
    assert "7 schema, directory/user (in)" in shown
    assert "e.g. 7: email: is missing" in shown
    assert "█|" in shown
    assert "next: " in shown
    assert "@|" in at_a_terminal(pair.request, "dead-letters", PYTHONIOENCODING="ascii")


def test_a_list_is_filtered_paged_and_counted(any_pair: Pair) -> None:
    request = any_pair.request
    park(request, *many())
    cause = request.do("dead-letters", "--stream", "user", "--json").line["fingerprint"]
    for words, count in {
        ("--state", "parked"): 10,
        ("--channel", "directory"): 7,
        ("--stream", "request"): 3,
        ("--direction", "out"): 3,
        ("--error", "schema"): 7,
        ("--batch", BATCH): 7,
        ("--fingerprint", cause): 7,
        ("--key", "7"): 1,
        ("--key", '{"id": 7}', "--stream", "user"): 1,
        ("--key", "r1"): 1,
        ("--text", "TOO"): 3,
        ("--since", "1h"): 10,
        ("--until", "2026-01-01"): 0,
        ("--until", "1m", "--text", "long"): 0,
    }.items():
        done = request.do("dead-letters", "list", *words, "--json")
        assert len(done.lines) == count, words
        assert f"{count} dead letter" in done.err or (count == 0 and "no such dead letters" in done.err)

    request.do("dead-letters", "select", "--stream", "request", "--name", "fix1")
    done = request.do("dead-letters", "list", "--selection", "fix1", "--json")
    assert [line["id"] for line in done.lines] == [10, 9, 8]
    assert "there is no selection fix2" in request.refused("dead-letters", "list", "--selection", "fix2", code=1)

    first = request.do("dead-letters", "list", "--limit", "6")
    assert "6 of 10 dead letters; `--after 5` shows more" in first.err
    rest = request.do("dead-letters", "list", "--limit", "6", "--after", "5", "--json")
    assert [line["id"] for line in rest.lines] == [4, 3, 2, 1]
    assert "the last 4 of 10 dead letters" in rest.err
    oldest = request.do("dead-letters", "list", "--oldest", "--limit", "2", "--json")
    assert [line["id"] for line in oldest.lines] == [1, 2]


def test_a_letter_is_shown_marked_where_it_fails_and_safely(any_pair: Pair) -> None:
    request = any_pair.request
    park(request, LETTER)
    done = request.do("dead-letters", "show", "1")
    assert {"\x1b", "\u202e"}.isdisjoint(done.out + request.do("dead-letters", "show", "1", "--json").out)
    assert '->   "data": {' in done.out
    assert done.out.count('"name": "\\u202e\\u001b[2J"') == 1
    assert done.out.count('"name":"\\u202e\\u001b[2J"') == 1
    assert "sender\tanother 1.0" in done.out
    assert "row now: there is no such row" in done.out
    assert "fault\tsender" in done.out
    told = request.do("dead-letters", "show", "1", "--json").line
    assert (told["producer"], told["line"], told["batch"], told["pointer"]) == ("another 1.0", 1, BATCH, "/data")
    assert told["row"] == {"data": None, "version": None}


def test_a_letter_beside_its_row_shows_the_difference(seeded: Pair, parked: Callable[[], int]) -> None:
    letter = parked()
    seeded.request.execute(
        'INSERT INTO "user" (id, name, email, profile_type_id, active, exchange_version)'
        " VALUES (1, 'me', 'secret@example.org', 99, true, 1)"
    )
    done = seeded.request.do("dead-letters", "show", str(letter))
    assert "name\tadministrator\tme" in done.out
    assert "email\t(hidden)\t(hidden)" in done.out
    assert "secret@" not in done.out
    assert "the row has version 1, which is older than this record" in done.out


@pytest.mark.parametrize(
    "words, said",
    [
        (("--state", "lost"), "state: expected one of parked"),
        (("--channel", "nope"), "channel: expected one of"),
        (("--stream", "nope"), "stream: expected one of"),
        (("list", "--stream", "nope"), "stream: expected one of"),
        (("list", "--direction", "up"), "direction: expected one of"),
        (("list", "--batch", "nonsense"), "names no batch"),
        (("list", "--since", "yesterday"), "since: expected a moment"),
        (("list", "--until", "2026-13-01"), "until: expected a moment"),
        (("list", "--since", "999999d"), "since: expected a moment"),
        (("list", "--text", ""), "text: expected something"),
        (("list", "--key", ""), "key: expected something"),
        (("list", "--after", "77"), "no dead letter 77"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(pair: Pair, words: tuple[str, ...], said: str) -> None:
    park(pair.request, LETTER)
    assert said in pair.request.refused("dead-letters", *words, code=2)
