"""The steps that are measured of files that people drop: ours, and what the databases do with the same file.

python -m tests.benchmarks.dropping_steps NAME JSON-ARGUMENTS
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from exchange.channels.intake import Intake
from exchange.channels.schemas import Checker
from exchange.database import make_engine
from exchange.database.tables import IntakeState
from exchange.files.layout import Folders
from exchange.files.spool import Spool
from exchange.format.signing import TrustedKeys
from exchange.intake import given
from exchange.intake.extract import Asked, extract
from exchange.link.home import take_over
from exchange.site import Site
from tests.benchmarks.dropping_data import COLUMNS, channels, reading
from tests.benchmarks.measuring import Clock, answer
from tests.benchmarks.steps import server_of

_PIECE_BYTES = 1 << 20
_ANY_SHARE = 0.5


def site(url: str, home: str) -> Site:
    """Assemble the side where the files are dropped."""
    folder = Path(home)
    here = Site(
        network="request",
        peer="response",
        engine=make_engine(url),
        channels=channels,
        spool=Spool(Folders(folder, folder / "outgoing", folder / "incoming")),
        checkers={stream.name: Checker(stream) for channel in channels for stream in channel.streams},
        signing_key=None,
        trusted=TrustedKeys({}),
        intakes=(Intake("readings", reading, bad_rows=10**9, bad_share=_ANY_SHARE),),
    )
    here.spool.prepare(make=True)
    take_over(here)
    with here.engine.connect():  # before the clock starts: a worker has a connection
        pass
    return here


def drop_in(clock: Clock, *, url: str, home: str, file: str, parked: int = 0) -> int:
    """Take in a file; exactly ``parked`` of its rows must be parked, all others loaded."""
    here = site(url, home)
    with clock:
        done = given.take_in(here, Path(file), here.intakes[0], "bench").file
    assert done.state is IntakeState.LOADED, done.message
    assert done.rows_parked == parked, f"{done.rows_parked} rows were parked, expected {parked}"
    return done.rows_read


def extract_csv(clock: Clock, *, url: str, home: str, file: str) -> int:
    """Write the table's rows to a file of CSV, as ``exchange extract`` does."""
    here = site(url, home)
    with clock:
        return extract(here, Asked(reading.name, Path(file))).rows


def copy_csv(clock: Clock, *, url: str, file: str) -> int:
    """COPY the same file of CSV into the same table, with its constraints and its capture."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor, clock:
        with (
            cursor.copy(f"COPY reading ({COLUMNS}) FROM STDIN (FORMAT csv, HEADER)") as copy,
            Path(file).open("rb") as rows,
        ):
            while piece := rows.read(_PIECE_BYTES):
                copy.write(piece)
        records = cursor.rowcount
        connection.commit()
    return records


def copy_to_csv(clock: Clock, *, url: str, file: str) -> int:
    """COPY the table's rows into a file of CSV."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor, Path(file).open("wb") as out, clock:
        with cursor.copy(f"COPY reading ({COLUMNS}) TO STDOUT (FORMAT csv, HEADER)") as copy:
            out.writelines(copy)
        return cursor.rowcount


def sqlite_import(clock: Clock, *, url: str, file: str) -> int:
    """Import the same file into the same table by SQLite's own program, which makes texts of what is empty.

    Write-ahead log, foreign keys, page cache and waiting for the disk as ours.
    """
    script = (
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA recursive_triggers=ON;"
        f" PRAGMA cache_size=-32768;\n.mode csv\n.import --skip 1 {file} reading\n"
    )
    database = url.removeprefix("sqlite:///")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with clock:
        subprocess.run(["sqlite3", "-bail", database], input=script, text=True, check=True, capture_output=True)  # noqa: S607 - the system's own
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock.cpu_seconds += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    engine = make_engine(url)
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM reading").scalar_one())


STEPS: dict[str, Callable[..., int]] = {
    step.__name__: step for step in (drop_in, extract_csv, copy_csv, copy_to_csv, sqlite_import)
}


def main() -> None:
    """Run the step that is named and say what it took."""
    name, arguments = sys.argv[1:]
    given = json.loads(arguments)
    clock = Clock(server=server_of(given.get("url", "")))
    answer(clock, STEPS[name](clock, **given))


if __name__ == "__main__":
    main()
