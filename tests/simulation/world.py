"""Two networks in one process, with a clock that is turned, disks and databases that fail, and a process that dies.

All of the product's code runs but its Celery processes. A world is made once and begun anew for each seed: engines
know their statements then.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from exchange.channels.schemas import Checker
from exchange.database import clock
from exchange.database.network import open_network
from exchange.files.spool import Spool
from exchange.format.errors import TransientError
from exchange.format.signing import TrustedKeys
from exchange.incoming.importer import never
from exchange.limits import Limits
from exchange.link import reconcile
from exchange.operating import prune
from exchange.operating.check.oracle import Oracle
from exchange.outgoing import control_batch
from exchange.testing.carrier import Carrier
from tests.crossing.sides import Side
from tests.databases import Databases
from tests.postgresql import Cluster
from tests.simulation import application
from tests.simulation.application import ONE, TWO, Application

PERIOD = 60.0
"""Seconds of an import's tick; exports have five of them."""

DAY = 86_400.0


class Died(BaseException):
    """The process was killed. Nothing that it still does has any effect."""


class Breakage:
    """What goes wrong at a step of the work that is under way, and how many steps there were.

    A step is before or after each rename, link, unlink, sync and commit. From ``at`` on everything fails with
    ``error``; ``statement`` is the one at which the database goes away.
    """

    def __init__(self, at: int = 0, error: int | None = None, statement: int = 0) -> None:
        self.at = at
        self.error = error
        self.statement = statement
        self.seen = self.asked = 0

    def step(self, *, disk: bool) -> None:
        """Count a step; raise what happens at it."""
        self.seen += 1
        if self.at and self.seen >= self.at:
            if self.error is None:
                raise Died
            if disk:
                raise OSError(self.error, os.strerror(self.error))

    def ask(self, dialect: str) -> None:
        """Count a statement; raise what a driver raises once the database is away."""
        self.asked += 1
        if self.statement and self.asked >= self.statement:
            if dialect == "sqlite":
                raise sqlite3.OperationalError("disk I/O error")
            import psycopg  # noqa: PLC0415 - where there is PostgreSQL

            raise psycopg.OperationalError("server closed the connection unexpectedly")


class Network:
    """One side, and what the simulation knows of it."""

    def __init__(self, side: Side, tables_of: Application) -> None:
        self.side = side
        self.tables = tables_of
        self.more: frozenset[str] = frozenset()
        """The channels of the wide part that are declared; ``begun`` has all that this seed has."""
        self.begun = self.more
        self._declared: dict[tuple[int, int, frozenset[str]], Any] = {}
        self.begin()

    def begin(self) -> None:
        """Forget what an earlier seed did."""
        self.shards, self.schema, self.skew = 2, 1, 0.0
        self.keys = [self.side.key]
        self.copies: list[Any] = []
        self.uncaptured: set[str] = set()  # tables whose triggers somebody dropped

    @property
    def name(self) -> str:
        """Its name."""
        return self.side.site.network

    def declare(self) -> None:
        """Have the site take its channels as they are declared now."""
        how = (self.shards, self.schema, self.more)
        if how not in self._declared:
            channels = application.declare(self.tables, shards=self.shards, schema=self.schema, more=self.more)
            checkers = {stream.name: Checker(stream) for channel in channels for stream in channel.streams}
            self._declared[how] = channels, checkers
        channels, checkers = self._declared[how]
        self.side.site = replace(self.side.site, channels=channels, checkers=checkers)


