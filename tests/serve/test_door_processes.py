"""Two processes serve one side as one: what either answered by 201 is there when it is killed, and counted by both."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.api import Exchange
from exchange.database import make_engine, tables
from exchange.reference.models import Request
from exchange.settings import Settings
from tests.databases import Databases
from tests.serve.doors import PREFIX, lend_side

pytestmark = [pytest.mark.processes, pytest.mark.thorough]


class Process:
    """One that serves, and what it answers."""

    def __init__(self, process: subprocess.Popen[str], port: int, shown: str) -> None:
        self.process, self.port, self.shown = process, port, shown

    def ask(self, method: str, path: str, said: object = None, **headers: str) -> tuple[int, dict[str, object]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = None if said is None else json.dumps(said)
            shown = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, f"{PREFIX}{path}", body, {"Authorization": f"Bearer {self.shown}", **shown})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def counted(server: Process) -> dict[str, float]:
    """Say how many requests were answered by which status, as a process tells of all."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/metrics")
    told = connection.getresponse().read().decode()
    connection.close()
    line = r'^exchange_door_requests_total{endpoint="post_requests",network="request",status="(\d+)"} (\S+)$'
    return {status: float(number) for status, number in re.findall(line, told, re.MULTILINE)}


@contextmanager
def serving(side: Settings, shown: str) -> Iterator[Process]:
    given = {"NETWORK": "request", "PEER": "response", "HOME": str(side.home), "DATABASE_URL": side.database_url}
    given |= {"SERVE_PORT": "0", "REQUESTS_PER_USER": str(side.requests_per_user)}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    with subprocess.Popen(
        [sys.executable, "-m", "exchange", "serve"],
        cwd=side.home,
        env=clean | {f"EXCHANGE_{name}": value for name, value in given.items()},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"listening.* at=http://127\.0\.0\.1:([0-9]+)", line)
            assert found is not None, line + process.stderr.read()
            yield Process(process, int(found[1]), shown)
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def side(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Settings:
    return lend_side(databases, request.param, tmp_path, requests_per_user=10_000)


def key_of(side: Settings, user: str = "ada") -> str:
    with Exchange(side) as exchange:
        return exchange.requesters.add_api_key(
            f"robot-{user}", ["requests:read", "requests:write"], timedelta(days=1), user=user
        )[1]


def test_what_was_answered_by_201_is_there_once_when_the_process_is_killed_in_the_middle(side: Settings) -> None:
    shown, enough = key_of(side), threading.Event()
    answered: dict[str, str] = {}
    with ExitStack() as stack:
        first, second = (stack.enter_context(serving(side, shown)) for _ in range(2))

        def ask(key: str) -> None:
            """Ask the one that is killed, and whatever it said or did not say, the other one under the same key."""
            said = {"query": key}
            try:
                status, made = first.ask("POST", "/requests", said, Idempotency_Key=key)
                assert status in {201, 503}, made
                if status == 201:
                    answered[key] = str(made["id"])
                if len(answered) >= 40:
                    enough.set()
            except (OSError, http.client.HTTPException):
                status = 0
            again, made = second.ask("POST", "/requests", said, Idempotency_Key=key)
            assert again == 201, made
            assert answered.setdefault(key, str(made["id"])) == made["id"], "another one was made for the same key"

        keys = [uuid.uuid4().hex for _ in range(160)]
        with ThreadPoolExecutor(8) as pool:
            asked = pool.map(ask, keys)
            assert enough.wait(120)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            list(asked)
    engine = make_engine(side.database_url)
    with engine.connect() as connection:
        made = {row.query: str(row.id) for row in connection.execute(sa.select(Request.query, Request.id))}
        rows = connection.scalar(sa.select(sa.func.count()).select_from(Request))
        captured = connection.scalar(sa.select(sa.func.count()).select_from(tables.change))
    engine.dispose()
    assert len(answered) == len(keys)
    assert made == answered
    assert rows == captured == len(keys)


def test_two_processes_count_know_and_forget_as_one(databases: Databases, tmp_path: Path) -> None:
    side = lend_side(databases, "sqlite", tmp_path, requests_per_user=9)
    shown = key_of(side)
    with serving(side, shown) as one, serving(side, shown) as other, ThreadPoolExecutor(8) as pool:
        both = [one, other]
        codes = list(pool.map(lambda n: both[n % 2].ask("POST", "/requests", {"query": "x"})[0], range(30)))
        assert (codes.count(201), codes.count(429)) == (9, 21)
        while (answers := counted(one)) != (of_other := counted(other)) or sum(answers.values()) < 30:
            pass  # what each has counted is written down when it is asked, unless somebody else writes
        assert of_other == {"201": 9.0, "429": 21.0}
        with Exchange(side) as exchange:
            exchange.requesters.set_password("ada", "correct horse battery")
            _, access = one.ask("POST", "/sign-in", {"name": "ada", "password": "correct horse battery"})
            other.shown = str(access["access_token"])
            assert other.ask("GET", "/who")[1]["name"] == "ada"
            exchange.requesters.rotate_token_keys()
            assert other.ask("GET", "/who")[0] == 200
            _, renewed = other.ask("POST", "/refresh", {"refresh_token": access["refresh_token"]})
            assert one.ask("POST", "/refresh", {"refresh_token": access["refresh_token"]})[0] == 401
            other.shown = str(renewed["access_token"])
            assert other.ask("GET", "/who")[0] == 401
            assert one.ask("GET", "/who")[0] == 200  # by its key
            exchange.requesters.revoke_api_key("robot-ada")
            assert one.ask("GET", "/who")[0] == 401


def test_headers_that_come_too_slowly_are_told_so_in_a_problem(databases: Databases, tmp_path: Path) -> None:
    side = lend_side(databases, "sqlite", tmp_path)
    with serving(side, "") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
            slow.sendall(b"POST /api/v1/requests HTTP/1.1\r\nHost: localhost\r\n")
            said = b"".join(iter(lambda: slow.recv(65_536), b""))
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"content-type: application/problem+json" in said
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as odd:
            odd.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
            said = b"".join(iter(lambda: odd.recv(65_536), b""))
        assert said.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in said
