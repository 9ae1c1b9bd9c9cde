"""How fast rows cross, beside what the databases themselves do with the same rows, in one run.

    python -m tests.benchmarks.bench [--records N]

Each measured step is a process of its own, so that its peak memory is its own too. Rates are rows a second;
the ratios are what to compare: absolute figures are this machine's, now.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from exchange import capture, exporter, importer, ledger, migrate
from exchange.database import make_engine
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.reference import channels
from exchange.reference.models import ProfileType, Request, User
from exchange.schemas import Checker
from exchange.site import Limits, Site
from exchange.spool import Folders, Spool
from exchange.testing.carrier import Carrier
from exchange.testing.servers import postgres

USERS = 1_000
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def site(network: str, url: str, home: Path, keys: Path) -> Site:
    """Assemble one side without settings: a benchmark's keys live for its run."""
    peer = {"request": "response", "response": "request"}[network]
    return Site(
        network=network,
        peer=peer,
        engine=make_engine(url),
        channels=channels,
        spool=Spool(Folders(home, home / "outgoing", home / "incoming")),
        checkers={stream.name: Checker(stream) for channel in channels for stream in channel.streams},
        signing_key=SigningKey.from_pem(network, (keys / f"{network}.key").read_bytes()),
        trusted=TrustedKeys.from_pems({peer: (keys / f"{peer}.pem").read_bytes()}),
        limits=Limits(settle_seconds=0),
    )


def requests(count: int) -> Iterator[dict[str, Any]]:
    """Make requests of about 350 bytes as JSON, the same ones at every run."""
    draw = random.Random(1)
    for number in range(count):
        moment = STARTED + timedelta(seconds=number, microseconds=draw.randrange(1_000_000))
        yield {
            "id": uuid.UUID(int=draw.getrandbits(128), version=4),
            "user_id": 1 + draw.randrange(USERS),
            "kind": draw.choice(["lookup", "report", "export"]),
            "query": f"select the records of case {draw.getrandbits(40):010x} as of today",
            "parameters": {"limit": draw.randrange(500), "tags": ["a", "b"], "page": number % 50},
            "priority": draw.randrange(10),
            "status": "pending",
            "created_at": moment,
            "updated_at": moment,
        }


def fill(url: str, network: str, count: int) -> None:
    """Migrate a database and put users, and on the request network requests, into it."""
    engine = make_engine(url)
    migrate.upgrade(engine, (migrate.CORE, migrate.REFERENCE), network=network)
    with engine.begin() as connection:
        ledger.open_network(connection, network)
        connection.execute(sa.insert(ProfileType), [{"id": 1, "name": "all", "daily_limit": 10**6, "priority": 5}])
        connection.execute(
            sa.insert(User),
            [
                {"id": one, "name": f"u{one}", "email": f"u{one}@example.org", "profile_type_id": 1, "active": True}
                for one in range(1, USERS + 1)
            ],
        )
        if network == "request":
            rows = list(requests(count))
            for start in range(0, count, 20_000):
                connection.execute(sa.insert(Request), rows[start : start + 20_000])
            assert capture.pending(connection, channels[1].streams) == count
        else:
            connection.exec_driver_sql("DELETE FROM exchange_change")


def step(name: str, url: str, home: str, keys: str) -> None:
    """Run one measured step in this process and print its seconds and its peak memory in bytes."""
    network = {"export": "request", "import": "response"}[name]
    here = site(network, url, Path(home), Path(keys))
    here.spool.prepare(make=True)
    with here.engine.connect():
        began = time.perf_counter()
    if name == "export":
        done: Any = exporter.run(here, channel="requests", stopping=importer.never)
        records = sum(batch.records for batch in done.batches)
    else:
        done = importer.run(here)
        records = sum(batch.records.applied for batch in done.batches)
    assert done.trouble is None, done.trouble
    seconds = time.perf_counter() - began
    sys.stdout.write(json.dumps({"seconds": seconds, "records": records, "peak": peak_bytes()}))


