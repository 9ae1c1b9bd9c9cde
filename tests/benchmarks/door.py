"""The contest of the door: how soon users who ask over HTTP are answered, a hundred of them at once.

A real process serves a side, and each user has two connections: one waits for an answer all the time, on the other they
ask, look at one request and at all, say who they are and renew their tokens: 1,000 requests are made a minute. What
asks has the same two cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from exchange.database import clock, make_engine
from exchange.database.tables import requester
from exchange.operating.prepare import prepare
from exchange.people.passwords import hash_anew
from exchange.reference.models import ProfileType, Request, Response, ResponseStatus, User
from exchange.settings import Settings
from tests.benchmarks.bars import Bar, Outcome, at_most
from tests.benchmarks.measuring import Measured, note
from tests.benchmarks.workshop import Workshop

USERS = 100
MADE_A_MINUTE = 1_000
PASSWORD = "a password of the benchmark"
_KEPT_SECONDS = 3.0
"""So long an idle connection is believed to be there: the server lets go of it after five."""
_SIGN_IN = "POST /sign-in"


def door(shop: Workshop) -> Outcome:
    """Ask on each database, for so long that all users ask several times."""
    bars: list[Bar] = []
    series: dict[str, list[Measured]] = {}
    for kind in ("postgresql", "sqlite"):
        took, lag = _asked(shop, kind)
        for what, times in sorted(took.items()):
            late = quantiles(times, n=20, method="inclusive")[-1] * 1000
            goal = None if what == _SIGN_IN else at_most(100, "ms")
            ours = f"{len(times):,} times, median {median(times) * 1000:.1f} ms, longest {max(times) * 1000:.0f} ms"
            bars.append(Bar(f"door, {kind}: {what}, 95th percentile", goal, (late,), ours))
            note(f"    {late:7.1f} ms of 95 in 100: {kind} {what}, {ours}")
            series[f"{kind} {what}"] = [Measured(one, 1, 0) for one in times]
        told = f"door, {kind}: from a response's commit until who waits is told, median"
        bars.append(Bar(told, None, (median(lag) * 1000,), f"{len(lag)} times, longest {max(lag) * 1000:.0f} ms"))
    return Outcome(tuple(bars), series)


def _asked(shop: Workshop, kind: str) -> tuple[dict[str, list[float]], list[float]]:
    home, url = shop.path(), shop.new_database(kind)
    home.mkdir()
    given = {"outgoing": home / "outgoing", "incoming": home / "incoming", "database_url": url}
    settings = Settings(network="request", peer="response", home=home, **given)  # type: ignore[arg-type]
    prepare(settings).engine.dispose()
    _fill(settings)
    try:
        with _serving(settings) as port:
            return asyncio.run(_Users(settings, port, shop.sizes.door_seconds).ask())
    finally:
        shop.drop(url)


def _fill(settings: Settings) -> None:
    """Make users, each with a password; a directory's rows come from elsewhere, which is not what is timed."""
    engine, kept = make_engine(settings.database_url), hash_anew(PASSWORD, of_many=True)
    with Session(engine) as session, session.begin():
        profile = ProfileType(name="bench", daily_limit=1_000_000, priority=5)
        users = [User(name=f"user{n}", email=f"user{n}@example.org", profile_type=profile) for n in range(USERS)]
        session.add_all(users)
        session.flush()
        rows = [{"user_id": one.id, "hash": kept, "changed_at": clock.now()} for one in users]
        session.execute(sa.insert(requester), rows)
    engine.dispose()


