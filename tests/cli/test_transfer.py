from collections.abc import Callable

import pytest

from exchange.files.keys import load_signing_key
from exchange.format.manifest import join_manifest, split_manifest
from tests.cli.conftest import Pair
from tests.crossing.forging import last_byte_changed

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

CHANNEL_FIELDS = {
    "channel",
    "direction",
    "pending",
    "published",
    "acknowledged",
    "applied",
    "waiting",
    "held",
    "quarantined",
    "sequence",
    "last_success_at",
}


def _channel(pair: Pair, network: str, name: str) -> dict[str, object]:
    side = pair.request if network == "request" else pair.response
    channels = side.do("status", "--json").line["channels"]
    (found,) = [channel for channel in channels if channel["channel"] == name]
    assert isinstance(found, dict)
    assert found.keys() >= CHANNEL_FIELDS
    return found


def test_a_request_is_submitted_on_one_side_and_is_on_the_other_with_every_step_told(any_pair: Pair) -> None:
    request, response = any_pair.request, any_pair.response
    seeded = response.do("seed", "--json").line
    assert seeded["administrator"] == "administrator"
    assert seeded["password"]
    assert _channel(any_pair, "response", "directory")["pending"] == 5

    exported = response.do("export", "--json").line
    assert exported == exported | {"channel": "directory", "sequence": 1, "records": 5}
    assert exported["batch"] == f"directory-{exported['epoch']}-0000000001"
    assert isinstance(exported["bytes"], int)
    sent = _channel(any_pair, "response", "directory")
    assert (sent["pending"], sent["published"], sent["sequence"], sent["direction"]) == (0, 1, 1, "out")
    assert sent["last_success_at"]

    any_pair.carry()
    (request.home / "incoming/note.txt").write_text("not a batch")
    imported = request.run("import", "--json")
    assert imported.code == 0
    arrived = {line["channel"]: line for line in imported.lines}
    assert arrived.keys() == {"directory", "control"}
    assert arrived["directory"] == arrived["directory"] | {
        "batch": exported["batch"],
        "channel": "directory",
        "verdict": "applied",
        "reason": None,
        "records": {"applied": 5, "duplicate": 0, "stale": 0, "parked": 0},
    }
    assert "1 files that are no batch" in imported.err
    upper = request.home / "incoming" / f"{exported['batch']}.manifest.jsonl".upper()
    upper.write_bytes(b"x")
    for command in ("import", "status", "batches"):
        told = request.run(command)
        assert told.code == (1 if command == "import" else 0)
        assert (
            f"{upper.name} in incoming was given a name of upper-case letters on its way; it is left alone" in told.err
        )
        assert "nothing to import" not in told.err
    upper.unlink()
    received = _channel(any_pair, "request", "directory")
    assert (received["applied"], received["sequence"], received["direction"]) == (1, 1, "in")

    submitted = request.do("submit", "administrator", "what?", "--parameters", '{"n": 1}', "--json").line
    assert len(submitted["id"]) == 36
    assert request.do("export", "--json").line["channel"] == "requests"
    any_pair.carry()
    verdicts = {line["channel"]: line["verdict"] for line in response.do("import", "requests", "--json").lines}
    assert verdicts == {"requests": "applied"}


def test_status_is_one_object_with_the_fields_that_scripts_rely_on(pair: Pair) -> None:
    found = pair.request.do("status", "--json").line
    assert found.keys() >= {"network", "peer", "epoch", "channels", "dead_letters"}
    assert (found["network"], found["peer"]) == ("request", "response")
    assert found["dead_letters"] == {"parked": 0, "seen": 0, "oldest": None, "oldest_at": None, "alarms": []}
    assert {(one["channel"], one["direction"]) for one in found["channels"]} == {
        ("directory", "in"),
        ("requests", "out"),
        ("responses", "in"),
    }


def test_nothing_to_do_is_said_on_stderr_and_is_no_failure(pair: Pair) -> None:
    for command in ("export", "import"):
        done = pair.request.do(command, "--json")
        assert done.out == ""
        assert done.err == f"nothing to {command}\n"


