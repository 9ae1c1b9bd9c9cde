"""The door of a side that is served: who asks, and what outlives a request of theirs."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine
from starlette.requests import Request

from exchange.files.token_keys import TokenKeys
from exchange.requesters.callers import Caller, caller_of
from exchange.serve.identity import Connection, Recogniser
from exchange.settings import Settings


class Door:
    """For any number of threads. It is there on every side: programs write streams of any application with a key."""

    def __init__(self, settings: Settings, recogniser: Recogniser, engine: Callable[[], Engine]) -> None:
        """Take the settings, what knows where a request comes from, and what gives the database once asked for."""
        self.settings, self._recogniser, self._engine = settings, recogniser, engine
        self.keys = TokenKeys(settings.keys_folder)

    @property
    def engine(self) -> Engine:
        """This side's database. Raises SettingsFaults, TransientError."""
        return self._engine()

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
