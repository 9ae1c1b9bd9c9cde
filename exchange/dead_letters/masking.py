"""Dead letters as a person may see them: values of sensitive columns are hidden, whatever shape the record has.

A row of a file that people dropped is hidden by its cells, as its file is written.
Where nobody can tell if a value is of such a column it is not shown: of a stream with such columns nothing undeclared,
of a record of no known stream only what names it, and of what is no JSON nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from exchange.channels.channel import Channel
from exchange.channels.stream import HIDDEN, Stream
from exchange.dead_letters import file_rows
from exchange.dead_letters.file_rows import PeoplesFile
from exchange.dead_letters.store import Brief, Parked

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+|\s+', re.DOTALL)

_NAMES = {"stream", "op", "version"}
_BODIES = {"data", "key"}

Some = TypeVar("Some", bound=Brief)


class Mask:
    """What is to be hidden, by the declaration of the channels."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._streams = {stream.name: stream for channel in channels for stream in channel.streams}
        self._any = frozenset().union(*(stream.sensitive for stream in self._streams.values()))

    def brief(self, letter: Some) -> Some:
        """Hide what is sensitive in a letter's key."""
        if letter.key is not None and self._is_forgotten(letter.stream):
            return replace(letter, key=HIDDEN)
        sensitive = self.sensitive(letter)
        if letter.key is None or not sensitive:
            return letter
        return replace(letter, key=masked(letter.key, sensitive) or HIDDEN)

    def record(self, letter: Parked, record: bytes, file: PeoplesFile | None = None) -> str | None:
        """Give a letter's record as text, its own or a revision of it; None if it can't be shown.

        ``file`` is the one that it is a row of, if people dropped that and it is still known.
        """
        if letter.intake is None:
            return self.line(letter.stream, record)
        if self._is_forgotten(letter.stream):
            return None
        return file_rows.text_of(file, record, self.sensitive(letter))

    def line(self, stream: str | None, record: bytes) -> str | None:
        """Give a record of a stream as text, None if it can't be shown; ``stream`` is None if it is of no known one."""
        sensitive = self._of(stream)
        if not sensitive and not self._is_forgotten(stream):
            return record.decode("utf-8", "backslashreplace")
        try:
            text = record.decode()
            return masked(text, sensitive | _undeclared(json.loads(text), self._streams.get(stream or "")))
        except (ValueError, RecursionError):
            return None

    def hidden_in(self, letter: Brief, record: Any) -> frozenset[str]:
        """Name the columns to hide in a letter's record, those among them of which nobody can tell what they are."""
        sensitive, stream = self.sensitive(letter), self._streams.get(letter.stream or "")
        if not sensitive or stream is None or not isinstance(record, dict):
            return sensitive
        return sensitive | _undeclared(record, stream)

    def hides(self, letter: Brief) -> bool:
        """Say whether anything of a letter may have to be hidden."""
        return bool(self.sensitive(letter)) or self._is_forgotten(letter.stream)

    def _is_forgotten(self, stream: str | None) -> bool:
        """Whether a stream is declared no more: nobody knows which of its columns are sensitive."""
        ours = (stream or "_").startswith("_")  # what the two sides tell each other has no rows
        return not ours and stream not in self._streams

    def sensitive(self, letter: Brief) -> frozenset[str]:
        """Name the columns to hide in a letter; those of every stream if it is of no known one."""
        return self._of(letter.stream)

    def _of(self, stream: str | None) -> frozenset[str]:
        declared = self._streams.get(stream or "")
        return self._any if declared is None else declared.sensitive


class Unmasked(Mask):
    """What hides nothing, for who may see what is sensitive and asked for it."""

    def brief(self, letter: Some) -> Some:
        """Give a letter as it is."""
        return letter

    def record(self, letter: Parked, record: bytes, file: PeoplesFile | None = None) -> str | None:  # noqa: ARG002
        """Give a record as text, whatever it is."""
        return file_rows.text_of(file, record, ())

    def sensitive(self, _letter: Brief) -> frozenset[str]:
        """Hide no column."""
        return frozenset()


def _undeclared(record: Any, stream: Stream | None) -> set[str]:
    """Name the members of which nobody can tell what they are. Raises ValueError if the record is no object."""
    if not isinstance(record, dict):
        raise ValueError("a record is an object")  # noqa: TRY004 - of a text that came
    if stream is None:
        return record.keys() - _NAMES
    if not record.keys() & _BODIES:  # the captured key of an outgoing letter
        return set()
    columns = set(stream.names)
    bodies = [record[name] for name in _BODIES & record.keys()]
    unknown = [body.keys() - columns for body in bodies if isinstance(body, dict)]
    return (record.keys() - _NAMES - _BODIES).union(*unknown)


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
