"""Engines: how each database connects, begins and waits, and what differs in asking for many values."""

from __future__ import annotations

import json
import select
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from exchange.database import clock
from exchange.database.dialects import dialect_of
from exchange.database.encodings import ANY_BYTES
from exchange.database.redact import withhold
from exchange.database.whoami import MAX_NAME_BYTES, whoami
from exchange.format.errors import TransientError

SQLITE_CACHE_KIB = 32 * 1024
SQLITE_WAIT_SECONDS = 5.0
"""How long a SQLite writer waits for another one: the application's transactions are short, ours may not be."""

LOCK_SECONDS = 30.0
"""How long a statement waits for a lock on PostgreSQL, unless it is said otherwise."""

_SETTINGS = {
    # How values are written and read as text.
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "xmloption": "content",
    "quote_all_identifiers": "off",
    # A row that a policy hides would look like one that is gone: the server refuses the statement instead.
    "row_security": "off",
    # A load takes as long as it takes; what a batch is published for must be on the disk.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "synchronous_commit": "on",
    # Its compiling costs more than it gives.
    "jit": "off",
}
"""What our transactions rely on, whatever database and role set. The search path stays as they set it: by it the
application's own tables are found."""


def make_engine(url: str, *, lock_seconds: float = LOCK_SECONDS, read_only: bool = False) -> Engine:
    """Make an engine whose transactions are whole; with ``read_only`` the database refuses whatever would write.

    SQLite: the driver in autocommit and an explicit ``BEGIN IMMEDIATE``, because the stock set-up commits
    half; write-ahead log, foreign keys, triggers of replaced rows, and a bounded wait for other writers.
    PostgreSQL: each transaction sets what it relies on for itself, which PgBouncer lets pass; READ COMMITTED unless it
    asks for more; locks are waited for ``lock_seconds``; and no prepared statements: a plan made while the log was
    empty would be kept, and read all of it once it is not. No error of either quotes a row.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite_engine(url, read_only=read_only)
    else:
        engine = _postgresql_engine(parsed, lock_seconds, read_only=read_only)
    event.listen(engine, "handle_error", _keep_rows_out)
    return engine


def _keep_rows_out(context: ExceptionContext) -> None:
    """Leave out of an error, before anybody sees it, what may quote a row's value."""
    withhold(context.original_exception, context.sqlalchemy_exception)


def _postgresql_engine(parsed: URL, lock_seconds: float, *, read_only: bool) -> Engine:
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(
        parsed,
        # As many as by default, but none is let go of after use: who serves many at once would connect all the time.
        pool_size=15,
        max_overflow=0,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        connect_args={
            "application_name": f"exchange {whoami()}"[:MAX_NAME_BYTES],
            # Whatever the database's own: what that can't store, the server refuses value by value.
            "client_encoding": "utf8",
            "prepare_threshold": None,
        },
    )

    # Before SQLAlchemy looks at the new connection: it remembers how strings are to be quoted.
    @event.listens_for(engine, "connect", insert=True)
    def _prepare(connection: Any, _record: object) -> None:
        connection.autocommit = True
        connection.execute("SET standard_conforming_strings = on")
        role = connection.execute("SHOW session_replication_role").fetchone()[0]
        if connection.info.parameter_status("server_encoding") == ANY_BYTES:
            _take_any_bytes(connection)
        connection.autocommit = False
        if role == "replica":
            raise TransientError(NO_TRIGGERS)

    _replace_what_is_gone(engine)
    begin_on_postgresql(engine, lock_seconds, **({"transaction_read_only": "on"} if read_only else {}))
    return engine


def _replace_what_is_gone(engine: Engine) -> None:
    """Have connections that the server ended while nobody used them be made anew when one is taken.

    It says so before it closes one: where there is nothing to be read nothing has to be asked, which takes as long as a
    statement does. After a while it is asked, as what lies between may forget a connection and tell nobody.
    """

    @event.listens_for(engine, "checkin")
    def _used(_driver: object, record: ConnectionPoolEntry) -> None:
        record.info[_LAST_USED] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _is_there(driver: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        used = record.info.get(_LAST_USED)
        if used is None or (time.monotonic() - used < _BELIEVED_SECONDS and not _has_news(driver)):
            return
        try:
            engine.dialect.do_ping(driver)
        except (driver.OperationalError, driver.InterfaceError) as error:
            raise InvalidatePoolError from error


def _has_news(driver: Any) -> bool:
    """Tell whether the server said something while nobody asked, or is gone."""
    if driver.closed:
        return True
    looking = select.poll()
    looking.register(driver.fileno(), select.POLLIN)
    return bool(looking.poll(0))


_LAST_USED = "exchange_last_used"
_BELIEVED_SECONDS = 10.0
"""So long a connection that nobody uses is believed to be there."""


def begin_on_postgresql(engine: Engine, lock_seconds: float, **more: str) -> None:
    """Have each transaction of an engine set for itself what it relies on, and ``more``, until it ends."""
    settings = {**_SETTINGS, "lock_timeout": f"{round(lock_seconds * 1000)}ms", **more}
    fixed = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in settings.items())

    # SET, and nothing that reads: what a REPEATABLE READ transaction sees is not fixed by it.
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        options = connection.get_execution_options()
        first: tuple[str, ...] | None = options.get(BEGINS_WITH)
        if driver.autocommit and first is None:
            return
        said = fixed if options.get("exchange_read_only") else f"SET LOCAL transaction_read_only = off; {fixed}"
        if first is not None:
            said = "; ".join(("BEGIN ISOLATION LEVEL READ COMMITTED", said, *first))
        try:
            connection.exec_driver_sql(said)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _NOT_IN_RECOVERY:
                raise
            raise TransientError(_STANDBY) from error


