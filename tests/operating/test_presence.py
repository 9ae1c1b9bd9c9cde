"""A worker that was killed, beat that never ran, work that is not done: each is known by doctor, with what to do."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.database import clock
from exchange.database.locks import reading
from exchange.database.positions import note_success
from exchange.database.processes import Kind, note_sign, this_host
from exchange.database.tables import Direction, process
from exchange.files import pid_lock
from exchange.operating import last_runs
from exchange.operating.doctor import Level
from exchange.operating.doctor.presence import check_presence
from exchange.operating.prepare import prepare
from exchange.operating.presence import look_for_processes
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


def test_who_is_missing_or_hangs_is_said_and_since_when_nothing_was_done(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = prepare(settings)

    def said() -> dict[tuple[str | None, str], tuple[str, str]]:
        found = [one for one in check_presence(settings, site) if one.level is not Level.OK]
        return {(one.alarm, one.subject): (one.level, one.message.partition(" since")[0]) for one in found}

    def work() -> None:
        note_success(site.engine, Direction.OUT, [one.name for one in site.outgoing()])
        note_success(site.engine, Direction.IN, [one.name for one in site.incoming()])

    def ahead(**time: float) -> None:
        monkeypatch.setenv(clock.AHEAD, str(timedelta(**time).total_seconds()))

    assert set(said().values()) == {("warning", "imports have not run yet: neither beat nor a worker runs here")}
    work()
    assert said() == {}  # by cron, say
    worker = pid_lock.hold_with_others(settings.worker_lock)
    another = pid_lock.hold_with_others(settings.worker_lock)
    alone = "a worker runs here, but no beat: nothing is called but by hand, unless another machine's beat does"
    assert said() == {}  # both were started just now
    ahead(minutes=1)
    assert said() == {("beat", ""): ("warning", alone)}
    ahead(minutes=0)
    worker.close()
    beat = pid_lock.hold(settings.beat_lock, lambda who: who)
    assert said() == {}

    ahead(minutes=10)
    assert said() == {
        ("beat", ""): ("fault", "beat runs here, but has not ticked"),
        # An export is late after a quarter of an hour.
        ("import_late", "requests"): ("fault", said()["import_late", "requests"][1]),
    }
    note_sign(site.engine, Kind.BEAT, 10)
    hung = "a worker runs here, but has got nothing done"
    assert said()["worker", ""] == ("fault", hung)
    note_sign(site.engine, Kind.WORKER, 60)
    work()
    assert said() == {}
    another.close()  # whatever it said a moment ago
    assert said() == {("worker", ""): ("fault", said()["worker", ""][1])}
    assert said()["worker", ""][1].startswith("no worker works any more; the last one got something done at")
    ahead(days=2)
    work()
    beat.close()
    assert said() == {}  # by cron again
    ahead(days=400)
    work()
    ahead(days=0)
    assert ("export_late", "responses") in said()  # by a clock that was ahead
    site.engine.dispose()


def test_of_several_machines_the_last_sign_counts_and_what_is_gone_is_forgotten(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = prepare(settings)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    note_sign(site.engine, Kind.WORKER, 60)
    monkeypatch.undo()

    def signs() -> list[str]:
        with reading(site.engine) as connection:
            assert look_for_processes(settings, site, connection).worker.works
            return sorted(connection.scalars(sa.select(process.c.host)))

    assert signs() == ["elsewhere"]
    monkeypatch.setenv(clock.AHEAD, str(timedelta(days=8).total_seconds()))
    held = pid_lock.hold_with_others(settings.worker_lock)
    note_sign(site.engine, Kind.WORKER, 60)
    assert signs() == [this_host()]
    held.close()
    site.engine.dispose()


def test_what_was_told_to_stop_is_no_fault_and_what_fell_after_it_is(settings: Settings) -> None:
    site = prepare(settings)
    worker, beat = settings.worker_lock, settings.beat_lock

    def said() -> set[tuple[str, str]]:
        found = [one for one in check_presence(settings, site) if one.alarm in {"worker", "beat"}]
        return {(one.level, one.message.partition(" since ")[0]) for one in found}

    note_sign(site.engine, Kind.BEAT, 10)
    note_sign(site.engine, Kind.WORKER, 60)
    for kind, held in (
        (Kind.BEAT, pid_lock.hold(beat, lambda who: who)),
        (Kind.WORKER, pid_lock.hold_with_others(worker)),
    ):
        last_runs.note_stopped(settings, kind)
        held.close()
    assert said() == {("warning", "beat is stopped on purpose"), ("warning", "the worker is stopped on purpose")}
    (settings.run_folder / "alive").mkdir()
    (settings.run_folder / "alive" / "worker-elsewhere-1").touch()  # what one that was killed leaves
    pid_lock.hold(beat, lambda who: who).close()  # one that began later, and fell
    assert {level for level, _ in said()} == {"fault"}
    assert len(said()) == 2
    site.engine.dispose()
