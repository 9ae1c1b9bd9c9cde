"""What the pages of schedule and settings show, and that no secret is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.database.processes import Kind, note_sign
from exchange.operating.prepare import prepare
from exchange.operating.schedule import entries
from exchange.operating.shown_settings import shown_settings
from exchange.settings import Settings
from tests.console.served import console


@pytest.fixture
def side(tmp_path: Path) -> Settings:
    secret = tmp_path / "secret"
    secret.write_text("hook-secret-of-some-length-hook-secret\n")
    secret.chmod(0o600)
    return Settings(
        network="response",
        peer="request",
        home=tmp_path,
        outgoing=tmp_path / "outgoing",
        incoming=tmp_path / "incoming",
        broker_url="redis://worker:broker-password@127.0.0.1:1/0?token=query-secret",
        notify="night=mailto://me:mail-password@example.org hook=exchange+https://hooks.example/path-secret",
        notify_secret_file=secret,
        notify_alive="https://alive.example/alive-secret",
    )


def test_the_schedule_shows_what_beat_starts_and_who_works(side: Settings) -> None:
    site = prepare(side)
    note_sign(site.engine, Kind.WORKER, 60)
    with console(side) as browser:
        page = browser.get("/schedule").words
    site.engine.dispose()
    for one in entries(side):
        assert one.task in page
    assert "Beat not at work no word yet" in page
    assert "Workers not at work last word" in page, "its lock is free on this machine"
    assert "requests imported never with the first run not yet" in page


def test_settings_are_shown_with_where_they_are_from_and_without_any_secret(
    side: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGE_PEER", "request")
    found = {one.name: one for one in shown_settings(side)}
    assert (found["EXCHANGE_PEER"].value, found["EXCHANGE_PEER"].source) == ("request", "environment")
    assert found["EXCHANGE_NETWORK"].source == "file"
    assert (found["EXCHANGE_SERVE_PORT"].value, found["EXCHANGE_SERVE_PORT"].source) == ("8470", "default")
    assert found["EXCHANGE_BROKER_URL"].value == "redis://worker:(not shown)@127.0.0.1:1/0"
    assert found["EXCHANGE_NOTIFY"].value == "night (mailto), hook (exchange+https)"
    prepare(side).engine.dispose()
    with console(side) as browser:
        pages = [browser.get("/settings"), browser.get("/settings?word=broker_url")]
    for word in ("broker-password", "query-secret", "mail-password", "path-secret", "hook-secret", "alive-secret"):
        assert all(word not in page.body for page in pages)
    assert "EXCHANGE_NETWORK" in pages[0].words
    assert "EXCHANGE_NETWORK" not in pages[1].words
