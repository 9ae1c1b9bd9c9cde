"""Time from fault to a person, with real processes: `exchange watch` and a receiver, at periods of a second or two.

deploy/ALARMS.md has what is measured here. What the check's own threshold takes is waited for beside the two periods.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from exchange.database.engine import now
from exchange.operating.doctor.finding import Alarm
from tests.celery.conftest import until
from tests.cli.conftest import Pair, Side, paired
from tests.databases import Databases
from tests.watching.receivers import Receiver, receiving

EVERY = 1.0
SLACK_SECONDS = 20.0
"""For a machine that does other things, too: a look takes a good second there, and starts processes."""

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.thorough, pytest.mark.processes]


class Watched:
    """A side that `exchange watch` looks at, in a process of its own, and who is told."""

    def __init__(self, side: Side, receiver: Receiver, folder: Path) -> None:
        self.side, self.receiver, self.folder = side, receiver, folder
        (folder / "secret").write_text("0123456789abcdef\n")
        side.environment |= {
            "EXCHANGE_NOTIFY": f"ops={receiver.url}",
            "EXCHANGE_NOTIFY_SECRET_FILE": str(folder / "secret"),
            "EXCHANGE_WATCH_EVERY": str(EVERY),
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("EXCHANGE_", "CELERY_"))}
        self.environment = clean | side.environment | {"PYTHONPATH": str(ROOT)}

    def start(self, stack: ExitStack, *command: str) -> subprocess.Popen[bytes]:
        log = stack.enter_context((self.folder / f"{command[-1]}.log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=self.environment,
            cwd=self.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        stack.callback(end, process)
        return process

    def told(self, alarm: Alarm, subject: str = "", *, began: float, threshold: float = 0.0) -> float:
        """Wait until somebody was told of an alarm, and give the seconds since the fault began."""
        of = f'"alarm": "{alarm}", "subject": ' + (f'"{subject}"' if subject else "")
        found = self.receiver.wait_until(of, threshold + 2 * EVERY + SLACK_SECONDS)
        assert found is not None, (alarm, [one.body for one in self.receiver.requests], self.log())
        seconds = found[0] - began
        print(f"{alarm}: {seconds:.1f} s")  # noqa: T201 - shown with -rP, for the page
        assert '"command": "exchange ' in found[1] or alarm in (Alarm.DEAD_LETTERS, Alarm.LINK_SILENT)
        return seconds

    def log(self) -> str:
        return (self.folder / "watch.log").read_text()[-3000:]


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def watched(tmp_path: Path, databases: Databases) -> Iterator[tuple[Pair, Watched, ExitStack]]:
    """Give two sides of which the request network's can be watched; the other one gives a sign of life each 2 s."""
    made = paired(tmp_path, databases, "sqlite", seed=True)
    made.response.environment |= {"EXCHANGE_EXPORT_EVERY": "2"}
    made.response.do("export")
    with receiving() as receiver, ExitStack() as stack:
        yield made, Watched(made.request, receiver, tmp_path), stack


