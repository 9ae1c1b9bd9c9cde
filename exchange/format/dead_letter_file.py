"""A file of dead letters: JSON lines of what one network keeps of records that did not take effect.

Each line is one object, ``{"letter": ...}`` or ``{"revision": ...}``; a revision follows its letter. Then comes the
ending, whose ``sha256`` is over all bytes before it, and last who signed it: the signature is over the ending's
bytes without their newline. As with a batch nothing is written anew to be checked, and a reader believes nothing
before the signature.
"""

from __future__ import annotations

import base64
import binascii
import builtins
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, NamedTuple, Self

from exchange.format import strict_json
from exchange.format.errors import RecordError, WorldError, found, printable
from exchange.format.manifest import DIGEST, Signature
from exchange.format.names import EPOCH, NAME
from exchange.format.signing import SigningKey

FORMAT: Final = "exchange-dead-letters/1"

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""Longest line that is read: a record of one mebibyte in its least handy spelling, and words about it."""

MAX_ENDING_BYTES: Final = 8 * 1024
"""Most bytes of ending and signature together."""

_CHUNK_BYTES: Final = 256 * 1024
_MAX_TEXT: Final = MAX_LINE_BYTES
_MAX_SMALL: Final = 2**31 - 1


class FileFault(Exception):  # noqa: N818 - reads as what it is
    """The file can't be taken; the text is one sentence, without what happens next."""


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
class Ending:
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
        members = _object(line, "the ending")
        if members.get("format") != FORMAT:
            raise FileFault(f'expected format "{FORMAT}", found {found(members.get("format"))}')
        return cls(**_checked(members, _ENDING, "the ending"))

    def encode(self) -> builtins.bytes:
        """Write the ending's line, without its newline."""
        return strict_json.dumps({"format": FORMAT, **_plain(self)})


class LetterWriter:
    """Writes entries to a file, and hashes them. ``out`` takes whole writes and is neither flushed nor closed."""

    def __init__(self, out: BinaryIO) -> None:
        """Begin a file."""
        self._out = out
        self._digest = hashlib.sha256()
        self._bytes = 0
        self.letters = 0

    def write(self, entry: Entry) -> None:
        """Add one entry. Raises FileFault if it could not be read again."""
        kind = "letter" if isinstance(entry, SavedLetter) else "revision"
        try:
            line = strict_json.dumps({kind: _plain(entry)}) + b"\n"
        except RecordError as error:
            raise FileFault(f"{kind} {printable(repr(entry), 80)}: {error.sentence}") from error
        if len(line) > MAX_LINE_BYTES:
            raise FileFault(f"{kind} {printable(repr(entry), 80)}: it is longer than {MAX_LINE_BYTES} bytes")
        self._digest.update(line)
        self._bytes += len(line)
        self.letters += isinstance(entry, SavedLetter)
        self._put(line)

    def close(self, network: str, epoch: str, producer: str, moment: datetime, key: SigningKey | None) -> Ending:
        """Write the ending and its signature, if there is a key."""
        ending = Ending(network, epoch, moment, producer, self.letters, self._bytes, self._digest.hexdigest())
        line = ending.encode()
        self._put(line + b"\n")
        if key is not None:
            self._put(key.sign(line).encode() + b"\n")
        return ending

    def _put(self, piece: bytes) -> None:
        if self._out.write(piece) != len(piece):
            raise WorldError("the file was written only in part: the disk may be full")


class Tail(NamedTuple):
    """A file's last lines: the ending, which nothing vouches for yet, where it begins, and its signature if any."""

    line: bytes
    start: int
    signature: Signature | None


