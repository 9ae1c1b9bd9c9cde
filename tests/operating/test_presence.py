"""A worker that was killed, beat that never ran, work that is not done: each is known by doctor, with what to do."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from exchange.database import clock
from exchange.database.locks import reading
from exchange.database.positions import note_success
from exchange.database.tables import Direction
from exchange.files import pid_lock
from exchange.operating.prepare import prepare
from exchange.operating.presence import absences
from exchange.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        network="response",
        peer="request",
        home=tmp_path,
        database_url=f"sqlite:///{tmp_path}/exchange.db",
        outgoing=tmp_path / "outgoing",
        incoming=tmp_path / "incoming",
    )


def test_who_is_missing_is_said_and_since_when_nothing_was_done(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = prepare(settings)

    def said() -> list[str]:
        with reading(site.engine) as connection:
            return [one.message for one in absences(settings, site, connection)]

    def work() -> None:
        note_success(site.engine, Direction.OUT, [one.name for one in site.outgoing()])
        note_success(site.engine, Direction.IN, [one.name for one in site.incoming()])

    assert said() == ["exports and imports have not run yet: neither beat nor a worker runs here"]
    work()
    assert said() == []  # by cron, say
    worker = pid_lock.hold_with_others(settings.worker_lock)
    another = pid_lock.hold_with_others(settings.worker_lock)
    assert said() == [
        "a worker runs here, but no beat: nothing is called but by hand, unless another machine's beat does"
    ]
    worker.close()
    beat = pid_lock.hold(settings.beat_lock, lambda who: who)
    assert said() == []
    another.close()
    assert said() == ["beat runs here, but no worker: what it calls waits, unless another machine's worker takes it"]
    monkeypatch.setenv(clock.AHEAD, str(timedelta(minutes=10).total_seconds()))
    [sentence] = said()
    assert sentence.startswith("for imports nothing was done since 20")  # an export is late after a quarter of an hour
    assert sentence.endswith(": beat runs here, but no worker")
    monkeypatch.setenv(clock.AHEAD, str(timedelta(days=400).total_seconds()))
    work()
    monkeypatch.setenv(clock.AHEAD, "0")
    assert said()[0].startswith("for exports and imports nothing was done since")  # by a clock that was ahead
    work()
    beat.close()
    assert said() == []
    site.engine.dispose()
