"""Transactions that read or write, and locks by name: each says who has it and since when.

A lock cannot outlive its holder: on PostgreSQL it is an advisory one of the transaction that it protects, on SQLite a
file beside the database, which the kernel unlocks with the process.
"""

from __future__ import annotations

import fcntl
import glob
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from exchange.database import sessions
from exchange.database.dialects import dialect_of
from exchange.database.engine import BEGINS_WITH, SQLITE_WAIT_SECONDS, now, reads_as_it_is
from exchange.database.whoami import MAX_NAME_BYTES, acting_person, whoami
from exchange.format.errors import Verdict, printable
from exchange.format.moments import in_words


@dataclass(eq=False)  # not frozen: context managers set its traceback
class Busy(Exception):  # noqa: N818 - an answer, not an error
    """Somebody else holds the lock."""

    lock: str
    who: str
    since: datetime | None

    def __str__(self) -> str:
        """Say who, and since when."""
        since = f" since {in_words(self.since)}" if self.since else ""
        return f"{self.lock} is busy: {self.who}{since}; it goes on at the next run"

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        since = self.since.isoformat() if self.since else None
        return {"verdict": Verdict.BUSY.value, "who": self.who, "since": since, "message": str(self)}


def export_lock(channel: str) -> str:
    """Name the lock under which a channel's batches are sealed, published and sent again."""
    return f"export {channel}"


def import_lock(channel: str) -> str:
    """Name the lock under which a channel's batches are judged and applied.

    The declared channel of a shard has one, too: ``join`` it beside those who work on other shards, or ``alone``.
    """
    return f"import {channel}"


def epochs_lock(peer: str) -> str:
    """Name the lock under which a person decides on the other side's epochs."""
    return f"the epochs of {peer}"


def requests_lock(profile: int) -> str:
    """Name the lock under which the requests of a profile's users are counted and made (reference application)."""
    return f"requests of profile {profile}"


STRANGERS_LOCK = "import of strangers"
"""For batches of no channel that we know."""

EPOCH_LOCK = "the epoch"
"""For beginning an epoch of this side."""

LETTERS_LOCK = "letters"
"""For taking in a file of dead letters."""

FORGET_LOCK = "forget"
"""For erasing a row from everywhere."""

AUDIT_LOCK = "audit"
"""For adding a row to the audit, which names the one before it."""


@contextmanager
def reading(engine: Engine, *, one_moment: bool = False) -> Iterator[Connection]:
    """Open a transaction that only reads: on SQLite it neither waits for a writer nor stops one.

    Nothing may be written in it. With ``one_moment`` all its statements see the same, as on SQLite they do anyway.
    """
    with engine.connect() as connection:
        level = {"isolation_level": "REPEATABLE READ"} if one_moment and dialect_of(engine).is_postgresql else {}
        quiet = connection.execution_options(exchange_read_only=True, **level)
        with quiet.begin():
            yield quiet


