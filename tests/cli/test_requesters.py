"""Who may ask over HTTP, on the command line: passwords, sessions, keys of programs and of tokens."""

from __future__ import annotations

from pathlib import Path

import argon2
import pytest

from exchange.api import Exchange
from exchange.database import make_engine
from exchange.files.token_keys import TokenKeys
from exchange.people import passwords
from exchange.requesters import sign_in
from tests.cli.conftest import Side
from tests.databases import Databases
from tests.serve.doors import GOOD, lend_side


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hashes cost little: what they cost is the library's affair."""
    monkeypatch.setattr(passwords, "_hasher_of_many", argon2.PasswordHasher(1, 8, 1))


def test_passwords_sessions_and_keys_are_given_listed_and_ended_and_the_audit_has_no_secret(
    databases: Databases, tmp_path: Path
) -> None:
    home, file = tmp_path / "home", tmp_path / "password"
    settings = lend_side(databases, "sqlite", home)
    side, engine, keys = Side("request", home), make_engine(settings.database_url), TokenKeys(settings.keys_folder)
    file.write_text(f"{GOOD}\n")
    given = ("--password-file", str(file))
    assert side.do("requesters", "password", "ada@example.org", *given).out == (
        "ada@example.org may sign in with this password\n"
    )
    assert "no one user has the name or e-mail 'nobody'" in side.refused(
        "requesters", "password", "nobody", *given, code=1
    )
    assert "nobody is signed in" in side.do("requesters", "sessions").err
    for name in ("ada", "ada", "bob"):
        sign_in.sign_in(engine, keys, "request", name, GOOD, "10.0.0.7")
    assert {(one["user"], one["address"]) for one in side.do("requesters", "sessions", "--json").lines} == {
        ("ada", "10.0.0.7"),
        ("bob", "10.0.0.7"),
    }
    assert "expected a user's name, or --all alone" in side.refused("requesters", "revoke", code=2)
    assert side.do("requesters", "revoke", "ada", "--drop-password", "--as", "nora").out == "2 sessions ended\n"
    assert side.do("requesters", "revoke", "--all").out == "1 session ended\n"
    with pytest.raises(sign_in.NotSignedIn):
        sign_in.sign_in(engine, keys, "request", "ada", GOOD, "10.0.0.7")
    signs = side.do("requesters", "rotate-key", "--at-once", "--json").line["signs"]
    assert [one.id for one in keys.listed()] == [signs]

    scopes = ("--scope", "requests:read", "--scope", "streams:request")
    made = side.do("api-keys", "add", "robot", *scopes, "--user", "bob", "--expires", "90d").out.splitlines()
    again = side.do("api-keys", "rotate", "robot", "--overlap", "1h", "--expires", "30d").out.splitlines()
    assert made[0].startswith("API key robot is good for requests:read, streams:request until ")
    assert "; the one before until " in again[0]
    assert made[1] != again[1]
    assert side.do("api-keys", "revoke", "robot").out == "API key robot is good for nothing any more\n"
    assert "revoked" in side.do("api-keys", "list").out
    assert "is revoked or past its end" in side.refused("api-keys", "rotate", "robot", code=1)
    assert "scope: expected requests:read" in side.refused(
        "api-keys", "add", "x", "--scope", "all", "--expires", "1d", code=2
    )

    with Exchange(settings) as exchange:
        entries = exchange.audit.list(limit=50).entries
    acts = ["set_requester_password", "revoke_requester", "rotate_token_key", "add_api_key", "rotate_api_key"]
    assert {*acts, "revoke_api_key"} <= {one.action for one in entries}
    assert [one.who for one in entries if one.action == "revoke_requester"][-1] == "nora"
    assert not [secret for secret in (GOOD, made[1], again[1]) if secret in str(entries)]
    engine.dispose()


def test_the_side_that_answers_and_other_applications_say_where_requests_are_asked(tmp_path: Path) -> None:
    refused = Side("response", tmp_path).refused("requesters", "rotate-key", code=2)
    assert "requests are asked on network request of exchange.reference:channels" in refused
