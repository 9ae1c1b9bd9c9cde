"""Rows in bulk over HTTP: a served process, programs that send them, and some that are killed in the middle."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import zstandard
from sqlalchemy import Engine

from exchange.api import Exchange
from exchange.database import make_engine
from exchange.database.engine import sqlite_url
from exchange.database.tables import dead_letter, intake, intake_part
from exchange.intake import dropped
from exchange.people import api_keys
from exchange.settings import Settings
from exchange.testing.sides import create_tables
from tests.postgresql import Cluster

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

packed = partial(gzip.compress, mtime=0)
"""The same bytes each time: they are in the names of tests."""

APPLICATION = """
import sqlalchemy as sa
from exchange.channels import Channel, Stream
from exchange.channels.intake import Intake

metadata = sa.MetaData()
reading = sa.Table(
    "reading",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("press", sa.Integer, nullable=False),
    sa.Column("celsius", sa.Numeric(5, 2)),
)
other = sa.Table("other", metadata, sa.Column("id", sa.Integer, primary_key=True))
channels = (Channel("readings", source="plant", target="office", streams=[Stream(reading), Stream(other)]),)
intakes = (Intake("sent", stream=reading, http=True, bad_rows=10), Intake("other", stream=other, folder="drop"))
"""
BYTES, ROWS = 200_000, 3_000


@dataclass
class Door:
    """A served process, and a program that sends it rows."""

    process: subprocess.Popen[str]
    port: int
    engine: Engine
    exchange: Exchange
    home: Path
    key: str

    def send(self, body: bytes | Iterator[bytes], wait: int = 20, **headers: str) -> tuple[int, dict[str, Any]]:
        return self.ask("POST", f"/api/v1/streams/reading?wait={wait}", body, **headers)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        shown = {"Authorization": f"Bearer {self.key}"} | {
            name.replace("_", "-"): said for name, said in headers.items()
        }
        try:
            connection.request(method, path, body, shown)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def rows(self) -> int:
        with self.engine.connect() as connection:
            return connection.scalar(sa.text("SELECT count(*) FROM reading")) or 0

    def left(self) -> list[str]:
        """Name what lies where rows are spooled."""
        taken = self.home / "posted/sent/taken"
        return sorted(one.name for one in taken.iterdir() if one.name.startswith(".")) if taken.exists() else []


def line(number: int, **more: Any) -> bytes:
    return json.dumps({"id": number, "press": 7, "celsius": "20.50", **more}).encode() + b"\n"


def lines(first: int, count: int) -> bytes:
    return b"".join(line(number) for number in range(first, first + count))


def variables(folder: Path) -> dict[str, str]:
    given = {"NETWORK": "plant", "PEER": "office", "HOME": str(folder / "home"), "SERVE_PORT": "0"}
    given["DATABASE_URL"] = (folder / "url").read_text()
    given |= {"APP": "sending:channels", "INTAKE_HTTP_BYTES": str(BYTES), "INTAKE_HTTP_ROWS": str(ROWS)}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    return clean | {f"EXCHANGE_{name}": value for name, value in given.items()}


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "exchange", "serve"]
    with subprocess.Popen(command, cwd=folder, env=variables(folder), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            found = re.search(r"listening.* at=http://127\.0\.0\.1:([0-9]+)", said)
            assert found is not None, said + process.stderr.read()
            yield process, int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the folder of a side, in which a file names its database."""
    made = tmp_path_factory.mktemp("sent")
    made.chmod(0o700)
    (made / "sending.py").write_text(APPLICATION)
    url = made / "url"
    if request.param == "sqlite":
        url.write_text(sqlite_url(made / "home" / "sent.db"))
        yield made
        return
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    url.write_text(cluster.lend(None, None, None))
    yield made
    cluster.give_back(url.read_text())


@pytest.fixture(scope="module")
def exchange(folder: Path) -> Iterator[Exchange]:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(folder)
    home = folder / "home"
    settings = Settings(
        network="plant",
        peer="office",
        home=home,
        outgoing=home / "outgoing",
        incoming=home / "incoming",
        app="sending:channels",
        database_url=(folder / "url").read_text(),
    )
    with Exchange(settings, ready=False) as made:
        made.migrate()
        with made.engine.begin() as connection:
            create_tables(made.site.channels)(connection, "plant")
        yield made
    monkeypatch.undo()


@pytest.fixture(scope="module")
def running(folder: Path, exchange: Exchange) -> Iterator[Door]:
    engine = make_engine(exchange.settings.database_url)
    _, key = api_keys.add_api_key(engine, "tester", ["streams:reading"], timedelta(days=1), "test")
    with served(folder) as (process, port):
        yield Door(process, port, engine, exchange, folder / "home", key)
    engine.dispose()


