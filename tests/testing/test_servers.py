"""The servers that tests run on: real, and gone with whoever started them."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from exchange.testing import servers

START = """
import sys, time
from exchange.testing import servers
with servers.{kind}() as url:
    print(url, flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["valkey", pytest.param("postgres", marks=pytest.mark.postgres)])
def starter(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Give a process that has just started a server and keeps it."""
    process = subprocess.Popen(
        [sys.executable, "-c", START.format(kind=request.param)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(servers.__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(("redis://", "postgresql+psycopg://"))
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(
    "sign",
    [
        signal.SIGKILL,
        pytest.param(
            signal.SIGTERM, marks=pytest.mark.torture
        ),  # a program that does not handle it dies as of the other
        signal.SIGINT,
    ],
)
def test_a_server_ends_with_the_process_that_started_it(starter: subprocess.Popen[str], sign: signal.Signals) -> None:
    family = psutil.Process(starter.pid).children(recursive=True)
    folders = {child.cwd() for child in family if child.cwd().startswith(tempfile.gettempdir())} - {str(Path.cwd())}
    assert family
    assert folders
    starter.send_signal(sign)
    starter.wait(10)
    assert not psutil.wait_procs(family, timeout=10)[1]
    deadline = time.monotonic() + 5
    while any(Path(folder).exists() for folder in folders) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [folder for folder in folders if Path(folder).exists()]


def test_a_fresh_database_is_empty(postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)


def test_a_valkey_is_empty_for_every_test(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        assert client.dbsize() == 0


def test_a_wrong_option_fails_with_the_servers_own_words() -> None:
    with pytest.raises(servers.ServerFailed, match="no_such_option"), servers.postgres(no_such_option="1"):
        pass
