"""What a database says when it refuses something, without the values of rows that it may quote.

A row's value belongs into its table, into a batch and into a dead letter, not into a log, a result or a traceback.
Both databases name the rule that was broken in words of their own; what they quote besides (PostgreSQL's DETAIL and
CONTEXT, a conversion's complaint, whatever a trigger says) is left out of the exception itself, so that no one who
shows it later has to think of it. For a dead letter, which has the record anyway, the words are kept aside.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy.exc import StatementError

_NAMING = frozenset({"08", "0A", "23", "25", "26", "28", "34", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"})
"""Classes of SQLSTATE whose messages name tables, columns, rules and servers, and no value of a row."""

_RAISED = "exec_stmt_raise"
"""The server's function that says what a trigger or a function has worded."""

_OF_A_TRIGGER = "SQLITE_CONSTRAINT_TRIGGER"
_ASIDE = "exchange_words"


def withhold(original: BaseException, wrapped: BaseException | None = None) -> None:
    """Leave out of an exception, and of SQLAlchemy's around it, what may quote a row's value. May be repeated."""
    if isinstance(original, (KeyboardInterrupt, SystemExit)) or not isinstance(original, Exception):
        return
    if _is_of_a_driver(original):
        if not hasattr(original, _ASIDE):
            setattr(original, _ASIDE, str(original))
            original.args = (_spared(original),)
    elif isinstance(wrapped, StatementError):  # a value that its column's type can't take
        original.args = (f"its words are not shown ({type(original).__name__})",)
    if isinstance(wrapped, StatementError):
        kind = type(original)
        wrapped.args = (f"({kind.__module__}.{kind.__name__}) {original}",)


def words(original: object) -> str:
    """Give all that a driver said, for a dead letter."""
    return str(getattr(original, _ASIDE, original))


def _is_of_a_driver(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) or type(error).__module__.split(".")[0] == "psycopg"


def _spared(error: Exception) -> str:
    """Give the first line of what was said, or only the database's short name for it where that may quote a value."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines and _names_only(error) else f"its words are not shown ({code(error)})"


def code(error: Any) -> str:
    """Give the database's own short name of an error."""
    names = (getattr(error, name, None) for name in ("sqlstate", "sqlite_errorname"))
    return next(filter(None, names), type(error).__name__)


def _names_only(error: Exception) -> bool:
    """Say whether the first line can quote no value."""
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", None)
        # Without a name it is Python's: it complains of types, or of a text that it can't read, which it quotes.
        return name != _OF_A_TRIGGER if name else not isinstance(error, sqlite3.OperationalError)
    state = getattr(error, "sqlstate", None)
    if getattr(getattr(error, "diag", None), "source_function", None) == _RAISED:
        return False
    if state is None:  # the driver's own words, such as that no server answers
        return not type(error).__name__.startswith(("Data", "Integrity"))
    return state[:2] in _NAMING
