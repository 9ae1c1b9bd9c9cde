"""The door of a side that is served: who asks, and what outlives a request of theirs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter
from sqlalchemy import Engine
from starlette.requests import Request

from exchange.api import Exchange
from exchange.channels.schemas import Checker
from exchange.database.dialects import dialect_of
from exchange.database.engine import SQLITE_WAIT_SECONDS
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.files.token_keys import TokenKeys
from exchange.format.errors import TransientError
from exchange.people import passwords
from exchange.requesters import looking
from exchange.requesters.callers import Caller, caller_of
from exchange.serve.door.counting import Counting
from exchange.serve.door.waiting import Waiting
from exchange.serve.identity import Connection, Recogniser
from exchange.settings import Settings

MOST_SIGNING_IN = 200
"""So many wait for their password to be looked at, a few at a time; those beyond come again."""


class Door:
    """For any number of threads. It is there on every side: programs write streams of any application with a key."""

    def __init__(self, settings: Settings, recogniser: Recogniser, exchange: Exchange) -> None:
        """Take the settings, what knows where a request comes from, and the side, which is opened once asked for."""
        self.settings, self._recogniser, self._exchange = settings, recogniser, exchange
        self.keys = TokenKeys(settings.keys_folder)
        self.waiting = Waiting(self._answered)
        self.counting = Counting(lambda: self.waiting.number)
        self.signing_in = 0
        """How many sign in now; of the thread of the server's loop."""
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._checkers: dict[str, Checker] = {}
        self._turns: CapacityLimiter | None = None

    @property
    def exchange(self) -> Exchange:
        """This side."""
        return self._exchange

    @property
    def engine(self) -> Engine:
        """This side's database. Raises SettingsFaults, TransientError."""
        return self._exchange.engine

    @property
    def turns(self) -> CapacityLimiter:
        """The threads in which passwords are looked at: no other request waits behind those."""
        if self._turns is None:
            self._turns = CapacityLimiter(passwords.AT_ONCE)
        return self._turns

    @contextmanager
    def writing(self) -> Iterator[Engine]:
        """Give the database to write a little: on SQLite to one thread after the other, which need not look for a gap.

        Raises SettingsFaults, TransientError.
        """
        engine = self.engine
        if dialect_of(engine).many_writers:
            yield engine
        elif self._writing.acquire(timeout=SQLITE_WAIT_SECONDS):
            try:
                yield engine
            finally:
                self._writing.release()
        else:
            raise TransientError("other requests are being written; ask again in a moment")

    def checker(self, stream: str) -> Checker:
        """Give what checks a declared stream's records. Raises SettingsFaults, TransientError."""
        with self._lock:
            if stream not in self._checkers:
                self._checkers |= self._exchange.site.checkers
            return self._checkers[stream]

    def way(self, request: Request) -> Connection:
        """Say from where a request comes, and whether others can read it."""
        return self._recogniser.connection(request.scope)

    def caller(self, request: Request) -> Caller | None:
        """Say who asks, by what is shown as a bearer; None for nobody. It may wait for the database.

        Raises TransientError, TokenKeyFault.
        """
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not shown.strip():
            return None
        return caller_of(
            self.engine,
            self.keys,
            self.settings.network,
            shown.strip(),
            self.way(request).address,
            directory_is_here=self.settings.asks_requests,
        )

    def _answered(self, numbers: Collection[uuid.UUID]) -> set[uuid.UUID]:
        with transient_errors(), reading(self.engine) as connection:
            return looking.answered_among(connection, numbers)