def test_a_quarantined_batch_is_shown_and_no_failure_of_the_command(seeded: Pair, stem: str) -> None:
    seeded.carry()
    data = seeded.request.home / f"incoming/{stem}.jsonl.zst"
    data.write_bytes(last_byte_changed(data.read_bytes()))
    done = seeded.request.do("import", "directory", "--json", EXCHANGE_SETTLE_SECONDS="0")
    assert (done.line["verdict"], done.line["reason"]) == ("quarantined", "corrupt")
    assert seeded.request.do("status", "--json").line["channels"][1]["quarantined"] == 1
    rows = seeded.request.do("batches", "--state", "quarantined", "--direction", "in", "--json").lines
    assert [row["batch"] for row in rows] == [stem]
    assert rows[0].keys() >= {"batch", "direction", "channel", "epoch", "sequence", "state", "reason", "message"}


def test_a_batch_of_a_channel_that_nobody_declared_is_counted_under_its_name(seeded: Pair, stem: str) -> None:
    key = load_signing_key(seeded.response.home / "keys")
    assert key is not None
    manifest = (seeded.response.home / "outgoing" / f"{stem}.manifest.jsonl").read_bytes()
    line = split_manifest(manifest)[0].replace(b"directory", b"elsewhere")
    other = f"{stem.replace('directory', 'elsewhere')}.manifest.jsonl"
    (seeded.request.home / "incoming" / other).write_bytes(join_manifest(line, key.sign(line)))
    seeded.request.do("import")
    (found,) = [one for one in seeded.request.do("status", "--json").line["channels"] if one["channel"] == "elsewhere"]
    assert (found["direction"], found["held"]) == ("in", 1)


def test_an_altered_batch_is_counted_among_strangers_by_its_name(seeded: Pair, stem: str) -> None:
    for path in (seeded.response.home / "outgoing").glob(f"{stem}.*"):
        other = path.name.replace("directory-", "elsewhere-")
        (seeded.request.home / "incoming" / other).write_bytes(path.read_bytes().replace(b"directory", b"elsewhere"))
    seeded.request.do("import")
    status = seeded.request.do("status", "--json").line
    (found,) = status["strangers"]
    assert (found["cause"], found["batches"]) == ("untrusted", 1)
    assert found["samples"][0]["batch"].startswith("elsewhere-")
    assert all(one["channel"] != "elsewhere" for one in status["channels"])


def test_a_replayed_batch_that_is_applied_stays_as_it_is(seeded: Pair, stem: str) -> None:
    seeded.carry()
    seeded.request.do("import")
    assert seeded.request.do("replay", stem, "--json").line["verdict"] == "duplicate"


def test_people_get_lines_without_colour_in_a_pipe(seeded: Pair, stem: str) -> None:
    out = seeded.response.do("batches").out
    assert out.splitlines()[0].startswith("batch\tdirection\tstate")
    assert out.splitlines()[1].startswith(f"{stem}\tout\tpublished")
    assert "\x1b" not in out


def test_a_lost_marker_stops_an_import_and_shows_in_the_status(pair: Pair) -> None:
    (pair.request.home / "incoming/.exchange-folder").unlink()
    assert "lost its marker" in pair.request.refused("import", code=1)
    assert "no marker" in pair.request.do("status", "--json").err
    pair.request.do("init")
    pair.request.do("import")


def test_prune_says_how_many_files_went(pair: Pair) -> None:
    counts = pair.request.do("prune", "--json").line
    assert counts == {
        "sealed": 0,
        "archived": 0,
        "quarantined": 0,
        "strangers": 0,
        "stray": 0,
        "letters": 0,
        "folded": 0,
        "people": 0,
        "files": 0,
    }


def test_a_dead_letter_is_listed_shown_retried_and_discarded(seeded: Pair, parked: Callable[[], int]) -> None:
    letter = parked()
    request = seeded.request
    listed = request.do("dead-letters", "list", "--state", "parked", "--json").line
    assert listed.keys() >= {
        "id",
        "direction",
        "channel",
        "batch",
        "line",
        "stream",
        "key",
        "version",
        "error",
        "message",
        "fingerprint",
        "state",
        "attempts",
        "created_at",
    }
    assert (listed["stream"], listed["state"], listed["attempts"]) == ("user", "parked", 1)
    shown = request.do("dead-letters", "show", str(letter), "--json").line
    assert '"name":"administrator","email":"(hidden)"' in shown["record"]
    assert [event["to_state"] for event in shown["history"]] == ["parked"]
    assert "administrator@" not in request.do("dead-letters", "show", str(letter)).out

    failed = request.run("dead-letters", "retry", str(letter), "--json")
    assert (failed.code, failed.line["state"]) == (1, "parked")
    assert request.do("status", "--json").line["dead_letters"]["parked"] == 1

    discarded = request.do("dead-letters", "discard", str(letter), "--reason", "a twin", "--json").line
    assert discarded == {"id": letter, "state": "discarded"}
    assert "discarded already" in request.refused("dead-letters", "discard", str(letter), "--reason", "x", code=1)
    assert request.do("dead-letters", "list", "--state", "parked", "--json").out == ""


