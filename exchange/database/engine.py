"""Engines and locks: the only place that knows how each database begins, waits and excludes.

A lock cannot outlive its holder: on PostgreSQL it lives in the transaction that it protects, on SQLite in a
file that the kernel unlocks with the process, around the database's one writer.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from exchange.database.redact import withhold
from exchange.database.tables import holder
from exchange.format.errors import Verdict, WorldError, printable

SQLITE_CACHE_KIB = 32 * 1024
SQLITE_WAIT_SECONDS = 5.0
"""How long a SQLite writer waits for another one: the application's transactions are short, ours may not be."""

LOCK_WAIT_SECONDS = 30.0
"""How long PostgreSQL waits for a lock that is held for a moment only: longer means that its holder hangs."""

MAX_NAME_BYTES = 63
"""What PostgreSQL keeps of a connection's name."""


@dataclass(eq=False)  # not frozen: context managers set its traceback
class Busy(Exception):  # noqa: N818 - an answer, not an error
    """Somebody else holds the lock."""

    lock: str
    who: str
    since: datetime | None

    def __str__(self) -> str:
        """Say who, and since when."""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        return f"{self.lock} is busy: {self.who}{since}; it goes on at the next run"

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        since = self.since.isoformat() if self.since else None
        return {"verdict": Verdict.BUSY.value, "who": self.who, "since": since, "message": str(self)}


_person: ContextVar[str | None] = ContextVar("person", default=None)


@contextmanager
def acting_for(person: str) -> Iterator[None]:
    """Name a person, too, in the locks, events and attempts of what is done meanwhile."""
    token = _person.set(person)
    try:
        yield
    finally:
        _person.reset(token)


def whoami() -> str:
    """Name who works here, in locks, events and attempts: the person if one asked, user, host and process id."""
    try:
        user = os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.getuid())
    except AttributeError:  # pragma: no cover - no getuid on Windows
        user = "unknown"
    process = f"{user}@{socket.gethostname()} pid {os.getpid()}"
    person = _person.get()
    return f"{person}, {process}" if person else process


def user() -> str:
    """Name the operating system's user, by the process's own id: an environment says what one tells it to."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def make_engine(url: str) -> Engine:
    """Make an engine whose transactions are whole.

    SQLite: the driver in autocommit and an explicit ``BEGIN IMMEDIATE``, because the stock set-up commits
    half; write-ahead log, foreign keys, triggers of replaced rows, and a bounded wait for other writers.
    PostgreSQL: session settings that fix how values are written as text, and no prepared statements: a plan made
    while the log was empty would be kept, and read all of it once it is not. No error of either quotes a row.
    """
    parsed = make_url(url)
    engine = _sqlite_engine(url) if parsed.get_backend_name() == "sqlite" else _postgresql_engine(parsed)
    event.listen(engine, "handle_error", _keep_rows_out)
    return engine


def _keep_rows_out(context: ExceptionContext) -> None:
    """Leave out of an error, before anybody sees it, what may quote a row's value."""
    withhold(context.original_exception, context.sqlalchemy_exception)


