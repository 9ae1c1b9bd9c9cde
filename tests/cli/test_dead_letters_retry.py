"""Dead letters mended from the command line: edited, selected, retried, given up and taken back."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Pair, Side
from tests.cli.terminal import on_terminal

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

ROWS = 20


def parked_requests(pair: Pair, rows: int = ROWS) -> list[int]:
    """Leave dead letters on the response network: requests of nobody it knows; give their ids."""
    pair.request.execute(
        "INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (7, 'own', 1, 1)",
    )
    pair.request.execute(
        'INSERT INTO "user" (id, name, email, profile_type_id, active)'
        " VALUES (77, 'nobody', 'nobody@example.org', 7, true)"
    )
    values = ", ".join(f"('{number:032x}', 77, 'a kind', 'what?')" for number in range(rows))
    pair.request.execute(f"INSERT INTO request (id, user_id, kind, query) VALUES {values}")
    pair.request.do("export")
    pair.carry()
    pair.response.do("import", EXCHANGE_INVALID_SHARE="1")
    return sorted(one["id"] for one in pair.response.do("dead-letters", "list", "--limit", "1000", "--json").lines)


def let_them_in(side: Side) -> None:
    side.do("seed")
    side.execute(
        'INSERT INTO "user" (id, name, email, profile_type_id, active, password_hash)'
        " SELECT 77, 'nobody', 'nobody@example.org', min(id), true, '' FROM profile_type"
    )


def letters(side: Side, command: str, *words: str) -> list[dict[str, Any]]:
    return side.run("dead-letters", command, *words, "--json").lines


def editor(folder: Path, script: str) -> str:
    """Make an editor that runs a line of Python on its file's ``text``."""
    path = folder / "editor"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nname = sys.argv[-1]\ntext = open(name).read()\n{script}\n"
        "open(name, 'w').write(text)\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_selection_is_retried_with_a_canary_and_every_step_is_in_the_audit(any_pair: Pair) -> None:
    ids = parked_requests(any_pair)
    side = any_pair.response
    assert len(ids) == ROWS
    made = side.do("dead-letters", "select", "--stream", "request", "--name", "fix1", "--json").line
    assert (made["letters"], made["left"], made["filters"]) == (ROWS, ROWS, {"state": "parked", "stream": "request"})
    would = letters(side, "retry", "--selection", "fix1", "--dry-run")
    assert [one["state"] for one in would[:-1]] == ["parked"] * ROWS
    assert (would[-1]["dry_run"], would[-1]["parked"]) == (True, ROWS)

    failed = side.run("dead-letters", "retry", "--selection", "fix1", "--canary", "5", "--json")
    assert (failed.code, failed.lines[-1]["tried"]) == (1, 5)
    assert failed.lines[-1]["stopped"] == "stopped: 5 of the first 5 did not hold; what is left was not tried"
    let_them_in(side)
    done = side.run("dead-letters", "retry", "--selection", "fix1", "--canary", "5", "--as", "ada", "--json")
    assert (done.code, done.lines[-1]["applied"], done.lines[-1]["left"]) == (0, ROWS - 5, 0)
    assert side.do("dead-letters", "selections", "--json").line["parked"] == 5
    assert letters(side, "retry", "--selection", "fix1", "--again")[-1]["applied"] == 5

    audit = [one for one in side.do("audit", "--json").lines if one["action"] == "retry_dead_letter"]
    assert [one["who"] == "ada" for one in audit] == [False, True, False]
    assert audit[1]["result"]["applied"] == ROWS - 5
    assert audit[1]["arguments"]["selection"] == "fix1"
    side.do("dead-letters", "unselect", "fix1")
    assert "there is no selection" in side.do("dead-letters", "selections").err


def test_people_are_told_in_lines(pair: Pair) -> None:
    parked_requests(pair, 3)
    side = pair.response
    assert side.do("dead-letters", "select", "--name", "a").out == "selection a has 3 dead letters\n"
    done = side.run("dead-letters", "retry", "--selection", "a", "--stop-after", "2")
    assert done.code == 1
    assert "parked\t2\nleft\t1\npoison\t0\n" in done.out
    assert done.err == "stopped: 2 failed, and no more may; what is left was not tried\n"
    assert "a\t3\t1\t2\t" in side.do("dead-letters", "selections").out
    assert "stay parked" in side.run("dead-letters", "retry", "--selection", "a", "--again").err
    assert "would be" in side.do("dead-letters", "retry", "1", "--dry-run").out
    for _ in range(6):
        side.run("dead-letters", "retry", "1")
    assert "changed since it was made" in side.refused("dead-letters", "retry", "--selection", "a", "--again", code=1)
    side.do("dead-letters", "select", "--name", "b")
    assert "1 are poison" in side.run("dead-letters", "retry", "--selection", "b").err
    assert side.do("dead-letters", "discard", "1", "2", "--reason", "x").out == "2 dead letters are discarded\n"
    assert side.do("dead-letters", "restore", "1", "--reason", "x").out == "dead letter 1 is parked\n"


