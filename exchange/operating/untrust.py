"""Ending the trust in a key, and what it had signed that counts here: for a person to look through.

What it signed is untrusted from the next batch on, also what waits or is held: the next import quarantines that. What
is applied stays applied: whether it was the sender's own, the sender's copies in ``sealed/`` tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction, batch
from exchange.files import keys
from exchange.format.as_dict import AsDict
from exchange.format.names import CONTROL
from exchange.site import Site

COUNTING = (BatchState.WAITING, BatchState.HELD, BatchState.APPLIED)
"""What a batch may be here and have, or come to have, effect; in the order in which it is shown."""


@dataclass(frozen=True)
class Signed(AsDict):
    """One batch that a key had signed. ``digest`` is the SHA-256 of its manifest's line 1."""

    batch: str
    state: BatchState
    digest: str | None
    records: int
    updated_at: Any


@dataclass(frozen=True)
class UntrustedKey:
    """A key that is trusted no longer: how many batches of it count, and some of them.

    ``still`` names the same key where it is trusted under other names. Of applied control batches none is named.
    """

    name: str
    fingerprint: str | None
    counts: Mapping[BatchState, int]
    batches: tuple[Signed, ...]
    still: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            **{state.value: self.counts.get(state, 0) for state in COUNTING},
            "batches": [one.as_dict() for one in self.batches],
            "still": list(self.still),
        }


def untrust_key(site: Site, folder: Path, name: str, limit: int = 50) -> UntrustedKey:
    """Trust a key of ``folder`` no longer. Raises KeyFault if it is not trusted, TransientError."""
    fingerprint = keys.untrust(folder, name)
    with transient_errors(), reading(site.engine) as connection:
        counts, batches = _count(connection, name), _some(connection, name, limit)
    if fingerprint is None:
        return UntrustedKey(name, None, counts, batches, ())
    same = [one.name for one in keys.listed(folder) if one.trusted and one.fingerprint == fingerprint]
    return UntrustedKey(name, fingerprint, counts, batches, tuple(same))


def _of(name: str) -> list[sa.ColumnElement[bool]]:
    return [batch.c.direction == Direction.IN, batch.c.state.in_(COUNTING), ledger.signed_by(name)]


def _count(connection: Connection, name: str) -> dict[BatchState, int]:
    rows = connection.execute(sa.select(batch.c.state, sa.func.count()).where(*_of(name)).group_by(batch.c.state))
    return {BatchState(state): number for state, number in rows}


def _some(connection: Connection, name: str, limit: int) -> tuple[Signed, ...]:
    order = sa.case({state.value: place for place, state in enumerate(COUNTING)}, value=batch.c.state)
    quiet = sa.and_(batch.c.channel == CONTROL, batch.c.state == BatchState.APPLIED)
    rows = connection.execute(
        sa.select(batch.c.stem, batch.c.state, batch.c.digest, batch.c.records, batch.c.updated_at)
        .where(*_of(name), sa.not_(quiet))
        .order_by(order, batch.c.id.desc())
        .limit(limit)
    )
    return tuple(Signed(row.stem, BatchState(row.state), row.digest, row.records, row.updated_at) for row in rows)
