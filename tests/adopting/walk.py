"""The walk-through of deploy/EXISTING.md, done to the laboratory application: what is typed, what is edited, how long.

    python -m tests.adopting.walk                      a million rows, on PostgreSQL
    python -m tests.adopting.walk --rows 20000 --database sqlite

Each side is a folder of its own with a copy of the application and a database; a thread carries files between them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from exchange.testing import servers
from tests.adopting import laboratory
from tests.adopting.comparison import Compared, compare

KEYS = {
    "country": ["country_id"],
    "city": ["city_id"],
    "address": ["address_id"],
    "language": ["language_id"],
    "category": ["category_id"],
    "actor": ["actor_id"],
    "film": ["film_id"],
    "film_actor": ["actor_id", "film_id"],
    "film_category": ["film_id", "category_id"],
    "store": ["store_id"],
    "staff": ["staff_id"],
    "customer": ["customer_id"],
    "inventory": ["inventory_id"],
    "rental": ["rental_id"],
    "payment": ["payment_date", "payment_id"],
    "review": ["review_id"],
    "price_rule": ["price_rule_id"],
}
SIDES = ("plant", "office")
PATIENCE = 900.0


@dataclass
class Walked:
    """What the walk took."""

    commands: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    edited_by_hand: list[str] = field(default_factory=list)
    said: list[dict[str, object]] = field(default_factory=list)
    rows: int = 0
    typed_seconds: float = 0.0
    first_row_seconds: float = 0.0
    all_rows_seconds: float = 0.0
    compared: list[Compared] = field(default_factory=list)

    @property
    def left_at_home(self) -> set[str]:
        """The columns that were named beforehand as not crossing."""
        return {
            f"{one['table']}.{one['column']}".removeprefix("lending.")
            for one in self.said
            if one.get("column") and (one["severity"] == "loses" or "does not cross" in str(one["message"]))
        }


class Walk:
    """Two sides of the laboratory application, and somebody who types."""

    def __init__(self, folder: Path, urls: dict[str, str], rows: int, python: Path, settings: dict[str, str]) -> None:
        self.folder, self.urls, self.rows, self.python, self.settings = folder, urls, rows, python, settings
        self.walked = Walked()
        self._begun = time.monotonic()
        self._ups: list[subprocess.Popen[bytes]] = []
        self.resync = False

    def go(self) -> Walked:
        """Adopt, install both sides, wait until all rows are over there, and compare."""
        laboratory.write_application(self.folder / "plant", self.urls["plant"])
        self._quietly("plant", "alembic upgrade head")
        laboratory.fill(self.urls["plant"], self.rows)
        self._begun = time.monotonic()
        self._adopt()
        shutil.copytree(self.folder / "plant", self.folder / "office", ignore=shutil.ignore_patterns("*.db*", "__pyc*"))
        ini = self.folder / "office" / "alembic.ini"
        ini.write_text(ini.read_text().replace(self.urls["plant"], self.urls["office"]))
        app = "lending.channels:channels"
        for side, peer in (SIDES, SIDES[::-1]):
            self.type(
                side,
                f"exchange init --network {side} --peer {peer} --app {app} --database {self.urls[side]} --migrate",
            )
            self.type(side, "alembic upgrade head")
        for side, peer in (SIDES, SIDES[::-1]):
            (key,) = (self.folder / peer / "var" / peer / "keys").glob("*.pem")
            said = self._quietly(peer, "exchange keys list")
            fingerprint = re.search(r"SHA256:\S+", said)
            assert fingerprint, said
            self.type(side, f"exchange keys trust {key} --fingerprint {fingerprint[0]}")
        self._run_both()
        return self.walked

    def _adopt(self) -> None:
        plain = f"exchange adopt lending.models:Base --source plant --peer office --database {self.urls['plant']} --yes"
        before = self._files()
        said = self._quietly("plant", f"{plain} --dry-run --json")
        self.walked.said = [json.loads(line) for line in said.splitlines()]
        self.type("plant", plain)
        self.walked.files = sorted(self._files() - before)

    def _files(self) -> set[str]:
        place = self.folder / "plant"
        return {str(one.relative_to(place)) for one in place.rglob("*") if one.suffix in {".py", ".ini", ".mako"}}

    def _run_both(self) -> None:
        with self._carrying():
            for side in SIDES:
                self.walked.commands.append(f"{side}$ exchange up")
                self._ups.append(self._start(side, "exchange up"))
            self.walked.typed_seconds = time.monotonic() - self._begun
            if self.resync:
                for channel in ("film", "price_rule"):
                    self.type("plant", f"exchange resync {channel}")
            wanted = self._counts("plant")
            self.walked.rows = sum(wanted.values())
            while (there := self._counts("office")) != wanted:
                if sum(there.values()) and not self.walked.first_row_seconds:
                    self.walked.first_row_seconds = time.monotonic() - self._begun
                assert time.monotonic() - self._begun < PATIENCE, f"waited in vain; of {wanted} {there} are there"
                time.sleep(0.5)
            self.walked.all_rows_seconds = time.monotonic() - self._begun
            self.walked.first_row_seconds = self.walked.first_row_seconds or self.walked.all_rows_seconds
        prefix = "lending." if self.urls["plant"].startswith("postgresql") else ""
        tables = {f"{prefix}{table}": key for table, key in KEYS.items()}
        leave = {f"{prefix}{one}" for one in self.walked.left_at_home}
        self.walked.compared = compare(self.urls["plant"], self.urls["office"], tables, leave)

    def _counts(self, side: str) -> dict[str, int]:
        url = self.urls[side]
        if url.startswith("sqlite"):
            import sqlite3  # noqa: PLC0415 - the one or the other

            with sqlite3.connect(url.removeprefix("sqlite:///")) as lite:
                return {table: lite.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in KEYS}
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            found = {}
            for table in KEYS:
                row = connection.execute(f"SELECT count(*) FROM lending.{table}").fetchone()
                found[table] = int(row[0]) if row else 0
            return found

    def type(self, side: str, command: str) -> str:
        """Run a command that somebody has to type; it is counted."""
        said = self._quietly(side, command)
        self.walked.commands.append(f"{side}$ {command}")
        return said

    def _quietly(self, side: str, command: str) -> str:
        words = shlex.split(command)
        done = subprocess.run(
            [str(self.python), "-m", *words],
            cwd=self.folder / side,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{side}$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _start(self, side: str, command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{side}.log").open("wb") as log:
            return subprocess.Popen(
                [str(self.python), "-m", *shlex.split(command)],
                cwd=self.folder / side,
                env=self._environment(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("EXCHANGE_", "CELERY_"))}
        return clean | self.settings

    def stop(self) -> None:
        """Have both sides end."""
        for one in self._ups:
            one.send_signal(signal.SIGINT)
        for one in self._ups:
            one.wait(60)

    @contextmanager
    def _carrying(self) -> Iterator[None]:
        """Carry files both ways, data first, until it is left."""
        ending = threading.Event()

        def carry() -> None:
            while not ending.wait(0.2):
                for side, peer in (SIDES, SIDES[::-1]):
                    there = self.folder / side / "var" / side / "outgoing"
                    for file in sorted(there.glob("[!.]*"), key=lambda one: ".manifest." in one.name):
                        self._bring(file, self.folder / peer / "var" / peer / "incoming")

        done: set[str] = set()
        self._brought = done
        thread = threading.Thread(target=carry)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()

    def _bring(self, file: Path, to: Path) -> None:
        if file.name in self._brought:
            return
        try:
            shutil.copyfile(file, to / f".{file.name}")
            (to / f".{file.name}").rename(to / file.name)
        except FileNotFoundError:  # taken back meanwhile
            return
        self._brought.add(file.name)


@contextmanager
def walking(
    database: str, rows: int, folder: Path, python: Path = Path(sys.executable), **settings: str
) -> Iterator[Walk]:
    """Give two sides in a folder, their databases made; all that was started ends with it.

    ``python`` runs the commands; ``settings`` go to both sides, by the names of their variables.
    """
    (folder / "plant").mkdir(mode=0o700)
    with ExitStack() as stack:
        if database == "sqlite":
            urls = {side: f"sqlite:///{folder / side / 'own.db'}" for side in SIDES}
        else:
            admin = stack.enter_context(servers.postgres(shared_buffers="256MB", max_wal_size="4GB"))
            with psycopg.connect(admin.replace("+psycopg", ""), autocommit=True) as connection:
                for side in SIDES:
                    connection.execute(f"CREATE DATABASE {side}")
            urls = {side: re.sub(r"/[^/]*$", f"/{side}", admin) for side in SIDES}
        walk = Walk(folder, urls, rows, python, settings)
        stack.callback(walk.stop)
        yield walk


def main() -> None:
    """Walk, and print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--resync", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, walking(wanted.database, wanted.rows, Path(folder)) as walk:
        walk.resync = wanted.resync
        walked = walk.go()
        for command in walked.commands:
            print(command.replace(str(walk.folder), ""))
        print(f"{len(walked.commands)} commands, {len(walked.files)} files written: {', '.join(walked.files)}")
        print(f"edited by hand: {len(walked.edited_by_hand)}")
        print(f"typed in {walked.typed_seconds:.0f} s; first row over there after {walked.first_row_seconds:.0f} s")
        print(f"all {walked.rows:,} rows after {walked.all_rows_seconds:.0f} s")
        for one in walked.compared:
            print(f"{one.table:24} {one.sent:>9,} {one.received:>9,} differ {one.differ} {one.first or ''}")
        print("not crossing, as said beforehand:", ", ".join(sorted(walked.left_at_home)))


if __name__ == "__main__":
    main()
