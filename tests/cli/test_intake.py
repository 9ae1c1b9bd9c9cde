"""``exchange intake``: what it says, and its exit codes."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Pair

TYPES = "sep=;\r\nTitle;Daily-Limit;id\r\nfast;1.000;1\r\nslow;x;2\r\nslow;-5;3\r\n;7;4\r\n"
HOW = ("--stream", "profile_type", "--map", "Title=name", "--delimiter", ";", "--decimal", ",")


def test_a_file_is_rehearsed_loaded_and_a_duplicate(pair: Pair) -> None:
    here = pair.response
    path = Path("types.csv")
    path.write_text(TYPES, newline="")
    wrong = here.refused("intake", str(path), "--stream", "profile_type", code=1)
    assert 'is "Title" meant' in wrong or '"name" is missing' in wrong

    rehearsed = here.do("intake", str(path), *HOW, "--dry-run", "--json").line
    assert (rehearsed["rows_read"], rehearsed["would_load"]) == (4, 1)
    assert {one["error"] for one in rehearsed["bad"]} == {"cell", "constraint", "schema"}
    assert here.do("files").out == ""

    done = here.do("intake", str(path), *HOW, "--as", "ann")
    assert done.out == "types.csv: 1 row is loaded into profile_type, 3 bad ones are parked as dead letters (file 1)\n"
    assert "cells separated by ;" in done.err
    again = here.do("intake", str(path), *HOW)
    assert "as file 1 (types.csv, from ann), which is loaded; nothing was loaded, and --again" in again.out
    rejected = here.run("intake", str(path), *HOW, "--again", "--reject")
    assert rejected.code == 1
    assert "types.csv is refused: line 4: daily_limit: expected" in rejected.err


def test_a_file_that_is_refused_at_its_header_is_the_same_object_for_programs(pair: Pair) -> None:
    here = pair.response
    wrong, right = Path("wrong.csv"), Path("right.csv")
    wrong.write_text("nonsense;id\n1;2\n")
    right.write_text(TYPES, newline="")
    for words in ((), ("--dry-run",)):
        usual = here.run("intake", str(right), *HOW, "--json", *words)
        refused = here.run("intake", str(wrong), "--stream", "profile_type", "--json", *words)
        assert (refused.code, refused.line.keys()) == (1, usual.line.keys())
        assert "wrong.csv: " in refused.err
        said = refused.line if words else refused.line["file"]
        assert "is missing" in said["refused" if words else "message"]
        if not words:
            assert said.keys() == usual.line["file"].keys()
            assert (said["state"], said["file"], said["stream"]) == ("refused", "wrong.csv", "profile_type")
            assert (said["rows_loaded"], said["id"]) == (0, None)


def test_what_makes_no_sense_is_said(pair: Pair) -> None:
    here = pair.response
    assert here.refused("intake", "no.csv", "--stream", "profile_type", code=1).startswith("no.csv: ")
    Path("a.csv").write_text("id\n1\n")
    assert "say by --stream or --intake" in here.refused("intake", "a.csv", code=1)
    assert "is written at request" in here.refused("intake", "a.csv", "--stream", "request", code=1)
    assert "--map: expected NAME=VALUE" in here.refused("intake", "a.csv", "--stream", "user", "--map", "x", code=2)
