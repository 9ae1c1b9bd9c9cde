"""Errors of a database: which of them are the world's, and their sentences."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
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
from exchange.format.errors import TransientError, printable


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
        msg = (
            f"{error.filename or 'the disk'}: {error.strerror or error}; nothing was changed, the next run tries again"
        )
        raise TransientError(msg) from error


def is_transient(error: BaseException | None) -> bool:
    """Say whether an error is the world's fault (a disk or a database that can't go on), whatever is being done.

    What SQLAlchemy raises because of an error before it, as on a connection that was lost, is of the same kind as that.
    """
    while isinstance(error, SQLAlchemyError):
        if isinstance(error, NoConnectionLeft):
            return True
        if isinstance(error, DBAPIError) and (error.connection_invalidated or _is_of_the_database(error)):
            return True
        error = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error.__context__
    return isinstance(error, TransientError | OSError)


_TRANSIENT_STATES = frozenset({"08", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0", "XX"})
"""Classes of SQLSTATE: the connection, the server, its disk, rights and tables, and who else is at work there.

Not among them: data (22), constraints (23), what is too large for an index or a statement (54), what triggers say (P0).
"""


_AFTER_A_FAULT = "25P02"
"""A transaction goes on after a statement of it has failed: what that one's fault was counts."""


_NO_RIGHT = "42501"
"""No right to a table, or its rows hidden by row-level security, past which we never read."""


_TRANSIENT_CODES = frozenset(
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
        return state[:2] in _TRANSIENT_STATES and state != _AFTER_A_FAULT
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _TRANSIENT_CODES or any(words in str(error.orig) for words in _NOT_MIGRATED)
    # The driver's own words: nothing came from the server, if there is one.
    return isinstance(error, OperationalError | InterfaceError) and not isinstance(error.orig, sqlite3.InterfaceError)


def _of_the_database(error: SQLAlchemyError) -> TransientError:
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _NO_RIGHT:
        return TransientError(
            f"the database does not let this role do that: {_first_line(error)}; nothing was changed; grant it the"
            " right, or BYPASSRLS where row-level security is named"
        )
    if isinstance(error, ProgrammingError) or any(words in str(error) for words in _NOT_MIGRATED):
        return _unmigrated(error)
    if type(error) is DatabaseError:
        # What SQLite says of a file that is damaged, or no database at all.
        what = "the database can't be read"
        return TransientError(f"{what}: {_first_line(error)}; nothing was changed; see that it is the right file")
    return TransientError(
        f"the database can't go on: {_first_line(error)}; nothing was changed, the next run tries again"
    )


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
        f"the database is not as this version needs it: {_first_line(error)}; nothing was changed;"
        " `exchange migrate` brings it up to date"
    )


def _first_line(error: SQLAlchemyError) -> str:
    lines = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__)
