"""The door of a side that is served: who asks, and what outlives a request of theirs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

from anyio import CapacityLimiter
from sqlalchemy import Engine
from starlette.requests import Request

from exchange.api import Exchange
from exchange.channels.schemas import Checker
from exchange.database.dialects import dialect_of
from exchange.database.engine import SQLITE_WAIT_SECONDS
from exchange.database.errors import transient_errors
from exchange.database.locks import glancing
from exchange.files.token_keys import TokenKeys
from exchange.format.errors import TransientError
from exchange.people import passwords
from exchange.people.api_keys import note_use
from exchange.requesters import looking
from exchange.requesters.callers import Caller, Shown, Unknown, caller_of, read_shown, signed_in_still
from exchange.requesters.directory import DirectoryUser
from exchange.serve.door.counting import Counting
from exchange.serve.door.waiting import Answered, Waiting
from exchange.serve.identity import Connection, Recogniser
from exchange.settings import Settings

MOST_SIGNING_IN = 200
"""So many wait for their password to be looked at, a few at a time; those beyond come again."""
MOST_READING = 8
MOST_WRITING = 3
MOST_RENEWING = 2
"""So many requests are answered at once, in a thread and on a connection of the database each."""
MOST_SEEN = 10_000
"""So many callers are remembered with their users."""


class Door:
    """For any number of threads. It is there on every side: programs write streams of any application with a key."""

    def __init__(self, settings: Settings, recogniser: Recogniser, exchange: Exchange) -> None:
        """Take the settings, what knows where a request comes from, and the side, which is opened once asked for."""
        self.settings, self._recogniser, self._exchange = settings, recogniser, exchange
        self.keys = TokenKeys(settings.keys_folder)
        self.waiting = Waiting(self._answered)
        self.counting = Counting(settings.network, lambda: self.engine, lambda: self.waiting.number)
        self.signing_in = 0
        """How many sign in now; of the thread of the server's loop."""
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._checkers: dict[str, Checker] = {}
        self._seen: dict[Shown, DirectoryUser] = {}

    @property
    def exchange(self) -> Exchange:
        """This side."""
        return self._exchange

    @property
    def engine(self) -> Engine:
        """This side's database. Raises SettingsFaults, TransientError."""
        return self._exchange.engine

    @cached_property
    def signing(self) -> CapacityLimiter:
        """Give the threads in which people sign in: no other request waits behind those.

        There are more than passwords looked at at once: what else there is to it is done meanwhile. Ask for these, as
        for the ones below, in the server's loop.
        """
        return CapacityLimiter(2 * passwords.AT_ONCE)

    @cached_property
    def reads(self) -> CapacityLimiter:
        """Give the threads that look: more of them would wait for each other, or for a connection of the database."""
        return CapacityLimiter(MOST_READING)

    @cached_property
    def writes(self) -> CapacityLimiter:
        """Give those that write: whoever waits for a lock keeps none from looking."""
        return CapacityLimiter(MOST_WRITING)

    @cached_property
    def renewals(self) -> CapacityLimiter:
        """Give those in which tokens are renewed, which no lock of a profile keeps waiting."""
        return CapacityLimiter(MOST_RENEWING)

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

    def shown(self, request: Request) -> Shown | None:
        """Read what is shown as a bearer; None for nothing that is shown here. Raises TokenKeyFault."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            return None
        address, here = self.way(request).address, self.settings.asks_requests
        return read_shown(self.keys, self.settings.network, text.strip(), address, directory_is_here=here)

    def caller(self, request: Request) -> Caller | None:
        """Say who asks, by what is shown as a bearer; None for nobody. It may wait for the database.

        Raises TransientError, TokenKeyFault.
        """
        shown = self.shown(request)
        try:
            found = None if shown is None else caller_of(self.engine, shown)
        except Unknown:
            return None
        if found is not None:
            self.note(found)
        return found

    def note(self, caller: Caller) -> None:
        """Note that a key is used, now and then."""
        if caller.key is not None:
            note_use(self.engine, caller.key.name, caller.key.used_at, caller.address)

    def seen(self, shown: Shown) -> DirectoryUser | None:
        """Say whose something was that was shown when it was looked last."""
        return self._seen.get(shown)

    def has_seen(self, shown: Shown, user: DirectoryUser) -> None:
        """Remember whose it is: only so as to know which locks to take before the database says so."""
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        self._seen[shown] = user

    def _answered(self, waiting: Mapping[uuid.UUID, Collection[Shown]]) -> Answered:
        """Give what is answered of what is waited for, and which of those who wait for that are signed in still."""
        with transient_errors(), glancing(self.engine) as connection:
            found = looking.answered_among(connection, waiting)
            shown = {one for number in found for one in waiting[number]}
            return found, signed_in_still(connection, shown) if shown else set()
