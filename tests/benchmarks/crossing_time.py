"""How long a row takes from a commit on one network to a commit on the other, with nudges.

Two whole networks run as in life, with no carrier between them and beat's periods an hour long, so that nothing but
nudges can have brought a row across.

    python -m tests.benchmarks.crossing_time sqlite|postgresql [COMMITS [A_SECOND]]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from exchange.database.locks import reading
from exchange.reference.models import ProfileType
from exchange.testing import servers
from tests.networks import NAMES, Network, two_networks

PATIENCE_SECONDS = 90.0
LOOK_SECONDS = 0.01
SETTLE_SECONDS = 5.0


def crossing_seconds(database: str, commits: int = 100, per_second: float = 2.0) -> list[float]:
    """Commit rows one by one on one network and give the seconds until each was there on the other, in order.

    ``database`` is ``sqlite`` or ``postgresql``, for both networks. A row is looked for every 10 ms.
    """
    with _running(database) as networks:
        names = [f"row {number}" for number in range(commits)]
        return _cross(networks["response"].engine, networks["request"].engine, names, 1 / per_second)


def idle_cpu_seconds(database: str, seconds: float = 60.0) -> dict[str, float]:
    """Give the CPU seconds that each network's nudging process used while nothing happened for so long."""
    with _running(database) as networks:
        nudging = {name: network.child("nudge") for name, network in networks.items()}
        time.sleep(SETTLE_SECONDS)
        before = {name: _used(process) for name, process in nudging.items()}
        time.sleep(seconds)
        return {name: _used(process) - before[name] for name, process in nudging.items()}


@contextmanager
def _running(database: str) -> Iterator[dict[str, Network]]:
    """Run both networks, warmed up by one row."""
    with (
        tempfile.TemporaryDirectory(prefix="crossing-") as folder,
        _databases(database) as urls,
        two_networks(Path(folder), urls, EXCHANGE_NUDGE="true") as networks,
    ):
        _cross(networks["response"].engine, networks["request"].engine, ["first"], 0)
        yield networks


@contextmanager
def _databases(kind: str) -> Iterator[dict[str, str] | None]:
    if kind == "sqlite":
        yield None
        return
    # As in life: a commit waits for the disk.
    with servers.postgres(fsync="on", synchronous_commit="on", full_page_writes="on") as url:
        with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
            for name in NAMES:
                connection.execute(sa.text(f"CREATE DATABASE {name}"))
        yield {name: make_url(url).set(database=name).render_as_string(hide_password=False) for name in NAMES}


def _cross(source: Engine, target: Engine, names: list[str], every_seconds: float) -> list[float]:
    """Commit a row of each name when it is time, whether or not the last one has crossed; give each one's seconds."""
    began = time.monotonic()
    committed: dict[str, float] = {}
    arrived: dict[str, float] = {}
    while len(arrived) < len(names):
        now = time.monotonic()
        if len(committed) < len(names) and now >= began + len(committed) * every_seconds:
            name = names[len(committed)]
            with Session(source) as session, session.begin():
                session.add(ProfileType(name=name, daily_limit=1))
            committed[name] = time.monotonic()
        for name in _present(target, committed.keys() - arrived.keys()):
            arrived[name] = time.monotonic()
        if committed.keys() - arrived.keys() and now > max(committed.values()) + PATIENCE_SECONDS:
            raise TimeoutError(f"{committed.keys() - arrived.keys()} did not cross")
        time.sleep(LOOK_SECONDS)
    return [arrived[name] - committed[name] for name in names]


def _present(engine: Engine, names: set[str]) -> list[str]:
    if not names:
        return []
    with reading(engine) as connection:
        return list(connection.scalars(sa.select(ProfileType.name).where(ProfileType.name.in_(names))))


def _used(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def main(database: str, commits: int = 100, per_second: float = 2.0) -> None:
    """Print the distribution of crossing times, in seconds, as JSON."""
    found = crossing_seconds(database, commits, per_second)
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    shown = {"median": cuts[49], "p95": cuts[94], "max": max(found)}
    rounded = {name: round(seconds, 3) for name, seconds in shown.items()}
    sys.stdout.write(f"{json.dumps({'database': database, 'commits': commits, **rounded})}\n")


if __name__ == "__main__":
    main(sys.argv[1], *(kind(word) for kind, word in zip((int, float), sys.argv[2:], strict=False)))
