"""Users, sessions, attempts and tokens, over real databases and by the turned clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import argon2
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from exchange.database import audit_log, clock, make_engine, tables
from exchange.database.engine import now
from exchange.limits import Limits
from exchange.people import attempts, passwords, sessions, sign_in, sweep, tokens, users
from exchange.people.roles import Role, Via
from exchange.people.sessions import Lifetime
from tests.databases import Databases

pytestmark = pytest.mark.same_on("postgresql")

GOOD = "correct horse battery"
LIFETIME = Lifetime(timedelta(minutes=30), timedelta(hours=12))


def make(url: str) -> None:
    made = make_engine(url)
    tables.metadata.create_all(made)
    made.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Engine]:
    """Give a database with our tables, of each kind in turn."""
    made = make_engine(databases.copy(request.param, "our tables", make))
    yield made
    made.dispose()


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hashes cost little: what they cost is the library's affair."""
    monkeypatch.setattr(passwords, "_hasher", argon2.PasswordHasher(1, 8, 1))


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give what turns the clock so many minutes ahead."""
    return lambda minutes: monkeypatch.setenv(clock.AHEAD, str(minutes * 60))


def who(engine: Engine, secret: str) -> str | None:
    person = sign_in.person_of_session(engine, secret, "10.0.0.2", LIFETIME)
    return None if person is None else person.name


def audited(engine: Engine) -> list[tuple[str, str, str, object]]:
    with engine.connect() as connection:
        return [
            (one.who, one.action, one.origin, one.arguments | (one.result or {}))
            for one in audit_log.entries(connection)
        ]


def test_whoever_gives_the_right_password_is_known_by_a_secret_that_no_database_has(engine: Engine) -> None:
    users.add_user(engine, "Alice", Role.OPERATOR, GOOD)
    first = sign_in.sign_in(engine, " ALICE", GOOD, "10.0.0.1")
    assert (first.person.name, first.person.role, first.person.via) == ("alice", "operator", Via.PASSWORD)
    assert who(engine, first.secret) == "alice"
    second = sign_in.sign_in(engine, "alice", GOOD, "10.0.0.1", before=first.secret)
    assert second.secret != first.secret
    assert who(engine, first.secret) is None  # nobody fixes a session before its owner signs in
    sign_in.sign_out(engine, second.person, second.secret)
    assert who(engine, second.secret) is None
    with engine.connect() as connection:
        rows = str([connection.execute(sa.select(one)).all() for one in (tables.session, tables.user)])
    assert GOOD not in rows
    assert second.secret not in rows
    assert [one[:3] for one in audited(engine)] == [
        ("alice", "sign_out", "console, 10.0.0.1"),
        ("alice", "sign_in", "console, 10.0.0.1"),
        ("alice", "sign_in", "console, 10.0.0.1"),
    ]


@pytest.mark.parametrize("change", ["password", "role", "disabled", "removed"])
def test_sessions_end_with_whatever_changes_of_their_user(engine: Engine, change: str) -> None:
    users.add_user(engine, "alice", Role.VIEWER, GOOD)
    secret = sign_in.sign_in(engine, "alice", GOOD, "::1").secret
    match change:
        case "password":
            users.change_user(engine, "alice", password="another long password")
        case "role":
            users.change_user(engine, "alice", role=Role.OPERATOR)
        case "disabled":
            users.change_user(engine, "alice", disabled=True)
        case _:
            users.remove_user(engine, "alice")
    assert who(engine, secret) is None
    if change != "role":
        with pytest.raises(sign_in.NotSignedIn, match="the name or the password is not right"):
            sign_in.sign_in(engine, "alice", GOOD, "::1")


def test_a_session_ends_unused_after_a_while_and_after_a_longer_one_however_much_it_is_used(
    engine: Engine, turn: Callable[[float], None]
) -> None:
    users.add_user(engine, "alice", Role.VIEWER, GOOD)
    left, used = (sign_in.sign_in(engine, "alice", GOOD, "::1").secret for _ in range(2))
    turn(29)
    assert who(engine, used) == "alice"
    turn(31)
    assert (who(engine, left), who(engine, used)) == (None, "alice")
    for minutes in range(50, 12 * 60, 20):
        turn(minutes)
        assert who(engine, used) == "alice"
    turn(12 * 60)
    assert who(engine, used) is None
    assert sweep.sweep(engine, Limits(), now()) == 2
    assert sessions.list_sessions(engine, LIFETIME) == []


def test_one_who_guesses_waits_longer_each_time_and_a_name_that_is_not_there_is_answered_alike(
    engine: Engine, turn: Callable[[float], None]
) -> None:
    users.add_user(engine, "alice", Role.VIEWER, GOOD)
    for name in ("alice", "nobody"):
        for _ in range(attempts.FREE_OF_A_NAME):
            with pytest.raises(sign_in.NotSignedIn):
                sign_in.sign_in(engine, name, "wrong", "10.0.0.1")
        with pytest.raises(sign_in.TooOften, match="try again in 1 seconds"):
            sign_in.sign_in(engine, name, GOOD, "10.9.9.9")
    turn(0.2)
    with pytest.raises(sign_in.NotSignedIn):
        sign_in.sign_in(engine, "alice", "wrong", "10.0.0.1")
    turn(0.21)
    with pytest.raises(sign_in.TooOften):
        sign_in.sign_in(engine, "alice", GOOD, "10.0.0.1")
    turn(1)
    assert sign_in.sign_in(engine, "alice", GOOD, "10.0.0.1").person.name == "alice"
    failures = [one for one in audited(engine) if one[0] == "unknown"]
    assert [one[3]["claimed"] for one in failures] == ["alice"] + ["no user of ours"] * 5 + ["alice"] * 5  # type: ignore[index]
    for number in range(attempts.FREE_OF_AN_ADDRESS):
        with pytest.raises((sign_in.NotSignedIn, sign_in.TooOften)):
            sign_in.sign_in(engine, f"somebody{number}", "wrong", "2001:db8::1")
    with pytest.raises(sign_in.TooOften):
        sign_in.sign_in(engine, "alice", GOOD, "2001:db8::2")
    turn(60)
    sweep.sweep(engine, Limits(), now())
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.sign_in)) == 0


def test_a_hash_follows_the_library_and_a_bad_password_is_refused_without_a_word_of_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad in ("short", "aaaaaaaaaaaaaaaa", "alice-likes-alice", "x" * 2000):
        with pytest.raises(passwords.WeakPassword) as refused:
            users.add_user(engine, "alice", Role.VIEWER, bad)
        assert bad not in str(refused.value)
    users.add_user(engine, "alice", Role.VIEWER, GOOD)
    kept = sa.select(tables.user.c.hash)
    with engine.connect() as connection:
        before = connection.execute(kept).scalar_one()
    monkeypatch.setattr(passwords, "_hasher", argon2.PasswordHasher(2, 8, 1))
    sign_in.sign_in(engine, "alice", GOOD, "::1")
    with engine.connect() as connection:
        after = connection.execute(kept).scalar_one()
    assert before.startswith("$argon2id$v=19$m=8,t=1,")
    assert after.startswith("$argon2id$v=19$m=8,t=2,")
    assert argon2.PasswordHasher().memory_cost >= 64 * 1024
    of_many = argon2.extract_parameters(passwords.hash_anew(GOOD, of_many=True))
    assert (of_many.type, of_many.memory_cost >= 19 * 1024, of_many.time_cost >= 2) == (argon2.Type.ID, True, True)


def test_a_token_is_shown_once_and_good_until_its_end_or_until_it_is_revoked(
    engine: Engine, turn: Callable[[float], None]
) -> None:
    _, secret = tokens.add_token(engine, "nightly", Role.OPERATOR, timedelta(days=1), "alice")
    tokens.add_token(engine, "other", Role.VIEWER, timedelta(days=1), "alice")
    person = tokens.person_of_token(engine, secret, "10.0.0.1")
    assert person is not None
    assert (person.name, person.role, person.behind) == ("token nightly", "operator", "alice")
    assert tokens.list_tokens(engine)[0].used_from == "10.0.0.1"
    with engine.connect() as connection:
        assert secret not in str(connection.execute(sa.select(tables.token)).all())
    with pytest.raises(ValueError, match="there is a token nightly already"):
        tokens.add_token(engine, "nightly", Role.OPERATOR, timedelta(days=1), "alice")
    turn(24 * 60)
    assert tokens.person_of_token(engine, secret, "10.0.0.1") is None
    turn(0)
    assert not tokens.revoke_token(engine, "nightly").is_good
    assert tokens.person_of_token(engine, secret, "10.0.0.1") is None
    assert sweep.sweep(engine, Limits(), now() + timedelta(seconds=1)) == 1
    assert [one.name for one in tokens.list_tokens(engine)] == ["other"]


def test_whom_a_proxy_names_has_the_role_of_the_user_of_that_name(engine: Engine) -> None:
    users.add_user(engine, "carol@example.org", Role.OPERATOR, None, sees_sensitive=True)
    known = sign_in.person_by_proxy(engine, "Carol@Example.org", "10.0.0.1", None)
    assert known is not None
    assert (known.role, known.sees_sensitive, known.via) == ("operator", True, Via.PROXY)
    assert sign_in.person_by_proxy(engine, "dave", "10.0.0.1", None) is None
    unknown = sign_in.person_by_proxy(engine, "dave", "10.0.0.1", Role.VIEWER)
    assert unknown is not None
    assert (unknown.role, unknown.sees_sensitive) == ("viewer", False)
    with pytest.raises(sign_in.NotSignedIn):
        sign_in.sign_in(engine, "carol@example.org", "", "10.0.0.1")
    users.change_user(engine, "carol@example.org", disabled=True)
    assert sign_in.person_by_proxy(engine, "carol@example.org", "10.0.0.1", Role.VIEWER) is None
