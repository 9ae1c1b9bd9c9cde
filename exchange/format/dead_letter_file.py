"""A file of dead letters: what one network keeps of records that did not take effect, as a ``signed_file``.

Each line is one object, ``{"letter": ...}`` or ``{"revision": ...}``; a revision follows its letter
(FORMAT.md, "Files of dead letters").
"""

from __future__ import annotations

import base64
import binascii
import builtins
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final, Self

from exchange.format import strict_json
from exchange.format.errors import RecordError, printable
from exchange.format.manifest import DIGEST
from exchange.format.names import EPOCH, NAME
from exchange.format.record import MAX_STREAM_LENGTH
from exchange.format.signed_file import (
    FileFault,
    LineWriter,
    Rule,
    changed,
    checked,
    integer,
    matching,
    members_of,
    moment,
    or_null,
    read_ending,
    read_lines,
    read_object,
    text,
)
from exchange.format.signing import SigningKey

FORMAT: Final = "exchange-dead-letters/1"

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""Longest line that is read: a record of 16 MiB in its least handy spelling, and words about it."""

_MAX_WORDS: Final = 4 * 1024 * 1024

_MAX_SMALL: Final = 2**31 - 1


@dataclass(frozen=True)
class SavedLetter:
    """A dead letter as a file has it. ``record`` are its bytes as far as they were kept of ``record_bytes``."""

    id: int
    direction: str
    channel: str
    batch: str | None
    line: int | None
    stream: str | None
    op: str | None
    key: str | None
    version: int | None
    schema_version: int | None
    record: bytes
    record_bytes: int
    pointer: str | None
    error: str
    message: str
    cause: str
    producer: str | None
    state: str
    attempts: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class SavedRevision:
    """What a person made of the letter before it."""

    letter: int
    number: int
    record: bytes
    difference: str
    at: datetime
    who: str
    why: str


Entry = SavedLetter | SavedRevision


@dataclass(frozen=True)
class LetterFileEnding:
    """Whose letters these are, and what must lie before: so many letters and bytes, with this SHA-256."""

    network: str
    epoch: str
    created_at: datetime
    producer: str
    letters: int
    bytes: int
    sha256: str

    @classmethod
    def parse(cls, line: builtins.bytes) -> Self:
        """Read the ending's line, without its newline. Raises FileFault."""
        return cls(**read_ending(line, FORMAT, _ENDING))

    def encode(self) -> builtins.bytes:
        """Write the ending's line, without its newline."""
        return strict_json.dumps({"format": FORMAT, **members_of(self)})


class LetterWriter:
    """Writes entries to a file. ``out`` takes whole writes and is neither flushed nor closed."""

    def __init__(self, out: BinaryIO) -> None:
        """Begin a file."""
        self._lines = LineWriter(out)
        self._letters = 0

    def write(self, entry: Entry) -> None:
        """Add one entry. Raises FileFault if it could not be read again."""
        kind = "letter" if isinstance(entry, SavedLetter) else "revision"
        try:
            line = strict_json.dumps({kind: members_of(entry)}) + b"\n"
        except RecordError as error:
            raise FileFault(f"{kind} {printable(repr(entry), 80)}: {error.sentence}") from error
        if len(line) > MAX_LINE_BYTES:
            raise FileFault(f"{kind} {printable(repr(entry), 80)}: it is longer than {MAX_LINE_BYTES} bytes")
        self._lines.add(line)
        if isinstance(entry, SavedLetter):
            self._letters += 1

    def close(
        self, network: str, epoch: str, producer: str, moment: datetime, key: SigningKey | None
    ) -> LetterFileEnding:
        """Write the ending and its signature, if there is a key."""
        ending = LetterFileEnding(
            network, epoch, moment, producer, self._letters, self._lines.bytes, self._lines.sha256
        )
        self._lines.end(ending.encode(), key)
        return ending


def read_entries(file: BinaryIO, ending: LetterFileEnding) -> Iterator[tuple[int, Entry]]:
    """Yield line numbers and entries. Raises FileFault, at the end if the bytes are not those of the ending.

    **What was yielded before the iteration has ended is not verified yet**: whoever keeps it takes it back then.
    """
    letters = 0
    owner: int | None = None
    for number, line in read_lines(file, ending.bytes, ending.sha256, MAX_LINE_BYTES):
        entry = _entry(line, f"line {number}")
        if isinstance(entry, SavedLetter):
            letters, owner = letters + 1, entry.id
        elif entry.letter != owner:
            raise FileFault(f"line {number}: a revision of letter {entry.letter} does not follow that letter")
        yield number, entry
    if letters != ending.letters:
        raise changed()


def _entry(line: bytes, where: str) -> Entry:
    members = read_object(line, where)
    match members:
        case {"letter": dict(letter)}:
            return SavedLetter(**checked(letter, _LETTER, where))
        case {"revision": dict(revised)}:
            return SavedRevision(**checked(revised, _REVISION, where))
    raise FileFault(f'{where}: expected an object with "letter" or "revision"')


# Values


def _bytes(value: object) -> bytes:
    match value:
        case str():
            return value.encode()
        case {"base64": str(text)}:
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error:
                pass
    raise ValueError('a text, or {"base64": ...}')


def _one_of(*words: str) -> Rule:
    def rule(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(" or ".join(words))
        return value

    return rule


_LETTER: Final[Mapping[str, Rule]] = {
    "id": integer(1),
    "direction": _one_of("in", "out"),
    "channel": matching(NAME),
    "batch": or_null(text(1, 80)),
    "line": or_null(integer(1)),
    "stream": or_null(text(1, MAX_STREAM_LENGTH)),
    "op": or_null(_one_of("upsert", "delete")),
    "key": or_null(text(0, _MAX_WORDS)),
    "version": or_null(integer(1)),
    "schema_version": or_null(integer(1, _MAX_SMALL)),
    "record": _bytes,
    "record_bytes": integer(0),
    "pointer": or_null(text(0, _MAX_WORDS)),
    "error": text(1, 31),
    "message": text(0, _MAX_WORDS),
    "cause": text(0, _MAX_WORDS),
    "producer": or_null(text(0, 200)),
    "state": text(1, 12),
    "attempts": integer(0, _MAX_SMALL),
    "created_at": moment,
    "updated_at": moment,
}
_REVISION: Final[Mapping[str, Rule]] = {
    "letter": integer(1),
    "number": integer(1, _MAX_SMALL),
    "record": _bytes,
    "difference": text(0, _MAX_WORDS),
    "at": moment,
    "who": text(0, 255),
    "why": text(0, _MAX_WORDS),
}
_ENDING: Final[Mapping[str, Rule]] = {
    "network": matching(NAME),
    "epoch": matching(EPOCH),
    "created_at": moment,
    "producer": text(0, 200),
    "letters": integer(0),
    "bytes": integer(0),
    "sha256": matching(DIGEST),
}
