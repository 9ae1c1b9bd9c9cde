"""What people type to say which they mean, read: a word of a list, a moment. What makes no sense is RefusedArgument."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from exchange.api.acts import RefusedArgument
from exchange.format.errors import printable
from exchange.format.moments import as_typed

Choice = TypeVar("Choice", bound=StrEnum)

MOST_NAMED = 20
"""So many names are listed at most."""


def one_of(what: str, text: str | None, kind: type[Choice]) -> Choice | None:
    """Read a word; None means any. Raises RefusedArgument naming the words there are."""
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError:
        raise not_among(what, text, list(kind)) from None


def not_among(what: str, found: str, known: Sequence[str]) -> RefusedArgument:
    """Say that a name is none of those there are, which of them there are, and which one was probably meant."""
    return RefusedArgument(f"{what}: expected one of {named(known)}, found {quoted(found)}{near(found, known)}")


def named(known: Sequence[str]) -> str:
    """List names, the first of many."""
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return (", ".join(known[:MOST_NAMED]) or "none") + more


def near(found: str, known: Sequence[str]) -> str:
    """Ask whether a name like it was meant; nothing if there is none."""
    from difflib import get_close_matches

    names = get_close_matches(found, known, n=3)
    return f"; did you mean {' or '.join(names)}?" if names else ""


def quoted(text: str) -> str:
    """Give what somebody typed as sentences have it."""
    return printable(repr(text), 80)


def moment(what: str, text: str | None) -> datetime | None:
    """Read a moment: a date, a date and time (UTC unless it says otherwise), or so long ago. Raises RefusedArgument."""
    if text is None:
        return None
    from exchange.database import clock

    try:
        return as_typed(text, clock.now())
    except ValueError as error:
        raise RefusedArgument(f"{what}: expected {error}, found {quoted(text)}") from None
