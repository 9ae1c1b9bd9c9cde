"""Whose fault it is when something goes wrong while one batch is at hand: the world's, or that batch's own.

What a batch says of itself may be wrong in ways that nobody foresaw. Whatever that leads to (no memory left, a number
too wide for a driver, an error of ours that only these bytes reach) ends at that batch: it counts as an attempt at it,
and the others go on. The world's faults, somebody else at work and the wish to stop are nobody's, and pass through.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy.exc import DBAPIError

from exchange.database.errors import is_transient
from exchange.database.locks import Busy
from exchange.format.errors import BatchError, Reason, TransientError

_PACKAGE = Path(__file__).parents[1]

_interruptions: ContextVar[tuple[type[Exception], ...]] = ContextVar("interruptions", default=())


class Crashed(BatchError):  # noqa: N818 - named as what happened
    """Taking a batch in failed as nobody foresaw. ``attempts`` says how often by now, if that is counted already."""

    reason = Reason.CRASHED

    def __init__(self, sentence: str, attempts: int | None = None) -> None:
        """Keep both."""
        super().__init__(sentence)
        self.attempts = attempts

    @classmethod
    def of(cls, error: Exception, attempts: int | None = None) -> Self:
        """Word an error that nobody foresaw: what it was and where, never a value, a secret perhaps or a screenful."""
        if isinstance(error, cls):
            return cls(error.sentence, attempts if error.attempts is None else error.attempts)
        return cls(f"{_kind(error)}{_place(error.__traceback__)}", attempts)


@contextmanager
def interrupted_by(*kinds: type[Exception]) -> Iterator[None]:
    """Let exceptions of these kinds end whatever is at hand: they say that it has to stop, not that it is bad."""
    token = _interruptions.set(kinds)
    try:
        yield
    finally:
        _interruptions.reset(token)


def is_batch_fault(error: Exception) -> bool:
    """Say whether it is the fault of the batch at hand, foreseen or not."""
    return not (isinstance(error, (Busy, TransientError)) or is_interruption(error) or is_transient(error))


def is_interruption(error: Exception) -> bool:
    """Say whether it is the wish to stop."""
    return isinstance(error, _interruptions.get())


def _kind(error: Exception) -> str:
    if not isinstance(error, DBAPIError):
        return type(error).__name__
    names = (getattr(error.orig, name, None) for name in ("sqlstate", "sqlite_errorname"))
    code = next((f" {name}" for name in names if name), "")
    return f"the database's {type(error.orig).__name__}{code}"


def _place(trace: TracebackType | None) -> str:
    """Name the innermost line of ours through which it came."""
    place = ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(_PACKAGE):
            place = f" in {file.relative_to(_PACKAGE.parent)}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place
