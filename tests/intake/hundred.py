"""A hundred ugly files, and one large one of which each hundredth row is bad, dropped on one side: loaded and crossed.

    python -m tests.intake.hundred --gigabytes 0.3 1 5        on PostgreSQL, one size after the other
    python -m tests.intake.hundred --gigabytes 1 --database sqlite

Each step is a process of its own, as a worker is: the intake until nothing is left to do, then exports, carriage and
imports until nothing waits. Then all rows of both sides are compared by the databases' own drivers, those of the large
file with what was written into it, and each letter with its line. It prints what each step took and the most memory
that its process had; ends with 1 and a sentence for whatever is not as it must be. Of disk it takes some five times the
file, below TMPDIR.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa

from exchange.api import Exchange
from exchange.database.engine import make_engine
from exchange.database.locks import reading
from exchange.database.tables import change, dead_letter
from exchange.intake import dropped, folders, standing
from exchange.settings import Settings
from exchange.testing.servers import postgres
from exchange.testing.sides import Sides, two_sides
from tests.intake import ugly
from tests.intake.outcomes import assert_as_expected
from tests.intake.ugly import Ugly

FIRST_ID = 100_000_000
"""The large file's rows have ids from here on, those of the others smaller ones."""
EVERY = 100
"""Of so many rows of the large file one is bad."""
LARGE = "large.csv"
MANY = 99
"""So many other files there are beside it."""


# The large file


class Row(NamedTuple):
    """A row of the large file: as a line of it, and what is wrong with it, if anything."""

    line: bytes
    error: str


