"""Two whole sides as they run in life, to be broken: `exchange up`, a carrier, a Prometheus, and who is told.

The request network lives on a small disk and on a PostgreSQL server of its own, both of which can be taken from it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import psutil

from exchange.operating.doctor.finding import Alarm
from exchange.testing import servers
from exchange.testing.carrier import Carrier
from exchange.watching.health import KEPT_SECONDS, SECONDS
from tests.cli.conftest import PEERS, Side
from tests.networks import until
from tests.watching.receivers import Receiver, receiving
from tests.watching.scraping import Scrape

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy/ALARMS.md"
RULES = ROOT / "deploy/prometheus/exchange.rules.yml"

EVERY = 2.0
"""Seconds between two looks of the watcher, and two runs of imports and exports."""
HELD_FOR = 2.0
"""What stands in for each rule's ``for:``."""
SCRAPED_EVERY = 1.0

SLACK = 3 * SECONDS
"""A look that hangs takes so long; beside it what a busy machine needs to start commands and send."""
ALERT_SECONDS = HELD_FOR + 4 * SCRAPED_EVERY
"""Behind what a rule waits for: a scrape, two evaluations of the rule, and our own asking."""


@dataclass(frozen=True)
class Break:
    """What is to be seen of a fault: on which alarm's account, in which alert, and by which raw metric.

    ``finds`` is what the check waits for by itself, in seconds since the fault began, and ``rule`` what the rule does,
    if that is more.
    """

    alarm: Alarm
    alert: str
    crosses: Callable[[Scrape], bool]
    subject: str | None = None
    level: str = "fault"
    finds: float = 0.0
    rule: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.alarm} of {self.subject}" if self.subject else str(self.alarm)


@dataclass
class Times:
    """After how many seconds a break was seen where; what is not seen yet is not there."""

    seen: dict[str, float] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{where} {seconds:.1f} s" for where, seconds in self.seen.items())


class Served:
    """A side that ``exchange up`` runs, and what its ``exchange serve`` says of it."""

    def __init__(self, side: Side, folder: Path, receiver: Receiver, **settings: str) -> None:
        self.side, self.folder, self.port = side, folder, servers.free_port()
        secret = folder / "secret"
        secret.write_text("0123456789abcdef\n")
        secret.chmod(0o600)
        side.environment |= {
            "EXCHANGE_SERVE": "true",
            "EXCHANGE_SERVE_PORT": str(self.port),
            "EXCHANGE_NOTIFY": f"ops={receiver.url}",
            "EXCHANGE_NOTIFY_SECRET_FILE": str(secret),
            "EXCHANGE_WATCH_EVERY": str(EVERY),
            "EXCHANGE_IMPORT_EVERY": str(EVERY),
            "EXCHANGE_EXPORT_EVERY": str(EVERY),
            "EXCHANGE_WORKER_CONCURRENCY": "1",
            "EXCHANGE_REPAIR": "false",
            "EXCHANGE_GAP_SECONDS": "2",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.slowest = (0.0, "")
        """How long the slowest answer took, and of which page."""

    def up(self) -> None:
        """Start it, and wait until it is well."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("EXCHANGE_", "CELERY_"))}
        with (self.folder / f"{self.side.network}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "exchange", "up"],
                env=clean | self.side.environment | {"PYTHONPATH": str(ROOT)},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Have it stop all that it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()

    def child(self, word: str) -> psutil.Process:
        """Give what ``exchange up`` started with this word in its command, or as its name."""
        assert self.process is not None
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if one.name() == word or word in one.cmdline():
                    return one
        raise LookupError(word)

    @contextmanager
    def unattended(self) -> Iterator[None]:
        """Have nobody start again what dies: ``exchange up`` stands still meanwhile."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def ask(self, path: str) -> tuple[int, str]:
        """Get a page; status 0 if nobody answers."""
        began = time.monotonic()
        try:
            return self._ask(path)
        finally:
            self.slowest = max(self.slowest, (time.monotonic() - began, path))

    def _ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=15) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def health(self) -> tuple[int, dict[str, Any]]:
        """Give status and content of /health/ready."""
        status, text = self.ask("/health/ready")
        return status, json.loads(text) if text else {"level": "none", "parts": []}

    def alarms(self) -> list[dict[str, Any]]:
        """Give what is not well there, with or without an alarm."""
        return [one for one in self.health()[1]["parts"] if one["level"] != "ok"]

    def is_green(self) -> bool:
        """Whether all of it is well."""
        status, found = self.health()
        return (status, found["level"]) == (200, "ok")

    def log(self) -> str:
        return (self.folder / f"{self.side.network}.log").read_text()[-4000:]


