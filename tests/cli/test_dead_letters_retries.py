"""Retries in the background: begun by one person, seen and stopped by another, done by an import or by hand."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Pair
from tests.cli.test_dead_letters_retry import let_them_in, parked_requests

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")


def test_a_second_person_sees_pauses_and_ends_what_the_first_one_began_and_an_import_does_it(pair: Pair) -> None:
    parked_requests(pair, 3)
    side = pair.response
    side.do("dead-letters", "select", "--name", "all")
    begun = side.do("dead-letters", "retry", "--selection", "all", "--background", "--rate", "500", "--as", "ada")
    assert begun.out == "retry 1 of selection all is to try 3 dead letters\n"
    assert "`exchange import` and `exchange dead-letters retries work` go on with it" in begun.err
    assert "retry 1 of selection all, asked for by ada: 0 of 3 letters tried" in side.do("status").err
    assert [one["who"] for one in side.do("status", "--json").line["retries"]] == ["ada"]

    paused = side.do("dead-letters", "retries", "pause", "1", "--reason", "not now", "--as", "bob", "--json").line
    assert (paused["state"], paused["who"], paused["changed_by"]) == ("paused", "ada", "bob")
    (entry,) = side.do("audit", "--limit", "1", "--json").lines
    assert (entry["who"], entry["action"], entry["arguments"]["of"]) == ("bob", "pause_retry", "ada")
    assert "paused by bob: not now; nothing was done" in side.refused(
        "dead-letters", "retry", "--selection", "all", code=1
    )
    let_them_in(side)
    side.do("import")
    assert side.do("dead-letters", "retries", "--json").line["tried"] == 0
    side.do("dead-letters", "retries", "resume", "1", "--reason", "now", "--as", "bob")
    side.do("import")
    done = side.do("dead-letters", "retries", "show", "1", "--json").line
    assert (done["state"], done["tried"], done["applied"]) == ("done", 3, 3)
    assert side.do("dead-letters", "retries", "work").err == "nothing is to be tried in the background\n"
    assert "there is no retry 2" in side.refused("dead-letters", "retries", "cancel", "2", "--reason", "x", code=1)


def test_it_is_of_a_selection_and_no_rehearsal(pair: Pair) -> None:
    refused = pair.response.refused("dead-letters", "retry", "1", "--background", code=2)
    assert "--background are for a --selection" in refused
    words = ("dead-letters", "retry", "--selection", "all", "--background", "--dry-run")
    assert "expected one of them, found both" in pair.response.refused(*words, code=2)