def large_row(number: int, width: int) -> Row:
    """Make a row by its number, of some ``width`` bytes."""
    name = name_of(number)
    quoted = '"' + name.replace('"', '""') + '"' if '"' in name else name
    cells = [str(FIRST_ID + number), quoted, f"{number % 99_999}.50", "2026-02-28", "2026-11-28T06:15:00Z"]
    cells += ["0.5", "yes", f"c{number % 1000}", note_of(number, width)]
    if number % EVERY:
        return Row(",".join(cells).encode(), "")
    spoil, error = SPOILERS[number // EVERY % len(SPOILERS)]
    return Row(spoil(cells).encode(), error)


def name_of(number: int) -> str:
    """Give a row's name, which has a delimiter and a quote now and then."""
    return f'row, "{number}"' if number % 10 == 0 else f"row {number}"


def note_of(number: int, width: int) -> str:
    """Give what makes a row as wide as is wanted."""
    return f"{number:x} " + "n" * (width - 80)


def _with(at: int, cell: str) -> Callable[[list[str]], str]:
    return lambda cells: ",".join([*cells[:at], cell, *cells[at + 1 :]])


SPOILERS: Sequence[tuple[Callable[[list[str]], str], str]] = (
    (_with(3, "2026-02-30"), "cell"),
    (_with(1, ""), "schema"),
    (lambda cells: ",".join(cells[:-1]), "ragged"),
    (_with(0, str(FIRST_ID + 1)), "unique"),
    (_with(1, '"a" b'), "quoting"),
    (_with(2, "1.005"), "cell"),
    (_with(1, "x" * 41), "schema"),
)
HEADER = b"id,name,price,day,seen,weight,good,code,note\n"


def write_large(path: Path, length: int, width: int) -> int:
    """Write a file of at least so many bytes; give how many rows it has."""
    number, written = 0, 0
    with path.open("wb") as file:
        file.write(HEADER)
        while written < length:
            lines = b"\n".join([large_row(number + at, width).line for at in range(1, 1001)]) + b"\n"
            written, number = written + file.write(lines), number + 1000
    return number


# Steps, each in a process of its own


@dataclass(frozen=True)
class Place:
    """One side, to be opened in another process."""

    network: str
    peer: str
    home: Path
    url: str

    def opened(self) -> Exchange:
        """Open it."""
        settings = Settings(
            network=self.network, peer=self.peer, home=self.home, database_url=self.url, settle_seconds=0
        )
        return Exchange(settings, channels=ugly.channels)


@dataclass(frozen=True)
class Done:
    """What a step took: seconds by the clock and of this process's processor, its most memory, and how it went on."""

    seconds: float
    processor: float
    peak_bytes: int
    marks: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds, rows and most memory by then, of the large file's loading."""


def take_in(place: Place) -> Done:
    """Load all that lies in the folders."""
    marks: list[tuple[float, int, int]] = []
    with place.opened() as exchange:
        site = replace(exchange.site, intakes=tuple(ugly.intakes))
        began, busy = time.monotonic(), True
        while busy:
            seen = dropped.take_in(site)
            left = dropped.work_off(site, lambda: False)
            busy = bool(seen.claimed or seen.waiting or left)
            with reading(site.engine) as connection:
                large = [one for one in standing.list_files(connection, limit=1000) if one.file == LARGE]
            marks += [(time.monotonic() - began, one.rows_read, peak()) for one in large]
    return _done(began, marks)


def send(place: Place) -> Done:
    """Export all that waits."""
    with place.opened() as exchange:
        began = time.monotonic()
        run = exchange.export()
        for sentence in filter(None, (run.trouble, *run.faults)):
            raise AssertionError(sentence)
    return _done(began)


def receive(place: Place) -> Done:
    """Import all that has come."""
    with place.opened() as exchange:
        began = time.monotonic()
        run = exchange.import_batches()
        if run.trouble is not None:
            raise AssertionError(run.trouble)
    return _done(began)


def _done(began: float, marks: Sequence[tuple[float, int, int]] = ()) -> Done:
    return Done(time.monotonic() - began, time.process_time(), peak(), [*marks])


def peak() -> int:
    """Give the most memory that this process has had since it began its program, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])


def apart(step: Callable[[Place], Done], place: Place) -> Done:
    """Take a step in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(step, (place,))


# The whole of it


@dataclass(frozen=True)
class Measured:
    """What came of one size."""

    length: int
    rows: int
    parked: int
    intake: Done
    sent: Done
    received: Done
    crossings: int


def run(
    folder: Path, length: int, files: Sequence[Ugly], urls: dict[str, str] | None = None, width: int = 500
) -> Measured:
    """Drop the files and a large one of so many bytes; raises AssertionError for what is not as it must be."""
    with two_sides(folder, ugly.channels, urls) as sides:
        places = _places(sides)
        plant, office = places["plant"], places["office"]
        site = replace(sides["plant"].exchange.site, intakes=tuple(ugly.intakes))
        assert folders.make_all(site, None, beyond=True) == []
        ugly.write(plant.home, [*files])
        rows = write_large(plant.home / "drop" / "plain" / LARGE, length, width)
        intake = apart(take_in, plant)
        parked = _assert_loaded(sides, files, rows, width)
        (plant.home / "drop" / "plain" / "done" / LARGE).unlink()
        sent, received, crossings = _cross(sides, plant, office)
        _assert_same(plant.url, office.url, rows, width)
    return Measured(length, rows, parked, intake, sent, received, crossings)


def _places(sides: Sides) -> dict[str, Place]:
    settings = {name: side.exchange.settings for name, side in sides.items()}
    return {name: Place(name, one.peer, one.home, sides[name].database_url) for name, one in settings.items()}


def _cross(sides: Sides, plant: Place, office: Place) -> tuple[Done, Done, int]:
    """Export, carry and import until nothing waits; give what the longest steps took, and how many rounds it took."""
    sent, received, count = [], [], 0
    while count == 0 or _waiting(sides):
        sent.append(apart(send, plant))
        sides.carriers["plant"].carry()
        received.append(apart(receive, office))
        apart(send, office)
        sides.carriers["office"].carry()
        apart(receive, plant)
        count += 1
    return _all_of(sent), _all_of(received), count


def _all_of(steps: Sequence[Done]) -> Done:
    return Done(
        sum(one.seconds for one in steps), sum(one.processor for one in steps), max(one.peak_bytes for one in steps)
    )


def _waiting(sides: Sides) -> bool:
    site = sides["plant"].exchange.site
    with reading(site.engine) as connection:
        return connection.scalar(sa.select(change.c.id).limit(1)) is not None


# Judged


def _assert_loaded(sides: Sides, files: Sequence[Ugly], rows: int, width: int) -> int:
    """See what came of each file, and each bad row of the large one; give how many those are."""
    site = sides["plant"].exchange.site
    with reading(site.engine) as connection:
        found = {f"{one.intake}/{one.file}": one for one in standing.list_files(connection, limit=1000)}
    assert_as_expected(site, files, found, FIRST_ID)
    large = found[f"plain/{LARGE}"]
    bad = range(EVERY, rows + 1, EVERY)
    counts = (str(large.state), large.rows_read, large.rows_loaded, large.rows_parked)
    assert counts == ("loaded", rows, rows - len(bad), len(bad)), (counts, large.message)
    columns = dead_letter.c
    asking = sa.select(columns.line, columns.error, columns.record).where(columns.intake == large.id)
    with reading(site.engine) as connection:
        letters = connection.execute(asking.order_by(columns.line).execution_options(yield_per=1000))
        for number, letter in itertools.zip_longest(bad, letters):
            assert number is not None, f"{letter}: a row that is none of the bad ones, or one twice"
            assert letter is not None, f"row {number} is bad, and there is no letter of it"
            meant = large_row(number, width)
            assert (letter.line, letter.error, bytes(letter.record)) == (number + 1, meant.error, meant.line)
    return len(bad)


def _assert_same(here: str, there: str, rows: int, width: int) -> None:
    """See that both sides have the same rows, and of the large file those that were written into it."""
    count = 0
    with ExitStack() as stack:
        for table in (ugly.thing, ugly.kinds):
            one, other = (stack.enter_context(closing(_rows(url, table))) for url in (here, there))
            for ours, theirs in itertools.zip_longest(one, other):
                assert ours == theirs, f"{table.name}: {ours} here, {theirs} there"
                if table is ugly.thing and int(ours[0]) > FIRST_ID:
                    number = int(ours[0]) - FIRST_ID
                    assert number % EVERY, f"{ours} was bad"
                    assert (ours[1], ours[8]) == (name_of(number), note_of(number, width))
                    count += 1
    assert count == rows - rows // EVERY, f"{count} rows of the large file crossed, of {rows}"


def _rows(url: str, table: sa.Table) -> Generator[tuple[Any, ...]]:
    """Give a table's rows by their ids, through the database's own driver."""
    names = [f'"{column.name}"' for column in table.columns]
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(make_engine(url).url.database or "")) as database:
            yield from database.execute(f'SELECT {", ".join(names)} FROM "{table.name}" ORDER BY id')
        return
    texts = ", ".join(f"{name}::text" for name in names)
    with psycopg.connect(url.replace("+psycopg", "")) as connection, connection.cursor(name="rows") as cursor:
        cursor.itersize = 5000
        cursor.execute(f'SELECT {texts} FROM "{table.name}" ORDER BY "{table.name}".id'.encode())
        yield from cursor