def _postgresql_engine(parsed: URL) -> Engine:
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    options = "-c timezone=UTC -c datestyle=ISO,YMD -c intervalstyle=postgres -c bytea_output=hex"
    return create_engine(
        parsed,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "options": options,
            "application_name": f"exchange {whoami()}"[:MAX_NAME_BYTES],
            "prepare_threshold": None,
        },
    )


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        connect_args={"isolation_level": None, "timeout": SQLITE_WAIT_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "recursive_triggers = ON",
            "temp_store = FILE",
            # Keys that come in no order touch pages all over an index: with SQLite's own 2 MB each is read again.
            f"cache_size = -{SQLITE_CACHE_KIB}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = "DEFERRED" if connection.get_execution_options().get("exchange_read_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


@contextmanager
def world_errors() -> Iterator[None]:
    """Turn a database or a disk that fails into WorldError: nothing is wrong with the work, try later."""
    try:
        yield
    except SQLAlchemyError as error:
        if not is_the_worlds(error):  # a row's fault, a batch's, or one of ours
            raise
        raise _of_the_database(error) from error
    except OSError as error:
        msg = (
            f"{error.filename or 'the disk'}: {error.strerror or error}; nothing was changed, the next run tries again"
        )
        raise WorldError(msg) from error


def is_the_worlds(error: BaseException | None) -> bool:
    """Say whether an error is the world's fault (a disk or a database that can't go on), whatever is being done.

    What SQLAlchemy raises because of an error before it, as on a connection that was lost, is of the same kind as that.
    """
    while isinstance(error, SQLAlchemyError):
        if isinstance(error, NoConnectionLeft):
            return True
        if isinstance(error, DBAPIError) and (error.connection_invalidated or _is_of_the_database(error)):
            return True
        error = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error.__context__
    return isinstance(error, WorldError | OSError)


_STATES_OF_THE_WORLD = frozenset({"08", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0", "XX"})
"""Classes of SQLSTATE: the connection, the server, its disk, rights and tables, and who else is at work there.

Not among them: data (22), constraints (23), what is too large for an index or a statement (54), what triggers say (P0).
"""

_AFTER_A_FAULT = "25P02"
"""A transaction goes on after a statement of it has failed: what that one's fault was counts."""

_CODES_OF_THE_WORLD = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_NOTADB,
    }
)
"""The same of SQLite, which knows of no better code than "error" for a table that is missing."""

_NOT_MIGRATED = ("no such table", "no such column", "has no column named")


def _is_of_the_database(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state[:2] in _STATES_OF_THE_WORLD and state != _AFTER_A_FAULT
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _CODES_OF_THE_WORLD or any(words in str(error.orig) for words in _NOT_MIGRATED)
    # The driver's own words: nothing came from the server, if there is one.
    return isinstance(error, OperationalError | InterfaceError) and not isinstance(error.orig, sqlite3.InterfaceError)


def _of_the_database(error: SQLAlchemyError) -> WorldError:
    if isinstance(error, ProgrammingError) or any(words in str(error) for words in _NOT_MIGRATED):
        return _unmigrated(error)
    if type(error) is DatabaseError:
        # What SQLite says of a file that is damaged, or no database at all.
        what = "the database can't be read"
        return WorldError(f"{what}: {_first_line(error)}; nothing was changed; see that it is the right file")
    return WorldError(f"the database can't go on: {_first_line(error)}; nothing was changed, the next run tries again")


@contextmanager
def driver_errors(connection: Connection, statement: str) -> Iterator[None]:
    """Turn what the driver raises, asked past SQLAlchemy, into SQLAlchemy's DBAPIError, as for any statement."""
    dbapi = connection.dialect.loaded_dbapi
    try:
        yield
    except dbapi.Error as error:
        withhold(error)
        raise DBAPIError.instance(statement, None, error, dbapi.Error, dialect=connection.dialect) from error


def missing_file(engine: Engine) -> Path | None:
    """Give the path of a SQLite database that does not exist: connecting would make an empty one."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or Path(name).exists():
        return None
    return Path(name)


def _unmigrated(error: SQLAlchemyError) -> WorldError:
    return WorldError(
        f"the database is not as this version needs it: {_first_line(error)}; nothing was changed;"
        " `exchange migrate` brings it up to date"
    )


def _first_line(error: SQLAlchemyError) -> str:
    lines = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__)


def among(
    connection: Connection, column: sa.ColumnElement[Any], values: Iterable[int] | Iterable[str]
) -> sa.ColumnElement[bool]:
    """Say that a column has one of some values, all bound as one: to write out thousands takes longer than to look."""
    if connection.dialect.name == "postgresql":
        return column == sa.any_(sa.literal(list(values), postgresql.ARRAY(column.type)))
    listed = sa.func.json_each(json.dumps(list(values))).table_valued("value")
    return column.in_(sa.select(listed.c.value))


def now() -> datetime:
    """The time, aware and UTC."""
    return datetime.now(UTC)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads: on SQLite it neither waits for a writer nor stops one."""
    with engine.connect() as connection:
        quiet = connection.execution_options(exchange_read_only=True)
        with quiet.begin():
            yield quiet


@contextmanager
def locked(
    engine: Engine, lock: str, *, prepare: Callable[[], None] | None = None, **execution_options: Any
) -> Iterator[Connection]:
    """Open a transaction that holds ``lock`` until it ends; commit at the end, roll back on any exception.

    ``prepare`` is called with the lock held, before the transaction writes: what it commits by itself is
    there whatever becomes of the transaction. Raises Busy at once if somebody else holds the lock (SQLite:
    after a bounded wait if somebody writes to the database for another reason).
    """
    if engine.dialect.name == "sqlite":
        with _sqlite_lock(engine, lock, prepare) as connection:
            yield connection
        return
    try:
        with engine.connect().execution_options(**execution_options) as connection, connection.begin():
            _advisory_lock(connection, lock)
            if prepare is not None:
                prepare()
            yield connection
    except OperationalError as error:
        # The statement that asks for the lock also fixes what a REPEATABLE READ transaction sees: somebody
        # who committed in between was at work, and what we saw is past.
        if getattr(error.orig, "sqlstate", None) == "40001":
            raise Busy(lock, "another process, just now", None) from error
        raise


def join(connection: Connection, lock: str, *, alone: bool) -> None:
    """Hold ``lock`` too until this transaction ends, together with others who joined it, or ``alone``. Raises Busy.

    SQLite has one writer: there everybody is alone anyway.
    """
    if connection.dialect.name == "postgresql":
        _advisory_lock(connection, lock, shared=not alone)


def wait_for(connection: Connection, lock: str) -> None:
    """Hold ``lock`` until this transaction ends, after whoever holds it: for what takes a moment.

    Call it before the transaction does anything else. SQLite has one writer: there everybody is alone anyway.
    """
    if connection.dialect.name == "postgresql":
        # What is seen must be as it is once we have the lock, whatever the role's own settings say.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT_SECONDS:.0f}s'")
        key = sa.func.hashtext(lock)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_NAMESPACE, key)))


