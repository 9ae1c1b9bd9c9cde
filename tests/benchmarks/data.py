"""The rows: requests of the reference application, the same ones at every run, and what the contests ask of them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from exchange.reference.models import Request

USERS = 1_000
COLUMNS = ", ".join(column.name for column in Request.__table__.columns)
ALL_COLUMNS = f"{COLUMNS}, exchange_version"
CHANGE = """
    UPDATE request
    SET query = query || ', again', priority = 9 - priority, updated_at = updated_at + interval '1 hour'
"""
"""What "all rows changed" means."""

_STARTED = datetime(2026, 1, 1, tzinfo=UTC)
_KINDS = ("lookup", "report", "export")


@dataclass(frozen=True)
class Sizes:
    """How much is measured, all in proportion to ``records``, and how often."""

    records: int = 500_000
    rounds: int = 5
    large: bool = False
    """Whether memory is also measured with what takes ten minutes."""

    @property
    def peer_records(self) -> int:
        """What the peers load: they are slow, and their rates hardly depend on it."""
        return self.records // 5

    @property
    def again(self) -> tuple[int, ...]:
        """Sizes of batches that come again: 1,000, 100,000 and 1,000,000."""
        return max(1, self.records // 500), self.records // 5, self.one_batch

    @property
    def one_batch(self) -> int:
        """The size of one large batch: 1,000,000."""
        return 2 * self.records

    @property
    def door_seconds(self) -> float:
        """How long users ask: a minute."""
        return max(8.0, min(60.0, self.records / 8_000))

    @property
    def few_of(self) -> tuple[int, int]:
        """Sizes of a small and a large table of which a few rows change: 20,000 and 2,000,000."""
        return self.records // 25, 4 * self.records

    @property
    def few(self) -> int:
        """How many those are: 100."""
        return min(100, self.few_of[0])

    @property
    def small_batches(self) -> tuple[int, int]:
        """How many batches of how few rows: 1,000 of 100."""
        return max(2, self.records // 500), 100 if self.records >= 50_000 else 5

    @property
    def memory(self) -> tuple[int, int]:
        """Few and many records: 50,000 and 5,000,000."""
        return self.records // 10, 10 * self.records

    @property
    def ledger(self) -> int:
        """How many batches a side has whose pages are looked at: 1,000,000."""
        return 2 * self.records

    @property
    def looks(self) -> int:
        """How often each page is: 41 times, the first not counted."""
        return 8 * self.rounds + 1

    @property
    def nudges(self) -> int:
        """How many rows are timed on their way: 200."""
        return max(3, self.records // 2500)


def identity(number: int) -> uuid.UUID:
    """Give the key of a request: random to the eye and to an index, as those of an application are."""
    return uuid.UUID(bytes=_draw(number), version=4)


def request(number: int) -> dict[str, Any]:
    """Make a request of about 350 bytes as a record."""
    draw = _draw(number)
    moment = _STARTED + timedelta(seconds=number, microseconds=int.from_bytes(draw[2:4]))
    return {
        "id": uuid.UUID(bytes=draw, version=4),
        "user_id": 1 + int.from_bytes(draw[:2]) % USERS,
        "kind": _KINDS[draw[4] % len(_KINDS)],
        "query": f"case {draw[:8].hex()} as of today",
        "parameters": {"limit": draw[5], "tags": ["a", "b"], "page": number % 50},
        "priority": draw[6] % 10,
        "status": "pending",
        "created_at": moment,
        "updated_at": moment,
    }


def requests(count: int) -> Iterator[dict[str, Any]]:
    """Make the first ``count`` requests."""
    return map(request, range(count))


def copy_line(row: dict[str, Any]) -> str:
    """Write a request as COPY reads it. Nothing in these rows needs an escape."""
    return "\t".join((*map(str, (row | {"parameters": json.dumps(row["parameters"])}).values()),)) + "\n"


def _draw(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8), digest_size=16).digest()
