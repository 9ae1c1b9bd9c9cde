"""What can be wrong with a batch, a record or what all work needs, each said in one sentence.

Three families: the batch is bad, one record is bad, what all work needs is not to be had (try later). Anything else
that is raised is a fault of ours.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Self


class Verdict(StrEnum):
    """What became of a batch that was looked at."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    WAITING = "waiting"
    INCOMPLETE = "incomplete"
    HELD = "held"
    QUARANTINED = "quarantined"
    BUSY = "busy"


class Reason(StrEnum):
    """Why a batch did not take effect."""

    UNTRUSTED = "untrusted"
    CORRUPT = "corrupt"
    LIMITS = "limits"
    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"
    CONFLICT = "conflict"
    FORK = "fork"
    STALE_EPOCH = "stale_epoch"
    UNPROVEN_EPOCH = "unproven_epoch"
    INCOMPLETE = "incomplete"
    MISDIRECTED = "misdirected"
    GAP = "gap"
    REJECTED = "rejected"
    CRASHED = "crashed"
    DELETES = "deletes"
    VERSIONS = "versions"
    LOOK_AHEAD = "look_ahead"
    TABLE = "table"
    LOST = "lost"
    GIVEN_UP = "given_up"
    SUPERSEDED = "superseded"
    BY_HAND = "by_hand"


class Fault(StrEnum):
    """Which rule a corrupt batch breaks; a ``DIGEST`` of a young file may be a copy still under way."""

    MANIFEST = "manifest"
    LENGTH = "length"
    DIGEST = "digest"
    CONTENT = "content"
    COUNTS = "counts"


class BatchError(Exception):
    """The batch is bad: none of it takes effect. ``reason`` is for programs, ``sentence`` for people."""

    reason: ClassVar[Reason]

    def __init__(self, sentence: str) -> None:
        """Keep the sentence; quote outside input in it through ``printable``."""
        super().__init__(sentence)
        self.sentence = sentence


class Untrusted(BatchError):  # noqa: N818 - the name is the verdict
    """Nobody we trust signed these bytes."""

    reason = Reason.UNTRUSTED


class Corrupt(BatchError):  # noqa: N818 - the name is the verdict
    """The files break the format. ``fault`` says which of its rules."""

    reason = Reason.CORRUPT

    def __init__(self, sentence: str, fault: Fault = Fault.CONTENT) -> None:
        """Keep the sentence and the rule that was broken."""
        super().__init__(sentence)
        self.fault = fault


class TooLarge(Corrupt):
    """By its signed manifest it is more than this side takes; the same bytes, sent again, would be, too."""

    reason = Reason.LIMITS


class Malformed(Corrupt):
    """Its bytes are those that were signed, and break the format: nobody but its sender made them so."""

    reason = Reason.MALFORMED


class Unsupported(BatchError):  # noqa: N818 - the name is the verdict
    """A newer writer made this: hold it untouched until this side is upgraded."""

    reason = Reason.UNSUPPORTED


class Ahead(BatchError):  # noqa: N818 - the name is the verdict
    """Versions of its records are far ahead of every clock: hold it until a person says that they are meant."""

    reason = Reason.VERSIONS


class Incomplete(BatchError):  # noqa: N818 - the name is the verdict
    """Not all of it has arrived yet."""

    reason = Reason.INCOMPLETE


class Misdirected(BatchError):  # noqa: N818 - the name is the verdict
    """Made for another network or channel."""

    reason = Reason.MISDIRECTED


class Rejected(BatchError):  # noqa: N818 - named as the verdict is
    """More of the batch is bad than its channel or a setting allows."""

    reason = Reason.REJECTED


class RecordError(Exception):
    """One record is bad; its batch may still be good.

    ``error`` is the class of the fault (``json``, ``record``, ``schema``, ``value`` ...), ``pointer`` a JSON
    pointer into the record's line ("" is the whole line), ``sentence`` what a person reads.
    """

    def __init__(self, error: str, pointer: str, sentence: str) -> None:
        """Keep all three; quote outside input in the sentence through ``printable``."""
        super().__init__(error, pointer, sentence)
        self.error = error
        self.pointer = pointer
        self.sentence = sentence

    def __str__(self) -> str:
        """Give the sentence."""
        return self.sentence

    def kept(self) -> Self:
        """Give it without where it was raised: whoever keeps it would keep all rows that were at hand there."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self


def rule_of(error: str, pointer: str | None, cause: str | None) -> str:
    """Name the rule that a record breaks, and where in it, for logs and results: its sentence may quote a value."""
    where = f" at {pointer}" if pointer else ""
    why = f" ({cause})" if cause else ""
    return f"{error}{where}{why}"


class TransientError(Exception):
    """What all work needs is not to be had now (disk full, database away): the batch is in order, try again later."""

    def __init__(self, sentence: str) -> None:
        """Keep the sentence."""
        super().__init__(sentence)
        self.sentence = sentence


@dataclass(frozen=True)
class Problem:
    """Something that a person is to see to: what it is, and what to do about it, which may be nothing more to say.

    ``command`` is what to type next, whole, and ``since`` when it began, where either is known.
    """

    message: str
    remedy: str = ""
    command: str = ""
    since: datetime | None = None

    @classmethod
    def stored(cls, sentence: str) -> Problem:
        """Give a problem that the database has as one sentence: what to do is behind its last semicolon."""
        message, found, remedy = sentence.rpartition("; ")
        return cls(message, remedy) if found else cls(sentence)

    def __str__(self) -> str:
        """Say both in one sentence."""
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


def printable(text: str, limit: int = 200) -> str:
    r"""Make outside text fit to be shown: one line, at most ``limit`` characters, nothing a terminal acts on.

    Whatever is not printable (control characters, bidirectional and zero-width marks, line and paragraph
    separators, lone surrogates) is escaped as ``\x1b``, ``\u202e`` or ``\U000e0001``.
    """
    shown = text[: limit + 1]
    if not shown.isprintable():
        shown = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
            for character in shown
        )
    return shown if len(shown) <= limit else shown[: max(limit - 1, 0)] + "…"


def of_system(error: OSError) -> str:
    """Word what the system refused: where, why and, for what people meet most, what to do."""
    where = printable(str(error.filename)) if error.filename else "the system"
    said = f"{where}: {error.strerror or error}"
    return f"{said}; {_MENDED_BY[error.errno]}" if error.errno in _MENDED_BY else said


_MENDED_BY = {
    errno.EACCES: "let this user read and write there, or name another place",
    errno.EPERM: "let this user read and write there, or name another place",
    errno.EROFS: "it is mounted read-only: mount it for writing, or name another place",
    errno.ENOENT: "make the folder, mount its disk, or name another place",
    errno.EEXIST: "a file lies where a folder is expected: move it, or name another place",
    errno.ENOTDIR: "a file lies where a folder is expected: move it, or name another place",
    errno.ENOSPC: "make room on its disk (`exchange prune` removes what is beyond its retention)",
}


def described(value: object) -> str:
    """Word a JSON value that was found where another was expected: short, and safe to print."""
    match value:
        case None:
            return "null"
        case bool() | float() | int():
            return printable(str(value).lower(), 80)
        case str():
            return f'"{printable(value, 80)}"'
        case dict():
            return "an object"
        case list():
            return "an array"
        case _:
            return f"a {printable(type(value).__name__, 80)}"
