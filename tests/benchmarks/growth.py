"""What a year leaves behind, on each side: ``python -m tests.benchmarks.growth`` prints the tables of deploy/GROWTH.md.

Real exports, carriage, imports and prunes of two sides on SQLite, with a clock that is turned. Three parts, as a year
at every tick would take a day: some days of an idle link at its true rate, a part of a day of a busy one at its own,
and a year with one round every day and a half, in which all sorts of things happen. What a table has in a steady state
is what comes a day, by the first two, times how long it is kept, which the third shows to be all that stays.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from exchange.database import clock, tables
from exchange.link import reconcile
from exchange.operating.prune import prune_expired
from exchange.outgoing import control_batch
from tests.crossing import shop
from tests.crossing.sides import Link, Side
from tests.crossing.talking import take_in
from tests.databases import Databases, Templates

DAY = 86_400.0
ROUNDS = 288
"""Exports a day, with EXCHANGE_EXPORT_EVERY as it is by default."""
BUSY_ROWS = 100_000
STEP_DAYS = 1.5
FOLDERS = ("sealed", "outgoing", "archive", "incoming", "quarantine", "work", "tmp")


class Sample:
    """Two sides, and the time that passes over them."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sides = (link.one, link.other)
        self.seconds = 0.0
        self.next = 1

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds
        os.environ[clock.AHEAD] = str(self.seconds)

    def round(self, seconds: float, rows: int = 0) -> None:
        """Do what beat does in one period, with so many new rows."""
        if rows:
            ids = range(self.next, self.next + rows)
            self.next += rows
            self.link.one.execute(sa.insert(shop.account), [{"id": one, "name": f"account {one}"} for one in ids])
        for side in self.sides:
            assert side.export().trouble is None
            assert control_batch.after_export(side.site) is None
        self.link.there.carry()
        take_in(self.link.other)
        self.link.back.carry()
        take_in(self.link.one)
        self.turn(seconds)

    def daily(self) -> None:
        """Do what beat does once a day."""
        reconcile.request_checkpoints(self.link.one.site, incoming=False)
        for side in self.sides:
            prune_expired(side.site)

    def rows(self) -> dict[str, tuple[int, int]]:
        """Count the rows of each table, and its bytes with its indexes; both sides together."""
        found: dict[str, tuple[int, int]] = {}
        for side in self.sides:
            for table in tables.metadata.sorted_tables:
                [(rows,)] = side.all(sa.select(sa.func.count()).select_from(table))
                names = [table.name, *(str(index.name) for index in table.indexes)]
                size = sa.text("SELECT COALESCE(sum(pgsize), 0) FROM dbstat WHERE name IN :names")
                with side.engine.connect() as connection:
                    bound = size.bindparams(sa.bindparam("names", names, expanding=True))
                    taken = int(connection.scalar(bound) or 0)
                before = found.get(table.name, (0, 0))
                found[table.name] = (before[0] + rows, before[1] + taken)
        return found

    def files(self) -> dict[str, tuple[int, int]]:
        """Count the files of each folder and their bytes; both sides together."""
        found = {}
        for name in FOLDERS:
            paths = [path for side in self.sides for path in (side.home / name).rglob("*") if path.is_file()]
            found[name] = (len(paths), sum(path.stat().st_size for path in paths))
        return found


@contextmanager
def sample() -> Iterator[Sample]:
    """Give two sides, new."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "templates").mkdir()
        databases = Databases(path, Templates(path / "templates"), lambda: None)  # type: ignore[arg-type,return-value]
        sides = [
            Side(name, peer, databases, "sqlite", path / name, shop.channels, metadata=shop.metadata)
            for name, peer in (("one", "two"), ("two", "one"))
        ]
        os.environ[clock.AHEAD] = "0"
        yield Sample(Link(sides[0], sides[1]))
        for side in sides:
            side.engine.dispose()


def idle(days: int) -> dict[str, list[tuple[int, int]]]:
    """Measure an idle link at its true rate, at the end of each day."""
    with sample() as link:
        found: dict[str, list[tuple[int, int]]] = {}
        for _ in range(days):
            for _ in range(ROUNDS):
                link.round(DAY / ROUNDS)
            link.daily()
            for name, number in {**link.rows(), **link.files()}.items():
                found.setdefault(name, []).append(number)
        return found


def busy(rounds: int) -> tuple[dict[str, tuple[int, int]], float]:
    """Measure so many rounds of a busy link at its true rate; give also how many times as many a day has."""
    with sample() as link:
        for _ in range(rounds):
            link.round(DAY / ROUNDS, BUSY_ROWS // ROUNDS)
        return {**link.rows(), **link.files()}, ROUNDS / rounds


def year(marks: tuple[int, ...] = (120, 240, 365)) -> dict[str, list[tuple[int, int]]]:
    """Live through a year in which rows come, change and go, with one round every day and a half."""
    with sample() as link:
        found: dict[str, list[tuple[int, int]]] = {}
        days, left = 0.0, list(marks)
        while left:
            link.link.one.execute(sa.delete(shop.account).where(shop.account.c.id < link.next - 5))
            link.round(STEP_DAYS * DAY, 10)
            link.daily()
            days += STEP_DAYS
            if days >= left[0]:
                left.pop(0)
                for name, number in link.rows().items():
                    found.setdefault(name, []).append(number)
        return found


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Print what was measured, each part as it is there."""
    say("## idle: rows (KiB) of both sides after each day")
    for name, each in idle(3).items():
        if any(rows for rows, _ in each):
            say(f"| `{name}` | " + " | ".join(f"{rows:,} ({size // 1024:,})" for rows, size in each) + " |")
    numbers, factor = busy(36)
    say(f"## busy: what {factor:g} times what was measured comes to a day")
    for name, (rows, size) in numbers.items():
        if rows:
            say(f"| `{name}` | {round(rows * factor):,} | {round(size * factor / 1024):,} KiB |")
    say("## a year: rows at the end of months 4, 8 and 12")
    for name, each in year().items():
        if any(rows for rows, _ in each):
            say(f"| `{name}` | " + " | ".join(f"{rows:,}" for rows, _ in each) + " |")


if __name__ == "__main__":
    main()
