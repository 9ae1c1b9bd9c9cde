import json
import subprocess
import sys
from pathlib import Path

import pytest

from exchange.operating import last_runs
from exchange.operating.doctor.finding import Alarm
from exchange.settings import Settings
from tests.cli.conftest import Pair, pair, seeded
from tests.operating.test_canaries import environment

__all__ = ["pair", "seeded"]

FALLS = """
import os
from exchange.operating import last_runs
from exchange.settings import load_settings
last_runs.begin(load_settings(), "worker")
os._exit(9)
"""


@pytest.mark.thorough
def test_processes_that_were_killed_again_and_again_are_counted_and_said_wherever_people_look(pair: Pair) -> None:
    side = pair.response
    for _ in range(6):  # the first one has none before it
        subprocess.run([sys.executable, "-c", FALLS], env=environment(side), check=False)
    assert 'exchange_process_restarts_total{network="response",process="worker"} 5.0' in side.do("metrics").out
    said = "the worker was killed, or fell, and was started again 5 times within an hour"
    (found,) = (one for one in side.run("doctor", "--json").lines if one["check"] == "restarts")
    assert (found["level"], found["message"], found["alarm"]) == ("warning", said, Alarm.WORKER)
    assert said in side.run("health").out
    assert "started again after a kill or a fall, since this home was made: worker 5" in side.run("status").out
    assert side.run("status", "--json").line["restarts"] == {"worker": 5}
    (kept,) = (side.home / "run/restarts").iterdir()
    kept.write_text(json.dumps({"count": 7, "at": []}))
    assert not [one for one in side.run("doctor", "--json").lines if one["check"] == "restarts"]


def test_of_restarts_the_newest_are_kept_and_all_are_counted(pair: Pair) -> None:
    home = pair.request.home
    settings = Settings(network="a", peer="b", home=home, database_url=f"sqlite:///{home}/x.db")
    for _ in range(last_runs.MOST_KEPT + 5):
        last_runs.note_restart(settings, "beat")
    found = last_runs.restarts(settings)["beat"]
    assert (found.count, len(found.at)) == (last_runs.MOST_KEPT + 5, last_runs.MOST_KEPT)


@pytest.mark.thorough
def test_status_and_metrics_have_when_the_last_backup_was_made(pair: Pair, tmp_path: Path) -> None:
    side = pair.response
    (tmp_path / "kept").mkdir(0o700)
    side.environment["EXCHANGE_BACKUP_TO"] = str(tmp_path / "kept")
    assert "no backup was made yet" in side.run("status").out
    side.do("backup")
    assert "the last backup was made" in side.run("status").out
    assert side.run("status", "--json").line["last_backup_at"]
    assert "exchange_last_backup_timestamp_seconds" in side.do("metrics").out
