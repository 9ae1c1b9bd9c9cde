"""Attempts at a batch, counted before each begins, so that a process that dies of one has counted it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from exchange.database.batch_fault import Crashed, is_batch_fault
from exchange.database.engine import now
from exchange.database.errors import is_transient
from exchange.database.ledger import MAX_ROWS
from exchange.database.locks import Busy, locked, writing
from exchange.database.tables import attempt
from exchange.database.whoami import whoami
from exchange.format.errors import BatchError


class FailedBatch(NamedTuple):
    """A batch that could not be taken in so far: how often, and what went wrong the last time if anybody could say."""

    batch: str
    attempts: int
    why: str | None


class Ended(Protocol):
    """Where attempts are noted that ended in order while the database was away. What it can't do raises OSError."""

    def note(self, key: str) -> None:
        """Note one."""
        ...

    def count(self, key: str) -> int:
        """Say how many there are of a batch."""
        ...

    def forget(self, key: str) -> None:
        """Forget those of a batch."""
        ...


@contextmanager
def attempted(
    engine: Engine, lock: str, key: str, ended: Ended, prepare: Callable[[int], None] | None = None
) -> Iterator[tuple[Connection, int]]:
    """Hold ``lock`` for one attempt at a batch; give the transaction, and how many attempts before never ended.

    The attempt is counted and committed with the lock held and before the work. It ends in order, and is taken back, if
    it gives an outcome, or raises that the batch or the world is bad: then the work is undone. Where the database is
    away by then ``ended`` remembers it, for this process and for the next one. It stays counted when
    the process dies or is told to stop, and when something goes wrong that nobody foresaw: Crashed is raised then.
    Whoever settles the batch clears the count (``forget_attempts``) with the settling. ``prepare`` is the work that
    needs the lock and not the transaction: it is called before that writes, with the number of crashes. Raises Busy.
    """
    crashes: int | None = None

    def begin() -> None:
        nonlocal crashes
        crashes = _begin_attempt(engine, key, ended)
        if prepare is not None:
            prepare(crashes)

    fault: BatchError | None = None
    try:
        with locked(engine, lock, prepare=begin) as connection:
            try:
                with connection.begin_nested():
                    yield connection, crashes or 0
            except BatchError as error:
                if isinstance(error, Crashed):
                    raise
                fault = error
            _take_back(connection, key)
    except Exception as error:
        if crashes is None:
            raise  # somebody else is at work, or the database is away: there was no attempt
        if _ends_in_order(error):
            _take_back_alone(engine, key, ended)
            raise
        if not is_batch_fault(error):
            raise
        raise Crashed.of(error, crashes + 1) from error
    if fault is not None:
        raise fault


def _ends_in_order(error: Exception) -> bool:
    """Say whether an attempt ended as foreseen; what a commit refuses is the batch's, and known to be."""
    foreseen = isinstance(error, (BatchError, Busy, IntegrityError)) and not isinstance(error, Crashed)
    return foreseen or is_transient(error)


def _begin_attempt(engine: Engine, key: str, ended: Ended) -> int:
    who = whoami()[:255]
    owed = _owed.get(engine, Counter())
    kept = ended.count(key)
    with writing(engine) as connection:
        for _ in range(owed[key] + kept):
            _take_back(connection, key)
        crashes = connection.scalar(_ATTEMPTS, {"key": key}) or 0
        _count(connection, key, crashes, who=who)
    owed.pop(key, None)
    if kept:
        ended.forget(key)
    return crashes


def _count(connection: Connection, key: str, before: int, **values: Any) -> None:
    """Count an attempt beside those that there were before."""
    if before:
        connection.execute(_COUNT_AGAIN, {"key": key, "started_at": now(), **values})
    else:
        connection.execute(_COUNT_FIRST, {"batch": key, "attempts": 1, "started_at": now(), **values})


def _take_back(connection: Connection, key: str) -> None:
    if connection.execute(_TAKE_BACK, {"key": key}).rowcount:  # none of a batch that was settled
        connection.execute(_FORGET_NONE_LEFT, {"key": key})


_OF_BATCH = attempt.c.batch == sa.bindparam("key")
_ATTEMPTS = sa.select(attempt.c.attempts).where(_OF_BATCH)
_COUNT_FIRST = sa.insert(attempt)
_COUNT_AGAIN = sa.update(attempt).where(_OF_BATCH).values(attempts=attempt.c.attempts + 1)
_TAKE_BACK = sa.update(attempt).where(_OF_BATCH).values(attempts=attempt.c.attempts - 1)
_FORGET = sa.delete(attempt).where(_OF_BATCH)
_FORGET_NONE_LEFT = _FORGET.where(attempt.c.attempts <= 0)


_owed: WeakKeyDictionary[Engine, Counter[str]] = WeakKeyDictionary()
"""Attempts that ended in order, are still counted, and could not even be noted: this process knows better."""


def _take_back_alone(engine: Engine, key: str, ended: Ended) -> None:
    """Take an attempt back on a connection of its own: the one of the attempt may have died with it."""
    try:
        with writing(engine) as connection:
            _take_back(connection, key)
    except Exception as error:
        if not (is_transient(error) or isinstance(error, Busy)):
            raise
        try:
            ended.note(key)
        except OSError:
            _owed.setdefault(engine, Counter())[key] += 1


def count_failure(engine: Engine, key: str, why: str, attempts: int | None) -> int:
    """Write down why an attempt failed, and count it unless it is one of ``attempts`` that are counted; give them.

    Commits a transaction of its own. Raises Busy.
    """
    with writing(engine) as connection:
        known = connection.scalar(_ATTEMPTS, {"key": key}) or 0
        if attempts is None or not known:
            _count(connection, key, known, who=whoami()[:255], why=why)
            return known + 1
        connection.execute(sa.update(attempt).where(attempt.c.batch == key).values(why=why))
        return attempts


def failed_batches(connection: Connection, most: int = MAX_ROWS) -> list[FailedBatch]:
    """Give the batches at which attempts failed, and that are tried again; not those that are just being taken in.

    Reads in the caller's transaction.
    """
    return [FailedBatch(*row) for row in connection.execute(_FAILED, {"most": most})]


_FAILED = (
    sa.select(attempt.c.batch, attempt.c.attempts, attempt.c.why)
    .where(sa.or_(attempt.c.why.is_not(None), attempt.c.attempts > 1))
    .order_by(attempt.c.batch)
    .limit(sa.bindparam("most"))
)


def has_attempts(connection: Connection, key: str) -> bool:
    """Say whether an attempt at a batch is counted. Reads in the caller's transaction."""
    return connection.scalar(_ATTEMPTS, {"key": key}) is not None


def forget_attempts(connection: Connection, key: str) -> None:
    """Clear the count, in the transaction that settles the batch."""
    connection.execute(_FORGET, {"key": key})
