"""What was refused, on the command line: `quarantine` and `batches`, for people and for scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Pair, Side
from tests.crossing.forging import last_byte_changed

STRICT = """
from exchange.channels import Channel
from exchange.reference import channels as shipped

channels = [Channel(one.name, one.source, one.target, one.streams, on_invalid="reject") for one in shipped]
"""


@pytest.fixture
def damaged(seeded: Pair, stem: str) -> str:
    """Give the stem of a batch that lies in quarantine on the request network, with a damaged data file."""
    seeded.carry()
    data = seeded.request.home / f"incoming/{stem}.jsonl.zst"
    data.write_bytes(last_byte_changed(data.read_bytes()))
    seeded.request.do("import", EXCHANGE_SETTLE_SECONDS="0")
    return stem


@pytest.fixture
def refused(seeded: Pair, stem: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the stem of a batch that the request network refused for one bad record."""
    Path("strict.py").write_text(STRICT)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    seeded.request.environment |= {
        "EXCHANGE_APP": "strict:channels",
        "EXCHANGE_SCHEMAS": str(Path(__file__).parents[2] / "schemas"),
    }
    seeded.request.execute("INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (99, 'own', 1, 1)")
    seeded.request.execute(
        'INSERT INTO "user" (id, name, email, profile_type_id, active)'
        " VALUES (99, 'administrator', 'own@example.org', 99, true)"
    )
    seeded.carry()
    outcome = seeded.request.do("import", "directory", "--json").line
    assert (outcome["verdict"], outcome["reason"]) == ("quarantined", "rejected")
    return stem


def last_audit(side: Side) -> dict[str, object]:
    return side.do("audit", "--limit", "1", "--json").line


def test_quarantine_is_listed_with_and_without_a_command(seeded: Pair, damaged: str) -> None:
    side = seeded.request
    listed = side.do("quarantine", "list", "--json").line
    assert listed.keys() >= {"label", "batch", "channel", "epoch", "sequence", "reason", "message", "bytes", "since"}
    assert (listed["label"], listed["reason"]) == (damaged, "corrupt")
    heading, row = side.do("quarantine").out.splitlines()
    assert heading.startswith("batch\tchannel")
    assert row.startswith(f"{damaged}\tdirectory\t1\tcorrupt")
    assert side.do("quarantine", "list", "--channel", "requests").err == "nothing is in quarantine\n"
    assert "expected one of" in side.refused("quarantine", "list", "--channel", "nope", code=2)


def test_one_in_quarantine_is_shown_closely(seeded: Pair, damaged: str) -> None:
    shown = seeded.request.do("quarantine", "show", damaged, "--json").line
    assert shown["reason_now"] == "corrupt"
    assert {one["name"]: one["ok"] for one in shown["checks"]}["data file"] is False
    assert [event["to_state"] for event in shown["history"]] == ["quarantined"]
    out = seeded.request.do("quarantine", "show", damaged).out
    assert "checks now:" in out
    assert "data file\tfault" in out


def test_a_release_of_what_is_still_bad_is_quarantined_again_and_audited(seeded: Pair, damaged: str) -> None:
    seeded.request.environment["EXCHANGE_SETTLE_SECONDS"] = "0"
    done = seeded.request.do("quarantine", "release", damaged, "--as", "ada", "--reason", "try", "--json").line
    assert (done["verdict"], done["reason"]) == ("quarantined", "corrupt")
    entry = last_audit(seeded.request)
    assert (entry["who"], entry["action"], entry["why"]) == ("ada", "release_quarantined", "try")
    assert entry["arguments"] == {"batch": damaged}
    assert entry["result"] == done


def test_a_batch_is_discarded_from_quarantine_with_a_reason(seeded: Pair, damaged: str) -> None:
    side = seeded.request
    assert side.run("quarantine", "discard", damaged).code == 2
    done = side.do("quarantine", "discard", damaged, "--reason", "is sent again", "--as", "ada", "--json").line
    assert done == {"batch": damaged, "state": "discarded"}
    assert side.do("quarantine").err == "nothing is in quarantine\n"
    history = side.do("batches", "show", damaged, "--json").line["history"]
    assert history[-1]["cause"] == "discarded by hand: is sent again"
    assert history[-1]["who"].startswith("ada, ")
    assert "is in quarantine" in side.refused("quarantine", "discard", damaged, "--reason", "x", code=1)


