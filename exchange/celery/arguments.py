"""The arguments of tasks: JSON that anybody may have written. Each check says in one sentence what it expected."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from exchange.api.acts import RefusedArgument
from exchange.channels.channel import Channel, known_names
from exchange.format.errors import printable
from exchange.format.names import MAX_SEQUENCE
from exchange.format.strict_json import MAX_INTEGER


class RefusedCall(RefusedArgument):
    """The arguments of a task make no sense; the text is one sentence."""


def named(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give the arguments by their names. Raises RefusedCall."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "none"
        raise RefusedCall(f"arguments: expected {takes}, but {printable(str(error), 80)}") from None


def check_words(name: str, value: object, most: int) -> None:
    """Check a text for people, of at most so many characters, or None. Raises RefusedCall."""
    if value is None or (isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= most):
        return
    raise RefusedCall(f"{name}: expected 1 to {most} printable characters, found {shown(value)}; nothing was done")


def check_text(name: str, value: object) -> None:
    """Check a name or None. Raises RefusedCall."""
    if value is not None and not isinstance(value, str):
        raise RefusedCall(f"{name}: expected a name or null, found {shown(value)}")


def check_names(name: str, value: object) -> None:
    """Check a list of names, or None. Raises RefusedCall."""
    if value is not None and not (isinstance(value, list) and value and all(isinstance(one, str) for one in value)):
        raise RefusedCall(f"{name}: expected a list of names or null, found {shown(value)}")


def check_truth(name: str, value: object) -> None:
    """Check a switch. Raises RefusedCall."""
    if type(value) is not bool:
        raise RefusedCall(f"{name}: expected true or false, found {shown(value)}")


def check_count(name: str, value: object, most: int = MAX_INTEGER) -> None:
    """Check a whole number from 1, or None. Raises RefusedCall."""
    if value is not None and (type(value) is not int or not 0 < value <= most):
        raise RefusedCall(f"{name}: expected a whole number from 1 to {most}, or null, found {shown(value)}")


def sequences_of(value: Any) -> list[int]:
    """Give sequences: one, or a list of them. Raises RefusedCall."""
    wanted: list[Any] = value if isinstance(value, list) else [value]
    if not wanted or any(type(one) is not int or not 0 < one <= MAX_SEQUENCE for one in wanted):
        raise RefusedCall(f"sequences: expected a sequence or a list of sequences, found {shown(value)}")
    return wanted


def check_rate(name: str, value: object) -> None:
    """Check how many a second, or None. Raises RefusedCall."""
    if value is not None and (not isinstance(value, int | float) or value is True or not 0 < value <= MAX_INTEGER):
        raise RefusedCall(f"{name}: expected how many a second, more than 0, or null, found {shown(value)}")


def check_batch(batch: object, parse: Callable[[str], object]) -> None:
    """Check the name of a batch, which ``parse`` reads. Raises RefusedCall."""
    check_text("batch", batch or 0)
    try:
        parse(str(batch))
    except ValueError as error:
        raise RefusedCall(f"batch: {error}") from None


def check_channel(channel: str | None, channels: Iterable[Channel], way: str) -> None:
    """Check the name of one of these channels, or None. Raises RefusedCall."""
    check_text("channel", channel)
    known = known_names(channels)
    if channel is not None and channel not in known:
        names = ", ".join(known) or "none"
        raise RefusedCall(f"channel: expected one that is {way} here ({names}), found {shown(channel)}")


def by_ids(ids: object, selection: object) -> bool:
    """Say which of the two was given. Raises RefusedCall unless it is one."""
    check_text("selection", selection)
    if (ids is None) is (selection is None):
        raise RefusedCall(f"expected ids or a selection, found {'none' if selection is None else 'both'}")
    return selection is None


def numbers(ids: Any) -> list[int]:
    """Give the numbers of dead letters: one, or a list of them. Raises RefusedCall."""
    wanted: list[Any] = ids if isinstance(ids, list) else [ids]
    if not wanted or any(type(one) is not int or not 0 < one <= MAX_INTEGER for one in wanted):
        raise RefusedCall(f"ids: expected the number of a dead letter or a list of numbers, found {shown(ids)}")
    return wanted


def whole_number(number: Any, name: str) -> int:
    """Give a number from 1 on. Raises RefusedCall, which calls it by ``name``."""
    if type(number) is not int or not 0 < number <= MAX_INTEGER:
        raise RefusedCall(f"{name}: expected a whole number from 1 to {MAX_INTEGER}, found {shown(number)}")
    return number


def shown(value: object) -> str:
    """Quote what was found."""
    return printable(repr(value), 80)
