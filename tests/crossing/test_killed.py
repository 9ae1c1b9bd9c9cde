"""Processes, brokers and databases killed at random under load: both sides come to rest, and the oracle is content."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
import sqlalchemy as sa

from exchange.testing import servers
from tests.networks import NAMES, Network, two_networks
from tests.shaking import BUSY, Load, Shaker, come_to_rest, judge

SECONDS = float(os.environ.get("TORTURE_SECONDS", "120"))


@contextmanager
def second_beat(network: Network) -> Iterator[None]:
    """Run a beat beside the supervisor's own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "exchange", "beat", "--schedule", str(network.home / "second-beat")],
        env=network.environment,
        cwd=network.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def own_databases(kind: str) -> Iterator[tuple[dict[str, str] | None, servers.Postgres | None]]:
    """Give a database for each network on a server of their own, as it crashes; None for files of SQLite."""
    if kind == "sqlite":
        yield None, None
        return
    with servers.postgres_to_kill(synchronous_commit="on") as server:  # what it committed is there after a crash
        engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in NAMES:
                connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        yield {name: f"{server.url.rpartition('/')[0]}/{name}" for name in NAMES}, server


@pytest.mark.torture
@pytest.mark.processes
@pytest.mark.valkey
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_whatever_is_killed_at_random_both_sides_come_to_agree(kind: str, seed: int, tmp_path: Path) -> None:
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails
    draw = Random(seed)
    settings = BUSY | {"EXCHANGE_WORKER_CONCURRENCY": "4"}
    with (
        own_databases(kind) as (urls, server),
        two_networks(tmp_path, urls, Path(sys.executable), **settings) as networks,
    ):
        shaker, load = Shaker(networks, seed, server=server), Load(networks, seed)
        with second_beat(networks["request"]), second_beat(networks["response"]), load.going():
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                time.sleep(draw.uniform(0.5, 4))
                shaker.shake()
        print(f"{load.written} transactions; {dict(shaker.done)}")  # noqa: T201
        assert [str(one) for one in come_to_rest(networks)] == []
        assert [str(one) for one in judge(networks)] == []
