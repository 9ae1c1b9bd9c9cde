"""Who is let in over HTTP where requests are written: by password, token and key, and who is not."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import argon2
import jwt
import pytest
import sqlalchemy as sa
from openapi_spec_validator import validate

from exchange.api import Exchange, RefusedArgument
from exchange.database import audit_log, clock, make_engine, tables
from exchange.files.token_keys import TokenKeys
from exchange.operating.doctor.requesters import check_api_keys, check_token_keys
from exchange.people import api_keys, passwords
from exchange.people.sweep import sweep
from exchange.requesters import access_tokens, sessions
from exchange.settings import Settings
from tests.databases import Databases
from tests.serve.doors import GOOD, Client, door, lend_side, switch

pytestmark = pytest.mark.same_on("postgresql")


@pytest.fixture(autouse=True, scope="module")
def _cheap() -> Iterator[None]:
    """Have hashes cost little: what they cost is the library's affair."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(passwords, "_hasher_of_many", argon2.PasswordHasher(1, 8, 1))
        yield


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def side(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Settings:
    return lend_side(databases, request.param, tmp_path)


@pytest.fixture
def stranger(side: Settings) -> Iterator[Client]:
    with door(side) as client:
        yield client


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    return lambda ahead: monkeypatch.setenv(clock.AHEAD, str(ahead.total_seconds()))


def is_known(client: Client) -> bool:
    answer, found = client.ask("GET", "/who")
    assert answer.status in {200, 401}, found
    return answer.status == 200


def forged(shown: str, **changes: Any) -> dict[str, Any]:
    said: dict[str, Any] = jwt.decode(shown, options={"verify_signature": False})
    return said | changes


def test_a_user_signs_in_is_known_renews_and_signs_out(side: Settings, stranger: Client) -> None:
    assert not is_known(stranger)
    ada = stranger.sign_in("ada@example.org")
    assert ada.ask("GET", "/who")[1] == {
        "name": "ada",
        "by": "access token",
        "scopes": ["requests:read", "requests:write"],
    }
    _, renewed = stranger.ask("POST", "/refresh", {"refresh_token": ada.refresh_token})
    again = stranger.showing(renewed["access_token"])
    assert is_known(again)
    assert is_known(ada)  # until it ends
    assert again.ask("POST", "/sign-out")[1] == {"signed_out": True}
    assert not is_known(again)
    assert not is_known(ada)
    assert stranger.ask("POST", "/refresh", {"refresh_token": renewed["refresh_token"]})[0].status == 401
    shown = (GOOD, ada.shown, ada.refresh_token, ada.refresh_token.partition(".")[0])
    engine = make_engine(side.database_url)
    with engine.connect() as connection:
        kept = [connection.execute(sa.select(one)).all() for one in tables.metadata.tables.values()]
    assert not [one for one in shown if one in str(kept)]
    engine.dispose()


def test_a_refresh_token_that_comes_again_ends_its_session_and_is_in_the_audit(
    side: Settings, stranger: Client
) -> None:
    ada, other = stranger.sign_in("ada"), stranger.sign_in("ada")
    _, renewed = stranger.ask("POST", "/refresh", {"refresh_token": ada.refresh_token})
    answer, found = stranger.ask("POST", "/refresh", {"refresh_token": ada.refresh_token})
    assert (answer.status, "it was used before" in found["detail"]) == (401, True)
    assert not is_known(stranger.showing(renewed["access_token"]))
    assert stranger.ask("POST", "/refresh", {"refresh_token": renewed["refresh_token"]})[0].status == 401
    assert is_known(other)
    for nonsense in ("x", ".", ada.refresh_token.partition(".")[2], "\u00e9." * 300):
        assert stranger.ask("POST", "/refresh", {"refresh_token": nonsense})[0].status == 401
    engine = make_engine(side.database_url)
    with engine.connect() as connection:
        written = audit_log.entries(connection, action="requester_refresh")
    assert [(one.who, one.arguments["claimed"]) for one in written] == [("unknown", "user 1")]
    engine.dispose()


def test_whoever_is_not_active_vanished_or_was_revoked_is_nobody_at_once(side: Settings, stranger: Client) -> None:
    answer, found = stranger.ask("POST", "/sign-in", {"name": "eve", "password": GOOD})
    assert (answer.status, found["detail"]) == (401, "the name or the password is not right")
    with Exchange(side) as exchange:
        _, key = exchange.requesters.add_api_key("robot", ["requests:read"], timedelta(days=1), user="ada")
        ada, robot = stranger.sign_in("ada"), stranger.showing(key)
        assert is_known(ada)
        assert is_known(robot)
        switch(exchange.engine, "ada", active=False)
        assert not is_known(ada)
        assert not is_known(robot)
        assert stranger.ask("POST", "/refresh", {"refresh_token": ada.refresh_token})[0].status == 401
        switch(exchange.engine, "ada", active=True)
        ada = stranger.sign_in("ada")
        assert exchange.requesters.revoke("ada", reason="lost her laptop") == 1
        assert not is_known(ada)
        ada = stranger.sign_in("ada")
        exchange.requesters.set_password("ada", "another horse battery")
        assert not is_known(ada)
        assert stranger.ask("POST", "/sign-in", {"name": "ada", "password": GOOD})[0].status == 401
        ada = stranger.sign_in("ada", "another horse battery")
        exchange.requesters.revoke("ada", password=True)
        assert stranger.ask("POST", "/sign-in", {"name": "ada", "password": "another horse battery"})[0].status == 401
        bob = stranger.sign_in("bob")
        with exchange.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM \"user\" WHERE name = 'bob'"))
        assert not is_known(bob)