def _take_any_bytes(driver: Any) -> None:
    """Have texts that are not UTF-8 read with a surrogate for each such byte, which is refused row by row.

    Asked for UTF-8 the server would refuse the whole statement. Written again they are the same bytes.
    """
    from psycopg.adapt import Dumper, Loader  # noqa: PLC0415 - comes with PostgreSQL alone

    class AnyBytes(Loader):
        def load(self, data: Any) -> str:
            return bytes(data).decode(errors="surrogateescape")

    class SameBytes(Dumper):
        def dump(self, obj: Any) -> bytes:
            return str(obj).encode(errors="surrogateescape")

    driver.execute("SET client_encoding = SQL_ASCII")
    driver.adapters.register_dumper(str, SameBytes)
    for kind in ("text", "varchar", "bpchar", "name", '"char"', 0):
        driver.adapters.register_loader(kind, AnyBytes)


BEGINS_WITH = "exchange_begins_with"
"""The execution option of a connection in AUTOCOMMIT whose transactions begin, and say these statements, all in one
message. They have no parameters."""


def reads_as_it_is(connection: Connection) -> bool:
    """Tell whether what PostgreSQL gives by itself is read as in our transactions; nothing is asked of it."""
    status = connection.connection.driver_connection.info.parameter_status  # type: ignore[union-attr]
    return str(status("DateStyle")).startswith("ISO") and status("standard_conforming_strings") == "on"


_NOT_IN_RECOVERY = "0A000"
_STANDBY = (
    "the database is a standby that can only be read; nothing was changed; have EXCHANGE_DATABASE_URL name the server"
    " that is written to"
)
NO_TRIGGERS = (
    "the database or the role sets session_replication_role to replica, under which neither foreign keys nor triggers"
    " hold; nothing was changed; take it away with ALTER ROLE ... RESET session_replication_role"
)


def _sqlite_engine(url: str, *, read_only: bool) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        connect_args={"isolation_level": None, "timeout": SQLITE_WAIT_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        if read_only:  # a file's journal mode is written into it
            connection.execute("PRAGMA query_only = ON")
            return
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

    begin_on_sqlite(engine)
    return engine


def begin_on_sqlite(engine: Engine) -> None:
    """Have each transaction of an engine begin by a statement, and end by none but its own."""

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        begin = "BEGIN DEFERRED" if connection.get_execution_options().get("exchange_read_only") else "BEGIN IMMEDIATE"
        connection.exec_driver_sql(begin)

    # A disk that is full or fails, and a trigger, may end the transaction: the rest would be committed piece by piece.
    @event.listens_for(engine, "before_cursor_execute")
    def _still_in_transaction(_connection: Connection, cursor: sqlite3.Cursor, statement: str, *_: object) -> None:
        if not cursor.connection.in_transaction and not statement.lstrip().upper().startswith(_OUTSIDE):
            raise TransientError(_ENDED)

    @event.listens_for(engine, "commit")
    def _something_to_commit(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            raise TransientError(_ENDED)


_OUTSIDE = ("BEGIN", "ROLLBACK", "RELEASE", "PRAGMA", "VACUUM", "ATTACH", "DETACH")
"""What may be asked of SQLite outside of a transaction. To go back to a savepoint that is gone fails by itself."""

_ENDED = "the database ended the transaction by itself; what was not committed is undone, the next run tries again"


def sqlite_url(file: Path) -> str:
    """Write the URL of a SQLite file, whatever its path is made of."""
    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


def missing_file(engine: Engine) -> Path | None:
    """Give the path of a SQLite database that does not exist: connecting would make an empty one.

    Opens no connection.
    """
    name = engine.url.database
    if not dialect_of(engine).is_sqlite or not name or Path(name).exists():
        return None
    return Path(name)


def among(
    connection: Connection, column: sa.ColumnElement[Any], values: Iterable[int] | Iterable[str]
) -> sa.ColumnElement[bool]:
    """Say that a column has one of some values, all bound as one: to write out thousands takes longer than to look."""
    if dialect_of(connection).is_postgresql:
        return column == sa.any_(sa.literal(list(values), postgresql.ARRAY(column.type)))
    listed = sa.func.json_each(json.dumps(list(values))).table_valued("value")
    return column.in_(sa.select(listed.c.value))


AT_ONCE = 10_000
"""So many ids one statement names, at most: no database binds any number of values."""

_Value = TypeVar("_Value")


def in_parts(values: Sequence[_Value], most: int = AT_ONCE) -> Iterator[Sequence[_Value]]:
    """Cut values into parts of at most ``most``, each for one statement."""
    return (values[start : start + most] for start in range(0, len(values), most))


def now() -> datetime:
    """The time, aware and UTC."""
    return clock.now()
