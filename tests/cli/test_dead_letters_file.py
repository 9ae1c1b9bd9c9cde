"""``exchange dead-letters export`` and ``import``, as their users run them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Pair


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the name of a file that does not exist yet."""
    return tmp_path / "letters.jsonl"


def test_letters_are_carried_to_their_sender_in_a_file(
    seeded: Pair, parked: Callable[[], int], file: Path, tmp_path: Path
) -> None:
    letter = parked()
    saved = seeded.request.do("dead-letters", "export", str(file), "--json").line
    assert saved == {"file": str(file), "letters": 1, "signed": True, "left_out": 0}
    brought = seeded.response.do("dead-letters", "import", str(file), "--as", "nora", "--reason", "theirs").out
    assert brought.splitlines() == ["imported\tduplicate\trefused", "1\t0\t0"]
    (ours,) = seeded.response.do("dead-letters", "list", "--json").lines
    assert (ours["direction"], ours["channel"], ours["stream"]) == ("out", "directory", "user")
    assert ours["message"].startswith("request refused it: ")
    again = seeded.response.do("dead-letters", "import", str(file), "--json").line
    assert again == {"network": "request", "imported": 0, "duplicate": 1, "refused": 0, "sentences": []}
    # By its own road back, too: there it is the letter that it always was.
    assert seeded.request.do("dead-letters", "import", str(file), "--json").line["duplicate"] == 1
    assert [line["id"] for line in seeded.request.do("dead-letters", "list", "--json").lines] == [letter]
    done = [line for line in seeded.response.do("audit", "--json").lines if line["who"] == "nora"]
    (entry,) = done
    assert (entry["action"], entry["why"], entry["result"]["imported"]) == ("import_dead_letters", "theirs", 1)
    table = seeded.request.do("dead-letters", "export", str(tmp_path / "letters.csv"))
    assert table.out == f"{tmp_path}/letters.csv: 1 dead letters\n"
    with (tmp_path / "letters.csv").open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert (row["id"], row["stream"]) == (str(letter), "user")


def test_what_can_not_be_written_or_read_is_one_sentence_and_changes_nothing(
    seeded: Pair, parked: Callable[[], int], file: Path
) -> None:
    parked()
    seeded.request.do("dead-letters", "export", str(file))
    sentence = seeded.request.refused("dead-letters", "export", str(file), code=1)
    assert sentence == f"{file}: expected a new file, found one; nothing was written"
    sentence = seeded.response.refused("dead-letters", "import", str(file.with_name("none")), code=1)
    assert sentence == f"{file.with_name('none')}: No such file or directory; nothing was imported"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"administrator", b"Administrator", 1))
    sentence = seeded.response.refused("dead-letters", "import", str(file), code=1)
    assert sentence.endswith("it was changed or damaged; nothing was imported")
    table = file.with_suffix(".csv")
    seeded.request.do("dead-letters", "export", str(table))
    sentence = seeded.response.refused("dead-letters", "import", str(table), code=1)
    assert sentence.endswith("nothing was imported")
    assert seeded.response.do("dead-letters", "list", "--json").out == ""


def test_letters_that_have_no_place_are_said_one_by_one_and_the_command_fails(
    seeded: Pair, parked: Callable[[], int], file: Path
) -> None:
    letter = parked()
    seeded.request.do("dead-letters", "discard", str(letter), "--reason", "a test")
    seeded.request.do("dead-letters", "export", str(file))
    done = seeded.response.run("dead-letters", "import", str(file), "--json")
    assert done.code == 1
    assert done.line["refused"] == 1
    assert done.err == "line 1: it is discarded at request, so there is nothing to mend here\n"


def test_without_a_key_an_export_says_that_it_is_not_signed(pair: Pair, file: Path) -> None:
    for path in (pair.request.home / "keys").glob("request*"):
        path.unlink()
    done = pair.request.do("dead-letters", "export", str(file))
    assert "there is no key to sign it" in done.err
    assert json.loads(file.read_text())["letters"] == 0
