import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from exchange.operating import last_runs
from exchange.operating.reloading import ANSWER_SECONDS, Outcome, Reloader, ask_all
from exchange.settings import NEEDS_RESTART, load_settings, variable_name
from tests.celery.conftest import START_SECONDS, Side, new_side, until

PAGE = Path(__file__).parents[2] / "deploy/SETTINGS.md"
OURS = "EXCHANGE_NETWORK=request\nEXCHANGE_PEER=response\nEXCHANGE_HOME=home\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "settings.env"
    made.write_text(OURS)
    monkeypatch.setenv("EXCHANGE_ENV_FILE", str(made))
    return made


def test_what_may_change_is_taken_what_needs_a_restart_is_named_and_what_is_wrong_is_refused_whole(file: Path) -> None:
    told: list[Outcome] = []
    reloader = Reloader(load_settings(), told.append)
    assert not reloader.reload_if_asked()
    file.write_text(f"{OURS}EXCHANGE_MAX_RECORDS=7\nEXCHANGE_TASK_SECONDS=60\n")
    reloader.ask()
    assert reloader.reload_if_asked()
    assert (reloader.settings.max_records, reloader.settings.task_seconds) == (7, 3600)
    file.write_text(f"{OURS}EXCHANGE_MAX_RECORDS=8\nEXCHANGE_COPIES=none\n")
    reloader.ask()
    assert not reloader.reload_if_asked()
    assert reloader.settings.max_records == 7
    taken, refused = told
    assert taken == Outcome("taken", ("EXCHANGE_MAX_RECORDS",), ("EXCHANGE_TASK_SECONDS",))
    assert refused.faults == ("EXCHANGE_COPIES: expected a whole number, 1 or more, found 'none'",)


def test_whoever_asks_is_answered_by_every_process_of_the_home(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    reloader = Reloader(settings, lambda _: None)
    last_runs.begin(settings, "nudge")
    try:
        file.write_text(f"{OURS}EXCHANGE_MAX_RECORDS=7\n")

        def turn(_seconds: float) -> None:
            reloader.ask()
            reloader.reload_if_asked()

        monkeypatch.setattr("time.sleep", turn)
        (answer,) = ask_all(settings)
        assert (answer.process, answer.state, answer.changed) == ("nudge", "taken", ("EXCHANGE_MAX_RECORDS",))
        monkeypatch.undo()
    finally:
        last_runs.end()
    assert last_runs.living(settings) == []


def test_the_page_names_the_settings_that_need_a_restart() -> None:
    said = PAGE.read_text().partition("A restart of worker, beat and nudge is needed for ")[2].partition(".")[0]
    assert set(re.findall(r"EXCHANGE_\w+", said)) == {variable_name(one) for one in NEEDS_RESTART}


@pytest.fixture
def side(tmp_path: Path, forked_python: Path) -> Iterator[Side]:
    made = new_side(tmp_path, forked_python)
    yield made
    made.stop()


@pytest.mark.thorough
@pytest.mark.processes
def test_worker_its_children_beat_nudge_and_up_take_new_settings(side: Side) -> None:
    settings = side.folder / ".env"
    settings.write_text("EXCHANGE_NUDGE=true\n")
    up, log = side.up(forked=True)
    until(lambda: all(word in log.read_text() for word in (" ready.", " ticking", " nudging ")))
    settings.write_text(
        "EXCHANGE_NUDGE=true\nEXCHANGE_EXPORT_EVERY=1\nEXCHANGE_LOG_LEVEL=DEBUG\nEXCHANGE_LOG_FORMAT=json\n"
    )
    done = side.start("reload", "-m", "exchange", "reload", "--json", forked=True)
    assert done[0].wait(2 * ANSWER_SECONDS) == 0, done[1].read_text()
    answers = [json.loads(line) for line in done[1].read_text().splitlines()]
    assert {one["process"]: one["state"] for one in answers} == dict.fromkeys(
        ("beat", "nudge", "up", "worker"), "taken"
    )

    def child_has_spoken() -> bool:
        (worker,) = (psutil.Process(one["pid"]) for one in answers if one["process"] == "worker")
        children = {child.pid for child in worker.children()}
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return any(one.get("pid") in children for one in lines)

    side.celery("call", "exchange.prune", "--kwargs", '{"who": "ada"}')
    side.celery("call", "exchange.new_epoch", "--kwargs", '{"reason": "a test"}')
    until(child_has_spoken)
    up.send_signal(signal.SIGHUP)
    until(lambda: "settings are as they were" in log.read_text())
    up.send_signal(signal.SIGTERM)
    assert up.wait(START_SECONDS) == 0
