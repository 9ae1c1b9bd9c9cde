"""The audit as a file: a ``signed_file`` whose lines are each one row with the digest of the row before it.

A row's digest is the SHA-256 of its line up to that member: the line without ``,"digest":"..."`` before its last
brace. The ending's ``head`` is the last row's digest (FORMAT.md, "The audit, exported").
"""

from __future__ import annotations

import builtins
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, BinaryIO, Final, Self

from exchange.format import strict_json
from exchange.format.errors import RecordError, described, printable
from exchange.format.manifest import DIGEST
from exchange.format.moments import to_rfc3339
from exchange.format.names import NAME
from exchange.format.signed_file import (
    FileFault,
    LineWriter,
    Rule,
    changed,
    matching,
    read_ending,
    read_lines,
    read_object,
)
from exchange.format.signing import SigningKey

FORMAT: Final = "exchange-audit/1"

FIRST: Final = "0" * 64
"""What the first row names as the digest before it."""

MAX_LINE_BYTES: Final = 1024 * 1024

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_MAX_PRODUCER: Final = 255


@dataclass(frozen=True)
class AuditRow:
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
        members = {**vars(self), "at": to_rfc3339(self.at)}
        try:
            return strict_json.dumps(members)
        except RecordError as error:
            raise FileFault(f"row {self.id}: {error.sentence}") from error


@dataclass(frozen=True)
class AuditEnding:
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
        return cls(**read_ending(line, FORMAT, _ENDING))

    def encode(self) -> builtins.bytes:
        """Write the ending's line, without its newline."""
        return strict_json.dumps({"format": FORMAT, **vars(self)})


class AuditWriter:
    """Writes rows to a file. ``out`` takes whole writes and is neither flushed nor closed."""

    def __init__(self, out: BinaryIO) -> None:
        """Begin a file."""
        self._lines = LineWriter(out)
        self._rows = 0
        self._last, self._head = 0, FIRST

    def write(self, row: AuditRow) -> None:
        """Add one row. Raises FileFault if it could not be read again."""
        line = row.encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            raise FileFault(f"row {row.id} is longer than {MAX_LINE_BYTES} bytes")
        self._lines.add(line)
        self._rows += 1
        self._last, self._head = row.id, row.digest

    def close(self, network: str, producer: str, moment: datetime, key: SigningKey | None) -> AuditEnding:
        """Write the ending and its signature, if there is a key."""
        ending = AuditEnding(
            network,
            to_rfc3339(moment),
            producer,
            self._rows,
            self._last,
            self._head,
            self._lines.bytes,
            self._lines.sha256,
        )
        self._lines.end(ending.encode(), key)
        return ending


def check_rows(file: BinaryIO, ending: AuditEnding) -> None:
    """Check every byte and the chain of digests before the ending. Raises FileFault at the first that is wrong."""
    number, last, head = 0, 0, FIRST
    for number, line in read_lines(file, ending.bytes, ending.sha256, MAX_LINE_BYTES):
        last, head = _checked(line, f"line {number}", head)
    if (number, last, head) != (ending.rows, ending.last, ending.head):
        raise changed()


def _checked(line: bytes, where: str, before: str) -> tuple[int, str]:
    """Check one row against the digest before it; give its id and digest."""
    members = read_object(line, where)
    number, previous, digest = members.get("id"), members.get("previous"), members.get("digest")
    if previous != before:
        raise FileFault(
            f"{where}: expected the row after the digest {before}, found the one after {described(previous)}"
        )
    ending = b',"digest":"%b"}' % str(digest).encode()
    if type(number) is not int or not isinstance(digest, str) or not line.endswith(ending):
        raise FileFault(f"{where}: expected a row that ends with its digest")
    if hashlib.sha256(line.removesuffix(ending) + b"}").hexdigest() != digest:
        raise FileFault(f"{where}: expected what its digest {printable(digest, 80)} is of, found something else")
    return number, digest


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a whole number")
    return value


def _producer(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_PRODUCER:
        raise ValueError("a text")
    return value


_ENDING: Final[Mapping[str, Rule]] = {
    "network": matching(NAME),
    "created_at": matching(_MOMENT),
    "producer": _producer,
    "rows": _count,
    "last": _count,
    "head": matching(DIGEST),
    "bytes": _count,
    "sha256": matching(DIGEST),
}
