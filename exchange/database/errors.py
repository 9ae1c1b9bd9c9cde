"""Errors of a database: whose fault each is, in one place, and the sentences of those that are the world's."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from exchange.database.redact import withhold
from exchange.format.errors import TransientError, of_system, printable


class Blame(Enum):
    """Whose fault it is that a database refused something."""

    TRANSIENT = auto()
    """The server's, its disk's, the connection's, or that of who else is at work: the same may succeed later."""
    TABLE = auto()
    """The table's, or that of our rights to it: nothing gets into it as it is."""
    RECORD = auto()
    """That of a value, of a rule that it breaks, or of what a trigger makes of it."""
    OURS = auto()
    """Nobody's that we know of: the driver was asked for what it can't do."""


_STATES = {
    **dict.fromkeys(("08", "25", "28", "3D", "40", "53", "55", "57", "58", "F0", "XX001", "XX002"), Blame.TRANSIENT),
    **dict.fromkeys(("3F", "42", "55000"), Blame.TABLE),
    # A generated column, and one that is always the identity: they are the column's demands on a value.
    **dict.fromkeys(("428C9", "42P10"), Blame.RECORD),
}
"""Classes of SQLSTATE, and states that are not as their class. What is not here is a record's fault: data (22),
constraints (23), rows that meet (21), what is too large for an index, a row or the stack (54), what triggers say (P0),
views (44), what can't be done with such a table (0A), and what went wrong inside of the server (XX)."""

_AFTER_A_FAULT = "25P02"
"""A transaction goes on after a statement of it has failed: what that one's fault was counts."""

_NO_RIGHT = "42501"
"""No right to a table, or its rows hidden by row-level security, past which we never read."""

_NO_SCHEMA = "3F"
"""The class of a schema that is not there, or of none to create a table in."""

_IN_A_FUNCTION = frozenset({"3F", "42", "55000"})
"""Classes and states that are a record's fault if a function of the application was at work: some records make it fail.

A lock that is not free (55P03) is not: a foreign key is looked at within a function, too.
"""

_RAISED = "exec_stmt_raise"
"""The server's function that says what a trigger or a function has worded, with whatever state it chose."""

_OF_A_POLICY = "ExecWithCheckOptions"
"""The server's function that compares a row with what row security admits: another row may be let in."""

_CODES = {
    **dict.fromkeys(
        (
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_NOMEM,
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
        ),
        Blame.TRANSIENT,
    ),
    **dict.fromkeys((sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_RANGE), Blame.OURS),
}
"""The same of SQLite, which knows of no better code than "error" for a table that is missing."""

_NO_SAVEPOINT = "no such savepoint"

_LETS_NOBODY_IN = re.compile(
    r"authentication failed|no password supplied|not permitted to log in|pg_hba\.conf|certificate"
    r"|(?:role|database|user) \"[^\"]*\" does not exist|no such (?:database|user)|permission denied for database"
    r"|SSL (?:was|is) required|SSL connection is required|invalid (?:connection option|sslmode)"
)
"""What a server or its driver says of credentials, names and terms of a connection: they are settings.

A driver gives no code for a connection that was not made. Too many connections is none of them: that ends by itself.
"""

_LETS_NOBODY_IN_BY_STATE = ("28", "3D")
"""The classes of the same, where there is a code."""

_NOT_OURS_TO_WRITE = frozenset(
    {sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}
)
"""What SQLite says of a file or a folder that is not there for this user."""

_NO_SUCH = ("no such table", "no such column", "has no column named")


def blame(error: DBAPIError) -> Blame:
    """Say whose fault an error of the database is: the only place that decides it, by the database's own code.

    The driver's classes say little: one and the same blames a full disk and a value that no index takes.
    """
    if error.connection_invalidated:
        return Blame.TRANSIENT
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return _blame_by_state(error.orig, state)
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return _blame_by_code(error, code)
    if isinstance(error, DataError):
        return Blame.RECORD
    # The driver's own words: nothing came from the server, if there is one.
    is_away = isinstance(error, OperationalError | InterfaceError) and not isinstance(
        error.orig, sqlite3.InterfaceError
    )
    return Blame.TRANSIENT if is_away else Blame.OURS


def _blame_by_state(error: Any, state: str) -> Blame:
    diag = getattr(error, "diag", None)
    source = getattr(diag, "source_function", None)
    if source in {_RAISED, _OF_A_POLICY} or ({state, state[:2]} & _IN_A_FUNCTION and _in_a_function(diag)):
        return Blame.RECORD
    return _STATES.get(state) or _STATES.get(state[:2], Blame.RECORD)


def _blame_by_code(error: DBAPIError, code: int) -> Blame:
    if _NO_SAVEPOINT in str(error.orig):  # SQLite ended the transaction: what made it do so counts
        before = _database_error_before(error)
        return Blame.TRANSIENT if before is None else blame(before)
    if any(words in str(error.orig) for words in _NO_SUCH):
        return Blame.TABLE
    return _CODES.get(code & 0xFF, Blame.RECORD)


def _in_a_function(diag: Any) -> bool:
    """Say whether a trigger or a function of the application was at work; COPY names a line as its context."""
    return any(not line.startswith("COPY ") for line in (getattr(diag, "context", None) or "").splitlines())


