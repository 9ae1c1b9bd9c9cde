"""The record that is to be forgotten: of which row, and how to know it again wherever it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import orjson

from exchange.channels.stream import Stream
from exchange.dead_letters.filters import key_texts
from exchange.format.control import RECEIPT
from exchange.format.errors import RecordError, TransientError, printable
from exchange.site import Site


class What(StrEnum):
    """What of a row was found in a place."""

    UPSERT = "upsert"
    DELETE = "delete"
    BROKEN = "broken record"
    MENTION = "its key"
    UNREADABLE = "can't be read to its end, and may have it"


@dataclass(frozen=True)
class RowToErase:
    """A row's key, in the order of its stream's.

    ``stored`` has its values as the database keeps them, ``texts`` are the ways in which it may be written as JSON.
    """

    stream: Stream
    key: dict[str, Any]
    stored: tuple[Any, ...]
    texts: tuple[str, ...]

    @property
    def phrases(self) -> dict[str, str]:
        """How sentences about other rows name this one, and how they say the same without its key."""
        table, whole, found = self.stream.table.name, self.stream.table.fullname, {}
        for values in dict.fromkeys((tuple(self.key.values()), self.stored)):
            shown = [printable(str(value), 80) for value in values]
            pairs = ", ".join(f"{name} = {value}" for name, value in zip(self.key, shown, strict=True))
            found[f"the row {pairs} of {table} ("] = f"a row of {table} ("
            found[f"the row {', '.join(shown)} give it up"] = "a row give it up"
            if len(shown) == 1:
                found[f" = {shown[0]} refers to a row of {whole} that"] = f" refers to a row of {whole} that"
        return found

    def is_key(self, stream: object, body: object) -> bool:
        """Say whether a record's stream, and its data or key, are of this row."""
        return (
            stream == self.stream.name
            and isinstance(body, Mapping)
            and all(type(body.get(name)) is type(value) and body[name] == value for name, value in self.key.items())
        )

    def find(self, line: bytes) -> What | None:
        """Say what a line of a data file, or a kept record, has of this row."""
        if b"\\u" not in line and not all(one in line for one in self._plain):
            return None
        try:
            record = orjson.loads(line)
        except ValueError:
            return What.BROKEN if all(member.search(line) for member in self._members) else None
        if not isinstance(record, dict):
            return None
        for what, member in ((What.UPSERT, "data"), (What.DELETE, "key")):
            if self.is_key(record.get("stream"), record.get(member)):
                return what
        return What.MENTION if record.get("stream") == RECEIPT and self._is_told(record.get("data")) else None

    def _is_told(self, data: object) -> bool:
        """Say whether a receipt names the row among those that were parked."""
        letters = data.get("letters") if isinstance(data, dict) else None
        said = [one for one in letters if isinstance(one, dict)] if isinstance(letters, list) else []
        return any(self.is_key(one.get("stream"), one.get("key")) for one in said)

    @cached_property
    def _plain(self) -> list[bytes]:
        """What stands in each line that has the key, unless a character is written by its number."""
        written = [orjson.dumps(value).strip(b'"') for value in self.key.values()]
        return [one for one in written if one.isascii() and b"\\" not in one]

    @cached_property
    def _members(self) -> list[re.Pattern[bytes]]:
        return [
            re.compile(re.escape(orjson.dumps(name)) + rb"\s*:\s*" + re.escape(orjson.dumps(value)) + rb"(?![0-9.eE])")
            for name, value in self.key.items()
        ]


def seek(site: Site, stream_name: str, text: str) -> RowToErase:
    """Read which row a person means: the name of a stream, and a key as JSON object or its only value.

    Raises TransientError, and nothing was looked at.
    """
    streams = {stream.name: stream for channel in site.channels for stream in channel.streams}
    stream = streams.get(stream_name)
    if stream is None:
        known, shown = ", ".join(sorted(streams)), printable(stream_name, 80)
        raise TransientError(f"stream: expected one of {known}, found {shown}; nothing was looked for")
    for written in key_texts(text, site.channels, [stream.name]):
        try:
            key = json.loads(written)
            if not isinstance(key, dict):
                continue
            site.checkers[stream.name].check_key(key)
        except (ValueError, RecordError):
            continue
        stored = tuple(column[0] for column in stream.key_decoder(site.engine.dialect)([key]))
        return RowToErase(
            stream, {name: key[name] for name in stream.key_names}, stored, tuple(_texts(stream.key_names, key, stored))
        )
    columns = ", ".join(stream.key_names)
    raise TransientError(
        f"key: expected the key of {stream.name}, a JSON object of {columns} or its only value, found"
        f" {printable(repr(text), 80)}; nothing was looked for"
    )


def _texts(names: Sequence[str], key: dict[str, Any], stored: tuple[Any, ...]) -> dict[str, None]:
    """Write a key as records have it, and as a database's triggers write it."""
    kept = dict(zip(names, stored, strict=True))
    plain = [kept] if all(isinstance(value, str | int) for value in stored) else []
    return dict.fromkeys(
        json.dumps({name: one[name] for name in names}, separators=separators, ensure_ascii=False)
        for one in (key, *plain)
        for separators in ((",", ":"), (", ", ": "), (", ", " : "))
    )
