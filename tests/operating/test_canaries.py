"""Canaries: passwords, keys and rows that can be told from all others, looked for wherever a side leaves a trace.

A network runs as in life, on PostgreSQL and a Redis with passwords, and everything goes wrong that makes programs talk.
Passwords and keys belong nowhere but into the settings and the key's own file. A row belongs into its table, into a
batch's data file and into a dead letter; what shows a dead letter shows it too, but for ``sensitive`` columns.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import sqlalchemy as sa
import zstandard

from exchange.database import make_engine
from exchange.testing import servers
from tests.celery.calling import signing_client
from tests.cli.conftest import Done, Side

SOURCE = Path(__file__).parents[2]
START_SECONDS = 90.0
NOBODY = 65534

PASSWORDS = {
    "database": "canary-database-41c9",
    "broker": "canary-broker-9d02",
    "administrator": "canary-administrator-77ab",
}
HASH = "canary-hash-1e5d"
SENSITIVE = {
    "query": "canary-query-0b7f",
    "parameters": "canary-parameters-6aa1",
    "email": "canary-email-c3d8@example.org",
}
PLAIN = {"kind": "canary-kind-5f90"}

HANDLER = """
def answer(request):
    raise ValueError(f"can't answer {request.query} with {request.parameters}")
"""

SPEAKING = f"""
CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.priority = 1 THEN
    RAISE EXCEPTION 'no % here: %', NEW.kind, NEW.query;
  END IF; RETURN NEW;
END $$;
CREATE TRIGGER tells BEFORE INSERT ON request FOR EACH ROW EXECUTE FUNCTION tells();
CREATE FUNCTION lies() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE unique_violation USING MESSAGE = NEW.error, DETAIL = 'Key (error)=(' || NEW.error || ') already exists.';
END $$;
CREATE TRIGGER lies BEFORE INSERT ON response FOR EACH ROW EXECUTE FUNCTION lies();
UPDATE "user" SET email = '{SENSITIVE["email"]}', password_hash = '{HASH}';
"""

INSPECTING = """
from exchange.celery import app
print(app.bugreport())
asked = app.control.inspect(timeout=10, limit=1)
for answer in (asked.conf(with_defaults=True), asked.stats(), asked.active(), asked.reserved(), asked.report()):
    print(answer)
print(app.connection().as_uri(), repr(app.backend), repr(app))
"""


@dataclass
class Traces:
    """What was found where, to be looked through at the end."""

    texts: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, text: str) -> None:
        self.texts[where] = self.texts.get(where, "") + text

    def with_any(self, canaries: Iterator[str] | list[str], but: tuple[str, ...] = ()) -> list[str]:
        """Name the places that have one of some canaries."""
        places = {where: text for where, text in self.texts.items() if not where.startswith(but)} if but else self.texts
        return [f"{one} in {where}" for one in canaries for where, text in places.items() if one in text]


@pytest.fixture
def broker() -> Iterator[str]:
    """Give the URL of a Redis that asks for the canary."""
    with servers.valkey() as url, redis.Redis.from_url(url) as client:
        client.config_set("requirepass", PASSWORDS["broker"])
        yield url.replace("redis://", f"redis://:{PASSWORDS['broker']}@")


@pytest.fixture
def response(tmp_path: Path, postgres_url: str, broker: str, monkeypatch: pytest.MonkeyPatch) -> Side:
    """Give the network that answers, with every password that a setting may have."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/speaking.py").write_text(HANDLER)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    with_password = postgres_url.replace("postgres@", f"postgres:{PASSWORDS['database']}@")
    return Side(
        "response",
        tmp_path / "response",
        {
            "EXCHANGE_DATABASE_URL": f"{with_password}?sslpassword={PASSWORDS['database']}",
            "EXCHANGE_BROKER_URL": broker,
            "EXCHANGE_ADMINISTRATOR_PASSWORD": PASSWORDS["administrator"],
            "EXCHANGE_HANDLER": "speaking:answer",
            "EXCHANGE_LOG_LEVEL": "DEBUG",
        },
    )


def environment(side: Side) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EXCHANGE_", "CELERY_"))}
    return {**kept, **side.environment, "PYTHONPATH": f"{SOURCE}{os.pathsep}{Path.cwd()}"}