def refuses_a_record(error: DBAPIError) -> bool:
    """Say whether a statement that writes rows failed because of one of them, so that others may be written."""
    return blame(error) is Blame.RECORD


def is_transient(error: BaseException | None) -> bool:
    """Say whether an error is the world's fault (a disk or a database that can't go on), whatever is being done.

    A database that is not as this version needs it is the world's fault too. What SQLAlchemy raises because of an error
    before it, as on a connection that was lost, is of the same kind as that.
    """
    while isinstance(error, SQLAlchemyError):
        if isinstance(error, NoConnectionLeft):
            return True
        if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) != _AFTER_A_FAULT:
            return blame(error) in {Blame.TRANSIENT, Blame.TABLE}
        lost, error = isinstance(error, PendingRollbackError), _before(error)
        if lost and error is None:  # nobody says what ended the transaction, and nothing of it will be there
            return True
    return isinstance(error, TransientError | OSError)


def _before(error: SQLAlchemyError) -> BaseException | None:
    """Give the error that led to one; SQLAlchemy's own words for a driver's error are no other one."""
    cause = error.__cause__
    return cause if isinstance(cause, SQLAlchemyError) else error.__context__


def _database_error_before(error: BaseException) -> DBAPIError | None:
    """Give the error of the database while which was dealt with another one came."""
    before = error.__context__
    while before is not None and not isinstance(before, DBAPIError):
        before = before.__context__
    return before


@contextmanager
def transient_errors() -> Iterator[None]:
    """Turn a database or a disk that fails into TransientError: nothing is wrong with the work, try later."""
    try:
        yield
    except SQLAlchemyError as error:
        if not is_transient(error):  # a row's fault, a batch's, or one of ours
            raise
        raise _of_the_database(error) from error
    except OSError as error:
        raise TransientError(f"{of_system(error)}; the next run goes on where this one ended") from error


def _of_the_database(error: SQLAlchemyError) -> TransientError:
    if isinstance(error, DBAPIError) and (said := _to_mend(error, error.orig)):
        return TransientError(said)
    if isinstance(error, DBAPIError) and blame(error) is Blame.TABLE:
        return _unmigrated(error)
    if type(error) is DatabaseError:
        # What SQLite says of a file that is damaged, or no database at all.
        return TransientError(f"the database can't be read: {first_line(error)}; see that it is the right file")
    if _NO_SAVEPOINT in first_line(error):
        error = _database_error_before(error) or error
    what_next = "what was not committed is undone, the next run tries again"
    if isinstance(error, OperationalError) and error.statement is None:
        what_next = "see that it runs, and that EXCHANGE_DATABASE_URL is right; the next run tries again"
    return TransientError(f"the database can't go on: {first_line(error)}; {what_next}")


def _to_mend(error: DBAPIError, driver: Any) -> str | None:
    """Word what only a person can mend: rights, names, passwords, places; None for anything else."""
    state, code = str(getattr(driver, "sqlstate", "")), getattr(driver, "sqlite_errorcode", 0)
    if state == _NO_RIGHT:
        return (
            f"the database does not let this role do that: {first_line(error)}; grant it the right, or BYPASSRLS where"
            " row-level security is named"
        )
    if state.startswith(_NO_SCHEMA):
        return (
            f"this role's search_path leads to no schema: {first_line(error)}; give it one with ALTER ROLE ... SET"
            " search_path, and the right to use it"
        )
    if lets_nobody_in(error):
        return (
            f"the database does not let us in: {first_line(error)}; mend EXCHANGE_DATABASE_URL, or the role and its"
            " rights at the server: nothing gets better by itself; `exchange doctor` says when it is well"
        )
    if code & 0xFF in _NOT_OURS_TO_WRITE:
        return (
            f"the database's file can't be used: {first_line(error)}; see that it is there, and that this user may"
            " write to it and to its folder; `exchange doctor` says when it is well"
        )
    return None


def lets_nobody_in(error: BaseException | None) -> bool:
    """Say whether a database refuses the connection itself (password, role, its name, TLS): a setting is to be mended.

    It is the world's fault all the same: no batch and no record suffers for it.
    """
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_LETS_NOBODY_IN_BY_STATE)
    return isinstance(error, OperationalError) and bool(_LETS_NOBODY_IN.search(first_line(error)))


@contextmanager
def driver_errors(connection: Connection, statement: str) -> Iterator[None]:
    """Turn what the driver raises, asked past SQLAlchemy, into SQLAlchemy's DBAPIError, as for any statement."""
    dbapi = connection.dialect.loaded_dbapi
    try:
        yield
    except dbapi.Error as error:
        withhold(error)
        raise DBAPIError.instance(statement, None, error, dbapi.Error, dialect=connection.dialect) from error


def _unmigrated(error: SQLAlchemyError) -> TransientError:
    return TransientError(
        f"the database is not as this version needs it: {first_line(error)}; `exchange migrate` brings it up to date"
    )


def first_line(error: SQLAlchemyError) -> str:
    """Give the first line of a database's own words, fit to be shown."""
    lines = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__)