class Database:
    """A PostgreSQL server that can be stopped and started on the same files, and given earlier ones."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._user = folder, servers._unprivileged()
        if self._user.uid is not None and self._user.gid is not None:
            os.chown(folder, self._user.uid, self._user.gid)
        servers._make_cluster(folder, self._user)
        self.port = servers.free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        command = [*self._user.prefix, str(servers._postgres_binary("postgres")), "-D", f"{self._folder}/data"]
        command += ["-h", "127.0.0.1", "-k", str(self._folder), "-c", "fsync=off", "-p", str(self.port)]
        self._guard = servers._start_guard(self._folder, command, signal.SIGINT, self._user)
        assert servers._until_ready(self.port, self._guard, servers._postgres_answers)

    def stop(self) -> None:
        """Stop it as an administrator would; its files stay."""
        (server,) = psutil.Process(self._guard.pid).children()
        server.send_signal(signal.SIGINT)
        self._guard.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()

    def copy(self, name: str) -> None:
        """Keep a copy of its files; it must be stopped."""
        subprocess.run(["/bin/cp", "-a", f"{self._folder}/data", f"{self._folder}/{name}"], check=True)

    def take(self, name: str) -> None:
        """Put a copy in the place of its files; it must be stopped."""
        (self._folder / "data").rename(self._folder / "lost")
        (self._folder / name).rename(self._folder / "data")

    def close(self) -> None:
        if self._guard.poll() is None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait()


class Carriers:
    """Carries both ways all the time, until it is told to rest."""

    def __init__(self, sides: dict[str, Served]) -> None:
        self.each = {
            name: Carrier(one.side.home / "outgoing", sides[PEERS[name]].side.home / "incoming", moves=True)
            for name, one in sides.items()
        }
        """By the side that files come from."""
        self.resting: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopping.wait(0.2):
            for name, one in self.each.items():
                if name not in self.resting:
                    with suppress(OSError):  # a file that is pruned meanwhile, a disk that is full
                        one.carry()
                        one._carried.clear()  # what is sent again is carried again

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


class Prometheus:
    """A real one on loopback, with the rules as they are shipped, but for how long each has to hold."""

    def __init__(self, folder: Path, ports: list[int], stack: ExitStack) -> None:
        folder.mkdir()
        rules = re.sub(r"(?m)^(\s+for: )\w+$", rf"\g<1>{HELD_FOR:g}s", RULES.read_text())
        (folder / "rules.yml").write_text(rules)
        targets = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        (folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {SCRAPED_EVERY:g}s, evaluation_interval: {SCRAPED_EVERY:g}s}}\n"
            f"rule_files: [rules.yml]\n"
            f"scrape_configs: [{{job_name: exchange, static_configs: [{{targets: [{targets}]}}]}}]\n"
        )
        self.port = servers.free_port()
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [
                str(shutil.which("prometheus")),
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        until(self._answers, (folder / "log").read_text)

    def _answers(self) -> bool:
        with suppress(OSError):
            return self._get("/-/ready") is not None
        return False

    def _get(self, path: str, **query: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}?{urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def alerts(self, network: str | None = None) -> list[dict[str, Any]]:
        """Give the alerts that fire, of a network."""
        given = json.loads(self._get("/api/v1/alerts"))["data"]["alerts"]
        return [
            one
            for one in given
            if one["state"] == "firing" and (network is None or one["labels"].get("network") == network)
        ]


@dataclass
class World:
    """Both sides, what lies between them and who looks at them; the request network is the one that is broken."""

    request: Served
    response: Served
    carriers: Carriers
    prometheus: Prometheus
    receiver: Receiver
    database: Database
    disk: Path
    measured: list[str] = field(default_factory=list)

    def messages(self) -> list[dict[str, Any]]:
        """Give what was told of the request network's alarms since the last fault began, the first first."""
        bodies = [json.loads(one.body) for one in self.receiver.requests]
        return [one for body in bodies if body["network"] == "request" for one in body["alarms"]]

    def until_green(self) -> None:
        """Wait until both sides are well and nothing is told any more."""
        until(
            lambda: self.request.is_green() and self.response.is_green() and not self.prometheus.alerts(),
            lambda: (
                f"{self.request.alarms()}\n{self.response.alarms()}\n{self.prometheus.alerts()}\n"
                f"{self.request.log()}\n{self.response.log()}"
            ),
        )

    @contextmanager
    def broken(self, *expected: Break, along: set[str] = frozenset()) -> Iterator[None]:  # type: ignore[assignment]
        """Have all of it seen that is expected of what the body breaks; ``along`` are alarms that go with it."""
        self.until_green()
        self.receiver.requests.clear()
        self.request.slowest = (0.0, "")
        began = time.monotonic()
        yield
        self._see(expected, began)
        others = {one["alarm"] for one in self.messages()} - {str(one.alarm) for one in expected} - along
        assert not others, [one for one in self.messages() if one["alarm"] in others]

    def mended(self, *expected: Break) -> None:
        """Wait until it is told of each that it is gone, and nothing of it is left anywhere."""
        began = time.monotonic()
        gone = {(one.alarm, one.subject) for one in expected}

        def is_over() -> bool:
            told = {(one["alarm"], one["subject"]) for one in self.messages() if one["what"] == "gone"}
            return all(any(alarm == one and subject in (None, which) for one, which in told) for alarm, subject in gone)

        until(is_over, lambda: f"{gone}: {self.messages()}\n{self.request.alarms()}\n{self.request.log()}")
        self.measured.append(f"{expected[0].name}: the all-clear after {time.monotonic() - began:.1f} s")
        self.until_green()

    def _see(self, expected: tuple[Break, ...], began: float) -> None:
        commands, times = commands_of_page(), {one: Times() for one in expected}
        limit = max(max(one.finds, one.rule) for one in expected) + 2 * EVERY + SLACK + ALERT_SECONDS + 10
        while not all(len(one.seen) == 4 for one in times.values()):
            self._look(times, began)
            assert time.monotonic() < began + limit, self._unseen(times)
            time.sleep(0.1)
        for one, its in times.items():
            self.measured.append(f"{one.name}: {its}; slowest answer {self.request.slowest}")
            assert its.told["message"], its.told
            for said in (its.told, its.found):
                assert said["remedy"], said
                assert str(said["command"]).startswith(commands[one.alarm]), (said, commands[one.alarm])
            rule = max(one.finds, one.rule)
            due = {"ready": one.finds, "message": one.finds + 2 * EVERY, "metric": rule, "alert": rule + ALERT_SECONDS}
            over = [where for where, seconds in its.seen.items() if seconds > due[where] + SLACK]
            assert not over, (one.name, str(its))

    def _look(self, times: dict[Break, Times], began: float) -> None:
        status, health = self.request.health()
        scraped, text = self.request.ask("/metrics")
        scrape = Scrape.of(text) if scraped == 200 else Scrape()
        firing, told, now = self.prometheus.alerts("request"), self.messages(), time.monotonic() - began
        for one, its in times.items():
            found = [part for part in health["parts"] if part["alarm"] == one.alarm and part["level"] == one.level]
            found = [part for part in found if one.subject in (None, part["subject"])]
            raised = [
                labels for (name, labels) in scrape if name == "exchange_alarm" and ("alarm", one.alarm) in labels
            ]
            news = [new for new in told if new["alarm"] == one.alarm and new["level"] == one.level]
            news = [new for new in news if new["what"] != "gone" and one.subject in (None, new["subject"])]
            if found and status == (503 if one.level == "fault" else 200):
                its.seen.setdefault("ready", now)
                its.found = found[0]
            if raised and one.crosses(scrape):
                its.seen.setdefault("metric", now)
            if any(alert["labels"]["alertname"] == one.alert for alert in firing):
                its.seen.setdefault("alert", now)
            if news:
                its.seen.setdefault("message", now)
                its.told = news[0]

    def _unseen(self, times: dict[Break, Times]) -> str:
        seen = "\n".join(f"{one.name}: {its}" for one, its in times.items())
        firing = [one["labels"] for one in self.prometheus.alerts()]
        return f"{seen}\n{self.request.alarms()}\n{firing}\n{self.messages()}\n{self.request.log()}"