@contextmanager
def writing(
    engine: Engine, lock: str = "the database", *, patience_seconds: float = SQLITE_WAIT_SECONDS
) -> Iterator[Connection]:
    """Open a transaction that writes; commit at the end, roll back on any exception.

    Raises Busy if another one goes on writing to SQLite's only file for longer than our patience.
    """
    with engine.connect() as connection, _patience(connection, patience_seconds):
        try:
            transaction = connection.begin()
        except OperationalError as error:
            raise _sqlite_busy(engine, lock, error) from error
        with transaction:
            yield connection


@contextmanager
def _patience(connection: Connection, seconds: float) -> Iterator[None]:
    """Let SQLite wait so long for another writer; the connection is left as it was."""
    driver = connection.connection.driver_connection
    if seconds == SQLITE_WAIT_SECONDS or not isinstance(driver, sqlite3.Connection):
        yield
        return
    driver.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA busy_timeout = {round(SQLITE_WAIT_SECONDS * 1000)}")


@contextmanager
def _sqlite_lock(engine: Engine, lock: str, prepare: Callable[[], None] | None) -> Iterator[Connection]:
    with _lock_file(engine, lock):
        with writing(engine, lock) as connection:
            _announce(connection, lock)
        if prepare is not None:
            prepare()
        with writing(engine, lock) as connection:
            yield connection


@contextmanager
def _lock_file(engine: Engine, lock: str) -> Iterator[None]:
    """Hold a file beside the database, which the kernel lets go of with its process.

    The database's own lock ends with each transaction, and between two of them somebody else could begin.
    """
    database = engine.url.database
    if not database or database == ":memory:":
        yield
        return
    with Path(f"{database}-{lock.replace(' ', '-')}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _sqlite_holder(engine, lock) from None
        yield


def _announce(connection: Connection, lock: str) -> None:
    """Leave word who works, committed before the work: a second caller can read it while the first one holds."""
    connection.execute(sa.delete(holder).where(holder.c.lock == lock))
    connection.execute(sa.insert(holder).values(lock=lock, who=whoami(), since=now()))


def _sqlite_busy(engine: Engine, lock: str, error: OperationalError) -> Exception:
    if engine.dialect.name != "sqlite" or "locked" not in str(error.orig):
        return error
    with reading(engine) as connection:
        latest = connection.execute(
            sa.select(holder.c.who, holder.c.since).order_by(holder.c.since.desc()).limit(1)
        ).one_or_none()
    if latest is None:
        return Busy(lock, "another writer holds the database", None)
    return Busy(lock, latest.who, latest.since)


def _sqlite_holder(engine: Engine, lock: str) -> Busy:
    with reading(engine) as connection:
        row = connection.execute(sa.select(holder.c.who, holder.c.since).where(holder.c.lock == lock)).one_or_none()
    return Busy(lock, row.who if row else "another process, just now", row.since if row else None)


def _advisory_lock(connection: Connection, lock: str, *, shared: bool = False) -> None:
    """Take the lock or say who has it: PostgreSQL knows its holders itself, by the names of their connections."""
    if _person.get():
        name = f"exchange {whoami()}"[:MAX_NAME_BYTES]
        connection.execute(sa.select(sa.func.set_config("application_name", name, sa.true())))
    # Two 32-bit halves: pg_locks shows them as classid and objid.
    key = connection.scalar(sa.select(sa.func.hashtext(lock)))
    take = sa.func.pg_try_advisory_xact_lock_shared if shared else sa.func.pg_try_advisory_xact_lock
    if connection.scalar(sa.select(take(_NAMESPACE, key))):
        return
    row = connection.execute(
        sa.text(
            "SELECT a.application_name AS who, a.xact_start AS since FROM pg_locks l"
            " JOIN pg_stat_activity a USING (pid)"
            " WHERE l.locktype = 'advisory' AND l.granted AND l.classid = CAST(:space AS oid)"
            " AND l.objid = CAST(CAST(CAST(:key AS bigint) & 4294967295 AS text) AS oid)"
        ),
        {"space": _NAMESPACE, "key": key},
    ).first()
    raise Busy(lock, row.who if row else "another process, just now", row.since if row else None)


_NAMESPACE = 0x65786368
"""First half of our advisory locks' keys ("exch"), so that they don't meet the application's own."""
