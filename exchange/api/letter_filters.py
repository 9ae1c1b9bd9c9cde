"""Which dead letters a person means, as it was typed on a command line or stands in a page's address."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sqlalchemy import Connection

from exchange.api.acts import RefusedArgument
from exchange.api.asked import moment, not_among, one_of, quoted
from exchange.channels.channel import known_names
from exchange.database.tables import DeadLetterState, Direction
from exchange.dead_letters.advice import CLASSES
from exchange.dead_letters.counts import errors_there
from exchange.dead_letters.filters import Filters, key_texts
from exchange.format.names import CONTROL, BatchName
from exchange.site import Site

NAMES = (
    *("state", "channel", "stream", "batch", "error", "fingerprint", "key", "direction", "since", "until", "text"),
    *("selection", "intake"),
)
"""What can be said of letters, each by one text."""

_MOST_DIGITS = 18
_SELECTION = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def read_filters(site: Site, asked: Mapping[str, str | None]) -> Filters:
    """Read what is asked for by ``NAMES``; None means any. Raises RefusedArgument for what makes no sense."""
    said = {name: asked.get(name) for name in NAMES}
    for name in ("key", "text", "error", "fingerprint", "selection"):
        value = said[name]
        if value is not None and not value.strip("\0 "):
            raise RefusedArgument(f"{name}: expected something to look for, found nothing")
        if value is not None and "\0" in value:
            raise RefusedArgument(f"{name}: expected text, found the character U+0000 in it")
    streams = [said["stream"]] if said["stream"] else ()
    return Filters(
        state=one_of("state", said["state"], DeadLetterState),
        channels=tuple(sorted(site.names_in_files(said["channel"]))) if said["channel"] is not None else (),
        stream=said["stream"],
        direction=one_of("direction", said["direction"], Direction),
        error=said["error"],
        fingerprint=said["fingerprint"],
        batch=_stem(said["batch"]) if said["batch"] is not None else None,
        keys=key_texts(said["key"], site.channels, streams) if said["key"] is not None else (),
        since=moment("since", said["since"]),
        until=moment("until", said["until"]),
        text=said["text"],
        selection=said["selection"],
        intake=_number("intake", said["intake"]),
    )


def _number(what: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and int(text)):
        raise RefusedArgument(
            f"{what}: expected the number of a file, as `exchange intake` gives it, found {quoted(text)}"
        )
    return int(text)


def _stem(text: str) -> str:
    try:
        return str(BatchName.parse(text))
    except ValueError as error:
        raise RefusedArgument(f"batch: {error}") from error


def refuse_unknown_names(site: Site, connection: Connection, asked: Mapping[str, str | None]) -> None:
    """Refuse a channel, stream or class of error that there is not, where nothing was found: it is mistyped.

    Raises RefusedArgument. Only reads, in the caller's transaction.
    """
    channel, stream, error = asked.get("channel"), asked.get("stream"), asked.get("error")
    channels = known_names([*site.outgoing(), *site.incoming()])
    if channel is not None and channel not in {*channels, CONTROL}:
        raise not_among("channel", channel, channels)
    known = sorted({one.name for channel in site.channels for one in channel.streams})
    if stream is not None and stream not in known:
        raise not_among("stream", stream, known)
    if error is not None and error not in CLASSES:
        there = errors_there(connection)
        if error not in there:
            raise not_among("error", error, there or CLASSES)


def check_selection_name(text: str) -> str:
    """Check the name of a selection. Raises RefusedArgument."""
    if not _SELECTION.fullmatch(text):
        raise RefusedArgument(f"name: expected at most 63 lower-case letters, digits, - and _, found {quoted(text)}")
    return text