@pytest.mark.parametrize("command", ["show", "release"])
@pytest.mark.parametrize("label", ["nonsense", "../../etc/passwd", "directory-0123456789ab-0000000001~1", "\x1b[2J"])
def test_a_name_that_is_none_is_one_sentence(pair: Pair, command: str, label: str) -> None:
    sentence = pair.request.refused("quarantine", command, label, code=2)
    assert "expected <" in sentence
    assert "\x1b" not in sentence


def test_every_bad_record_of_a_refused_batch_is_shown(seeded: Pair, refused: str) -> None:
    shown = seeded.request.do("batches", "show", refused, "--json").line
    assert (shown["state"], shown["reason"], shown["dead_letters"]) == ("quarantined", "rejected", {})
    [bad] = shown["trial"]["bad"]
    assert (bad["stream"], bad["error"], bad["pointer"]) == ("user", "unique", "/data/name")
    assert shown["trial"]["records"] == {"applied": 4, "duplicate": 0, "stale": 0, "parked": 1}
    out = seeded.request.do("batches", "show", refused).out
    assert "with these parked it would come to: 4 applied, 1 parked" in out
    assert seeded.request.do("dead-letters", "list", "--json").out == ""


def test_a_refused_batch_is_released_with_its_bad_record_parked(seeded: Pair, refused: str) -> None:
    side = seeded.request
    assert "--park lets the others in" in side.refused("batches", "release", refused, code=1)
    done = side.do("batches", "release", refused, "--park", "--reason", "the twin is known", "--as", "ada", "--json")
    assert done.line["verdict"] == "applied"
    assert done.line["records"] == {"applied": 4, "duplicate": 0, "stale": 0, "parked": 1}
    entry = last_audit(side)
    assert (entry["action"], entry["arguments"]) == ("release_batch", {"batch": refused, "park": True})
    assert side.do("batches", "show", refused, "--json").line["dead_letters"] == {"parked": 1}


def test_a_refused_batch_is_rejected_and_the_ledger_shows_it(seeded: Pair, refused: str) -> None:
    side = seeded.request
    done = side.do("batches", "reject", refused, "--reason", "rename your administrator", "--json").line
    assert done == {"batch": refused, "state": "rejected"}
    assert side.do("batches", "--state", "rejected", "--json").line["message"] == (
        "rejected by hand: rename your administrator"
    )
    assert "is rejected" in side.refused("batches", "release", refused, "--park", code=1)
    assert "is rejected" in side.refused("batches", "reject", refused, "--reason", "x", code=1)


def test_batches_lists_without_a_command_with_the_options_it_had(seeded: Pair, stem: str) -> None:
    rows = seeded.response.do("batches", "--direction", "out", "--state", "published", "--limit", "1", "--json").lines
    assert [row["batch"] for row in rows] == [stem]
    shown = seeded.response.do("batches", "show", stem, "--json").line
    assert (shown["direction"], shown["state"], shown["trial"]) == ("out", "published", None)
    assert [event["to_state"] for event in shown["history"]] == ["sealed", "published"]


@pytest.mark.parametrize(
    "words, code, said",
    [
        (("batches", "show", "nonsense"), 2, "names no batch"),
        (("batches", "show", "directory-0123456789ab-0000000007"), 1, "the ledger has no batch"),
        (("batches", "release", "directory-0123456789ab-0000000007"), 1, "the ledger has no batch"),
        (("batches", "reject", "directory-0123456789ab-0000000007", "--reason", "x"), 1, "the ledger has no batch"),
        (("replay", "directory-0123456789ab-0000000007", "--through", "9"), 1, "from 7 through 9"),
        (("replay", "directory-0123456789ab-0000000007", "--through", "6"), 1, "is empty"),
    ],
)
def test_a_batch_that_is_not_there_is_one_sentence(pair: Pair, words: tuple[str, ...], code: int, said: str) -> None:
    assert said in pair.request.refused(*words, code=code)


def test_a_range_is_replayed(seeded: Pair, stem: str) -> None:
    side = seeded.request
    seeded.carry()
    side.do("import")
    done = side.do("replay", stem, "--through", "3", "--json")
    assert done.line["verdict"] == "duplicate"
    assert done.err == "2 of the range are not kept here, so nothing could be done about them\n"
    assert last_audit(side)["arguments"] == {"batch": stem, "through": 3}