def test_a_selection_is_discarded_and_restored(pair: Pair) -> None:
    ids = parked_requests(pair, 3)
    side = pair.response
    side.do("dead-letters", "select", "--name", "a")
    done = side.do("dead-letters", "discard", "--selection", "a", "--reason", "nobody's", "--json").line
    assert done == {"selection": "a", "letters": 3, "state": "discarded"}
    assert "no such dead letter" in side.refused("dead-letters", "select", "--name", "b", code=1)
    assert side.do("dead-letters", "restore", "--selection", "a", "--reason", "mine", "--json").line["letters"] == 3
    assert [one["state"] for one in letters(side, "list")] == ["parked"] * 3
    [discarded, *_] = [one for one in side.do("audit", "--json").lines if one["action"] == "discard_dead_letter"]
    assert (discarded["why"], discarded["result"]) == ("nobody's", {"discarded": 3})
    assert [one["cause"] for one in letters(side, "show", str(ids[0]))[0]["history"]] == [
        "restored: mine",
        "discarded: nobody's",
        "refused on import",
    ]


def test_a_record_is_mended_in_the_persons_editor(seeded: Pair, parked: Callable[[], int], tmp_path: Path) -> None:
    letter, side = str(parked()), seeded.request
    script = editor(tmp_path, "text = text.replace('\"administrator\"', '\"administrator2\"')")
    done = side.do("dead-letters", "edit", letter, "--reason", "a twin", "--json", EDITOR=script, VISUAL="").line
    assert done == {"id": int(letter), "revision": 1, "difference": ['/data/name: "administrator" -> "administrator2"']}
    assert letters(side, "retry", letter)[0]["state"] == "applied"
    audit = [one for one in side.do("audit", "--json").lines if one["action"] == "edit_dead_letter"]
    assert (audit[0]["why"], audit[0]["result"]) == ("a twin", {"revision": 1})


def test_the_editor_shows_no_hidden_value_and_loses_none(
    seeded: Pair, parked: Callable[[], int], tmp_path: Path
) -> None:
    letter, side = str(parked()), seeded.request
    seen = tmp_path / "seen"
    script = editor(tmp_path, f"open({str(seen)!r}, 'w').write(text); text = text.replace('administrator', 'other', 1)")
    done = side.do("dead-letters", "edit", letter, "--reason", "x", EDITOR=script, VISUAL="")
    assert "@" not in seen.read_text() + done.out
    side.do("dead-letters", "retry", letter)
    assert '"email": "(hidden)"' in seen.read_text()


def test_a_text_that_is_refused_is_kept_for_another_try(
    seeded: Pair, parked: Callable[[], int], tmp_path: Path
) -> None:
    letter, side = str(parked()), seeded.request
    script = editor(tmp_path, "text = text.replace('\"administrator\"', '5')")
    sentence = side.refused("dead-letters", "edit", letter, "--reason", "x", code=1, EDITOR=script, VISUAL="")
    assert "nothing was changed; your text is kept in " in sentence
    kept = Path(sentence.rpartition("--file ")[2].partition("`")[0])
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    kept.write_text(kept.read_text().replace('"name": 5', '"name": "other"'))
    assert "revision 1" in side.do("dead-letters", "edit", letter, "--reason", "x", "--file", str(kept)).out
    kept.unlink()


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("retry",), 2, "found neither"),
    (("retry", "1", "--selection", "a"), 2, "found both"),
    (("retry", "1", "--canary", "2"), 2, "are for a --selection"),
    (("retry", "--selection", "A b"), 2, "lower-case letters"),
    (("retry", "--selection", "a"), 1, "there is no selection a (there are: none); nothing was changed"),
    (("retry", "--selection", "a", "--dry-run"), 1, "there is no selection a"),
    (("discard", "--selection", "a", "--reason", "x"), 1, "there is no selection a"),
    (("restore", "--selection", "a", "--reason", "x"), 1, "there is no selection a"),
    (("restore", "7", "--reason", "x"), 1, "there is no dead letter 7"),
    (("restore", "1", "--reason", "x"), 1, "is parked, last changed by"),
    (("unselect", "a"), 1, "there is no selection a"),
    (("select", "--name", "../a"), 2, "lower-case letters"),
    (("select", "--name", "a", "--state", "lost"), 2, "expected one of parked"),
    (("select", "--name", "a", "--stream", "lost"), 2, "expected one of"),
    (("edit", "7", "--reason", "x", "--set", "/data/name=a"), 1, "there is no dead letter 7"),
    (("edit", "1", "--reason", "x", "--set", "/data/id=5"), 1, "key: expected"),
    (("edit", "1", "--reason", "x", "--set", "/data/id=5", "--file", "x"), 2, "expected no --set"),
    (("edit", "1", "--reason", "x", "--file", "/nowhere"), 1, "/nowhere: No such file"),
    (("edit", "1", "--reason", "x"), 2, "EDITOR: expected the name of an editor, found none"),
    (("edit", "1", "--reason", "\x1b[0m", "--set", "/data/name=a"), 2, "--reason: expected"),
]