@contextmanager
def glancing(engine: Engine) -> Iterator[Connection]:
    """Open a connection for a statement that reads: on PostgreSQL no transaction is made around it.

    That takes one message instead of four. Rows that a policy hides are not there for it. On SQLite, and where the
    database or the role writes dates in another way, it is ``reading``.
    """
    if not dialect_of(engine).is_postgresql:
        with reading(engine) as connection:
            yield connection
        return
    with engine.connect() as connection:
        if reads_as_it_is(connection):
            yield connection.execution_options(isolation_level="AUTOCOMMIT")
            return
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
    after a bounded wait if somebody writes to the database for another reason), and if a transaction of the
    application's keeps a statement waiting for longer than the engine's patience.
    """
    if not dialect_of(engine).many_writers:
        with _sqlite_lock(engine, lock, prepare) as connection:
            yield connection
        return
    with (
        busy_for_others(engine, lock),
        engine.connect().execution_options(**execution_options) as connection,
        connection.begin(),
        _stopping_at_once(connection),
    ):
        _advisory_lock(connection, lock)
        if prepare is not None:
            prepare()
        yield connection


def join(connection: Connection, lock: str, *, alone: bool) -> None:
    """Hold ``lock`` too until this transaction ends, together with others who joined it, or ``alone``. Raises Busy.

    SQLite has one writer: there everybody is alone anyway.
    """
    if dialect_of(connection).many_writers:
        _advisory_lock(connection, lock, shared=not alone)


def wait_for(connection: Connection, lock: str) -> None:
    """Hold ``lock`` until this transaction ends, after whoever holds it: for what takes a moment.

    Call it before the transaction does anything else. SQLite has one writer: there everybody is alone anyway.
    """
    if dialect_of(connection).many_writers:
        key = sa.func.hashtext(lock)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_NAMESPACE, key)))


@contextmanager
def writing(
    engine: Engine, lock: str = "the database", *, patience_seconds: float = SQLITE_WAIT_SECONDS
) -> Iterator[Connection]:
    """Open a transaction that writes; commit at the end, roll back on any exception.

    Raises Busy if another one goes on writing to SQLite's only file for longer than our patience, or keeps one of our
    statements waiting on PostgreSQL.
    """
    with (
        busy_for_others(engine, lock),
        engine.connect() as connection,
        _patience(connection, patience_seconds),
        connection.begin(),
        _stopping_at_once(connection),
    ):
        yield connection


@contextmanager
def writing_at_once(engine: Engine, *held: str, patience_seconds: float = SQLITE_WAIT_SECONDS) -> Iterator[Connection]:
    """Open a transaction that writes as ``writing`` does, for what takes a moment and is waited for by somebody.

    On PostgreSQL one message begins it and takes what is ``held``: statements without parameters, such as
    ``lock_statement`` gives, each of which sees what was committed before it. Raises Busy as soon as one of them
    waited for longer than our patience.
    """
    options: dict[str, Any] = {}
    if dialect_of(engine).is_postgresql:
        waits = f"SET LOCAL lock_timeout = '{round(patience_seconds * 1000)}ms'"
        options = {"isolation_level": "AUTOCOMMIT", BEGINS_WITH: (waits, *held)}
    with (
        busy_for_others(engine, "the database"),
        engine.connect().execution_options(**options) as connection,
        connection.begin(),
        _stopping_at_once(connection),
    ):
        yield connection


def lock_statement(lock: str) -> str:
    """Write down for PostgreSQL to hold a lock until the transaction ends, after whoever holds it."""
    quoted = lock.replace("'", "''")
    return f"SELECT pg_advisory_xact_lock({_NAMESPACE}, hashtext('{quoted}'))"


@contextmanager
def busy_for_others(engine: Engine, lock: str) -> Iterator[None]:
    """Raise Busy for a statement that the database ended because of others' transactions: the next run tries again.

    Of one that waited too long for a lock it says who holds it, as far as that can be known.
    """
    try:
        yield
    except DBAPIError as error:
        if (getattr(error.orig, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise _sqlite_busy(engine, lock) from error
        match getattr(error.orig, "sqlstate", None):
            case "55P03":
                raise Busy(lock, *_lock_holder(engine, str(error.statement))) from error
            case "40P01":
                raise Busy(lock, "another transaction that writes the same rows", None) from error
            # The statement that asks for the lock also fixes what a REPEATABLE READ transaction sees: somebody
            # who committed in between was at work, and what we saw is past.
            case "40001":
                raise Busy(lock, "another process, just now", None) from error
        raise


@contextmanager
def _stopping_at_once(connection: Connection) -> Iterator[None]:
    """Let go of a connection whose statement was interrupted: a rollback would wait for the statement's end."""
    try:
        yield
    except BaseException:
        if cancel(connection):
            connection.invalidate()
        raise


def cancel(connection: Connection) -> bool:
    """End the statement that PostgreSQL is at work on for this connection, and tell whether there was one.

    May be called from any thread. SQLite's statements end by themselves. Raises nothing.
    """
    if connection.closed or connection.invalidated or not dialect_of(connection).is_postgresql:
        return False
    driver: Any = connection.connection.driver_connection
    if driver.pgconn.transaction_status != _ACTIVE:
        return False
    with suppress(Exception):
        driver.cancel_safe(timeout=_CANCEL_SECONDS)
    return True


_ACTIVE = 1
"""libpq's word for a connection whose statement is under way."""

_CANCEL_SECONDS = 5.0


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
        if not connection.invalidated:  # whoever is interrupted in a statement or a commit has lost it
            driver.execute(f"PRAGMA busy_timeout = {round(SQLITE_WAIT_SECONDS * 1000)}")


