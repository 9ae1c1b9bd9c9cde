"""An application's own engine, borrowed: our transactions on connections of its pool, which go back as they were.

No listener and no execution option of that engine counts for ours, and none of ours for its own: what we rely on is
set for a transaction, or for as long as we have the connection. What the application's sessions set for longer than a
transaction (a search path) stays set for ours, too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, Pool, QueuePool, event
from sqlalchemy.engine import ExceptionContext

from exchange.database.dialects import dialect_of
from exchange.database.engine import (
    LOCK_SECONDS,
    NO_TRIGGERS,
    SQLITE_CACHE_KIB,
    SQLITE_WAIT_SECONDS,
    begin_on_postgresql,
    begin_on_sqlite,
)
from exchange.database.redact import withhold
from exchange.database.whoami import MAX_NAME_BYTES, whoami
from exchange.format.errors import TransientError, printable

AT_ONCE = 3
"""So many connections one of our runs may hold: the work, who asks for it, and who is in its way."""

_DRIVERS = frozenset({("sqlite", "pysqlite"), ("postgresql", "psycopg")})
_RETURN = "exchange_return"
_LOOKED = "exchange_looked_at"


class EngineRefused(ValueError):  # noqa: N818 - reads as what happened
    """An engine that can't be borrowed; the text is one sentence with the reason."""


def borrow_engine(lender: Engine, *, lock_seconds: float = LOCK_SECONDS) -> Engine:
    """Give an engine that works as one of ``make_engine`` does, on connections of the lender's pool.

    Connects to nothing. To dispose of it leaves the pool as it is; the lender's own ``dispose`` counts for both.
    Raises EngineRefused.
    """
    _refuse_unfit(lender)
    if not event.contains(lender.pool, "checkin", _give_back):
        event.listen(lender.pool, "checkin", _give_back)
    if not event.contains(lender.dialect, "handle_error", _keep_our_rows_out):
        event.listen(lender.dialect, "handle_error", _keep_our_rows_out)
    if dialect_of(lender).is_sqlite:
        engine = _Borrowed(lender)
        event.listen(engine, "engine_connect", _prepare_sqlite)
        begin_on_sqlite(engine)
    else:
        engine = _Borrowed(lender, isolation_level="READ COMMITTED")
        event.listen(engine, "engine_connect", _prepare_postgresql)
        # By the name of its connection people are told who holds a lock.
        name = f"exchange {whoami()}".replace("'", "")[:MAX_NAME_BYTES]
        begin_on_postgresql(engine, lock_seconds, application_name=name)
    return engine


class _Borrowed(Engine):
    """Another engine's pool and dialect, with listeners and options of its own."""

    def __init__(self, lender: Engine, **options: Any) -> None:
        self._lender = lender
        super().__init__(lender.pool, lender.dialect, lender.url, hide_parameters=True, execution_options=options)

    @property
    def pool(self) -> Pool:
        """The lender's, whatever it is by now: to dispose of an engine gives it another one."""
        return self._lender.pool

    @pool.setter
    def pool(self, _pool: Pool) -> None:
        pass

    def dispose(self, close: bool = True) -> None:
        """Leave the pool to its owner."""


def _refuse_unfit(lender: Engine) -> None:
    if not isinstance(lender, Engine):
        raise EngineRefused(
            f"expected an Engine, found {printable(repr(lender), 80)}: each batch is a transaction of its own, so a"
            " session or connection can't be joined; give session.get_bind(), and of an asynchronous engine another one"
        )
    found = lender.url.drivername
    if (lender.url.get_backend_name(), lender.dialect.driver) not in _DRIVERS or lender.dialect.is_async:
        raise EngineRefused(
            f"expected an engine of sqlite or of postgresql with psycopg 3, found {printable(found, 80)}: bulk loads"
            " and the causes of errors are asked of these drivers"
        )
    file = lender.url.database or ""
    if dialect_of(lender).is_sqlite and (file in {"", ":memory:"} or file.startswith("file:") or lender.url.query):
        raise EngineRefused(
            "expected an engine of a SQLite file named by its path alone, found another one: locks lie beside the file,"
            " and a database in memory is seen by one connection"
        )
    if getattr(lender.dialect, "_backslash_escapes", False):
        raise EngineRefused("expected standard_conforming_strings to be on as the engine first connects, found off")
    most = _most_connections(lender.pool)
    if most is not None and most < AT_ONCE:
        raise EngineRefused(
            f"expected a pool of {AT_ONCE} connections or more, found one of {most}: a run that works on one looks on"
            " another who is in its way, and would wait for itself"
        )