def test_a_forged_token_is_believed_whatever_it_says_of_itself_by_nobody(side: Settings, stranger: Client) -> None:
    ada = stranger.sign_in("ada")
    key = TokenKeys(side.keys_folder).signing()
    header, payload, signature = ada.shown.split(".")
    said = forged(ada.shown)

    def signed(secret: bytes = key.secret, algorithm: str = "HS256", kid: Any = key.id, **changes: Any) -> str:
        return jwt.encode(said | changes, secret, algorithm=algorithm, headers={"kid": kid})

    def bare(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    assert is_known(stranger.showing(signed()))
    without = [{name: value for name, value in said.items() if name != gone} for gone in said]
    for token in (
        jwt.encode(said, "", algorithm="none", headers={"kid": key.id}),
        f"{bare(json.dumps({'alg': 'none', 'kid': key.id}))}.{payload}.",
        f"{header}.{bare(json.dumps(said | {'sub': '2'}))}.{signature}",
        signed(os.urandom(32)),
        signed(algorithm="HS512", secret=key.secret * 2),
        signed(kid="nobody"),
        signed(kid="../../request-2026.key"),
        signed(iss="exchange response"),
        signed(aud="exchange response requests"),
        signed(aud=["exchange response requests"]),
        signed(exp=said["iat"] - 1),
        signed(exp=said["exp"] + 86_400),
        signed(nbf=said["nbf"] + 600, exp=said["exp"] + 600),
        signed(exp="never"),
        signed(exp=float("1e308")),
        signed(sub="2"),
        signed(sub="1; DROP TABLE request"),
        signed(sub="\u0661"),
        signed(sid="0" * 32),
        signed(jti=""),
        signed(jti=7),
        *(jwt.encode(one, key.secret, algorithm="HS256", headers={"kid": key.id}) for one in without),
        "a.b.c",
        "." * 9,
        "x" * 9_000,
    ):
        assert not is_known(stranger.showing(token)), token
    assert is_known(ada)


def test_tokens_end_and_those_of_a_key_that_was_rotated_out_with_it(
    side: Settings, stranger: Client, turn: Callable[[timedelta], None]
) -> None:
    ada = stranger.sign_in("ada")
    file = side.keys_folder / "request-tokens.secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with Exchange(side) as exchange:
        exchange.requesters.rotate_token_keys()
        assert is_known(ada)
        later = stranger.sign_in("ada")
        turn(access_tokens.LASTS + timedelta(seconds=1))
        assert not is_known(ada)
        assert not is_known(later)
        answer, found = stranger.ask("POST", "/refresh", {"refresh_token": later.refresh_token})
        assert answer.status == 200, found
        turn(access_tokens.LASTS + timedelta(minutes=2))
        exchange.requesters.rotate_token_keys()
        assert len(TokenKeys(side.keys_folder).listed()) == 2
        assert is_known(stranger.showing(found["access_token"]))
        exchange.requesters.rotate_token_keys(at_once=True)
        assert not is_known(stranger.showing(found["access_token"]))
        turn(sessions.LASTS * 2)
        assert stranger.ask("POST", "/refresh", {"refresh_token": found["refresh_token"]})[0].status == 401
        assert [found.level for found in check_token_keys(side)] == ["ok"]
        file.chmod(0o644)
        assert [found.alarm for found in check_token_keys(side)] == ["key"]
        answer, found = stranger.ask("POST", "/sign-in", {"name": "ada", "password": GOOD})
        assert (answer.status, answer.headers["retry-after"], str(file) in answer.body) == (503, "5", False)


def test_keys_of_programs_have_scopes_an_end_and_an_overlap_when_they_are_rotated(
    side: Settings, stranger: Client, turn: Callable[[timedelta], None]
) -> None:
    with Exchange(side) as exchange:
        made, first = exchange.requesters.add_api_key("robot", ["requests:read"], timedelta(days=90), user="ada")
        assert stranger.showing(first).ask("GET", "/who")[1]["scopes"] == ["requests:read"]
        (used,) = exchange.requesters.api_keys()
        assert (used.used_from, used.scopes) == ("127.0.0.1", made.scopes)
        _, second = exchange.requesters.rotate_api_key("robot", timedelta(hours=1))
        assert is_known(stranger.showing(first))
        assert is_known(stranger.showing(second))
        turn(timedelta(hours=2))
        assert not is_known(stranger.showing(first))
        assert is_known(stranger.showing(second))
        later, third = exchange.requesters.rotate_api_key("robot", timedelta(0), timedelta(days=10))
        assert later.expires_at < made.expires_at
        (found,) = check_api_keys(side, exchange.site)
        assert (found.level, found.command) == ("warning", "exchange api-keys rotate robot --expires 90d")
        assert not is_known(stranger.showing(second))
        exchange.requesters.revoke_api_key("robot", reason="gone")
        assert not is_known(stranger.showing(third))
        _, rows = exchange.requesters.add_api_key("loader", ["streams:request"], timedelta(days=1))
        answer, found = stranger.showing(rows).ask("GET", "/who")
        assert (answer.status, "needs the scope requests:read" in found["detail"]) == (403, True)
        turn(timedelta(days=2))
        assert stranger.showing(rows).ask("GET", "/who")[0].status == 401
        for scopes, user in ((["requests:write"], None), (["streams:nowhere"], None), (["all"], "ada"), ([], "ada")):
            with pytest.raises(RefusedArgument, match="nothing was done"):
                exchange.requesters.add_api_key("other", scopes, timedelta(days=1), user=user)
        with exchange.engine.connect() as connection:
            written = [one.action for one in audit_log.entries(connection)]
            kept = str(connection.execute(sa.select(tables.api_key)).all())
        assert written.count("rotate_api_key") == 2
        assert not [one for one in (first, second, third, rows) if one.removeprefix(api_keys.PREFIX) in kept]
        turn(timedelta(days=400))
        sweep(exchange.engine, side.limits, clock.now() - timedelta(days=30))
        assert exchange.requesters.api_keys() == []


def test_who_fails_often_waits_and_that_costs_nobody_with_the_right_name_elsewhere(stranger: Client) -> None:
    for _ in range(5):
        assert stranger.ask("POST", "/sign-in", {"name": "ada", "password": "wrong"})[0].status == 401
    answer, found = stranger.ask("POST", "/sign-in", {"name": "ada", "password": GOOD})
    assert (answer.status, answer.headers["retry-after"], found["title"]) == (429, "1", "too much was asked")
    stranger.sign_in("bob")


NONSENSE: tuple[tuple[str, Any, int, str], ...] = (
    ("/sign-in", {"name": "ada"}, 400, "password: expected a text, found nothing"),
    ("/sign-in", {"name": "ada", "password": ["x"]}, 400, "password: expected a text"),
    ("/sign-in", {"name": "ada", "password": "x", "admin": True}, 400, "nothing is called so"),
    ("/sign-in", {"name": "ada\0", "password": "x"}, 400, "the character U+0000"),
    ("/sign-in", {"name": "' OR 1=1 --", "password": "x"}, 401, "the name or the password is not right"),
    ("/sign-in", '{"name": "ada", "name": "eve", "password": "x"}', 400, "the body is no JSON"),
    ("/sign-in", "[" * 5_000, 400, "the body is no JSON"),
    ("/sign-in", "x" * 70_000, 413, "the request is too large"),
    ("/refresh", {"refresh_token": None}, 400, "refresh_token: expected a text"),
)


def test_nonsense_is_refused_in_a_sentence(stranger: Client) -> None:
    for path, said, status, detail in NONSENSE:
        answer, found = stranger.ask("POST", path, said)
        assert (answer.status, found["status"]) == (status, status), found
        assert detail in found["detail"]
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_document_has_the_door_and_the_side_that_answers_has_none(side: Settings, stranger: Client) -> None:
    _, found = stranger.ask("GET", "/openapi.json")
    validate(found)
    assert found["paths"]["/api/v1/sign-in"]["post"]["security"] == []
    other = side.model_copy(update={"network": "response", "peer": "request"})
    with Exchange(other) as exchange, pytest.raises(RefusedArgument, match="requests are asked on network request"):
        exchange.requesters.set_password("ada", GOOD)