@contextmanager
def _sqlite_lock(engine: Engine, lock: str, prepare: Callable[[], None] | None) -> Iterator[Connection]:
    with _lock_file(engine, lock):
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
    path = f"{database}-{lock.replace(' ', '-')}.lock"
    with Path(path).open("ab", buffering=0) as file:
        if not try_lock(file):
            raise Busy(lock, *(_word_in(path) or ("another process, just now", None)))
        _leave_word(file)
        yield


def _leave_word(file: IO[bytes]) -> None:
    """Write into a lock's file who holds it and since when: the kernel tells a second caller neither.

    It is nothing to sync, or to fail for: of a holder that crashed the lock is free, and a full disk gets emptier only
    by work that takes locks.
    """
    with suppress(OSError):
        file.truncate(0)
        file.write(f"{now().isoformat()} {whoami()}".encode(errors="replace"))


def _word_in(path: str) -> tuple[str, datetime] | None:
    """Read who left word in a lock's file last, and when; None where nobody did, or has not quite yet."""
    try:
        since, _, who = Path(path).read_bytes()[:_MOST_WORDS].decode(errors="replace").partition(" ")
        return (printable(who, 255), datetime.fromisoformat(since)) if who else None
    except (OSError, ValueError):
        return None


_MOST_WORDS = 4096


def _sqlite_busy(engine: Engine, lock: str) -> Busy:
    """Name who writes to SQLite's file: by the file, or else whoever left word last."""
    database = Path(str(engine.url.database))
    words = (_word_in(str(path)) for path in database.parent.glob(f"{glob.escape(database.name)}-*.lock"))
    who, since = max(filter(None, words), key=lambda word: word[1], default=("", None))
    process = writing_process(str(database))
    if process is not None and not who.endswith(f" pid {process}"):
        return Busy(lock, f"process {process}{_program(process)} writes to the database", None)
    return Busy(lock, who or "another writer holds the database", since)


_WRITE_LOCKS = {"-shm": (120, 120), "": (0x4000_0000, 0x4000_0001)}
"""The bytes of a file beside a SQLite database, and of its own, that a writer locks: with a log ahead, and without."""


def writing_process(database: str) -> int | None:
    """Give the process that holds a SQLite file's write lock, as Linux tells; None if nobody can say.

    Opens no file of SQLite's: to close it again would let go of this process's own locks on it.
    """
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return None
    for suffix, (first, last) in _WRITE_LOCKS.items():
        with suppress(OSError):
            known = os.stat(database + suffix)  # noqa: PTH116 - a suffix of the whole name
            file = f"{os.major(known.st_dev):02x}:{os.minor(known.st_dev):02x}:{known.st_ino}"
            for words in locks:
                if words[1] == "POSIX" and words[3] == "WRITE" and words[5] == file and int(words[4]) > 0:
                    end = sys.maxsize if words[7] == "EOF" else int(words[7])
                    if int(words[6]) <= last and end >= first:
                        return int(words[4])
    return None


def _program(process: int) -> str:
    with suppress(OSError):
        return f" ({printable(Path(f'/proc/{process}/comm').read_text().strip(), 40)})"
    return ""


def _lock_holder(engine: Engine, statement: str) -> tuple[str, datetime | None]:
    """Ask on a connection of its own who holds the lock that a statement waited for."""
    try:
        with reading(engine) as connection:
            return sessions.lock_holder(connection, statement, _NAMESPACE)
    except SQLAlchemyError:
        return "another transaction", None


def _advisory_lock(connection: Connection, lock: str, *, shared: bool = False) -> None:
    """Take the lock or say who has it: PostgreSQL knows its holders itself, by the names of their connections."""
    if acting_person.get():
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
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND l.objid = CAST(CAST(CAST(:key AS bigint) & 4294967295 AS text) AS oid)"
        ),
        {"space": _NAMESPACE, "key": key},
    ).first()
    raise Busy(lock, row.who if row else "another process, just now", row.since if row else None)


_NAMESPACE = 0x65786368
"""First half of our advisory locks' keys ("exch"), so that they don't meet the application's own."""


def try_lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock a file until it is closed, or give False if another process has locked it.

    The kernel lets go of it however the process ends. Any number of processes may have it ``shared``. Raises
    OSError.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