def _most_connections(pool: Pool) -> int | None:
    """Say how many connections a pool gives at once; None if any number."""
    if isinstance(pool, QueuePool):
        beyond: int = getattr(pool, "_max_overflow", -1)
        return None if beyond < 0 or not pool.size() else pool.size() + beyond
    return None if isinstance(pool, NullPool) else 1


def _keep_our_rows_out(context: ExceptionContext) -> None:
    """Leave out of an error of ours what may quote a row's value; the application's own stay as they are."""
    if isinstance(context.engine, _Borrowed):
        withhold(context.original_exception, context.sqlalchemy_exception)


def _give_back(driver: Any, record: Any) -> None:
    """Leave a connection that we had as it was."""
    back: Callable[[], None] | None = record.info.pop(_RETURN, None)
    if back is not None and driver is not None:
        back()


def _prepare_postgresql(connection: Connection) -> None:
    with _closing_refused(connection):
        driver: Any = connection.connection.driver_connection
        if _LOOKED not in connection.info:
            _look_at_postgresql(driver)
            connection.info[_LOOKED] = True
        before = driver.prepare_threshold

        def back() -> None:
            driver.prepare_threshold = before

        connection.info[_RETURN] = back
        driver.prepare_threshold = None


def _look_at_postgresql(driver: Any) -> None:
    encodings = {what: driver.info.parameter_status(what) for what in ("server_encoding", "client_encoding")}
    if encodings["server_encoding"] == "SQL_ASCII" or encodings["client_encoding"] != "UTF8":
        raise TransientError(
            f"the application's engine connects with the encodings {encodings['server_encoding']} and"
            f" {encodings['client_encoding']}, expected a database that has one and a client's of UTF8: what a"
            " connection makes of bytes is set for all who share it; give the exchange an engine of its own"
        )
    role = driver.execute("SHOW session_replication_role").fetchone()[0]
    driver.rollback()
    if role == "replica":
        raise TransientError(NO_TRIGGERS)


_PRAGMAS = {
    "busy_timeout": round(SQLITE_WAIT_SECONDS * 1000),
    "synchronous": 2,
    "foreign_keys": 1,
    "recursive_triggers": 1,
    "cache_size": -SQLITE_CACHE_KIB,
}
"""What SQLite is to do for us. Not where temporary tables are kept: to change it would drop the application's."""


_OURS = {"autocommit": -1, "isolation_level": None, "row_factory": None, "text_factory": str}
"""The driver's attributes that ours need: transactions begin by statements, and rows are tuples."""

_STAGES = "SELECT name FROM sqlite_temp_master WHERE type = 'table' AND name GLOB 'exchange_*'"


def _prepare_sqlite(connection: Connection) -> None:
    with _closing_refused(connection):
        driver: Any = connection.connection.driver_connection
        attributes = {name: getattr(driver, name) for name in _OURS if hasattr(driver, name)}
        open_by_itself = attributes.get("autocommit") is False
        if driver.in_transaction and not open_by_itself:
            raise TransientError("a connection came out of the application's pool within a transaction; end it first")
        for name in attributes:
            setattr(driver, name, _OURS[name])
        if open_by_itself:
            driver.execute("ROLLBACK")
        before = {name: driver.execute(f"PRAGMA {name}").fetchone()[0] for name in _PRAGMAS}

        def back() -> None:
            """Leave it as it was, without our temporary tables, which would stay as long as the connection."""
            for (table,) in driver.execute(_STAGES).fetchall():
                driver.execute(f"DROP TABLE temp.{table}")
            _set(driver, before)
            for name, value in attributes.items():
                setattr(driver, name, value)

        connection.info[_RETURN] = back
        if _LOOKED not in connection.info:
            driver.execute("PRAGMA journal_mode = WAL")
            connection.info[_LOOKED] = True
        _set(driver, _PRAGMAS)


def _set(driver: sqlite3.Connection, pragmas: dict[str, int]) -> None:
    for name, value in pragmas.items():
        driver.execute(f"PRAGMA {name} = {value}")


@contextmanager
def _closing_refused(connection: Connection) -> Iterator[None]:
    """Give a connection back that can't be used. Raises TransientError for what its driver says."""
    try:
        yield
    except connection.dialect.loaded_dbapi.Error as error:
        connection.invalidate()
        connection.close()
        said = printable(str(error))
        raise TransientError(
            f"a connection of the application's pool can't be used: {said}; the next one may"
        ) from error
    except BaseException:
        connection.close()
        raise
