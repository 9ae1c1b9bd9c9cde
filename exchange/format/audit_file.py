"""The audit as a file: JSON lines, each one row with the digest of the row before it.

A row's digest is the SHA-256 of its line up to that member: the line without ``,"digest":"..."`` before its last
brace. After the rows comes the ending, whose ``sha256`` is over all bytes before it and whose ``head`` is the last
row's digest, and last who signed it, as in a file of dead letters. A reader believes nothing before the signature.
"""

from __future__ import annotations

import builtins
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, Self

from exchange.format import strict_json
from exchange.format.dead_letter_file import FileFault
from exchange.format.errors import RecordError, WorldError, found, printable
from exchange.format.manifest import DIGEST
from exchange.format.names import NAME
from exchange.format.signing import SigningKey

FORMAT: Final = "exchange-audit/1"

FIRST: Final = "0" * 64
"""What the first row names as the digest before it."""

MAX_LINE_BYTES: Final = 1024 * 1024

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_MAX_TEXT: Final = 255


@dataclass(frozen=True)
class Row:
    """One row of the audit as the database keeps it, but for its digest.

    ``concludes`` is the id of the row that a result belongs to, ``call`` the id of the task that was called.
    """

    id: int
    at: datetime
    who: str
    origin: str
    action: str
    arguments: str
    why: str | None
    result: str | None
    call: str | None
    concludes: int | None
    previous: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Take the members of a row that has more."""
        return cls(**{one.name: values[one.name] for one in fields(cls)})

    @property
    def digest(self) -> str:
        """Give what the next row names as the one before. Raises FileFault for what JSON can't hold."""
        return hashlib.sha256(self._spoken()).hexdigest()

    def encode(self) -> builtins.bytes:
        """Write the row's line, without its newline."""
        spoken = self._spoken()
        return b'%b,"digest":"%b"}' % (spoken[:-1], hashlib.sha256(spoken).hexdigest().encode())

    def _spoken(self) -> builtins.bytes:
        members = {**vars(self), "at": _written(self.at)}
        try:
            return strict_json.dumps(members)
        except RecordError as error:
            raise FileFault(f"row {self.id}: {error.sentence}") from error


@dataclass(frozen=True)
class Ending:
    """Whose audit this is: so many rows and bytes lie before, the last of them ``last`` with the digest ``head``."""

    network: str
    created_at: str
    producer: str
    rows: int
    last: int
    head: str
    bytes: int
    sha256: str

    @classmethod
    def parse(cls, line: builtins.bytes) -> Self:
        """Read the ending's line, without its newline. Raises FileFault."""
        members = _object(line, "the ending")
        if members.get("format") != FORMAT:
            raise FileFault(f'expected format "{FORMAT}", found {found(members.get("format"))}')
        for name, rule in (("network", NAME), ("created_at", _MOMENT), ("head", DIGEST), ("sha256", DIGEST)):
            value = members.get(name)
            if not isinstance(value, str) or not rule.fullmatch(value):
                raise FileFault(
                    f"the ending: {name}: expected a text that matches {rule.pattern}, found {found(value)}"
                )
        for name in ("rows", "last", "bytes"):
            value = members.get(name)
            if type(value) is not int or value < 0:
                raise FileFault(f"the ending: {name}: expected a whole number, found {found(value)}")
        producer = members.get("producer")
        if not isinstance(producer, str) or len(producer) > _MAX_TEXT:
            raise FileFault(f"the ending: producer: expected a text, found {found(producer)}")
        return cls(**{one.name: members[one.name] for one in fields(cls)})

    def encode(self) -> builtins.bytes:
        """Write the ending's line, without its newline."""
        return strict_json.dumps({"format": FORMAT, **vars(self)})


class TrailWriter:
    """Writes rows to a file, and hashes them. ``out`` takes whole writes and is neither flushed nor closed."""

    def __init__(self, out: BinaryIO) -> None:
        """Begin a file."""
        self._out = out
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._rows = 0
        self._last, self._head = 0, FIRST

    def write(self, row: Row) -> None:
        """Add one row. Raises FileFault if it could not be read again."""
        line = row.encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            raise FileFault(f"row {row.id} is longer than {MAX_LINE_BYTES} bytes")
        self._digest.update(line)
        self._bytes += len(line)
        self._rows += 1
        self._last, self._head = row.id, row.digest
        self._put(line)

    def close(self, network: str, producer: str, moment: datetime, key: SigningKey | None) -> Ending:
        """Write the ending and its signature, if there is a key."""
        ending = Ending(
            network,
            _written(moment),
            producer,
            self._rows,
            self._last,
            self._head,
            self._bytes,
            self._digest.hexdigest(),
        )
        line = ending.encode()
        self._put(line + b"\n")
        if key is not None:
            self._put(key.sign(line).encode() + b"\n")
        return ending

    def _put(self, piece: bytes) -> None:
        if self._out.write(piece) != len(piece):
            raise WorldError("the file was written only in part: the disk may be full")


def check_rows(file: BinaryIO, ending: Ending) -> None:
    """Check every byte and the chain of digests before the ending. Raises FileFault at the first that is wrong."""
    file.seek(0)
    total, left, number, head, last = hashlib.sha256(), ending.bytes, 0, FIRST, 0
    while left:
        line = file.readline(min(left, MAX_LINE_BYTES))
        number += 1
        left -= len(line)
        total.update(line)
        if not line.endswith(b"\n"):
            raise FileFault(f"line {number} is longer than {MAX_LINE_BYTES} bytes, or the file is cut short there")
        last, head = _checked(line[:-1], f"line {number}", head)
    if (total.hexdigest(), number, last, head) != (ending.sha256, ending.rows, ending.last, ending.head):
        raise FileFault("its bytes are not those that its ending speaks of: it was changed or damaged")


def _checked(line: bytes, where: str, before: str) -> tuple[int, str]:
    """Check one row against the digest before it; give its id and digest."""
    members = _object(line, where)
    number, previous, digest = members.get("id"), members.get("previous"), members.get("digest")
    if previous != before:
        raise FileFault(f"{where}: expected the row after the digest {before}, found the one after {found(previous)}")
    ending = b',"digest":"%b"}' % str(digest).encode()
    if type(number) is not int or not isinstance(digest, str) or not line.endswith(ending):
        raise FileFault(f"{where}: expected a row that ends with its digest")
    if hashlib.sha256(line.removesuffix(ending) + b"}").hexdigest() != digest:
        raise FileFault(f"{where}: expected what its digest {printable(digest, 80)} is of, found something else")
    return number, digest


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(line)
    except RecordError as error:
        raise FileFault(f"{where}: {error.sentence}") from error
    if not isinstance(value, dict):
        raise FileFault(f"{where}: expected an object, found {found(value)}")
    return value


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
