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
    """How much is measured. ``again``, ``few_of`` and ``memory`` are tables or batches of these many records."""

    records: int = 500_000
    peer_records: int = 100_000
    again: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    few: int = 100
    few_of: tuple[int, int] = (20_000, 2_000_000)
    memory: tuple[int, int] = (50_000, 5_000_000)
    one_batch: int = 1_000_000
    shards: tuple[int, ...] = (1, 2, 4)
    nudges: int = 200
    rounds: int = 5


QUICK = Sizes(
    records=1_000,
    peer_records=500,
    again=(100, 1_000),
    few=10,
    few_of=(100, 1_000),
    memory=(500, 1_000),
    one_batch=1_000,
    shards=(1, 2),
    nudges=3,
    rounds=1,
)
"""Enough to see that everything runs; its figures mean nothing."""


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
