"""What a caller may ask for: each check raises RefusedArgument with a sentence, and nothing was done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from exchange.api.acts import RefusedArgument
from exchange.api.asked import named, near, quoted
from exchange.format.errors import printable
from exchange.format.names import BatchName

if TYPE_CHECKING:
    from exchange.channels.channel import Channel


def check_channel(name: str | None, channels: Iterable[Channel], way: str) -> str | None:
    """Check the name of a channel, declared or of a shard, by those there are; None means all."""
    from exchange.channels.channel import known_names

    known = known_names(channels)
    if name is not None and name not in known:
        raise RefusedArgument(
            f"channel: expected one that is {way} here ({named(known)}), found {quoted(name)}{near(name, known)}"
        )
    return name


def check_stem(text: str) -> str:
    """Check a batch's name."""
    try:
        return str(BatchName.parse(text))
    except (ValueError, TypeError) as error:
        raise RefusedArgument(f"batch: {error}; nothing was done") from error


def check_label(text: str) -> str:
    """Check the name under which a batch lies in quarantine."""
    from exchange.files.batch_files import parse_label

    try:
        parse_label(text)
    except (ValueError, TypeError) as error:
        raise RefusedArgument(f"batch: {error}; nothing was done") from error
    return text


def check_limit(limit: int) -> int:
    """Check how many are wanted of a list."""
    if type(limit) is not int or limit < 1:
        raise RefusedArgument(f"limit: expected 1 or more, found {_shown(limit)}")
    return limit


def no_end(after: object, what: str) -> RefusedArgument:
    """Say that a page can't be gone on from, as what it ended with is gone or never was."""
    return RefusedArgument(f"after: there is no {what} {printable(str(after), 80)} to go on after; begin anew")


def _shown(value: object) -> str:
    return printable(repr(value), 80)