def read_tail(file: BinaryIO) -> Tail:
    """Find the last lines. Raises FileFault, and Untrusted if what stands in the signature's place is none."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - MAX_ENDING_BYTES, 0))
    tail = file.read(MAX_ENDING_BYTES)
    if not tail.endswith(b"\n"):
        raise FileFault("it is empty" if not tail else "it ends within a line: the end is missing")
    lines = tail[:-1].rsplit(b"\n", 2)
    if not lines[-1].startswith(b'{"algorithm"'):
        return Tail(lines[-1], size - len(lines[-1]) - 1, None)
    if len(lines) == 1:
        raise FileFault("it has no ending")
    return Tail(lines[-2], size - len(lines[-2]) - len(lines[-1]) - 2, Signature.parse(lines[-1]))


def read_entries(file: BinaryIO, ending: Ending) -> Iterator[tuple[int, Entry]]:
    """Yield line numbers and entries. Raises FileFault, at the end if the bytes are not those of the ending.

    **What was yielded before the iteration has ended is not verified yet**: whoever keeps it takes it back then.
    """
    file.seek(0)
    digest, left, letters, number = hashlib.sha256(), ending.bytes, 0, 0
    owner: int | None = None
    while left:
        line = file.readline(min(left, MAX_LINE_BYTES))
        number += 1
        left -= len(line)
        digest.update(line)
        if not line.endswith(b"\n"):
            raise FileFault(f"line {number} is longer than {MAX_LINE_BYTES} bytes, or the file is cut short there")
        entry = _entry(line[:-1], f"line {number}")
        if isinstance(entry, SavedLetter):
            letters, owner = letters + 1, entry.id
        elif entry.letter != owner:
            raise FileFault(f"line {number}: a revision of letter {entry.letter} does not follow that letter")
        yield number, entry
    if digest.hexdigest() != ending.sha256 or letters != ending.letters:
        raise FileFault("its bytes are not those that its ending speaks of: it was changed or damaged")


def _entry(line: bytes, where: str) -> Entry:
    members = _object(line, where)
    match members:
        case {"letter": dict(letter)}:
            return SavedLetter(**_checked(letter, _LETTER, where))
        case {"revision": dict(revised)}:
            return SavedRevision(**_checked(revised, _REVISION, where))
    raise FileFault(f'{where}: expected an object with "letter" or "revision"')


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(line)
    except RecordError as error:
        raise FileFault(f"{where}: {error.sentence}") from error
    if not isinstance(value, dict):
        raise FileFault(f"{where}: expected an object, found {found(value)}")
    return value


# Values

Rule = Callable[[object], Any]
"""Gives the value that a member's JSON stands for; ValueError with what was expected."""


def _checked(members: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> dict[str, Any]:
    """Take the members that the rules name; others are ignored, so that later versions may add some."""
    values = {}
    for name, rule in rules.items():
        if name not in members:
            raise FileFault(f"{where}: {name} is missing")
        try:
            values[name] = rule(members[name])
        except ValueError as error:
            raise FileFault(f"{where}: {name}: expected {error}, found {found(members[name])}") from error
    return values


def _plain(entry: object) -> dict[str, Any]:
    return {name: _written(value) for name, value in vars(entry).items()}


def _written(value: object) -> object:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
        case bytes():
            return _written_bytes(value)
        case _:
            return value


def _written_bytes(content: bytes) -> object:
    """Write bytes as the text that they are, if a person and every editor can read it; else as base64."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\n"
    return text if text.isprintable() else {"base64": base64.b64encode(content).decode("ascii")}


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


def _text(most: int = _MAX_TEXT, least: int = 0) -> Rule:
    def rule(value: object) -> str:
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise ValueError(f"a text of {least} to {most} characters")
        return value

    return rule


def _matching(pattern: Any) -> Rule:
    def rule(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"a text that matches {pattern.pattern}")
        return value

    return rule


def _one_of(*words: str) -> Rule:
    def rule(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(" or ".join(words))
        return value

    return rule


def _whole(least: int, most: int = strict_json.MAX_INTEGER) -> Rule:
    def rule(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"an integer from {least} to {most}")
        return value

    return rule


def _moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("an RFC 3339 date-time")


def _or_null(rule: Rule) -> Rule:
    return lambda value: None if value is None else rule(value)


_LETTER: Final[Mapping[str, Rule]] = {
    "id": _whole(1),
    "direction": _one_of("in", "out"),
    "channel": _matching(NAME),
    "batch": _or_null(_text(80, 1)),
    "line": _or_null(_whole(1)),
    "stream": _or_null(_text(63, 1)),
    "op": _or_null(_one_of("upsert", "delete")),
    "key": _or_null(_text()),
    "version": _or_null(_whole(1)),
    "schema_version": _or_null(_whole(1, _MAX_SMALL)),
    "record": _bytes,
    "record_bytes": _whole(0),
    "pointer": _or_null(_text()),
    "error": _text(31, 1),
    "message": _text(),
    "cause": _text(),
    "producer": _or_null(_text(200)),
    "state": _text(12, 1),
    "attempts": _whole(0, _MAX_SMALL),
    "created_at": _moment,
    "updated_at": _moment,
}
_REVISION: Final[Mapping[str, Rule]] = {
    "letter": _whole(1),
    "number": _whole(1, _MAX_SMALL),
    "record": _bytes,
    "difference": _text(),
    "at": _moment,
    "who": _text(255),
    "why": _text(),
}
_ENDING: Final[Mapping[str, Rule]] = {
    "network": _matching(NAME),
    "epoch": _matching(EPOCH),
    "created_at": _moment,
    "producer": _text(200),
    "letters": _whole(0),
    "bytes": _whole(0),
    "sha256": _matching(DIGEST),
}