def chosen_files(count: int = MANY) -> list[Ugly]:
    """Give so many of the ugly files, spread over all kinds of them."""
    every = ugly.files()
    return [every[at * len(every) // count] for at in range(count)]


# Printed


def main() -> None:
    """Run each size that is asked for, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.intake.hundred", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.3], metavar="N")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--width", type=int, default=500, metavar="BYTES", help="of a row of the large file")
    chosen = parser.parse_args()
    done = [_on(chosen.database, round(size * 1e9), chosen.width) for size in chosen.gigabytes]
    if len(done) > 1:
        least, most = done[0], done[-1]
        for what in ("intake", "sent", "received"):
            before, after = (getattr(one, what).peak_bytes for one in (least, most))
            _say(f"{what}: {after / before:.2f} times the memory for {most.length / least.length:.1f} times the file")


def _on(database: str, length: int, width: int) -> Measured:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hundred-", ignore_cleanup_errors=True)))
        urls = None
        if database == "postgresql":
            server = stack.enter_context(postgres(shared_buffers="256MB", max_wal_size="4GB"))
            urls = {name: _new_database(server, name) for name in ("plant", "office")}
        found = run(folder, length, chosen_files(), urls, width)
    _report(database, found)
    return found


def _new_database(server: str, name: str) -> str:
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{server.rpartition('/')[0]}/{name}"


def _report(database: str, found: Measured) -> None:
    _say(
        f"{database}: {MANY} ugly files and one of {found.length / 1e9:g} GB, {found.rows:,} rows, of which"
        f" {found.parked:,} are letters; both sides have the same rows, after {found.crossings} crossings"
    )
    for what in ("intake", "sent", "received"):
        one: Done = getattr(found, what)
        _say(
            f"  {what}: {found.rows / one.seconds:,.0f} rows/s, {1e6 * one.processor / found.rows:.1f} us of our"
            f" processor a row, {one.peak_bytes / 1e6:.0f} MB of memory at most"
        )
    for began, ended in itertools.pairwise(found.intake.marks):
        if ended[1] > began[1]:
            rate = (ended[1] - began[1]) / (ended[0] - began[0])
            _say(f"    to row {ended[1]:>12,}: {rate:>9,.0f} rows/s, {ended[2] / 1e6:.0f} MB at most")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