def commands_of_page() -> dict[str, str]:
    """Read from the page of alarms which command comes next, by the alarm, up to what varies."""
    rows = re.findall(r"(?m)^\| `(\w+)` \|.*\| `(exchange [a-z-]+(?: [a-z-]+)*)[^`]*`[^|]*\|$", PAGE.read_text())
    return dict(rows)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Run both sides, well, until the end."""
    disk = folder / "disk"
    disk.mkdir()
    with ExitStack() as stack:
        subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=400M,mode=700", "none", str(disk)], check=True)
        stack.callback(subprocess.run, ["/bin/umount", "-l", str(disk)], check=True)
        receiver = stack.enter_context(receiving())
        place = stack.enter_context(servers._folder("pg-", servers._unprivileged()))
        database = Database(place)
        stack.callback(database.close)
        sides = {
            "request": Side("request", disk / "request", {"EXCHANGE_DATABASE_URL": database.url}),
            "response": Side("response", folder / "response"),
        }
        limits = {"EXCHANGE_ALARM_LETTERS": "1", "EXCHANGE_DELETED_ROWS": "1", "EXCHANGE_DELETED_SHARE": "0.1"}
        served = {
            "request": Served(sides["request"], folder, receiver, EXCHANGE_BATCH_BYTES="1000000", **limits),
            "response": Served(sides["response"], folder, receiver, EXCHANGE_EXPORT_EVERY="4"),
        }
        made = {name: one.do("init", "--json").line for name, one in sides.items()}
        for name, one in sides.items():
            key = made[PEERS[name]]
            one.do("keys", "trust", key["public_key"], "--fingerprint", key["fingerprint"])
            one.do("migrate")
        sides["response"].do("seed")
        carriers = stack.enter_context(Carriers(served))
        for runs in served.values():
            stack.callback(runs.stop)
            runs.up()
        prometheus = Prometheus(folder / "prometheus", [one.port for one in served.values()], stack)
        made_world = World(served["request"], served["response"], carriers, prometheus, receiver, database, disk)
        made_world.until_green()
        yield made_world
        print("\n".join(made_world.measured))  # noqa: T201 - shown with -rP, for the page


__all__ = ["KEPT_SECONDS", "Break", "World", "world"]
