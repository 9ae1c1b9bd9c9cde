"""Users, tokens and what needs a second person, on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import argon2
import pytest

from exchange.api import Exchange, NeedsSecondPerson, RefusedArgument
from exchange.database import clock
from exchange.database.whoami import login_user, user
from exchange.people import passwords
from exchange.settings import load_settings
from tests.cli.conftest import Pair, Side

GOOD = "correct horse battery"
WHY = ("--reason", "seen with the sender")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hashes cost little: what they cost is the library's affair."""
    monkeypatch.setattr(passwords, "_hasher", argon2.PasswordHasher(1, 8, 1))


def opened(side: Side, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """Open a side as a program does."""
    for name, value in side.environment.items():
        monkeypatch.setenv(name, value)
    return Exchange(load_settings())


def audited(side: Side) -> list[tuple[Any, ...]]:
    """Give who did what, the first one first."""
    lines = side.do("audit", "--json").lines
    return [(one["who"], one["action"], one["why"]) for one in reversed(lines)]


@pytest.mark.same_on("postgresql")
def test_users_are_added_changed_kept_out_and_removed_and_no_password_is_an_argument(
    any_pair: Pair, tmp_path: Path
) -> None:
    side, file = any_pair.response, tmp_path / "password"
    file.write_text(f"{GOOD}\n")
    given = ("--password-file", str(file))
    assert "there are no users yet" in side.do("users", "list").err
    assert "nobody is at a terminal" in side.refused("users", "add", "anna", "--role", "viewer", code=2)
    assert "expected viewer, operator, administrator" in side.refused(
        "users", "add", "anna", "--role", "root", *given, code=2
    )
    line = side.do("users", "add", "Anna", "--role", "administrator", *given, "--as", "root", "--json").line
    assert (line["name"], line["role"], line["has_password"]) == ("anna", "administrator", True)
    assert "there is a user anna already" in side.refused("users", "add", "ANNA", "--role", "viewer", *given, code=2)
    file.write_text("short\n")
    assert "expected 12 to 1024 characters" in side.refused("users", "add", "bob", "--role", "viewer", *given, code=2)
    side.do("users", "add", "bob@example.org", "--role", "viewer", "--no-password", "--sees-sensitive")
    assert "bob@example.org is operator" in side.do("users", "change", "bob@example.org", "--role", "operator").out
    assert "can't sign in any more" in side.do("users", "disable", "bob@example.org", "--reason", "left").out
    assert "disabled" in side.do("users", "list").out
    side.do("users", "enable", "bob@example.org")
    assert "nobody is signed in" in side.do("users", "sessions").err
    assert "0 sessions ended" in side.do("users", "sessions", "--end").out
    side.do("users", "remove", "bob@example.org")
    assert [one["name"] for one in side.do("users", "list", "--json").lines] == ["anna"]
    made = side.do("tokens", "add", "nightly", "--role", "viewer", "--expires", "90d", "--json").line
    assert made["token"].startswith("exchange_")
    assert "expected a length of time" in side.refused(
        "tokens", "add", "x", "--role", "viewer", "--expires", "soon", code=2
    )
    assert made["token"] not in side.do("tokens", "list").out
    side.do("tokens", "revoke", "nightly")
    assert "revoked" in side.do("tokens", "list").out
    audit = side.do("audit", "--json").out
    assert GOOD not in audit
    assert made["token"] not in audit
    assert [one[:2] for one in audited(side) if one[1] in {"add_user", "disable_user", "add_token"}] == [
        ("root", "add_user"),
        (user(), "add_user"),
        (user(), "add_user"),
        (user(), "add_user"),
        (user(), "disable_user"),
        (user(), "add_token"),
    ]


@pytest.mark.same_on("postgresql")
def test_what_needs_a_second_person_is_proposed_and_no_name_that_one_gives_oneself_confirms_it(
    any_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = any_pair.response
    side.environment["EXCHANGE_FOUR_EYES"] = "new_epoch,trust_key"
    before = side.do("epoch", "list", "--json").out
    sentence = side.refused("epoch", "new", *WHY, code=4)
    assert "proposed as number 1; another person confirms it by `exchange proposals confirm 1`" in sentence
    assert "proposed as number 1;" in side.refused("epoch", "new", *WHY, "--as", "someone", code=4), "asked again"
    assert "is no second person" in side.refused("proposals", "confirm", "1", code=2)
    assert side.run("proposals", "confirm", "1", "--as", "bruno").code == 2, "there is no such option"
    assert side.do("epoch", "list", "--json").out == before
    listed = side.do("proposals")
    assert "number 1: new_epoch by" in listed.out
    assert "1 wait for a second person" in side.run("doctor").out
    assert "proposal 1 waits for a second person: new_epoch by" in side.do("status").err
    assert [one["id"] for one in side.do("status", "--json").line["proposals"]] == [1]
    monkeypatch.setenv(clock.AHEAD, "7200")
    assert any(one["check"] == "proposals" and one["level"] == "warning" for one in side.run("doctor", "--json").lines)
    monkeypatch.delenv(clock.AHEAD)
    exchange = opened(side, monkeypatch)
    with pytest.raises(RefusedArgument, match="is no second person"):
        exchange.proposals.confirm(1, who=login_user().upper())
    assert exchange.proposals.confirm(1, who="bruno").state == "confirmed"
    exchange.close()
    assert side.do("epoch", "list", "--json").out != before
    acts = audited(side)
    assert ("bruno", "new_epoch", "seen with the sender") in acts
    assert [one[1] for one in acts].count("propose") == 2
    assert [one["state"] for one in side.do("proposals", "list", "--all", "--json").lines] == ["confirmed"]
    assert "epoch was" not in side.do("proposals", "show", "1").out


def test_what_a_program_proposed_another_person_confirms_by_command_and_just_that_is_done(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    side, other = pair.response, pair.request
    side.environment["EXCHANGE_FOUR_EYES"] = "trust_key,new_epoch"
    made = other.do("keys", "new", "second", "--json").line
    given = ("keys", "trust", made["path"], "--fingerprint", made["fingerprint"])
    assert "give a reason" in side.refused(*given, code=2)
    exchange = opened(side, monkeypatch)
    with pytest.raises(NeedsSecondPerson):
        exchange.epochs.new("because", who="alice")
    assert "number 2" in side.refused(*given, *WHY, code=4)
    assert "is no second person" in side.refused("proposals", "confirm", "2", code=2)
    Path(made["path"]).write_text("another key")
    assert exchange.proposals.confirm(2, who="alice").state == "confirmed"
    assert "second" in side.do("keys", "list").out
    assert "is confirmed by alice already" in side.refused("proposals", "confirm", "2", code=2)
    assert "confirmed" in side.do("proposals", "confirm", "1").out
    side.refused("epoch", "new", *WHY, code=4)
    assert "proposal 3 is withdrawn" in side.do("proposals", "withdraw", "3").out
    assert "is withdrawn" in side.refused("proposals", "confirm", "3", code=2)
    side.refused("epoch", "new", *WHY, code=4)
    monkeypatch.setenv(clock.AHEAD, str(73 * 3600))
    assert "nothing waits for a second person" in side.do("proposals").err
    with pytest.raises(RefusedArgument, match="proposal 4 is expired already"):
        exchange.proposals.confirm(4, who="alice")
    exchange.close()


@pytest.mark.thorough
def test_a_few_letters_one_person_discards_alone_and_more_are_refused_once_they_changed(
    parked: Callable[[], int], seeded: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter, side = parked(), seeded.request
    side.environment |= {"EXCHANGE_FOUR_EYES": "discard", "EXCHANGE_FOUR_EYES_DISCARD_ABOVE": "1"}
    side.do("dead-letters", "discard", str(letter), *WHY)
    side.do("dead-letters", "restore", str(letter), *WHY)
    side.environment["EXCHANGE_FOUR_EYES_DISCARD_ABOVE"] = "0"
    side.do("dead-letters", "select", "--name", "bad")
    side.refused("dead-letters", "discard", "--selection", "bad", *WHY, code=4)
    side.refused("dead-letters", "discard", str(letter), *WHY, code=4)
    exchange = opened(side, monkeypatch)
    exchange.dead_letters.retry([letter])
    with pytest.raises(RefusedArgument, match="what proposal 2 is about has changed since: digest was"):
        exchange.proposals.confirm(2, who="alice")
    assert exchange.proposals.find(2).state == "failed"
    with pytest.raises(NeedsSecondPerson) as held:
        exchange.dead_letters.discard("hopeless", [letter], who="bob")
    number = held.value.proposal.id
    assert exchange.proposals.confirm(number, who="alice").result == {"discarded": 1}
    exchange.close()
    assert side.do("dead-letters", "list", "--state", "discarded", "--json").line["id"] == letter
    assert ("alice", "discard_dead_letter", "hopeless") in audited(side)


@pytest.mark.thorough
def test_a_gap_is_accepted_by_two(seeded: Pair, stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (seeded.response.home / "outgoing").glob(f"{stem}.*"):
        path.unlink()
    seeded.response.execute("UPDATE profile_type SET daily_limit = daily_limit + 1")
    seeded.response.do("export")
    seeded.carry()
    side = seeded.request
    side.do("import")
    side.environment["EXCHANGE_FOUR_EYES"] = "accept_gap,release,reject"
    nothing = side.refused("gaps", "accept", "directory", "7", *WHY, code=2)
    assert "there is nothing here that it is about; nothing was proposed" in nothing
    assert "number 1" in side.refused("gaps", "accept", "directory", "1", *WHY, code=4)
    assert "1 of" in side.do("proposals", "show", "1").out
    exchange = opened(side, monkeypatch)
    done = exchange.proposals.confirm(1, who="alice").result
    assert done is not None
    assert done["sequences"] == [1]
    exchange.close()
    assert side.do("gaps").err.splitlines() == ["nothing is missing"]


@pytest.mark.thorough
def test_held_batches_are_let_in_and_rejected_by_two_whatever_command_asks(
    seeded: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, side = seeded.response, seeded.request
    for number in (77, 78, 79):
        there.execute(
            f"INSERT INTO profile_type (id, name, daily_limit, priority) VALUES ({number}, 'p{number}', 1, 1)"
        )
    there.do("export")
    seeded.carry()
    side.do("import")
    side.environment |= {"EXCHANGE_DELETED_ROWS": "0", "EXCHANGE_DELETED_SHARE": "0"}
    side.environment["EXCHANGE_FOUR_EYES"] = "release,reject"
    exchange = opened(side, monkeypatch)
    for number, proposal in ((77, 1), (78, 2), (79, 3)):
        there.execute(f"DELETE FROM profile_type WHERE id = {number}")
        there.do("export")
        seeded.carry()
        side.do("import")
        held = side.do("batches", "--state", "held", "--json").line["batch"]
        words = {
            77: ("batches", "release", held),
            78: ("import", "--release", held),
            79: ("batches", "reject", held),
        }[number]
        assert f"proposed as number {proposal};" in side.refused(*words, *WHY, code=4)
        assert exchange.proposals.confirm(proposal, who="alice").state == "confirmed"
        assert side.do("batches", "--state", "held", "--json").lines == []
    exchange.close()
    acts = [one[1] for one in audited(side) if one[0] == "alice" and one[1] != "confirm_proposal"]
    assert acts == ["release_batch", "import", "reject_batch"]