@pytest.fixture
def door(running: Door) -> Door:
    """Give the one process, with none of the rows that others sent."""
    shutil.rmtree(running.home / "posted", ignore_errors=True)
    with running.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM reading"))
        for table in (dead_letter, intake_part, intake):
            connection.execute(sa.delete(table))
    return running


def test_rows_are_loaded_past_bad_ones_and_the_same_again_are_a_duplicate(door: Door) -> None:
    hostile = [
        b"no json\n",
        b'{"id": 1e400, "press": 1}\n',
        b'{"id": 6, "press": 1, "press": 2}\n',
        b'{"id": 7, "press": "seven"}\n',
        b'{"id": 8}\n',
        b"\xff\xfe\n",
    ]
    body = lines(1, 3) + b"".join(hostile) + line(1, press=9)
    status, said = door.send(body)
    assert (status, said["state"], said["rows_read"], said["rows_loaded"], said["rows_parked"]) == (
        *(200, "loaded", 10, 3, 7),
    ), said
    assert (said["stream"], door.rows()) == ("reading", 3)
    assert sum(one["rows"] for one in said["bad_rows"]) == 7
    assert "place" not in said
    status, again = door.send(body)
    assert (status, again["state"], door.rows()) == (200, "duplicate", 3)
    assert again["duplicate_of"] == said["id"]
    assert re.search(rf"taken in on 20.* as file {said['id']} .*, which is loaded", again["message"])
    assert door.ask("GET", f"/api/v1/intakes/{said['id']}")[1]["rows_loaded"] == 3


def test_rows_beyond_the_limit_of_bad_ones_are_refused_whole(door: Door) -> None:
    status, said = door.send(lines(1, 5) + b"bad\n" * 11)
    assert (status, said.get("state")) == (422, "refused"), said
    assert said["detail"].startswith("the rows are refused: ")
    assert door.rows() == 0


@pytest.mark.parametrize(
    "coding, packed",
    [
        ("gzip", packed(lines(1, 9))),
        ("gzip", packed(lines(1, 4)) + packed(lines(5, 5))),
        ("zstd", zstandard.compress(lines(1, 9))),
    ],
)
def test_packed_rows_are_unpacked_as_they_come(door: Door, coding: str, packed: bytes) -> None:
    status, said = door.send(iter([packed[:20], packed[20:]]), Content_Encoding=coding)
    assert (status, said["rows_loaded"], door.rows()) == (200, 9, 9), said


@pytest.mark.parametrize(
    "body, headers, status, sentence",
    [
        (b"x" * 300_000, {}, 413, "too large"),
        ([b"x" * 100_000] * 3, {}, 413, "more than 200000 bytes; send them by parts"),
        ([b"{}\n" * 2_000] * 2, {}, 413, "more than 3000 rows"),
        (packed(b" " * 50_000_000), {"Content-Encoding": "gzip"}, 413, "more than 200000 bytes"),
        (zstandard.compress(b" " * 50_000_000), {"Content-Encoding": "zstd"}, 413, "more than 200000 bytes"),
        (packed(lines(1, 9))[:-9], {"Content-Encoding": "gzip"}, 400, "it ends too early"),
        (zstandard.compress(lines(1, 9))[:-9], {"Content-Encoding": "zstd"}, 400, "it ends too early"),
        (lines(1, 9), {"Content-Encoding": "gzip"}, 400, "can't be unpacked as gzip"),
        (lines(1, 9), {"Content-Encoding": "br"}, 415, "expected identity, gzip, zstd"),
        (lines(1, 9), {"Content-Type": "text/csv"}, 415, "expected application/jsonl, found 'text/csv'"),
        (lines(1, 9), {"Idempotency-Key": "k" * 201}, 400, "expected 1 to 200 characters"),
        (lines(1, 9), {"Authorization": "Bearer exchange_key_wrong"}, 401, "show an API key"),
    ],
)
def test_what_is_not_taken_leaves_nothing(
    door: Door, body: Any, headers: dict[str, str], status: int, sentence: str
) -> None:
    found, said = door.send(body, 0, **headers)
    assert (found, sentence in said["detail"]) == (status, True), said
    assert (door.left(), door.ask("GET", "/api/v1/intakes/1")[0]) == ([], 404)


