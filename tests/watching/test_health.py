"""How a side is, at a glance: by the checks of doctor, in bounded time whatever hangs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from exchange.database import clock
from exchange.files import pid_lock
from exchange.operating.assemble import assemble
from exchange.operating.doctor.examine import examine_side
from exchange.operating.doctor.finding import Alarm, Finding, Level, ok
from exchange.operating.prepare import prepare
from exchange.settings import Settings
from exchange.watching import health
from exchange.watching.health import Looker, read_health


def settings_at(home: Path, *, database_url: str = "", broker_url: str | None = None) -> Settings:
    return Settings(
        network="response",
        peer="request",
        home=home,
        outgoing=home / "outgoing",
        incoming=home / "incoming",
        database_url=database_url,
        broker_url=broker_url,
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = settings_at(tmp_path)
    prepare(made).engine.dispose()
    return made


@contextmanager
def silent_server() -> Iterator[int]:
    """Give the port of a server that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_health_says_what_doctor_says(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings.outgoing / ".exchange-folder").unlink()
    beat = pid_lock.hold(settings.beat_lock, lambda who: who)
    monkeypatch.setenv(clock.AHEAD, str(timedelta(minutes=10).total_seconds()))

    def told(findings: Iterator[Finding]) -> set[tuple[object, ...]]:
        return {(one.alarm, one.subject, one.level, one.remedy, one.command) for one in findings if one.alarm}

    looked = read_health(settings)
    doctor = told(examine_side(settings, lambda: assemble(settings, keyless=True)))
    assert told(iter(looked.parts)) == doctor
    assert {one[0] for one in doctor} > {Alarm.BEAT, Alarm.EXPORT_LATE, Alarm.FOLDER, Alarm.KEY, Alarm.WORKER}
    assert (looked.level, looked.is_ready) == (Level.FAULT, False)
    beat.close()


def test_a_database_and_a_broker_that_never_answer_are_said_and_the_rest_is_given(tmp_path: Path) -> None:
    with silent_server() as port:
        made = settings_at(
            tmp_path,
            database_url=f"postgresql://nobody@127.0.0.1:{port}/nothing",
            broker_url=f"redis://127.0.0.1:{port}/0",
        )
        looker, begun = Looker(made), time.monotonic()
        found = looker.read(0.3)
        again = looker.read(0.1)
        assert time.monotonic() - begun < 2
    silent = {one.alarm: one for one in found.parts if one.message.startswith("no answer from")}
    assert set(silent) == {Alarm.DATABASE, Alarm.BROKER}
    assert {one.check for one in found.parts} >= {"clock", "keys", "folders", "outgoing", "incoming"}
    assert [one.since for one in again.parts if one.alarm is Alarm.BROKER] == [silent[Alarm.BROKER].since]


def test_a_look_that_hangs_is_left_to_itself_after_a_while_and_another_one_begun(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ABANDONED_SECONDS", 0.0)
    monkeypatch.setattr(health, "FRESH_SECONDS", 0.0)
    os.mkfifo(tmp_path / "hangs")
    looks = []

    def look() -> Iterator[Finding]:
        looks.append(1)
        yield ok("first", "seen before it hung")
        (tmp_path / "hangs").read_bytes()  # nobody writes
        yield ok("second", "seen")

    looker = Looker(settings)
    looker._parts = (health._Part("folders", Alarm.FOLDER, "mount it", look),)
    for _ in range(10):
        first, hangs = looker.read(0.01).parts
        assert (first.check, hangs.level, hangs.alarm) == ("first", Level.FAULT, Alarm.FOLDER)
    assert len(looks) == health.MOST_ABANDONED + 1
    hung = looker._parts[0]._hung
    os.close(os.open(tmp_path / "hangs", os.O_WRONLY))  # whoever waits goes on
    assert all(one.done.wait(10) for one in hung)
    assert [one.check for one in hung[0].findings] == ["first", "second"]
    looker.close()
