"""What a person sees of a dead letter at the command line, and what is written down of it for others."""

from __future__ import annotations

from collections.abc import Callable

from exchange.database.tables import DeadLetterState
from exchange.results import Retried
from tests.cli.conftest import Pair

TAKEN = "name = administrator is taken by the row id = 99 of user"


def test_the_person_who_retries_sees_the_value_and_the_audit_has_the_rule(
    seeded: Pair, parked: Callable[[], int]
) -> None:
    letter = str(parked())
    done = seeded.request.run("dead-letters", "retry", letter, "--json")
    assert done.code == 1
    assert TAKEN in done.line["message"]
    (entry,) = (line for line in seeded.request.do("audit", "--json").lines if line["action"] == "retry_dead_letter")
    (told,) = entry["result"]["dead_letters"]
    assert told["message"].startswith("unique at /data/name (")
    assert told["message"].endswith(f"); it stays parked, `exchange dead-letters show {letter}` says more")
    assert "administrator" not in str(entry["result"])


def test_a_mended_record_that_breaks_its_schema_leaves_no_value_in_the_audit(
    seeded: Pair, parked: Callable[[], int]
) -> None:
    words = ["dead-letters", "edit", str(parked()), "--set", '/data/active="canary-6b2c"', "--reason", "a try"]
    said = seeded.request.refused(*words, code=1)
    assert "/data/active" in said
    (entry,) = (line for line in seeded.request.do("audit", "--json").lines if line["action"] == "edit_dead_letter")
    assert "/data/active" in entry["result"]["failed"]
    assert "canary" not in str(entry)


def test_letters_of_a_file_that_are_refused_leave_only_their_number_in_the_audit(
    seeded: Pair, parked: Callable[[], int]
) -> None:
    parked()
    seeded.request.do("dead-letters", "export", "letters.jsonl")
    assert seeded.request.do("dead-letters", "import", "letters.jsonl", "--json").line["sentences"] == []
    entry = seeded.request.do("audit", "--json").lines[0]
    assert entry["result"] == {"network": "request", "imported": 0, "duplicate": 1, "refused": 0}


def test_what_applied_is_told_as_it_is() -> None:
    applied = Retried(1, DeadLetterState.APPLIED, "applied", changed=True)
    assert applied.without_values() == applied