class World:
    """Both networks and the carriers between them, on databases below a folder."""

    def __init__(self, folder: Path, databases: Databases, kinds: Sequence[str], cluster: Cluster | None) -> None:
        self.folder = folder
        self._cluster = cluster
        self.breakage = Breakage()
        self.time = time.time()
        self._began = self.time
        self._at: Network | None = None
        self.networks: list[Network] = []
        for name, peer, kind in ((ONE, TWO, kinds[0]), (TWO, ONE, kinds[1])):
            made = application.application(name)
            channels = application.declare(made)
            side = Side(name, peer, databases, kind, folder / name, channels, metadata=made.metadata)
            self.networks.append(Network(side, made))
        self.one, self.two = self.networks
        self._empty = [self.copy(network) for network in self.networks]
        self._mark = {network.name: network.side.key for network in self.networks}

    def close(self) -> None:
        """Let go of the databases."""
        for network in self.networks:
            network.side.engine.dispose()

    def begin(self, draw: random.Random, more: Iterable[str] = ()) -> None:
        """Put everything back as it was at the very beginning, with ``more`` channels of the wide part."""
        self.time = self._began = time.time()
        self.carriers: dict[str, Carrier] = {}
        self.raised: list[str] = []  # what should have been said in a sentence
        self.rejected = False  # whether a row was written that has its whole batch refused
        self.halves: dict[Path, bytes] = {}  # what a slow carrier has yet to complete
        self.harmed: set[str] = set()  # networks whose ledger and files say different things since somebody did that
        for network, empty in zip(self.networks, self._empty, strict=True):
            side = network.side
            self._put_back(network, empty)
            shutil.rmtree(side.home)
            side.key = self._mark[network.name]
            network.begin()
            network.more = network.begun = frozenset(more)
            spool = Spool(side.site.spool.folders)
            spool.prepare(make=True)
            limits = Limits(
                batch_records=draw.choice([3, 7, 50, 1000]),
                gap_seconds=draw.choice([0, PERIOD, 5 * PERIOD]),
                grace_seconds=2 * PERIOD,
                settle_seconds=0,
                period_seconds=5 * PERIOD,
                deleted_rows=100_000,
                retention_days=1,
                look_ahead=draw.choice([6, 10_000]) if more else 10_000,
            )
            side.site = replace(side.site, spool=spool, limits=limits)
            network.declare()
            with self.as_of(network), side.engine.begin() as connection:
                open_network(connection, network.name)
        self.trust()
        self.oracle = Oracle(self.one.side.site, self.two.side.site)
        for network, other in ((self.one, self.two), (self.two, self.one)):
            outgoing, incoming = network.side.site.spool.folders.outgoing, other.side.site.spool.folders.incoming
            carrier = Carrier(outgoing, incoming, moves=True)
            carrier._draw = random.Random(draw.random())
            self.carriers[network.name] = carrier

    def other(self, network: Network) -> Network:
        """Give the other network."""
        return self.two if network is self.one else self.one

    def trust(self) -> None:
        """Let each side accept all keys that the other one has, and know its own."""
        for network, other in ((self.one, self.two), (self.two, self.one)):
            side = network.side
            own, theirs = ({key.name: key.public_pem() for key in one.keys} for one in (network, other))
            side.site = replace(
                side.site,
                signing_key=network.keys[-1],
                own=TrustedKeys.from_pems(own),
                trusted=TrustedKeys.from_pems(theirs),
            )

    # What beat has done

    def export(self, network: Network) -> str:
        """Export and give a sign of life."""

        def work() -> str:
            run = network.side.export()
            trouble = control_batch.after_export(network.side.site)
            again = f"{len(run.resent)} again" if run.resent else ""
            names = " ".join(one.batch for one in run.batches)
            return _words(names, again, run.parked and f"{run.parked} parked", run.trouble, *run.faults, trouble)

        return self._work(network, work)

    def take_in(self, network: Network) -> str:
        """Import and say what became of it."""

        def work() -> str:
            run = network.side.take_in()
            trouble = control_batch.after_import(network.side.site, run.batches, never)
            told = [
                f"{one.batch} {one.verdict.value}" + (f" ({one.message})" if one.message else "")
                for one in run.batches
                if one.changed
            ]
            retried = f"{len(run.reunited)} letters retried" if run.reunited else ""
            return _words("; ".join(told), retried, run.trouble, trouble)

        return self._work(network, work)

    def reconcile(self, network: Network) -> str:
        """Have what a side sends compared."""
        return self._work(
            network, lambda: f"{len(reconcile.request_checkpoints(network.side.site, incoming=False))} asked"
        )

    def prune(self, network: Network) -> str:
        """Let go of what retention no longer keeps."""

        def work() -> str:
            done = prune.prune_expired(network.side.site).as_dict()
            return ", ".join(f"{count} {what}" for what, count in done.items() if count)

        return self._work(network, work)

    def carry(self, network: Network) -> str:
        """Carry what a side sent."""
        carrier = self.carriers[network.name]
        before = len(carrier.log)
        carrier.carry()
        return ", ".join(f"{name} {what}" for what, name in carrier.log[before:])

    def act(self, network: Network, work: Callable[[], object]) -> str:
        """Let a person do something on a side; what it says that it can't be done is said."""
        return self._work(network, lambda: str(work() or ""))

    def _work(self, network: Network, work: Callable[[], str]) -> str:
        """Do a side's work by its clock; what the process dies of ends it, and its connections with it."""
        with self.as_of(network):
            try:
                return work()
            except Died:
                network.side.engine.dispose()
                return f"died at step {self.breakage.at}"
            except TransientError as error:
                return f"trouble: {error.sentence}"
            except Exception as error:  # noqa: BLE001 - whatever the product raises beside a sentence is a fault
                self.raised.append(f"{network.name} raised {traceback.format_exc(limit=-4)}")
                return f"raised {error!r}"
            finally:
                self.breakage = Breakage()

    # Clocks

    @contextmanager
    def as_of(self, network: Network) -> Iterator[None]:
        """Let a side's clock be the one that is read."""
        self._at = network
        try:
            yield
        finally:
            self._at = None

    def seconds(self) -> float:
        """The time as the side at work takes it."""
        return self.time + (self._at.skew if self._at is not None else 0.0)

    @contextmanager
    def hooked(self, seed: int) -> Iterator[None]:
        """Have the product run by this world's clock, dice and disk."""
        dice = random.Random(seed)

        def counted(function: Callable[..., Any], *, disk: bool) -> Callable[..., Any]:
            def call(*values: Any, **named: Any) -> Any:
                self.breakage.step(disk=disk)
                done = function(*values, **named)
                self.breakage.step(disk=False)
                return done

            return call

        def asked(execute: Callable[..., Any], dialect: str) -> Callable[..., Any]:
            def call(*values: Any, **named: Any) -> Any:
                self.breakage.ask(dialect)
                return execute(*values, **named)

            return call

        with ExitStack() as stack:

            def put(owner: Any, name: str, value: Any) -> None:
                stack.enter_context(mock.patch.object(owner, name, value))

            put(clock, "seconds", self.seconds)
            put(secrets, "token_hex", lambda size=32: dice.randbytes(size).hex())
            put(secrets, "token_bytes", lambda size=32: dice.randbytes(size))
            put(secrets, "randbelow", lambda below: int(dice.random() * below))
            for name in ("rename", "link", "unlink", "fsync"):
                put(os, name, counted(getattr(os, name), disk=name in {"fsync", "link"}))
            for network in self.networks:
                dialect: Any = network.side.engine.dialect
                put(dialect, "do_commit", counted(dialect.do_commit, disk=False))
                for name in ("do_execute", "do_executemany", "do_execute_no_params"):
                    put(dialect, name, asked(getattr(dialect, name), dialect.name))
            yield

    # Copies of databases

    def copy(self, network: Network) -> Any:
        """Copy a side's database as it is now; give what ``_put_back`` takes."""
        url = network.side.engine.url
        if url.get_backend_name() == "sqlite":
            with closing(sqlite3.connect(str(url.database))) as driver:
                return driver.serialize()
        assert self._cluster is not None
        network.side.engine.dispose()
        return self._cluster.create(template=str(url.database))

    def drop(self, copy: Any) -> None:
        """Let go of a copy."""
        if isinstance(copy, str):
            assert self._cluster is not None
            self._cluster.drop(copy)

    def put_back(self, network: Network, copy: Any) -> None:
        """Restore a side's database from a copy."""
        self._put_back(network, copy)
        self.oracle.forget(network.side.site)
        self.harmed.add(network.name)

    def make_anew(self, network: Network) -> None:
        """Make a side's database anew, as one does of which there is no copy."""
        with self.as_of(network):
            self.put_back(network, self._empty[self.networks.index(network)])
            with network.side.engine.begin() as connection:
                open_network(connection, network.name)

    def _put_back(self, network: Network, copy: Any) -> None:
        engine = network.side.engine
        engine.dispose()
        path = str(engine.url.database)
        if isinstance(copy, bytes):
            for ending in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(path + ending)  # noqa: PTH108
            Path(path).write_bytes(copy)
            return
        assert self._cluster is not None
        self._cluster.overwrite(path, copy)


def _words(*said: object) -> str:
    return "; ".join(str(one) for one in said if one)
