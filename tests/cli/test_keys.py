"""Keys by hand: compared by one number, trusted within limits, and trusted no longer."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from exchange.format.signing import SigningKey
from tests.cli.conftest import Pair, Side

COURIER = SigningKey.generate("courier")


def own(side: Side) -> dict[str, Any]:
    """Give the key that signs, as its own side shows it."""
    return next(line for line in side.do("keys", "list", "--json").lines if line["signs"])


def public(side: Side) -> Path:
    """Give the file that is carried to the other side."""
    return Path(own(side)["path"]).with_suffix(".pem")


def trusted(side: Side) -> dict[str, dict[str, Any]]:
    """Give what a side trusts, by name."""
    return {line["name"]: line for line in side.do("keys", "list", "--json").lines if line["trusted"]}


def test_a_key_has_one_number_in_every_command_of_both_sides(pair: Pair) -> None:
    made = pair.response.do("keys", "new", "response-b", "--json").line
    number = made["fingerprint"]
    assert own(pair.response)["fingerprint"] == number
    assert pair.response.do("init", "--json").line["fingerprint"] == number
    words = ("keys", "trust", made["path"], "--fingerprint", number)
    assert pair.request.do(*words, "--json").line["fingerprint"] == number
    assert trusted(pair.request)["response-b"]["fingerprint"] == number
    shown = pair.request.do(*words).out + pair.request.do("keys", "list").out + pair.response.do("keys", "list").out
    assert shown.count(number) == 3
    assert number in pair.request.do("keys", "untrust", "response-b", "--reason", "a test").out
    assert "choose another name" in pair.response.refused("keys", "new", "response-b", code=1)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command here")
def test_openssl_shows_the_same_number(pair: Pair) -> None:
    script = "openssl pkey -pubin -in response-2026.pem -outform DER | openssl dgst -sha256 -binary | base64 | tr -d ="
    shutil.copy(public(pair.response), "response-2026.pem")
    shown = subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True, text=True).stdout
    assert f"SHA256:{shown.strip()}" == own(pair.response)["fingerprint"]
    assert script in (Path(__file__).parents[2] / "deploy/README.md").read_text().replace(
        "request-2026", "response-2026"
    )


def test_a_couriers_file_with_the_honest_keys_line_above_his_own_is_refused(pair: Pair) -> None:
    honest = public(pair.response).read_text().splitlines()[1]
    brought = Path("response-c.pem")
    brought.write_bytes(honest.encode() + b"\n" + COURIER.public_pem())
    for number in (own(pair.response)["fingerprint"], COURIER.fingerprint):
        said = pair.request.refused("keys", "trust", str(brought), "--fingerprint", number, code=1)
        assert "expected one PEM block, found something beside it" in said
    assert "response-c" not in trusted(pair.request)


def test_a_fingerprint_that_is_another_keys_or_none_or_missing_in_a_script_trusts_nothing(pair: Pair) -> None:
    brought = Path("courier.pem")
    brought.write_bytes(COURIER.public_pem())
    number = own(pair.response)["fingerprint"]
    words = ("keys", "trust", str(brought))
    said = pair.request.refused(*words, "--fingerprint", number, code=1)
    assert number in said
    assert COURIER.fingerprint in said
    for wrong in ("", "SHA256:", COURIER.fingerprint[7:], f"{COURIER.fingerprint}=", "f" * 64):
        said = pair.request.refused(*words, "--fingerprint", wrong, code=2)
        assert "expected SHA256: and 43 characters" in said
    assert "expected what `exchange keys list` shows on response" in pair.request.refused(*words, code=2)
    assert "courier" not in trusted(pair.request)


@pytest.mark.processes
def test_a_person_at_a_terminal_types_the_last_group_and_a_wrong_one_trusts_nothing(pair: Pair) -> None:
    brought = Path("courier.pem")
    brought.write_bytes(COURIER.public_pem())
    wrong, right = COURIER.fingerprint[:8], COURIER.fingerprint[-8:]
    for typed, code, said in ((wrong, 1, "does not end as was typed"), (right, 0, "")):
        ours, theirs = pty.openpty()
        os.write(ours, f"{typed}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "exchange", "keys", "trust", str(brought)],
            env={**os.environ, **pair.request.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(theirs)
        os.close(ours)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert COURIER.fingerprint[:-8] in done.stderr
        assert right not in done.stderr
        assert ("courier" in trusted(pair.request)) is (code == 0)


def test_a_private_key_or_a_file_that_is_none_is_not_accepted_as_the_other_sides(pair: Pair) -> None:
    private = own(pair.response)["path"]
    words = ("--fingerprint", own(pair.response)["fingerprint"])
    assert "found a private one" in pair.request.refused("keys", "trust", private, *words, code=1)
    os.mkfifo("fifo.pem")
    assert "found none" in pair.request.refused("keys", "trust", "fifo.pem", *words, code=2)


def test_limits_are_shown_changed_and_taken_away(pair: Pair) -> None:
    key = own(pair.response)
    words = ("keys", "trust", str(public(pair.response)), "--fingerprint", key["fingerprint"])
    limits = ("--not-before", "2026-01-01", "--not-after", "2126-01-31T12:00", "--channel", "directory")
    done = pair.request.do(*words, *limits, "--channel", "responses", "--channel", "control")
    assert "is trusted from 2026-01-01 00:00:00 UTC until 2126-01-31 12:00:00 UTC for control, directory" in done.out
    shown = trusted(pair.request)[key["name"]]
    assert (shown["not_before"], shown["not_after"], shown["channels"]) == (
        "2026-01-01T00:00:00+00:00",
        "2126-01-31T12:00:00+00:00",
        ["control", "directory", "responses"],
    )
    assert "until 2126-01-31" in pair.request.do("keys", "list").out
    assert "may not sign for control" in pair.request.do(*words, "--channel", "directory").err
    assert trusted(pair.request)[key["name"]]["not_after"] is None
    pair.request.do(*words, "--unlimited")
    assert trusted(pair.request)[key["name"]]["channels"] is None
    for wrong, code, said in (
        (("--channel", "requests"), 2, "expected one that is received here"),
        (("--not-after", "soon"), 2, "expected a moment"),
        (("--not-before", "2026-02-01", "--not-after", "2026-01-01"), 2, "expected a moment after 2026-02-01"),
        (("--unlimited", "--not-after", "2026-01-01"), 2, "expected no limit beside it"),
    ):
        assert said in pair.request.refused(*words, *wrong, code=code)
    assert trusted(pair.request)[key["name"]]["channels"] is None


def test_whom_this_side_came_to_trust_is_in_the_audit_once_there_is_one(pair: Pair) -> None:
    key = own(pair.response)
    words = ("keys", "trust", str(public(pair.response)), "--fingerprint", key["fingerprint"])
    assert pair.request.do("audit", "--json").lines == []  # both were trusted before their databases were made
    pair.request.do(*words, "--not-after", "2126-01-01", "--reason", "for a year or so", "--as", "ada")
    entry = pair.request.do("audit", "--json").line
    assert (entry["action"], entry["who"], entry["why"]) == ("trust_key", "ada", "for a year or so")
    limits = "until 2126-01-01 00:00:00 UTC"
    assert entry["arguments"] == {"name": key["name"], "fingerprint": key["fingerprint"], "limits": limits}


def test_a_key_whose_file_is_faulty_stops_imports_with_a_sentence_until_it_is_trusted_no_longer(pair: Pair) -> None:
    name = own(pair.response)["name"]
    file = pair.request.home / "keys/trusted" / f"{name}.pem"
    file.write_bytes(file.read_bytes() + COURIER.public_pem())
    said = pair.request.refused("import", code=2)
    assert "expected one PEM block, found 2" in said
    assert str(file) in said
    (fault,) = [line for line in pair.request.run("doctor", "--json").lines if line["level"] == "fault"]
    assert "`exchange keys untrust NAME`" in fault["remedy"]
    pair.request.do("keys", "untrust", name, "--reason", "two keys in one file")
    pair.request.do("import")


def test_doctor_and_the_list_tell_of_keys_whose_time_is_over_and_of_files_that_are_faulty(pair: Pair) -> None:
    key = own(pair.response)
    words = ("keys", "trust", str(public(pair.response)), "--fingerprint", key["fingerprint"])
    pair.request.do(*words, "--not-after", "2026-01-01")
    assert "out of its time" in pair.request.do("keys", "list").out
    done = pair.request.run("doctor", "--json")
    (fault,) = [line for line in done.lines if line["level"] == "fault"]
    assert fault["check"] == "keys"
    assert f"{key['name']} is trusted until 2026-01-01" in fault["message"]
    assert "no key of response is trusted now" in fault["message"]
    pair.request.do(*words, "--not-after", "2126-01-01")
    (pair.request.home / "keys/trusted" / f"{key['name']}.json").chmod(0o620)
    found = [line for line in pair.request.run("doctor", "--json").lines if line["level"] == "fault"]
    assert ["others can change whom we trust" in line["message"] for line in found] == [True]
    (pair.request.home / "keys/trusted" / f"{key['name']}.json").write_text('{"not_after":"later"}')
    listed = pair.request.do("keys", "list", "--json")
    assert "not_after: expected a moment" in listed.err
    assert [line["fingerprint"] for line in listed.lines if line["trusted"]] == [None]


def test_a_key_is_replaced_as_the_page_tells_and_nothing_is_refused_in_between(pair: Pair) -> None:
    old, pem = own(pair.response), str(public(pair.response))
    pair.response.environment["EXCHANGE_SIGNING_KEY"] = old["name"]
    pair.response.do("seed")
    pair.response.do("export")
    new = pair.response.do("keys", "new", "response-b", "--json").line
    pair.request.do("keys", "trust", new["path"], "--fingerprint", new["fingerprint"])
    pair.carry()
    assert [line["verdict"] for line in pair.request.do("import", "--json").lines] == ["applied"] * 2
    pair.response.environment["EXCHANGE_SIGNING_KEY"] = "response-b"
    pair.response.execute("UPDATE \"user\" SET name = 'root'")
    pair.response.do("export")
    pair.request.do(
        "keys", "trust", pem, "--fingerprint", old["fingerprint"], "--not-after", datetime.now(UTC).isoformat()
    )
    pair.carry()  # all of it once more
    verdicts = [line["verdict"] for line in pair.request.do("import", "--json").lines]
    assert set(verdicts) == {"applied", "duplicate"}
    pair.request.do("keys", "untrust", old["name"], "--reason", "replaced by response-b")
    assert set(trusted(pair.request)) == {"response-b"}


def test_a_key_that_fell_into_other_hands_counts_no_more_and_what_it_signed_is_listed_and_audited(seeded: Pair) -> None:
    request, key = seeded.request, own(seeded.response)
    seeded.carry()
    request.do("import")
    assert "Missing option" in request.run("keys", "untrust", key["name"]).err
    done = request.do("keys", "untrust", key["name"], "--reason", "stolen", "--as", "ada", "--json").line
    assert (done["fingerprint"], done["waiting"], done["held"]) == (key["fingerprint"], 0, 0)
    (batch,) = done["batches"]
    assert batch["batch"].startswith("directory-")
    assert batch["state"] == "applied"
    assert done["applied"] == 2  # with a control batch, of which there are many
    (entry, *_) = request.do("audit", "--json").lines
    assert (entry["action"], entry["who"], entry["why"]) == ("untrust_key", "ada", "stolen")
    assert entry["arguments"] == {"name": key["name"], "fingerprint": key["fingerprint"]}
    assert entry["result"] == {"applied": 2}
    listed = request.do("batches", "--key", key["name"], "--json").lines
    assert [line["batch"] for line in listed] == [batch["batch"]]
    assert request.do("batches", "--key", "nobody").out == ""
    seeded.response.execute("UPDATE \"user\" SET name = 'root'")
    seeded.response.do("export")
    seeded.carry()
    outcomes = request.run("import", "--json").lines
    assert {(line["verdict"], line["reason"]) for line in outcomes} == {("quarantined", "untrusted")}
    said = request.refused("keys", "untrust", key["name"], "--reason", "again", code=1)
    assert "no key" in said
    assert "`exchange keys list`" in said
