"""Signatures of calls, and the secret behind them, without a broker."""

from __future__ import annotations

import copy
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from exchange.celery.calls import AHEAD_SECONDS, CALL, CALLER, Caller, NotAccepted, check_call, sign
from exchange.database import audit_log
from exchange.database.audit_log import MOST_REFUSED
from exchange.database.engine import make_engine
from exchange.database.locks import reading
from exchange.files import call_secret
from exchange.operating import migrate

SECRET, NOW, VALID = b"x" * 32, 1_800_000_000, 100
HEADERS = {"task": "exchange.resend", "id": "1b", "eta": None, "timelimit": [None, None], "retries": 0}
BODY = [[], {"channel": "orders", "sequences": [1, 2], "who": "ada"}, {"callbacks": None, "chain": None}]


def signed(at: float = NOW, secret: bytes = SECRET) -> dict[str, Any]:
    return copy.deepcopy(HEADERS) | sign(HEADERS, BODY, secret, Caller("ada", "desk"), at)


def refusal(headers: Any, body: Any = BODY, secret: bytes | str = SECRET) -> str:
    with pytest.raises(NotAccepted) as caught:
        check_call(headers, body, secret, NOW, VALID)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_what_was_signed_is_accepted_with_its_caller_and_nothing_unsigned() -> None:
    accepted = check_call({**signed(), "shadow": "x", "called_directly": True}, BODY, SECRET, NOW, VALID)
    assert (accepted.args, accepted.kwargs) == (BODY[0], BODY[1])
    assert accepted.headers[CALLER] == {"who": "ada", "from": "desk"}
    assert not {"shadow", "called_directly", CALL} & accepted.headers.keys()


@pytest.mark.parametrize(
    "header, value",
    [
        ("task", "exchange.resync"),
        ("id", "another"),
        ("eta", "2999-01-01T00:00:00Z"),
        ("expires", "2999-01-01T00:00:00Z"),
        ("timelimit", [1, 1]),
        ("retries", 1),
        ("parent_id", "x"),
    ],
)
def test_a_header_that_was_changed_is_found(header: str, value: Any) -> None:
    assert "or it was changed on its way" in refusal({**signed(), header: value})


@pytest.mark.parametrize("member, value", [("who", "eve"), ("from", "elsewhere"), ("at", NOW + 1), ("digest", "é")])
def test_who_or_when_that_was_changed_is_found(member: str, value: Any) -> None:
    headers = signed()
    headers[CALL][member] = value
    assert "or it was changed on its way" in refusal(headers)


@pytest.mark.parametrize(
    "body",
    [
        [[], {"channel": "orders", "sequences": [1, 2, 3], "who": "ada"}, BODY[2]],
        [[1], BODY[1], BODY[2]],
        [[], BODY[1], {"callbacks": [{"task": "exchange.new_epoch"}]}],
    ],
)
def test_arguments_or_followers_that_were_changed_are_found(body: Any) -> None:
    assert "or it was changed on its way" in refusal(signed(), body)


@pytest.mark.parametrize("call", [None, 7, "x", [], {}, {"who": 1, "from": "", "at": 1, "digest": ""}])
def test_a_signature_that_is_none_is_refused(call: Any) -> None:
    assert "its signature: expected who, from, at and digest, found " in refusal({**HEADERS, CALL: call})


@pytest.mark.parametrize("body", [None, 5, "x", [], [[], {}], [{}, {}, {}], [[], {}, {"task": "x"}], [[], [], {}]])
def test_a_body_that_is_none_is_refused(body: Any) -> None:
    assert refusal(signed(), body).startswith("body: expected arguments as a list and an object")


@pytest.mark.parametrize("name", [None, [], {}, 1, "", "celery.map", "exchange.refused", "exchange.x\n", "exchange.X"])
def test_a_task_that_is_not_ours_is_refused(name: Any) -> None:
    assert refusal({**signed(), "task": name}) == "expected a task of the exchange's"


@pytest.mark.parametrize("number", [None, [], 1, "", "x" * 65, "a/b", "a\n"])
def test_an_id_that_nothing_can_be_kept_under_is_refused(number: Any) -> None:
    assert refusal({**signed(), "id": number}).startswith("id: expected at most 64 letters")


def test_another_secret_an_old_and_a_future_one_are_refused() -> None:
    assert "is not of this side's secret" in refusal(signed(secret=b"y" * 32))
    assert refusal(signed(NOW - VALID - 1)) == "it was signed 101 seconds ago, expected at most 100"
    assert "ahead of this machine's clock; set the clocks" in refusal(signed(NOW + AHEAD_SECONDS + 1))
    assert refusal(signed(), secret="it is away") == "its signature can't be checked: it is away"


def test_a_secret_is_made_once_for_its_user_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    call_secret.make(home)
    made = call_secret.read(home)
    assert len(made) == 32
    assert stat.S_IMODE((home / call_secret.FILE).stat().st_mode) == 0o600
    call_secret.make(home)
    assert call_secret.read(home) == made
    assert [path.name for path in home.iterdir()] == [call_secret.FILE]


def test_a_secret_that_others_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / call_secret.FILE
    with pytest.raises(call_secret.SecretFault, match="No such file or directory; `exchange migrate` makes it"):
        call_secret.read(tmp_path)
    call_secret.make(tmp_path)
    path.chmod(0o640)
    with pytest.raises(
        call_secret.SecretFault, match=r"expected a file that only its owner reads \(0600\), found -rw-r"
    ):
        call_secret.read(tmp_path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(call_secret.SecretFault, match="expected 64 hexadecimal digits"):
        call_secret.read(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    call_secret.make(tmp_path)  # follows no link, and puts nothing in its place
    with pytest.raises(call_secret.SecretFault, match="symbolic link"):
        call_secret.read(tmp_path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(call_secret.SecretFault, match="found prw"):
        call_secret.read(tmp_path)


def test_refusals_do_not_fill_the_database(sqlite_url: str) -> None:
    migrate.upgrade(sqlite_url)
    engine = make_engine(sqlite_url)
    written = [
        audit_log.write_refusal(engine, "new_epoch", "x" * 10_000, origin="the broker", sentence="the call was refused")
        for _ in range(MOST_REFUSED + 2)
    ]
    assert written == [True] * 100 + [False, False]
    with audit_log.audited(engine, "prune", {}, who="ada", origin="here"):
        pass  # what is done by hand is written down all the same
    with reading(engine) as connection:
        kept = audit_log.entries(connection)
    engine.dispose()
    assert [one.who for one in kept] == ["ada", *["unknown"] * 49]
    assert len(kept[-1].arguments["claimed"]) == 200
