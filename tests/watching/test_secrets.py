"""Canaries in everything by which people are told: looked for wherever a side says how it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exchange.settings import Settings
from tests.cli.conftest import Pair
from tests.operating.test_canaries import environment
from tests.watching.receivers import receiving

TOLD = {"user": "canary-user-5e6f", "password": "canarypassword", "path": "canary-Path-1a2b", "header": "canary-9c0d"}
SECRET, TOKEN, QUERY = "canary-signing-8899-0123", "canary-token-0123456789abcdef01", "canary-Query-3c4d"
ALIVE = ("canary-alive-user-1", "canary-alive-4455", "canary-Alive-6677")

WATCHING = """
import logging
import structlog
from exchange.operating import logs
from exchange.operating.doctor.finding import Alarm, Finding, Level
from exchange.settings import load_settings
from exchange.watching.watcher import Watcher
settings = load_settings()
logs.configure("watch", settings.log_level, settings.log_format, secrets=settings.passwords)
for name in ("apprise", "requests", "urllib3"):
    logging.getLogger(name).setLevel(logging.DEBUG)
watcher = Watcher(settings, lambda: (Finding("batches", Level.FAULT, "held", alarm=Alarm.HELD, subject="requests"),))
watcher._log(watcher.look_once())
watcher._say_alive()
for one in (*(one.url for one in settings.notify_targets), settings.notify_alive, settings.serve_token):
    logging.getLogger("urllib3.connectionpool").warning("Retrying after connection broken by: %s", one)
    try:
        raise OSError(f"no way to {one} {settings.notify_secret.decode()}")
    except OSError:
        structlog.get_logger("exchange").exception("failed", url=one, of={"secret": [settings.notify_secret.decode()]})
"""


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["console", "json"])
def test_nothing_by_which_people_are_told_is_shown_wherever_a_side_says_how_it_is(
    pair: Pair, tmp_path: Path, form: str
) -> None:
    (tmp_path / "backups").mkdir(0o700)
    side, files = pair.response, {"notify_secret": SECRET, "serve_token": TOKEN}
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}\n")
        (tmp_path / name).chmod(0o600)
        side.environment[f"EXCHANGE_{name.upper()}_FILE"] = str(tmp_path / name)
    with receiving(*[500] * 20) as receiver:
        place = f"127.0.0.1:{receiver.port}"
        chat = f"json://{TOLD['user']}:{TOLD['password']}@{place}/{TOLD['path']}?+X-Key={TOLD['header']}"
        side.environment |= {
            "EXCHANGE_NOTIFY": f"hook=exchange+http://{place}/{TOLD['path']}?key={QUERY} chat={chat}",
            "EXCHANGE_NOTIFY_ALIVE": f"http://{ALIVE[0]}:{ALIVE[1]}@127.0.0.1/{ALIVE[2]}",
            "EXCHANGE_LOG_LEVEL": "DEBUG",
            "EXCHANGE_LOG_FORMAT": form,
        }
        watching = [sys.executable, "-c", WATCHING]
        done = subprocess.run(watching, env=environment(side), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(receiver.requests) == 2, done.stderr
        said = {"log": done.stdout + done.stderr}
        for words in (
            *("alarms", "alarms --json", "alarms messages", "alarms messages --json", "alarms test", "watch --once"),
            *("doctor", "doctor --json", "health --json", "metrics", "status --json", "audit", "audit --json"),
            f"backup --to {tmp_path}/backups",
        ):
            ran = side.run(*words.split())
            said[words.partition(" --to")[0]] = ran.out + ran.err
    assert "it answered 500" in said["alarms messages"]
    assert "nonnumeric port" in said["log"]
    (shown,) = tmp_path.glob("backups/*/settings.json")
    said["backup's settings"] = shown.read_text()
    canaries = (*TOLD.values(), SECRET, TOKEN, QUERY, *ALIVE)
    assert [f"{one} in {where}" for one in canaries for where, text in said.items() if one in text] == []


def test_of_urls_what_may_be_secret_is_kept_out_of_logs_and_no_word_of_our_own() -> None:
    urls = "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV mailtos://alerts:hunter2hunter@mail.example.org/exchange"
    kept = Settings(network="a", peer="b", database_url="sqlite:////tmp/x.db", notify=urls).passwords
    assert {"4174216298", "JHMHI8qBe7bk2ZwO5U711o3dV", "hunter2hunter"} <= set(kept)
    assert not {"exchange", "alerts", "mail.example.org"} & set(kept)