def test_a_dead_letter_whose_cause_is_gone_is_applied_by_a_retry(seeded: Pair, parked: Callable[[], int]) -> None:
    letter = parked()
    seeded.request.execute("UPDATE \"user\" SET name = 'own' WHERE id = 99")
    assert seeded.request.do("dead-letters", "retry", str(letter), "--json").line["state"] == "applied"


@pytest.mark.parametrize("words", [("export", "nope"), ("import", "nope"), ("import", "requests")])
def test_an_unknown_channel_is_refused_with_those_there_are(pair: Pair, words: tuple[str, ...]) -> None:
    assert "found '" in pair.request.refused(*words, code=2)


@pytest.mark.parametrize(
    "words, code, said",
    [
        (("import", "--batch", "nonsense"), 2, "names no batch"),
        (("import", "--batch", "\x1b[2J"), 2, "\\x1b[2J"),
        (("import", "--batch", "directory-0123456789ab-0000000007"), 1, "does not lie in incoming"),
        (("replay", "directory-0123456789ab-0000000007"), 1, "is kept"),
        (("replay", "../../etc/passwd"), 2, "names no batch"),
        (("batches", "--state", "lost"), 2, "expected one of sealed"),
        (("batches", "--direction", "up"), 2, "expected one of out, in"),
        (("dead-letters", "show", "7"), 1, "no dead letter 7"),
        (("dead-letters", "discard", "7", "--reason", "x"), 1, "no dead letter 7"),
        (("dead-letters", "list", "--state", "lost"), 2, "expected one of parked"),
        (("schema", "nope"), 2, "expected one of profile_type"),
        (("submit", "nobody", "what?"), 1, "no user has the name"),
        (("submit", "nobody", "what?", "--parameters", "[1]"), 2, "expected a JSON object"),
        (("submit", "nobody", "what?", "--parameters", "{"), 2, "expected a JSON object"),
        (("seed",), 2, "on network response"),
        (("keys", "trust", "/nowhere.pem"), 2, "found none"),
        (("keys", "new", "../up"), 1, "expected a key's name"),
    ],
)
def test_a_wrong_argument_is_one_sentence(pair: Pair, words: tuple[str, ...], code: int, said: str) -> None:
    assert said in pair.request.refused(*words, code=code)


@pytest.mark.parametrize(
    "words", [("dead-letters", "show", "abc"), ("dead-letters", "show", str(2**63)), ("verify",), ("nope",), ("keys",)]
)
def test_a_wrong_use_ends_with_code_2(pair: Pair, words: tuple[str, ...]) -> None:
    done = pair.request.run(*words)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_a_retry_of_an_unknown_dead_letter_fails_and_says_so(pair: Pair) -> None:
    done = pair.request.run("dead-letters", "retry", "7", "--json")
    assert done.code == 1
    assert done.line["message"].startswith("there is no dead letter 7; ")


def test_requests_are_submitted_on_their_own_network_alone(pair: Pair) -> None:
    assert "submitted on network request" in pair.response.refused("submit", "ada", "what?", code=2)


def test_an_administrators_password_from_the_environment_is_not_printed(pair: Pair) -> None:
    password = "a long enough secret"
    done = pair.response.do("seed", EXCHANGE_ADMINISTRATOR_PASSWORD=password)
    assert password not in done.out + done.err
    assert "password" not in done.out


def test_a_short_password_is_refused(pair: Pair) -> None:
    sentence = pair.response.refused("seed", code=2, EXCHANGE_ADMINISTRATOR_PASSWORD="short")
    assert "at least 12" in sentence
