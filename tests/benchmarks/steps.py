"""The steps that are measured, each in a process of its own: ours, and the databases' own bulk work beside it.

python -m tests.benchmarks.steps NAME JSON-ARGUMENTS
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from exchange.database import make_engine
from exchange.format.errors import Verdict
from exchange.incoming import importer
from exchange.limits import Limits
from exchange.outgoing import exporter
from exchange.reference import channels
from exchange.reference.models import Request
from exchange.results import ImportRun
from exchange.site import Site
from exchange.tables import bucket_digests
from tests.benchmarks.data import ALL_COLUMNS, COLUMNS, identity
from tests.benchmarks.measuring import Clock, answer
from tests.benchmarks.networks import site

_PIECE_BYTES = 1 << 20

# Ours


def export(clock: Clock, *, url: str, home: str, keys: str, limits: dict[str, Any], shards: int) -> int:
    """Export all that is pending of the requests' channel."""
    here = site("request", url, Path(home), Path(keys), limits=Limits(**limits), shards=shards)
    _connect(here)
    with clock:
        return _exported(here)


def export_few(clock: Clock, *, url: str, home: str, keys: str, few: int, of: int) -> int:
    """Change a few rows of a large table and export those, as a worker that has exported before."""
    here = site("request", url, Path(home), Path(keys))
    ids = [identity(number) for number in range(0, of, of // few)][:few]
    done = 0
    for _ in range(2):
        with here.engine.begin() as connection:
            connection.execute(
                sa.update(Request).where(Request.id.in_(ids)).values(priority=(Request.priority + 1) % 10)
            )
        with clock:
            done = _exported(here)
    return done


def take_in(clock: Clock, *, url: str, home: str, keys: str, parked: int = 0) -> int:
    """Import all that arrived; exactly ``parked`` of its records must be parked, all others applied."""
    here = site("response", url, Path(home), Path(keys))
    _connect(here)
    with clock:
        done = importer.import_batches(here)
    return _applied(done, parked)


def take_in_shard(clock: Clock, *, url: str, home: str, keys: str, shards: int, channel: str) -> int:
    """Import what arrived of one shard, beside other processes that do so with the others."""
    here = site("response", url, Path(home), Path(keys), shards=shards)
    _connect(here)
    with clock:
        done = importer.import_batches(here, channel=channel)
    return _applied(done, parked=0)


def take_in_again(clock: Clock, *, url: str, home: str, keys: str, batches: str) -> int:
    """Import what is applied already, as a worker that has imported before."""
    here = site("response", url, Path(home), Path(keys))
    done = ImportRun(())
    for _ in range(2):
        for file in Path(batches).iterdir():
            shutil.copy(file, here.spool.folders.incoming)
        with clock:
            done = importer.import_batches(here)
        _check(done, Verdict.DUPLICATE)
    return len(done.batches)


def _exported(here: Site) -> int:
    done = exporter.export(here, channel="requests", stopping=importer.never)
    assert done.trouble is None, done.trouble
    assert not done.parked, f"{done.parked} records were parked"
    return sum(batch.records for batch in done.batches)


def _applied(done: ImportRun, parked: int) -> int:
    _check(done, Verdict.APPLIED)
    found = sum(batch.records.parked for batch in done.batches)
    assert found == parked, f"{found} records were parked, expected {parked}"
    return found + sum(batch.records.applied for batch in done.batches)


def _check(done: ImportRun, expected: Verdict) -> None:
    assert done.trouble is None, done.trouble
    for batch in done.batches:
        assert batch.verdict is expected, batch.message


def _connect(here: Site) -> None:
    """Open the connection before the clock starts: a worker has one."""
    with here.engine.connect():
        pass


def digest(clock: Clock, *, url: str) -> int:
    """Digest all requests, as for a comparison with the other side."""
    stream = next(one for channel in channels for one in channel.streams if one.name == "request")
    engine = make_engine(url)
    with engine.connect() as connection, clock:
        return bucket_digests.digest(connection, stream).rows


# The databases' own


def copy_in(clock: Clock, *, url: str, file: str, columns: str = ALL_COLUMNS) -> int:
    """COPY ready rows into the table that ours go to, with its indexes and constraints."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor, clock:
        _copy_from(cursor, f"COPY request ({columns}) FROM STDIN", file)
        records = cursor.rowcount
        connection.commit()
    return records


def copy_and_upsert(clock: Clock, *, url: str, file: str) -> int:
    """COPY ready rows to a temporary table, then upsert them with one statement."""
    updates = ", ".join(f"{name} = excluded.{name}" for name in ALL_COLUMNS.split(", ")[1:])
    with psycopg.connect(url) as connection, connection.cursor() as cursor, clock:
        cursor.execute("CREATE TEMPORARY TABLE ready (LIKE request INCLUDING DEFAULTS) ON COMMIT DROP")
        _copy_from(cursor, f"COPY ready ({ALL_COLUMNS}) FROM STDIN", file)
        cursor.execute(
            f"INSERT INTO request ({ALL_COLUMNS}) SELECT {ALL_COLUMNS} FROM ready"
            f" ON CONFLICT (id) DO UPDATE SET {updates}"
        )
        records = cursor.rowcount
        connection.commit()
    return records


def copy_out(clock: Clock, *, url: str, file: str, columns: str = COLUMNS) -> int:
    """COPY the table's rows into a file."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor, Path(file).open("wb") as out, clock:
        with cursor.copy(f"COPY request ({columns}) TO STDOUT") as copy:
            out.writelines(copy)
        return cursor.rowcount


def take_join_and_write(clock: Clock, *, url: str) -> int:
    """Do what an export asks of PostgreSQL, and no more: take all changes, join the rows, write them as JSON.

    The text is read and thrown away.
    """
    row = ", ".join(f"'{name}', r.{name}" for name in COLUMNS.split(", "))
    with psycopg.connect(url) as connection, connection.cursor() as cursor, clock:
        cursor.execute(
            "CREATE TEMPORARY TABLE taken ON COMMIT DROP AS SELECT max(id) AS id, CAST(key::json->>'id' AS uuid) AS key"
            " FROM exchange_change WHERE false GROUP BY key"
        )
        cursor.execute(
            "WITH gone AS (DELETE FROM exchange_change WHERE stream = 'request' RETURNING id, key) INSERT INTO taken"
            " SELECT max(id), CAST(key::json->>'id' AS uuid) FROM gone GROUP BY key"
        )
        records = cursor.rowcount
        with cursor.copy(
            f"COPY (SELECT json_build_object({row}) FROM taken t JOIN request r ON r.id = t.key ORDER BY t.id)"
            " TO STDOUT"
        ) as copy:
            for _ in copy:
                pass
        connection.commit()
    return records


def insert_in_bulk(clock: Clock, *, url: str, file: str) -> int:
    """Insert rows that are in the database already, as one statement."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE ready (LIKE request INCLUDING DEFAULTS) ON COMMIT DROP")
        _copy_from(cursor, f"COPY ready ({COLUMNS}) FROM STDIN", file)
        with clock:
            cursor.execute(f"INSERT INTO request ({COLUMNS}) SELECT {COLUMNS} FROM ready")
            records = cursor.rowcount
            connection.commit()
    return records


def executemany(clock: Clock, *, loaded: str, url: str) -> int:
    """Insert ready tuples into the table that ours go to, with its indexes and constraints, on SQLite.

    Write-ahead log, foreign keys, page cache and waiting for the disk as ours.
    """
    with make_engine(loaded).connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT {ALL_COLUMNS} FROM request").cursor.fetchall()
    marks = ", ".join("?" * len(rows[0]))
    with make_engine(url).connect() as connection, clock:
        connection.exec_driver_sql(f"INSERT INTO request ({ALL_COLUMNS}) VALUES ({marks})", rows)
        connection.commit()
    return len(rows)


def select_json(clock: Clock, *, url: str) -> int:
    """Read all rows as JSON that SQLite makes of them, and throw it away."""
    row = ", ".join(f"'{name}', {name}" for name in COLUMNS.split(", "))
    done = 0
    with make_engine(url).connect() as connection, clock:
        found = connection.exec_driver_sql(f"SELECT json_object({row}) FROM request").cursor
        while some := len(found.fetchmany(1_000)):
            done += some
    return done


def _copy_from(cursor: psycopg.Cursor[Any], statement: str, file: str) -> None:
    with cursor.copy(statement) as copy, Path(file).open("rb") as rows:
        while piece := rows.read(_PIECE_BYTES):
            copy.write(piece)


STEPS: dict[str, Callable[..., int]] = {
    step.__name__: step
    for step in (
        export,
        export_few,
        take_in,
        take_in_shard,
        take_in_again,
        digest,
        copy_in,
        copy_and_upsert,
        copy_out,
        insert_in_bulk,
        executemany,
        take_join_and_write,
        select_json,
    )
}


def main() -> None:
    """Run the step that is named and say what it took."""
    *flags, name, arguments = sys.argv[1:]
    given = json.loads(arguments)
    clock = Clock(waits="--wait" in flags, server=server_of(given.get("url", "")))
    answer(clock, STEPS[name](clock, **given))


def server_of(url: str) -> int | None:
    """Find the process id of a database's server, on this machine; None of SQLite."""
    if not url.startswith("postgresql"):
        return None
    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return int((Path(row[0]) / "postmaster.pid").read_text().split()[0])


if __name__ == "__main__":
    main()
