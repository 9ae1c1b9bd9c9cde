"""What the other side told us, and what comparing came to, as rows of ours keep it: as texts.

They may be older than this version, or say what only an older one let through. No command fails for that: what can't be
read here is as if it had not been said, and is said anew with the next control batch or checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from exchange.database.tables import peer
from exchange.format.control import Heartbeat, Range, Receipt
from exchange.format.errors import BatchError, RecordError
from exchange.format.manifest import Manifest

Read = TypeVar("Read")

SAID = sa.select(peer.c.said)
"""The other side's last sign of life."""

UNREADABLE = (RecordError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What reading a value may raise that is not what it should be."""


@dataclass(frozen=True)
class Found:
    """Which rows differed of a stream, when a snapshot that this side asked for came: how many, and some keys."""

    answers: str | None
    sequence: int
    at: datetime
    missing: int
    extra: int
    different: int
    keys: tuple[dict[str, Any], ...]

    def as_text(self) -> str:
        """Give the text that is kept."""
        return json.dumps({**vars(self), "at": self.at.isoformat(), "keys": list(self.keys)})

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Found:
        """Read it; raises one of ``UNREADABLE``."""
        counts = {name: int(said[name]) for name in ("sequence", "missing", "extra", "different")}
        keys = tuple({"what": str(one["what"]), "key": dict(one["key"])} for one in said["keys"])
        return cls(answers=said["answers"], at=datetime.fromisoformat(said["at"]), keys=keys, **counts)


def heartbeat(text: str | None) -> Heartbeat | None:
    """Read the data of a ``_heartbeat`` record; None if there is none or it can't be read."""
    return _read(Heartbeat.parse, text)


def receipt(text: str | None) -> Receipt | None:
    """Read the data of a ``_receipt`` record; None if there is none or it can't be read."""
    return _read(Receipt.parse, text)


def missing(text: str) -> tuple[Range, ...]:
    """Read what a receipt names as missing; a receipt that can't be read names nothing.

    Most name nothing, and are told by a glance, without a check of all that they say.
    """
    named = _read(lambda said: bool(said["missing"]), text)
    said = receipt(text) if named else None
    return said.missing if said else ()


def differing_rows(text: str | None) -> Found | None:
    """Read which rows differed; None if nobody looked or it can't be read."""
    return _read(Found.parse, text)


def buckets(text: str) -> list[int]:
    """Read which buckets of a stream that we receive differ; of what can't be read, none."""
    return _read(lambda said: [int(one) for one in said], text) or []


def differing(text: str) -> int:
    """Read how many buckets differ: of what we send we are told how many, of what we receive we know which."""
    return _read(lambda said: len(said) if isinstance(said, list) else int(said), text) or 0


def manifest(text: str | None) -> Manifest | None:
    """Read line 1 of a manifest from the ledger; None if there is none or this version would not take it."""
    try:
        return None if text is None else Manifest.parse(text.encode())
    except (BatchError, ValueError):
        return None


def _read(parse: Callable[[Any], Read], text: str | None) -> Read | None:
    try:
        return None if text is None else parse(json.loads(text))
    except UNREADABLE:
        return None