def call(side: Side, python: Path, task: str) -> str:
    """Call a task as a person does, and give its id."""
    command = [str(python), "-m", "celery", "-A", "exchange", "call", f"exchange.{task}"]
    done = subprocess.run(command, env=environment(side), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextlib.contextmanager
def worker(side: Side, log: Path) -> Iterator[psutil.Process]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "exchange", "worker", "--loglevel", "DEBUG", "--concurrency", "1"],
            env=environment(side),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield psutil.Process(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(client: redis.Redis, tasks: list[str], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not all(client.exists(f"celery-task-meta-{task}") for task in tasks):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def everything_in(client: redis.Redis) -> str:
    """Give all that a Redis has, as plain bytes."""
    client.config_set("rdbcompression", "no")
    return "\n".join(f"{key!r} {client.dump(key)!r}" for key in client.scan_iter())


def look_through_processes(traces: Traces, root: psutil.Process) -> None:
    """Note what others can read of the processes: all of it but their variables."""
    for one in (root, *root.children(recursive=True)):
        traces.add("ps", " ".join(one.cmdline()) + one.name())
        variables = Path(f"/proc/{one.pid}/environ")
        assert variables.stat().st_mode & 0o077 == 0
        if os.geteuid() == 0:
            tried = subprocess.run(
                ["/bin/cat", variables], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False
            )
            assert tried.returncode != 0


def look_through_files(traces: Traces, home: Path) -> None:
    for path in (one for one in home.rglob("*") if one.is_file()):
        content = path.read_bytes()
        kind = "data" if ".jsonl" in path.name and "manifest" not in path.name else "file"
        if path.suffix == ".zst":
            content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        if path.suffix in {".key", ".secret"}:
            assert path.stat().st_mode & 0o077 == 0
            kind = "key"
        traces.add(f"{kind} {path.relative_to(home)}", f"{path.name} {content.decode(errors='replace')}")


def look_through_tables(traces: Traces, url: str) -> None:
    """Note what the exchange's own tables hold, and what the database shows of who is connected."""
    engine = make_engine(url)
    with engine.connect() as connection:
        names = [name for name in sa.inspect(connection).get_table_names() if name.startswith("exchange_")]
        for name in names:
            rows = connection.exec_driver_sql(f'SELECT * FROM "{name}"').all()
            kind = "letter" if "dead_letter" in name else "table"
            traces.add(
                f"{kind} {name}", repr([[bytes(v) if isinstance(v, memoryview) else v for v in row] for row in rows])
            )
        activity = connection.exec_driver_sql("SELECT application_name, query FROM pg_stat_activity")
        traces.add("activity", repr(activity.all()))
    engine.dispose()


def carry(here: Side, there: Side) -> None:
    for path in (here.home / "outgoing").iterdir():
        if not path.name.startswith("."):
            (there.home / "incoming" / path.name).write_bytes(path.read_bytes())


COMMANDS = [
    "doctor",
    "status",
    "batches",
    "gaps",
    "audit",
    "keys list",
    "quarantine list",
    "reconcile --report",
    "dead-letters",
    "dead-letters list",
    "dead-letters show 1",
    "dead-letters retry 1",
    "dead-letters retry 1 --dry-run",
    "import",
    "export",
]


def note(traces: Traces, side: Side, command: str) -> None:
    for more in ([], ["--json"]):
        done: Done = side.run(*command.split(), *more)
        where = "shown " if command.startswith("dead-letters") else "output "
        traces.add(f"{where}{side.network} {command}", done.out + done.err)


@pytest.mark.thorough
@pytest.mark.processes
@pytest.mark.postgres
@pytest.mark.valkey
def test_no_password_key_or_row_is_found_where_it_does_not_belong(
    tmp_path: Path, response: Side, broker: str, forked_python: Path
) -> None:
    request = Side("request", tmp_path / "request")
    traces, log = Traces(), tmp_path / "worker.log"
    for side in (response, request):
        note(traces, side, "init")
        note(traces, side, "migrate")
    for side, other in ((response, request), (request, response)):
        (public,) = (other.home / "keys").glob("*.pem")
        (side.home / "keys/trusted").mkdir(mode=0o700, exist_ok=True)
        (side.home / "keys/trusted" / public.name).write_bytes(public.read_bytes())
    note(traces, response, "seed")
    response.do("export")
    carry(response, request)
    request.do("import")
    response.execute(SPEAKING)
    for priority in ("1", "2"):
        parameters = f'{{"of": "{SENSITIVE["parameters"]}"}}'
        words = ["--kind", PLAIN["kind"], "--parameters", parameters, "--priority", priority]
        request.do("submit", "administrator", SENSITIVE["query"], *words)
    request.do("export")
    carry(request, response)

    with redis.Redis.from_url(broker) as client, signing_client(response.home, broker) as program:
        tasks = [call(response, forked_python, "import")]  # which waits for a worker's answer in vain
        for task, arguments in (("answer_requests", {}), ("retry_dead_letter", {"ids": [1]})):
            tasks.append(program.send_task(f"exchange.{task}", kwargs=arguments, queue="exchange-response").id)
        traces.add("queue", everything_in(client))
        with worker(response, log) as running:
            wait_for(client, tasks, log)
            traces.add("redis", everything_in(client))
            look_through_processes(traces, running)
            inspecting = [str(forked_python), "-c", INSPECTING]
            asked = subprocess.run(inspecting, env=environment(response), capture_output=True, text=True, check=False)
            traces.add("output inspect", asked.stdout + asked.stderr)
            look_through_tables(traces, response.database_url)
    for command in COMMANDS:
        note(traces, response, command)
    for side in (response, request):
        look_through_files(traces, side.home)
    traces.add("log", log.read_text())

    files = [one for ending in ("*.key", "*.secret") for one in tmp_path.rglob(ending)]
    keys = [line for path in files for line in path.read_text().splitlines() if "-----" not in line]
    assert len(keys) >= 2
    assert traces.with_any([*PASSWORDS.values(), HASH]) == []
    assert traces.with_any(keys, but=("key ",)) == []
    assert traces.with_any([*SENSITIVE.values()], but=("data ", "letter ", "file exchange.db")) == []
    assert traces.with_any([*PLAIN.values()], but=("data ", "letter ", "shown ", "file exchange.db")) == []
    _is_what_it_should_be(traces)


def _is_what_it_should_be(traces: Traces) -> None:
    """See that everything went wrong as planned: a canary that never flew is not found either."""
    found: dict[str, Any] = traces.texts
    assert "IntegrityError" in found["log"]
    assert "Traceback" in found["log"]
    assert "IntegrityError" in found["redis"]
    assert "its words are not shown (23505)" in found["log"]
    assert "exchange.retry_dead_letter" in found["queue"]
    assert "worker" in found["output inspect"]
    assert "database at /data" in found["redis"]
    assert SENSITIVE["query"] in "".join(text for where, text in found.items() if where.startswith("data "))
    assert SENSITIVE["query"] in "".join(text for where, text in found.items() if where.startswith("letter "))
    assert "1" in found["shown response dead-letters show 1"]