def test_a_wrong_word_is_one_sentence_and_changes_nothing(seeded: Pair, parked: Callable[[], int]) -> None:
    parked()
    before = letters(seeded.request, "show", "1")
    for words, code, said in WRONG:
        sentence = seeded.request.refused("dead-letters", *words, code=code, EDITOR="", VISUAL="")
        assert said in sentence, words
        assert sentence.isprintable(), words
        assert letters(seeded.request, "show", "1") == before, words


def test_an_editor_that_fails_or_changes_nothing_changes_nothing(
    seeded: Pair, parked: Callable[[], int], tmp_path: Path
) -> None:
    letter, side = str(parked()), seeded.request
    for script, said in (
        (editor(tmp_path, "pass"), "is as it was; nothing was changed"),
        ("/bin/false", "the editor ended with code 1; nothing was changed"),
    ):
        assert said in side.refused("dead-letters", "edit", letter, "--reason", "x", code=1, EDITOR=script, VISUAL="")
    said = side.refused("dead-letters", "edit", letter, "--reason", "x", code=2, EDITOR="/no/editor", VISUAL="")
    assert "can't be run" in said


@pytest.mark.processes
def test_ctrl_c_ends_a_bulk_retry_between_two_groups_and_it_goes_on(pair: Pair) -> None:
    parked_requests(pair, 30)
    side = pair.response
    let_them_in(side)
    side.do("dead-letters", "select", "--name", "a")
    command = [sys.executable, "-m", "exchange", "dead-letters", "retry", "--selection", "a", "--rate", "4", "--json"]
    environment = {**os.environ, **side.environment}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()  # the first group is done
        process.send_signal(signal.SIGINT)
        told = process.stdout.read()
        said = process.stderr.read()
        assert process.wait(60) == 1, said
        assert "stopping after the group at hand" in said
    assert '"stopped": "stopped as asked; the same command goes on where this one ended"' in told
    tried = 1 + told.count('"changed": true')
    assert 0 < tried < 30
    assert letters(side, "retry", "--selection", "a")[-1]["applied"] == 30 - tried


def test_a_dry_run_is_told_by_outcome_with_a_few_samples_and_a_finished_selection_says_so(pair: Pair) -> None:
    ids = parked_requests(pair)
    side = pair.response
    side.do("dead-letters", "select", "--name", "all", "--error", "foreign_key")
    told = side.do("dead-letters", "retry", "--selection", "all", "--dry-run").out.splitlines()
    assert told[0].startswith(f"{ROWS} dead letters would be parked  ")
    assert [line.partition(":")[0] for line in told[1:4]] == [f"  {one}" for one in ids[:3]]
    assert told[4] == f"  and {ROWS - 3} more like them"
    side.run("dead-letters", "retry", "--selection", "all")
    said = side.do("dead-letters", "retry", "--selection", "all").err
    assert "selection all is finished: all of its letters were tried; `--again` retries those" in said


def test_a_name_that_there_is_not_is_said_with_those_there_are_and_the_one_that_was_meant(pair: Pair) -> None:
    parked_requests(pair, 1)
    side = pair.response
    side.do("dead-letters", "select", "--name", "twins")

    def refused(*words: str, code: int = 2) -> str:
        return side.refused("dead-letters", *words, code=code)

    assert refused("list", "--error", "forein_key").endswith(
        "error: expected one of foreign_key, found 'forein_key'; did you mean foreign_key?"
    )
    assert refused("list", "--channel", "request").endswith("found 'request'; did you mean requests?")
    assert refused("list", "--stream", "requst").endswith("found 'requst'; did you mean request?")
    assert refused("list", "--state", "park").endswith("found 'park'; did you mean parked?")
    assert "there is no selection twin (there are: twins)" in (said := refused("retry", "--selection", "twin", code=1))
    assert said.endswith("did you mean twins?")
    assert side.do("dead-letters", "list", "--error", "unique").err == "there are no such dead letters\n"


def test_many_are_discarded_and_restored_at_a_terminal_only_after_a_question(pair: Pair) -> None:
    parked_requests(pair, 6)
    side = pair.response
    side.do("dead-letters", "select", "--name", "all")
    words = ["dead-letters", "discard", "--selection", "all", "--reason", "nobody asks any more"]
    asked = on_terminal(words, side.environment, typed="n\n")
    assert "6 dead letters of selection all, such as" in asked
    assert "discard them? [y/N]" in asked
    assert "nothing was changed; --yes asks nobody" in asked
    assert "6 dead letters are discarded" in on_terminal(words, side.environment, typed="y\n")
    assert "6 dead letters are parked" in on_terminal(
        ["dead-letters", "restore", *words[2:], "--yes"], side.environment
    )
    assert side.do(*words).out == "6 dead letters are discarded\n"