@contextmanager
def _serving(settings: Settings) -> Iterator[int]:
    given = {"NETWORK": "request", "PEER": "response", "HOME": settings.home, "DATABASE_URL": settings.database_url}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    variables = {f"EXCHANGE_{name}": str(value) for name, value in (given | {"SERVE_PORT": 0}).items()}
    log = Path(settings.home, "serve.log")
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "exchange", "serve"], cwd=settings.home, env=clean | variables, stderr=file
        )
    try:
        while (found := re.search(r"at=http://127\.0\.0\.1:([0-9]+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield int(found[1])
    finally:
        process.terminate()
        process.wait()


@dataclass
class _Connection:
    """One that is kept alive, as a browser keeps it."""

    port: int
    token: str = ""
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    used: float = 0.0

    async def ask(self, method: str, path: str, said: Any = None) -> tuple[int, Any]:
        if self.streams is None or time.monotonic() - self.used > _KEPT_SECONDS:
            if self.streams is not None:
                self.streams[1].close()
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        body = b"" if said is None else json.dumps(said).encode()
        shown = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\n{shown}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answered = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answered.partition("content-length: ")[2].partition("\r\n")[0])
        found = json.loads(await reader.readexactly(length))
        self.used = time.monotonic()
        return int(answered.split()[1]), found


@dataclass
class _Users:
    settings: Settings
    port: int
    seconds: float
    took: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[str, float] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)

    async def ask(self) -> tuple[dict[str, list[float]], list[float]]:
        """Have all sign in at once, then all ask for so long."""
        signed = await asyncio.gather(*(self._sign_in(number) for number in range(USERS)))
        note(f"  {USERS} users signed in at once, {self.settings.database_url.partition(':')[0]}")
        responding = asyncio.create_task(asyncio.to_thread(self._respond))
        await asyncio.gather(*(self._live(*one) for one in signed))
        await responding
        return self.took, [self.told[number] - self.committed[number] for number in self.told]

    async def _sign_in(self, number: int) -> tuple[_Connection, str]:
        connection = _Connection(self.port)
        said = {"name": f"user{number}", "password": PASSWORD}
        found = await self._timed(connection, _SIGN_IN, "/sign-in", said)
        connection.token = found["access_token"]
        return connection, found["refresh_token"]

    async def _live(self, connection: _Connection, refresh: str) -> None:
        pause = 60 * USERS / MADE_A_MINUTE
        end = time.monotonic() + self.seconds
        waiting: asyncio.Task[None] | None = None
        await asyncio.sleep(random.uniform(0, pause))
        while time.monotonic() < end:
            began = time.monotonic()
            made = await self._timed(connection, "POST /requests", "/requests", {"query": "How warm is press 1?"})
            if waiting is None or waiting.done():
                waiting = asyncio.create_task(self._wait(connection.token, made["id"]))
            await self._timed(connection, "GET /requests/{id}", f"/requests/{made['id']}")
            await self._timed(connection, "GET /requests", "/requests?limit=20")
            await self._timed(connection, "GET /who", "/who")
            found = await self._timed(connection, "POST /refresh", "/refresh", {"refresh_token": refresh})
            connection.token, refresh = found["access_token"], found["refresh_token"]
            await asyncio.sleep(max(pause - (time.monotonic() - began), 0))
        if waiting is not None:
            await waiting

    async def _timed(self, connection: _Connection, what: str, path: str, said: Any = None) -> Any:
        began = time.perf_counter()
        status, found = await connection.ask(what.partition(" ")[0], path, said)
        self.took[what].append(time.perf_counter() - began)
        if status not in {200, 201}:
            raise AssertionError(f"{what}: {status} {found}")
        return found

    async def _wait(self, token: str, number: str) -> None:
        status, found = await _Connection(self.port, token).ask("GET", f"/requests/{number}?wait=60")
        told = time.perf_counter()
        if status != 200:
            raise AssertionError(f"{status} {found}")
        if found["response"] is not None:
            self.told[number] = told

    def _respond(self) -> None:
        """Have responses come every few seconds, as batches do, until all who wait have theirs."""
        engine, end = make_engine(self.settings.database_url), time.monotonic() + self.seconds + 10
        while time.monotonic() < end:
            time.sleep(2)
            with Session(engine) as session, session.begin():
                open_ones = session.scalars(
                    sa.select(Request.id).outerjoin(Response).where(Response.id.is_(None))
                ).all()
                moment = clock.now()
                told = {"status": ResponseStatus.ANSWERED, "result": 21.5, "processed_by": "bench"}
                times = {"started_at": moment, "finished_at": moment}
                session.add_all(Response(request_id=one, **told, **times) for one in open_ones)
            self.committed |= dict.fromkeys(map(str, open_ones), time.perf_counter())
        engine.dispose()