def test_what_lies_in_the_database_the_folders_and_the_keys_is_told_within_two_periods(  # noqa: PLR0915 - one day
    watched: tuple[Pair, Watched, ExitStack],
) -> None:
    pair, told, stack = watched
    request, response = pair.request, pair.response
    limits = {"EXCHANGE_ALARM_LETTERS": "1", "EXCHANGE_DELETED_ROWS": "1", "EXCHANGE_DELETED_SHARE": "0.1"}
    request.environment |= limits | {"EXCHANGE_REPAIR": "false"}
    response.environment |= {"EXCHANGE_REPAIR": "false"}
    told.environment |= request.environment
    pair.carry()
    request.do("import")
    told.start(stack, "exchange", "watch")
    until((request.home / "run/watch.json").exists)

    # Two records that are refused, where one may be parked.
    request.execute(
        "INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (98, 'own', 1, 1), (99, 'two', 1, 1)"
    )
    response.execute(
        "INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (50, 'own', 1, 1), (51, 'two', 1, 1)"
    )
    response.do("export")
    pair.carry()
    began = time.monotonic()
    request.do("import")
    told.told(Alarm.DEAD_LETTERS, began=began)

    # Rows that differ, found by a comparison.
    request.execute("UPDATE profile_type SET daily_limit = 77 WHERE name = 'basic'")
    response.do("reconcile", "directory")
    response.do("export")
    pair.carry()
    began = time.monotonic()
    request.do("import")
    told.told(Alarm.DISAGREEMENT, "profile_type", began=began)

    # Deletes that are held for a person.
    response.execute("DELETE FROM profile_type WHERE id IN (50, 51)")
    response.do("export")
    pair.carry()
    began = time.monotonic()
    request.do("import")
    told.told(Alarm.HELD, "directory", began=began)
    (held,) = [one["batch"] for one in request.do("batches", "--state", "held", "--json").lines]
    request.do("import", "--release", held)

    # One that is damaged, and one behind one that is lost.
    def export(name: str) -> list[Path]:
        before = set((response.home / "outgoing").iterdir())
        response.execute(f"UPDATE profile_type SET daily_limit = {len(name)} WHERE name = 'basic'")
        response.do("export", "directory")
        return sorted(one for one in set((response.home / "outgoing").iterdir()) - before if one.name.startswith("dir"))

    for one in export("damaged"):
        shutil.copy(one, request.home / "incoming" / one.name)
    (data,) = (request.home / "incoming").glob("directory-*.zst")
    data.write_bytes(data.read_bytes() + b"x")
    began = time.monotonic()
    request.do("import")
    told.told(Alarm.QUARANTINED, "directory", began=began)
    export("lost for good")
    for one in export("behind what is lost"):
        shutil.copy(one, request.home / "incoming" / one.name)
    began = time.monotonic()
    request.do("import")
    told.told(Alarm.GAP, "directory", began=began)

    # A key that ends within two weeks.
    (key,) = (request.home / "keys/trusted").glob("response-*.pem")
    soon = (now() + timedelta(days=3)).isoformat()
    began = time.monotonic()
    listed = request.do("keys", "list", "--json").lines
    (fingerprint,) = (one["fingerprint"] for one in listed if one["name"] == key.stem)
    request.do("keys", "trust", str(key), "--not-after", soon, "--fingerprint", fingerprint)
    told.told(Alarm.KEY, key.stem, began=began)


def test_a_disk_that_is_nearly_full_is_told_within_two_periods(
    watched: tuple[Pair, Watched, ExitStack], tmp_path: Path
) -> None:
    pair, told, stack = watched
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=400M", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    stack.callback(subprocess.run, ["/bin/umount", "-l", str(small)], check=True)
    side = pair.request
    side.environment |= {"EXCHANGE_INCOMING": str(small / "incoming"), "EXCHANGE_BATCH_BYTES": "1000000"}
    side.do("init")
    told.environment |= side.environment
    told.start(stack, "exchange", "watch")
    until((side.home / "run/watch.json").exists)
    began = time.monotonic()
    with (small / "full").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 380_000_000)
    told.told(Alarm.DISK, "incoming", began=began)


def test_a_worker_that_is_killed_or_hangs_a_beat_that_is_gone_a_silent_link_and_late_exports_are_told(
    watched: tuple[Pair, Watched, ExitStack], valkey_url: str
) -> None:
    pair, told, stack = watched
    pair.carry()
    side = pair.request
    side.environment |= {
        "EXCHANGE_BROKER_URL": valkey_url,
        "EXCHANGE_EXPORT_EVERY": "2",
        "EXCHANGE_IMPORT_EVERY": "2",
        "EXCHANGE_WORKER_CONCURRENCY": "1",
    }
    told.environment |= side.environment
    heard = time.monotonic()
    side.do("import")
    celery = ("celery", "-q", "-A", "exchange")
    worker = told.start(stack, *celery, "worker")
    beat = told.start(stack, *celery, "beat")
    until(lambda: "work: a worker got something done" in side.run("doctor").out)
    told.start(stack, "exchange", "watch")
    told.told(Alarm.LINK_SILENT, "response", began=heard, threshold=30)

    began = time.monotonic()
    os.killpg(worker.pid, signal.SIGKILL)
    told.told(Alarm.WORKER, began=began)
    worker = told.start(stack, *celery, "worker")
    gone = '"what": "gone", "alarm": "worker"'
    assert told.receiver.wait_until(gone, 60), told.log()

    began = time.monotonic()
    os.killpg(beat.pid, signal.SIGKILL)
    told.told(Alarm.BEAT, began=began)
    told.start(stack, *celery, "beat")
    assert told.receiver.wait_until('"what": "gone", "alarm": "beat"', 60), told.log()

    told.receiver.requests.clear()
    began = time.monotonic()
    os.killpg(worker.pid, signal.SIGSTOP)
    told.told(Alarm.WORKER, began=began, threshold=60)
    told.told(Alarm.EXPORT_LATE, "requests", began=began, threshold=150)