def test_only_streams_that_allow_it_take_rows_and_only_by_their_scope(door: Door) -> None:
    assert door.ask("POST", "/api/v1/streams/other", b"")[0] == 403
    assert door.ask("POST", "/api/v1/streams/reading?wait=61", b"")[0] == 400
    assert door.ask("POST", "/api/v1/streams/reading?what=1", b"")[0] == 400
    _, key = api_keys.add_api_key(door.engine, "wide", ["streams:other"], timedelta(days=1), "test")
    other = Door(**{**door.__dict__, "key": key})
    status, said = other.ask("POST", "/api/v1/streams/other", b"{}\n")
    assert (status, said["detail"].startswith("no rows of other are taken from programs here")) == (404, True)
    number = door.send(line(1))[1]["id"]
    assert other.ask("GET", f"/api/v1/intakes/{number}")[0] == 403


def test_an_idempotency_key_is_for_the_same_rows_alone(door: Door) -> None:
    assert door.send(line(1), Idempotency_Key="one")[1]["state"] == "loaded"
    assert door.send(line(1), Idempotency_Key="one")[1]["state"] == "duplicate"
    status, said = door.send(line(2), Idempotency_Key="one")
    assert (status, "other rows were sent with this Idempotency-Key" in said["detail"]) == (422, True)
    assert door.send(line(2), Idempotency_Key="two")[1]["state"] == "loaded"
    assert door.rows() == 2


def test_without_waiting_the_number_is_given_and_a_worker_loads_them(door: Door) -> None:
    status, said = door.send(lines(1, 3), 0)
    assert (status, said["state"], door.rows()) == (202, "waiting", 0)
    while dropped.work_off(door.exchange.site, lambda: False):
        pass
    assert door.ask("GET", f"/api/v1/intakes/{said['id']}")[1]["state"] == "loaded"
    assert door.rows() == 3
    assert len(list((door.home / "posted/sent/done").iterdir())) >= 1


def test_a_program_that_is_killed_in_the_middle_leaves_nothing(door: Door) -> None:
    program = (
        "import socket, sys\n"
        "end = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "end.sendall(b'POST /api/v1/streams/reading HTTP/1.1\\r\\nHost: localhost\\r\\nAuthorization: Bearer '"
        " + sys.argv[2].encode() + b'\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n')\n"
        "while True:\n"
        '    end.sendall(b\'11\\r\\n{"id": 1, "press"\\r\\n\')\n'
        "    print('sent', flush=True)\n"
        "    __import__('time').sleep(0.02)\n"
    )
    command = [sys.executable, "-c", program, str(door.port), door.key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout is not None
        sender.stdout.readline()
        while not door.left():
            assert sender.poll() is None
            time.sleep(0.01)
        sender.kill()
    while door.left():
        time.sleep(0.01)
    with door.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(intake)) == 0
    assert door.send(line(1))[0] == 200


def test_a_server_that_is_killed_in_the_middle_leaves_nothing_half(folder: Path, door: Door) -> None:
    with served(folder) as (process, port), socket.create_connection(("127.0.0.1", port)) as end:
        head = f"POST /api/v1/streams/reading HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {door.key}\r\n"
        end.sendall(head.encode() + b"Content-Length: 1000\r\n\r\n" + line(1))
        while not door.left():
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert len(door.left()) == 1
    assert door.send(line(1))[1]["rows_loaded"] == 1  # a draft that is young may be somebody's: it goes a minute later
    assert door.rows() == 1
    for name in door.left():
        (door.home / "posted/sent/taken" / name).unlink()


def test_the_document_has_both_with_their_bodies(door: Door) -> None:
    paths = door.ask("GET", "/api/v1/openapi.json")[1]["paths"]
    sending = paths["/api/v1/streams/{stream}"]["post"]
    assert list(sending["requestBody"]["content"]) == ["application/jsonl"]
    assert {"200", "202", "413", "415", "422", "507"} <= sending["responses"].keys()
    assert [one["name"] for one in sending["parameters"]] == ["stream", "wait"]
    assert "get" in paths["/api/v1/intakes/{intake}"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page asks by curl")
def test_the_commands_of_the_page_make_a_key_and_send_rows(folder: Path, door: Door, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "deploy/ROWS.md").read_text()
    making, sending = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    words = [sys.executable, "-m", *shlex.split(making)]
    done = subprocess.run(words, cwd=folder, env=variables(folder), capture_output=True, text=True, check=True)
    (key,) = re.findall(r"exchange_key_\S+", done.stdout)
    (tmp_path / "readings.jsonl").write_bytes(lines(1, 3))
    environment = os.environ | {"KEY": key}
    shell = ["/bin/sh", "-c", sending.replace("8470", str(door.port))]
    done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows_loaded"] == 3