def peak_bytes() -> int:
    """Give this process's peak resident memory. On Linux getrusage would count its parent's, from before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(name: str, url: str, home: Path, keys: Path) -> dict[str, Any]:
    """Run a step as a process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench", "--step", name, url, str(home), str(keys)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def copy_out_and_in(source: str, target: str, folder: Path) -> tuple[float, float]:
    """Time COPY of the same rows out of the table, and into one with the same columns, indexes and constraints."""
    file = folder / "rows.copy"
    columns = ", ".join(column.name for column in Request.__table__.columns)
    with psycopg.connect(source.replace("+psycopg", "")) as connection, file.open("wb") as out:
        began = time.perf_counter()
        with connection.cursor() as cursor, cursor.copy(f"COPY request ({columns}) TO STDOUT") as copy:
            for piece in copy:
                out.write(piece)
        out_seconds = time.perf_counter() - began
    with psycopg.connect(target.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE floor (LIKE request INCLUDING ALL)")
        connection.execute('ALTER TABLE floor ADD FOREIGN KEY (user_id) REFERENCES "user" (id)')
        connection.commit()
        began = time.perf_counter()
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY floor ({columns}) FROM STDIN") as copy,
            file.open("rb") as rows,
        ):
            while piece := rows.read(1 << 20):
                copy.write(piece)
        connection.commit()
        return out_seconds, time.perf_counter() - began


def executemany(source: str, target: str) -> tuple[float, float]:
    """Time SQLite reading the rows, and inserting ready tuples into a table with the same indexes and constraints."""
    columns = ", ".join(column.name for column in Request.__table__.columns)
    with make_engine(source).connect() as connection:
        began = time.perf_counter()
        rows = connection.exec_driver_sql(f"SELECT {columns} FROM request").cursor.fetchall()
        out_seconds = time.perf_counter() - began
    with make_engine(target).connect() as connection:
        definition = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'request'").scalar_one()
        with connection.begin_nested():
            connection.exec_driver_sql(definition.replace("CREATE TABLE request", "CREATE TABLE floor", 1))
            connection.exec_driver_sql("CREATE INDEX ix_floor ON floor (user_id, created_at)")
            marks = ", ".join("?" * len(Request.__table__.columns))
            began = time.perf_counter()
            connection.exec_driver_sql(f"INSERT INTO floor ({columns}) VALUES ({marks})", [tuple(row) for row in rows])
        connection.commit()
        return out_seconds, time.perf_counter() - began


def compare(
    kind: str, source: str, target: str, folder: Path, count: int, floor: Callable[[], tuple[float, float]]
) -> list[list[str]]:
    """Measure export and import on one kind of database and give the table's rows."""
    keys = folder / "keys"
    keys.mkdir(parents=True)
    for network in ("request", "response"):
        key = SigningKey.generate(network)
        (keys / f"{network}.key").write_bytes(key.to_pem())
        (keys / f"{network}.pem").write_bytes(key.public_pem())
    fill(source, "request", count)
    fill(target, "response", count)
    exported = measured("export", source, folder / "request", keys)
    arriving = folder / "response" / "incoming"
    arriving.mkdir(parents=True)
    Carrier(folder / "request" / "outgoing", arriving).carry()
    imported = measured("import", target, folder / "response", keys)
    assert exported["records"] == imported["records"] == count, (exported, imported)
    floor_out, floor_in = floor()
    return [
        _row(f"{kind}, export", exported, floor_out, count),
        _row(f"{kind}, import", imported, floor_in, count),
    ]


def _row(what: str, ours: dict[str, Any], floor: float, count: int) -> list[str]:
    return [
        what,
        f"{count / ours['seconds']:,.0f}",
        f"{count / floor:,.0f}",
        f"{floor / ours['seconds']:.2f}",
        f"{ours['peak'] / 2**20:.0f} MB",
    ]


def main() -> None:
    """Run everything and print one table."""
    parser = argparse.ArgumentParser(description="How fast rows cross.")
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--step", nargs=4, metavar=("NAME", "URL", "HOME", "KEYS"))
    chosen = parser.parse_args()
    if chosen.step:
        step(*chosen.step)
        return
    table = Table(
        title=f"{chosen.records:,} request records",
        caption="floor: COPY out and in; SELECT and executemany of ready tuples",
    )
    for heading in ("", "rows/s", "floor, rows/s", "rate / floor", "peak memory"):
        table.add_column(heading, justify="left" if not heading else "right")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        url = stack.enter_context(postgres())
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            for network in ("request", "response"):
                connection.execute(f"CREATE DATABASE {network}")
        base = url.rpartition("/")[0]
        source, target = f"{base}/request", f"{base}/response"
        for row in compare(
            "PostgreSQL", source, target, folder / "pg", chosen.records, lambda: copy_out_and_in(source, target, folder)
        ):
            table.add_row(*row)
        lite_source, lite_target = (f"sqlite:///{folder}/{network}.db" for network in ("request", "response"))
        for row in compare(
            "SQLite",
            lite_source,
            lite_target,
            folder / "lite",
            chosen.records,
            lambda: executemany(lite_source, lite_target),
        ):
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
