import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from exchange.celery.beat import SELDOM_SECONDS, SteadyScheduler
from exchange.celery.redbeat import SteadyRedBeat
from exchange.database import clock

from .conftest import Side, until

YEAR = 365 * 86400
ENTRIES = {
    "often": {"task": "often", "schedule": 60.0, "kwargs": {}, "options": {}},
    "seldom": {"task": "seldom", "schedule": 86400.0, "kwargs": {}, "options": {}},
}


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("beating", broker="memory://", set_as_current=False)
    made.conf.beat_schedule = ENTRIES
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "beat.json"


def ticks(scheduler: Any) -> list[str]:
    """Give what it sends at once; its own clock is not waited for."""
    sent: list[str] = []
    scheduler.send_task = lambda name, *_, **__: sent.append(name)
    scheduler.tick()
    return sorted(sent)


@pytest.mark.parametrize(
    "kept, seldom_in",
    [
        (None, 86400),
        (b"", 86400),
        (b'{"seldom": 17', 86400),
        (b"\x13\x57\x9a\xce a schedule file of Celery's own", 86400),
        (b'{"seldom": "never"}', 86400),
        (b"[NaN]", 86400),
        (b'{"seldom": NaN}', 86400),
        (YEAR, 86400),
        (-YEAR, 0),
        (-SELDOM_SECONDS, 86400 - SELDOM_SECONDS),
    ],
)
def test_what_was_kept_of_the_last_runs_stops_nothing(
    app: Celery, file: Path, kept: bytes | int | None, seldom_in: float
) -> None:
    if kept is not None:
        file.write_bytes(json.dumps({"seldom": time.time() + kept}).encode() if isinstance(kept, int) else kept)
    started = [SteadyScheduler(app=app, schedule_filename=str(file)) for _ in range(2)]
    for scheduler in started:  # a start more changes nothing
        assert scheduler._due["often"] <= time.monotonic()
        assert scheduler._due["seldom"] - time.monotonic() == pytest.approx(seldom_in, abs=30)
    assert ticks(started[1]) == (["often"] if seldom_in else ["often", "seldom"])
    again = SteadyScheduler(app=app, schedule_filename=str(file))
    assert again._due["seldom"] - time.monotonic() == pytest.approx(seldom_in or 86400, abs=30)


def test_a_clock_that_jumps_while_beat_runs_neither_stops_nor_hurries_it(
    app: Celery, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = SteadyScheduler(app=app, schedule_filename=str(file))
    assert ticks(scheduler) == ["often"]
    for jump in (YEAR, 0, -YEAR):
        monkeypatch.setenv(clock.AHEAD, str(jump))
        assert ticks(scheduler) == []
        assert 0 < scheduler.tick() <= 60
        scheduler._due["often"] -= 60
        assert ticks(scheduler) == ["often"]


@pytest.mark.valkey
def test_a_tick_that_the_broker_did_not_take_is_sent_again_soon(app: Celery, file: Path, valkey_url: str) -> None:
    app.conf.broker_url = valkey_url
    scheduler = SteadyScheduler(app=app, schedule_filename=str(file))
    with redis.Redis.from_url(valkey_url) as client:
        client.config_set("min-replicas-to-write", 1)
        try:
            assert 0 < scheduler.tick() <= 10
            assert 0 < scheduler.tick() <= 10
        finally:
            client.config_set("min-replicas-to-write", 0)
        scheduler._due = dict.fromkeys(ENTRIES, 0)
        scheduler.tick()
        assert client.llen("celery") == 2
        client.flushall()
    scheduler.close()


@pytest.mark.valkey
def test_redbeat_ticks_after_its_keys_are_gone_or_were_written_while_the_clock_was_ahead(valkey_url: str) -> None:
    app = Celery("beating", broker=valkey_url, set_as_current=False)
    app.conf.update(beat_schedule=ENTRIES, redbeat_key_prefix="x:", beat_max_loop_interval=5)
    scheduler = SteadyRedBeat(app)
    with redis.Redis.from_url(valkey_url) as client:
        assert ticks(scheduler) == []
        client.zadd("x::schedule", {"x:often": time.time() + YEAR})
        assert ticks(scheduler) == ["often"]
        client.flushall()
        assert ticks(scheduler) == ["often", "seldom"]
        assert ticks(scheduler) == []
        client.config_set("min-replicas-to-write", 1)
        try:
            assert ticks(scheduler) == []
        finally:
            client.config_set("min-replicas-to-write", 0)
        client.flushall()
        assert ticks(scheduler) == ["often", "seldom"]
    scheduler.close()
    app.close()


@pytest.mark.processes
@pytest.mark.valkey
def test_a_second_beat_of_a_home_waits_for_the_first_whatever_schedule_file_lies_there(
    side: Side, valkey_url: str
) -> None:
    side.environment["EXCHANGE_BROKER_URL"] = valkey_url
    (side.home / "run").mkdir(parents=True)
    for name in ("beat.json", "beat-schedule"):
        (side.home / "run" / name).write_bytes(b"\x13\x57 truncated")
    side.environment["EXCHANGE_ANSWER_EVERY"] = "300"
    logs = [side.start(name, "-m", "celery", "-A", "exchange", "beat", "-l", "INFO", forked=True)[1] for name in "ab"]

    until(lambda: any("is beat here; this one goes on after it" in log.read_text() for log in logs))
    with redis.Redis.from_url(valkey_url) as client:
        until(lambda: client.llen("exchange-response") == 5)
        waits = ["is beat here" in log.read_text() for log in logs].index(True)
        side.processes[1 - waits].terminate()
        assert side.processes[1 - waits].wait(30) == 0
        until(lambda: client.llen("exchange-response") == 10)
        client.flushall()
    assert "Traceback" not in "".join(log.read_text() for log in logs)
