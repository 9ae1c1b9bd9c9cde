"""Passwords from files, so that they stand in no variable and in no URL that somebody wrote down."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kombu.connection import Connection
from redis import Redis
from sqlalchemy.engine import make_url

from exchange.settings import Settings, SettingsFaults, load_settings, variables

ODD = "p@ss:w/rd %41#?&\"'ö"
POSTGRES, REDIS = "postgresql://exchange@127.0.0.1/exchange", "redis://127.0.0.1:6379/0"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in variables():
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.setenv("EXCHANGE_NETWORK", "request")
    monkeypatch.setenv("EXCHANGE_PEER", "response")


def load(monkeypatch: pytest.MonkeyPatch, **values: str | Path) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"EXCHANGE_{name}", str(value))
    return load_settings()


def fault(monkeypatch: pytest.MonkeyPatch, **values: str | Path) -> str:
    with pytest.raises(SettingsFaults) as caught:
        load(monkeypatch, **values)
    (sentence,) = caught.value.faults
    return sentence


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_password_from_a_file_is_put_into_the_url_whatever_characters_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str
) -> None:
    (tmp_path / "word").write_bytes(f"{ODD}{ending}".encode())
    settings = load(
        monkeypatch,
        DATABASE_URL=POSTGRES,
        DATABASE_PASSWORD_FILE="word",
        BROKER_URL=REDIS,
        BROKER_PASSWORD_FILE=tmp_path / "word",
    )
    assert make_url(settings.database_url).password == ODD
    assert settings.broker_url is not None
    with Redis.from_url(settings.broker_url) as client:
        assert client.get_connection_kwargs()["password"] == ODD
    with Connection(settings.broker_url) as connection:  # type: ignore[no-untyped-call]
        assert connection.password == ODD
    assert ODD not in repr(settings)
    assert "***" in settings.shown_database_url


def test_a_user_of_the_broker_stays_in_its_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("word\n")
    url = load(monkeypatch, BROKER_URL="rediss://worker@127.0.0.1/1", BROKER_PASSWORD_FILE="word").broker_url
    assert url == "rediss://worker:word@127.0.0.1/1"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"hidden\nhidden\n", b"hid\x00den", b"hidden\xff", b"h" * 5000], ids=range(6)
)
def test_a_file_that_holds_no_password_is_one_sentence_without_a_word_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "word").write_bytes(content)
    said = fault(monkeypatch, DATABASE_URL=POSTGRES, DATABASE_PASSWORD_FILE="word")
    assert said.startswith("EXCHANGE_DATABASE_PASSWORD_FILE: expected ")
    assert "hid" not in said.replace("(not shown)", "")


def test_a_file_that_is_not_there_or_cannot_be_read_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("gone", "folder", "pipe"):
        assert name in fault(monkeypatch, BROKER_URL=REDIS, BROKER_PASSWORD_FILE=name)


@pytest.mark.parametrize(
    "variable, url",
    [
        ("DATABASE", ""),
        ("DATABASE", "sqlite:///x.db"),
        ("DATABASE", "postgresql://exchange:hidden@127.0.0.1/exchange"),
        ("DATABASE", "postgresql://127.0.0.1/exchange?password=hidden"),
        ("BROKER", ""),
        ("BROKER", "redis://:hidden@127.0.0.1/0"),
        ("BROKER", "redis://127.0.0.1/0?password=hidden"),
        ("BROKER", "redis+socket:///run/redis.sock"),
    ],
)
def test_a_password_has_one_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, url: str) -> None:
    (tmp_path / "word").write_text("word")
    said = fault(monkeypatch, **{f"{variable}_URL": url, f"{variable}_PASSWORD_FILE": "word"})
    assert f"EXCHANGE_{variable}_PASSWORD_FILE, found" in said
    assert "hidden" not in said


def test_what_stands_behind_the_question_mark_of_a_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, DATABASE_URL="postgresql://127.0.0.1/exchange?password=hidden&sslpassword=hidden")
    assert settings.shown_database_url.endswith("://127.0.0.1/exchange")
    assert "hidden" not in repr(settings)
