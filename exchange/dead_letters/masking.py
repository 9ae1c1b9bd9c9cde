"""Dead letters as a person may see them: values of sensitive columns are hidden, whatever shape the record has.

A record that can't be read as JSON is not shown at all if its channel has such columns: nobody can tell where in it
their values are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from exchange.channels import HIDDEN, Channel
from exchange.dead_letters.finding import Brief, Parked

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+|\s+', re.DOTALL)

Some = TypeVar("Some", bound=Brief)


class Mask:
    """What is to be hidden, by the declaration of the channels."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._channels = {channel.name: channel for channel in channels}

    def sensitive(self, letter: Brief) -> frozenset[str]:
        """Name the columns to hide in a letter; those of every stream that it may be of."""
        channel = self._channels.get(letter.channel)
        streams = [stream for one in ([channel] if channel else self._channels.values()) for stream in one.streams]
        own = [stream for stream in streams if stream.name == letter.stream]
        return frozenset().union(*(stream.sensitive for stream in own or streams))

    def brief(self, letter: Some) -> Some:
        """Hide what is sensitive in a letter's key."""
        sensitive = self.sensitive(letter)
        if letter.key is None or not sensitive:
            return letter
        return replace(letter, key=masked(letter.key, sensitive) or HIDDEN)

    def record(self, letter: Parked, record: bytes) -> str | None:
        """Give a letter's record as text, its own or a revision of it; None if it can't be shown."""
        sensitive = self.sensitive(letter)
        if not sensitive:
            return record.decode("utf-8", "backslashreplace")
        try:
            return masked(record.decode(), sensitive)
        except UnicodeDecodeError:
            return None


def masked(text: str, sensitive: frozenset[str]) -> str | None:
    """Hide the values of all members so named, at whatever depth; None for what is no JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    tokens = _TOKEN.findall(text)
    shown: list[str] = []
    at = 0
    while at < len(tokens):
        shown.append(tokens[at])
        at += 1
        if shown[-1] == ":" and json.loads(_name_before(shown)) in sensitive:
            at = _behind_value(tokens, at)
            shown.append(json.dumps(HIDDEN))
    return "".join(shown)


def _name_before(tokens: list[str]) -> str:
    return next(token for token in reversed(tokens[:-1]) if not token.isspace())


def _behind_value(tokens: list[str], at: int) -> int:
    """Say where the value ends that begins at a token or behind the white space there."""
    while tokens[at].isspace():
        at += 1
    depth = 0
    while True:
        depth += (tokens[at] in "{[") - (tokens[at] in "}]")
        at += 1
        if depth == 0:
            return at
