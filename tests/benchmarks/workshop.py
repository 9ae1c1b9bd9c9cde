"""What the contests work with: databases to copy, batches to carry, ready rows. Made when first wanted, once."""
# ruff: noqa: B019 - there is one workshop; what it made is wanted as long as it is

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import psycopg

from exchange.database import make_engine
from exchange.format.manifest import Manifest
from exchange.tables import capture
from tests.benchmarks import spoiling
from tests.benchmarks.bars import Goal
from tests.benchmarks.data import ALL_COLUMNS, CHANGE, COLUMNS, Sizes
from tests.benchmarks.environments import Environments
from tests.benchmarks.measuring import Measured, note, our_step, run_together
from tests.benchmarks.networks import add_requests, make_keys, migrated, signing_key

_LARGE = 10_000
"""With so many records copying files is quicker than logging their pages."""

UNCUT = {"batch_records": 10_000_000, "batch_bytes": 4 * 1024**3}
"""Limits of an exporter that makes one batch of everything."""


@dataclass(frozen=True)
class Carriage:
    """Two loads of the same requests, first all new, then all changed: as batches, and as rows for the peers."""

    new: Path
    changed: Path
    new_rows: Path
    changed_rows: Path


class Workshop:
    """Makes what is measured, below one folder and on one PostgreSQL server."""

    def __init__(self, folder: Path, server: str, sizes: Sizes, environments: Environments, cores: int = 2) -> None:
        self.folder = folder
        self.sizes = sizes
        self.cores = cores
        self.environments = environments
        self.keys = folder / "keys"
        make_keys(self.keys)
        self._server = server.replace("+psycopg", "")
        self._numbers = itertools.count(1)

    def on_two(self, goal: Goal) -> Goal | None:
        """Give a goal that is set for two cores."""
        return goal if self.cores > 1 else None

    # Databases

    def sql(self, statement: str, url: str | None = None) -> list[Any]:
        """Run one statement by itself, on the server's own database unless another is named."""
        with psycopg.connect(url or self._server, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self, kind: str = "postgresql", template: str = "template0") -> str:
        """Make an empty database of a kind and give its URL."""
        if kind == "sqlite":
            return f"sqlite:///{self.path('.db')}"
        name = f"bench_{next(self._numbers)}"
        strategy = "wal_log" if self.sizes.records < _LARGE else "file_copy"  # which has checkpoints made
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY {strategy}")
        return f"{self._server.rpartition('/')[0]}/{name}"

    def duplicate(self, url: str) -> str:
        """Copy a database that nobody is connected to."""
        if url.startswith("sqlite"):
            made = self.new_database("sqlite")
            shutil.copy(_file(url), _file(made))
            return made
        return self.new_database(template=url.rpartition("/")[2])

    def drop(self, url: str) -> None:
        """Remove a database."""
        if url.startswith("sqlite"):
            for left in self.folder.glob(f"{_file(url).name}*"):
                left.unlink()
        else:
            self.sql(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    @contextmanager
    def copy_of(self, url: str) -> Iterator[str]:
        """Give a copy of a database for a while."""
        copy = self.duplicate(url)
        yield copy
        self.drop(copy)

    def in_copy(self, url: str, work: Callable[[str], Measured]) -> Measured:
        """Let ``work`` spoil a copy of a database."""
        with self.copy_of(url) as copy:
            return work(copy)

    @cache
    def empty(self, network: str, kind: str = "postgresql") -> str:
        """Give a migrated database: users, and nothing else."""
        url = self.new_database(kind)
        migrated(url, network)
        self.tidy(url)
        return url

    @cache
    def strict(self) -> str:
        """Give the response network's empty database in which a value may be taken."""
        url = self.duplicate(self.empty("response"))
        self.sql(spoiling.STRICTER, url)
        return url

    def filled(self, count: int, kind: str = "postgresql", *, captured: bool = True) -> str:
        """Make the request network's database with so many requests, captured (to be exported) or not."""
        note(f"  making {count:,} requests on {kind}")
        url = self.duplicate(self.empty("request", kind))
        engine = make_engine(url)
        with engine.begin() as connection:
            if not captured:
                capture.drop(connection, "request")
            add_requests(connection, count)
            capture.install(connection, "request")
        engine.dispose()
        self.tidy(url)
        return url

    @cache
    def pending(self, count: int, kind: str = "postgresql") -> str:
        """Give the request network's database with so many new requests to export."""
        return self.filled(count, kind)

    @cache
    def loaded(self, batches: Path, original: str) -> str:
        """Give a copy of a database into which batches were imported."""
        url = self.duplicate(original)
        self.take_in(url, batches)
        self.tidy(url)
        return url

    def tidy(self, url: str) -> None:
        """Leave no work that the first user of a database would do for those before it."""
        if url.startswith("sqlite"):
            with make_engine(url).connect() as connection:
                connection.rollback()
                connection.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            self.sql("VACUUM (ANALYZE)", url)

    # Files

    def path(self, ending: str = "") -> Path:
        """Give a path that nobody uses."""
        return self.folder / f"{next(self._numbers)}{ending}"

    def home(self, batches: Path | None = None) -> Path:
        """Make a side's folder, with batches in its ``incoming`` if given."""
        home = self.path()
        (home / "incoming").mkdir(parents=True)
        for file in batches.glob("*.jsonl*") if batches else ():
            shutil.copy(file, home / "incoming")
        return home

    @cached_property
    def carriage(self) -> Carriage:
        """Give the loads that most contests import, cut into batches as by default."""
        note("  making batches of new and of changed rows")
        new_rows, changed_rows = self.path(".jsonl"), self.path(".jsonl")
        with self.copy_of(self.pending(self.sizes.records)) as url:
            _, new = self.export(url)
            self._write_rows(url, new_rows)
            self.sql(CHANGE, url)
            _, changed = self.export(url)
            self._write_rows(url, changed_rows)
        return Carriage(new, changed, new_rows, changed_rows)

    def _write_rows(self, url: str, file: Path) -> None:
        """Write what the peers load: one JSON object a line."""
        query = f"SELECT {COLUMNS} FROM request ORDER BY created_at LIMIT {self.sizes.peer_records}"
        with file.open("w") as out:
            out.writelines(f"{row[0]}\n" for row in self.sql(f"SELECT row_to_json(r)::text FROM ({query}) r", url))

    @cached_property
    def spoilt(self) -> tuple[Path, int]:
        """Give the new rows' batches with bad records among them, and how many those are."""
        folder = self.path()
        return folder, spoiling.spoil(self.carriage.new, folder, signing_key("request", self.keys))

    @cache
    def one_batch(self, count: int) -> Path:
        """Give so many new requests as one batch."""
        with self.copy_of(self.pending(count)) as url:
            return self.export(url, **UNCUT)[1]

    def row_bytes(self) -> float:
        """Say how long a record is, newline included, as batches have it."""
        manifest = next(self.one_batch(self.sizes.again[0]).glob("*.manifest.jsonl"))
        claim = Manifest.parse(manifest.read_bytes().split(b"\n")[0])
        return claim.content_bytes / claim.total

    @cache
    def sharded(self, shards: int) -> Path:
        """Give the new rows as the batches of so many shards."""
        with self.copy_of(self.pending(self.sizes.records)) as url:
            return self.export(url, shards=shards)[1]

    @cache
    def ready(self, url: str, columns: str = ALL_COLUMNS) -> Path:
        """Give the requests of a database as COPY writes them."""
        file = self.path(".copy")
        our_step("copy_out", url=url, file=file, columns=columns).run()
        return file

    # Crossings

    def export(self, url: str, *, shards: int = 1, **limits: int) -> tuple[Measured, Path]:
        """Export what is pending; give what it took and where its batches lie."""
        home = self.home()
        measured = our_step("export", url=url, home=home, keys=self.keys, shards=shards, limits=limits).run()
        return measured, home / "outgoing"

    def take_in(self, url: str, batches: Path, *, parked: int = 0) -> Measured:
        """Import batches and give what it took."""
        home = self.home(batches)
        measured = our_step("take_in", url=url, home=home, keys=self.keys, parked=parked).run()
        shutil.rmtree(home)
        return measured

    def take_in_shards_into(self, url: str, batches: Path, shards: int) -> Measured:
        """Import batches of so many shards, or of none, into a database."""
        return self.take_in_shards(url, batches, shards) if shards > 1 else self.take_in(url, batches)

    def take_in_shards(self, url: str, batches: Path, shards: int) -> Measured:
        """Import the batches of so many shards by as many workers at once."""
        home = self.home(batches)
        names = [f"requests_{shard}" for shard in range(shards)] if shards > 1 else ["requests"]
        where: dict[str, Any] = {"url": url, "home": home, "keys": self.keys, "shards": shards}
        measured = run_together([our_step("take_in_shard", waits=True, channel=name, **where) for name in names])
        shutil.rmtree(home)
        return measured


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))
