"""Two whole networks under load, and whoever kills, restarts and flushes what they are made of: all from one seed."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import redis
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from exchange.database.engine import now
from exchange.operating import broker
from exchange.operating.check.oracle import LEFT, Oracle
from exchange.operating.check.wrong import Wrong
from exchange.reference.models import Base, RequestStatus
from exchange.testing import servers
from tests.networks import Network, until

BUSY = {
    "EXCHANGE_EXPORT_EVERY": "2",
    "EXCHANGE_IMPORT_EVERY": "2",
    "EXCHANGE_ANSWER_EVERY": "2",
    "EXCHANGE_GAP_SECONDS": "10",
    "EXCHANGE_SETTLE_SECONDS": "1",
    "EXCHANGE_GRACE_SECONDS": "30",
}
"""Settings of networks that are shaken: they look often, and miss what is missing soon."""

REST_SECONDS = 300.0
"""Within so long both sides have to come to rest once nothing is done to them any more."""

_USERS, _PROFILES, _REQUESTS = (Base.metadata.tables[name] for name in ("user", "profile_type", "request"))


class Load:
    """Applications that write on both sides: users that come, change and go, and requests of theirs."""

    def __init__(self, networks: dict[str, Network], seed: int, pause: float = 0.1) -> None:
        """Begin nothing yet."""
        self._owner, self._asker = networks["response"].engine, networks["request"].engine
        self._draw = random.Random(seed)
        self._pause = pause
        self._ended = threading.Event()
        self.written = 0

    @contextmanager
    def going(self) -> Iterator[None]:
        """Write until the end."""
        threads = [threading.Thread(target=self._go, args=(work,)) for work in (self._own, self._ask)]
        for one in threads:
            one.start()
        try:
            yield
        finally:
            self._ended.set()
            for one in threads:
                one.join()

    def _go(self, work: Callable[[], None]) -> None:
        while not self._ended.wait(self._pause * self._draw.random() * 2):
            with suppress(SQLAlchemyError):  # the database is away, or busy for longer than we wait
                work()
                self.written += 1

    def _own(self) -> None:
        key = self._draw.randrange(1, 40)
        with self._owner.begin() as connection:
            if connection.scalar(sa.select(_PROFILES.c.id).where(_PROFILES.c.id == key % 5 + 1)) is None:
                row = {"id": key % 5 + 1, "name": f"profile {key % 5 + 1}", "daily_limit": 1000, "priority": 1}
                connection.execute(sa.insert(_PROFILES), row)
            mail = f"{key}-{self._draw.randrange(10**6)}@example.org"
            changed = connection.execute(sa.update(_USERS).where(_USERS.c.id == key).values(email=mail))
            if not changed.rowcount:
                row = {"id": key, "name": f"user {key}", "email": mail, "profile_type_id": key % 5 + 1, "active": True}
                connection.execute(sa.insert(_USERS), row)
            elif key > 30:  # of these nobody asks
                connection.execute(sa.delete(_USERS).where(_USERS.c.id == key))

    def _ask(self) -> None:
        with self._asker.begin() as connection:
            users = list(connection.scalars(sa.select(_USERS.c.id).where(_USERS.c.id <= 30)))
            if not users:
                return
            row = {"user_id": self._draw.choice(users), "kind": "count", "query": "q", "parameters": {}, "priority": 1}
            times = {"status": RequestStatus.PENDING, "created_at": now(), "updated_at": now()}
            connection.execute(sa.insert(_REQUESTS), {"id": uuid.uuid4(), **row, **times})


class Shaker:
    """Does one thing after the other to processes, brokers, databases and files, drawn from a seed."""

    def __init__(
        self,
        networks: dict[str, Network],
        seed: int,
        *,
        files: bool = False,
        server: servers.Postgres | None = None,
    ) -> None:
        """``files``: lose and cut files on their way, too; ``server`` is of both databases, to be killed whole."""
        self._networks = networks
        self._server = server
        self._draw = random.Random(seed)
        self.done: Counter[str] = Counter()
        self._ways: list[Callable[[Network], str | None]] = [
            self._kill_worker,
            self._kill_pool_child,
            self._kill_beat,
            self._kill_supervisor,
            self._kill_broker,
            self._flush_broker,
            *([self._crash_postgresql] if networks["request"].engine.dialect.name == "postgresql" else []),
            *([self._kill_postmaster] if server is not None else []),
            *([self._lose_file, self._cut_file] if files else []),
        ]

    def shake(self) -> None:
        """Do something to one side."""
        way, network = self._draw.choice(self._ways), self._draw.choice([*self._networks.values()])
        try:
            done = way(network)
        except (psutil.NoSuchProcess, redis.RedisError, StopIteration, AssertionError, OSError, SQLAlchemyError):
            return  # it is not there to be killed: whatever had it go is at work
        if done:
            self.done[done] += 1

    def _kill_worker(self, network: Network) -> str:
        network.child("worker").kill()
        return "workers killed"

    def _kill_pool_child(self, network: Network) -> str | None:
        children = network.child("worker").children()
        if not children:
            return None
        self._draw.choice(children).kill()
        return "pool children killed"

    def _kill_beat(self, network: Network) -> str:
        network.child("beat").kill()
        return "beats killed"

    def _kill_supervisor(self, network: Network) -> str:
        network.process.kill()
        network.process.wait()
        network.up()
        return "supervisors killed"

    def _kill_broker(self, network: Network) -> str:
        network.kill_broker()
        return "brokers killed"

    def _flush_broker(self, network: Network) -> str | None:
        address = broker.running(network.home / "broker")
        if address is None:
            return None
        with address.client(5) as client:
            client.flushall()
        return "brokers flushed"

    def _crash_postgresql(self, network: Network) -> str:
        """Kill a server process: PostgreSQL throws out everybody, and recovers from its log."""
        with network.engine.connect() as connection:
            victim = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            psutil.Process(victim).kill()
        return "databases crashed"

    def _kill_postmaster(self, _network: Network) -> str:
        """Kill the whole server, and start it again on its data a moment later."""
        assert self._server is not None
        self._server.kill()
        time.sleep(self._draw.uniform(0, 4))
        self._server.start()
        return "postmasters killed"

    def _lose_file(self, network: Network) -> str | None:
        files = self._on_their_way(network)
        if not files:
            return None
        self._draw.choice(files).unlink()
        return "files lost"

    def _cut_file(self, network: Network) -> str | None:
        files = self._on_their_way(network)
        if not files:
            return None
        path = self._draw.choice(files)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return "files cut"

    @staticmethod
    def _on_their_way(network: Network) -> list[Path]:
        folder = network.home.parent / f"from-{network.name}"
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def come_to_rest(networks: dict[str, Network], seconds: float = REST_SECONDS) -> list[Wrong]:
    """Wait until nothing is on its way any more; give what still is after so long."""
    sites = [network.site() for network in networks.values()]
    oracle = Oracle(sites[0], sites[1])
    try:
        with suppress(TimeoutError):
            until(lambda: not oracle.unsettled(), seconds=seconds)
            time.sleep(5)
            until(lambda: not oracle.unsettled(), seconds=seconds)
        return oracle.unsettled()
    finally:
        for site in sites:
            site.engine.dispose()


def judge(networks: dict[str, Network]) -> list[Wrong]:
    """Stop both networks, and give everything that is wrong with what they left.

    What they tell each other all the time may lie there, and drafts of the killed, which prune takes away.
    """
    for network in networks.values():
        network.stop()
    sites = [network.site() for network in networks.values()]
    try:
        found = Oracle(sites[0], sites[1]).judge()
        return [
            one
            for one in found
            if not (one.kind is LEFT and any(word in one.name for word in ("/control-", "/.", "tmp/")))
        ]
    finally:
        for site in sites:
            site.engine.dispose()
