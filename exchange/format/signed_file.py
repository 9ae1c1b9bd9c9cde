"""A file of JSON lines that one side writes to be kept or carried: entries, an ending, a signature.

The ending says what must lie before it, with the SHA-256 of all those bytes; the signature, if there is one, is over
the ending's bytes without their newline. As with a batch nothing is written anew to be checked, and a reader believes
nothing before the signature.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, BinaryIO, Final, NamedTuple

from exchange.format import strict_json
from exchange.format.errors import RecordError, TransientError, described
from exchange.format.manifest import Signature
from exchange.format.moments import from_rfc3339, to_rfc3339
from exchange.format.signing import SigningKey

MAX_ENDING_BYTES: Final = 8 * 1024
"""Most bytes of ending and signature together."""


class FileFault(Exception):  # noqa: N818 - reads as what it is
    """The file can't be taken; the text is one sentence, without what happens next."""


class LineWriter:
    """Writes lines to a file, and hashes them. ``out`` takes whole writes and is neither flushed nor closed."""

    def __init__(self, out: BinaryIO) -> None:
        """Begin a file."""
        self._out = out
        self._digest = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """The digest of all lines so far."""
        return self._digest.hexdigest()

    def add(self, line: bytes) -> None:
        """Write a line, given with its newline. Raises TransientError if the disk is full."""
        self._digest.update(line)
        self.bytes += len(line)
        self._put(line)

    def end(self, ending: bytes, key: SigningKey | None) -> None:
        """Write the ending, given without its newline, and its signature if there is a key. Raises TransientError."""
        self._put(ending + b"\n")
        if key is not None:
            self._put(key.sign(ending).encode() + b"\n")

    def _put(self, piece: bytes) -> None:
        if self._out.write(piece) != len(piece):
            raise TransientError("the file was written only in part: the disk may be full")


class Trailer(NamedTuple):
    """A file's last lines: the ending, which nothing vouches for yet, where it begins, and its signature if any."""

    line: bytes
    start: int
    signature: Signature | None


def read_tail(file: BinaryIO) -> Trailer:
    """Find the last lines. Raises FileFault, and Untrusted if what stands in the signature's place is none."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - MAX_ENDING_BYTES, 0))
    tail = file.read(MAX_ENDING_BYTES)
    if not tail.endswith(b"\n"):
        raise FileFault("it is empty" if not tail else "it ends within a line: the end is missing")
    lines = tail[:-1].rsplit(b"\n", 2)
    if not lines[-1].startswith(b'{"algorithm"'):
        return Trailer(lines[-1], size - len(lines[-1]) - 1, None)
    if len(lines) == 1:
        raise FileFault("it has no ending")
    return Trailer(lines[-2], size - len(lines[-2]) - len(lines[-1]) - 2, Signature.parse(lines[-1]))


def read_lines(file: BinaryIO, size: int, sha256: str, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers and lines, without newlines, of the ``size`` bytes before an ending.

    Raises FileFault, at the end if the bytes do not have the digest that the ending speaks of. **What was yielded
    before the iteration has ended is not verified yet**: whoever keeps it takes it back then.
    """
    file.seek(0)
    digest, left, number = hashlib.sha256(), size, 0
    while left:
        line = file.readline(min(left, max_line_bytes))
        number += 1
        left -= len(line)
        digest.update(line)
        if not line.endswith(b"\n"):
            raise FileFault(f"line {number} is longer than {max_line_bytes} bytes, or the file is cut short there")
        yield number, line[:-1]
    if digest.hexdigest() != sha256:
        raise changed()


def changed() -> FileFault:
    """Say that what was read is not what the ending speaks of."""
    return FileFault("its bytes are not those that its ending speaks of: it was changed or damaged")


def read_object(line: bytes, where: str) -> dict[str, Any]:
    """Read the object that a line is. Raises FileFault."""
    try:
        value = strict_json.loads(line)
    except RecordError as error:
        raise FileFault(f"{where}: {error.sentence}") from error
    if not isinstance(value, dict):
        raise FileFault(f"{where}: expected an object, found {described(value)}")
    return value


def read_ending(line: bytes, form: str, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Read the members of an ending of one format. Raises FileFault."""
    members = read_object(line, "the ending")
    if members.get("format") != form:
        raise FileFault(f'expected format "{form}", found {described(members.get("format"))}')
    return checked(members, rules, "the ending")


# Values

Rule = Callable[[object], Any]
"""Gives the value that a member's JSON stands for; ValueError with what was expected."""


def checked(members: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> dict[str, Any]:
    """Take the members that the rules name; others are ignored, so that later versions may add some.

    Raises FileFault.
    """
    values = {}
    for name, rule in rules.items():
        if name not in members:
            raise FileFault(f"{where}: {name} is missing")
        try:
            values[name] = rule(members[name])
        except ValueError as error:
            raise FileFault(f"{where}: {name}: expected {error}, found {described(members[name])}") from error
    return values


def members_of(entry: object) -> dict[str, Any]:
    """Give an entry's fields as JSON has them."""
    return {name: _written(value) for name, value in vars(entry).items()}


def _written(value: object) -> object:
    match value:
        case datetime():
            return to_rfc3339(value)
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


def text(least: int, most: int) -> Rule:
    """Take a text of so many characters."""

    def rule(value: object) -> str:
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise ValueError(f"a text of {least} to {most} characters")
        return value

    return rule


def matching(pattern: re.Pattern[str]) -> Rule:
    """Take a text that is what a pattern says."""

    def rule(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"a text that matches {pattern.pattern}")
        return value

    return rule


def integer(least: int, most: int = strict_json.MAX_INTEGER) -> Rule:
    """Take an integer from ``least`` to ``most``."""

    def rule(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"an integer from {least} to {most}")
        return value

    return rule


def or_null(rule: Rule) -> Rule:
    """Take what a rule takes, and null."""
    return lambda value: None if value is None else rule(value)


moment: Rule = from_rfc3339
