"""What is missing, as people see it: ranges with their age, why they were refused, a code to ask for them by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import among, now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction, GapState, batch, gap, is_missing
from exchange.format import resend_codes
from exchange.format.as_dict import AsDict
from exchange.format.control import Range, ranges, within
from exchange.format.errors import Reason
from exchange.link.gaps import Flow, lost_places
from exchange.site import Site

MOST_ROWS = 100_000
"""So many sequences are looked at, at most."""

COMES_BY_ITSELF = frozenset({Reason.CORRUPT, Reason.INCOMPLETE})
"""Why a batch was refused that may come again whole, and so is asked for like one that never came."""


@dataclass(frozen=True)
class Gap(AsDict):
    """Neighbouring sequences of which the same is known.

    ``refused`` is why a batch that came there was not taken; ``lost`` of one that its sender can't send again.
    """

    channel: str
    epoch: str
    first: int
    last: int
    state: GapState
    noticed_at: datetime
    closed_at: datetime | None
    cause: str | None
    who: str | None
    refused: str | None = None

    @property
    def age(self) -> timedelta:
        """How long it has been missing, or was, in whole seconds."""
        return timedelta(seconds=int(((self.closed_at or now()) - self.noticed_at).total_seconds()))

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return super().as_dict() | {"age_seconds": self.age.total_seconds()}


@dataclass(frozen=True)
class Gaps:
    """The gaps of one look; ``codes`` by channel and epoch, where nothing else can go back."""

    found: tuple[Gap, ...]
    total: int
    codes: dict[tuple[str, str], str]


def list_gaps(site: Site, *, channel: str | None, state: GapState, limit: int) -> Gaps:
    """Give the gaps in a state, of one channel or of all, by channel and sequence. Raises TransientError.

    Only reads, in a transaction of its own.
    """
    channels = None if channel is None else site.names_in_files(channel)
    with transient_errors(), reading(site.engine) as connection:
        found = list(_grouped(_rows(connection, state, channels)))
    asked: dict[tuple[str, str], str] = {}
    if site.one_way and state is GapState.MISSING:
        asked = {flow: resend_codes.encode(*flow, ranges) for flow, ranges in _to_ask_for(found)}
    return Gaps(tuple(found[:limit]), len(found), asked)


def _rows(connection: Connection, state: GapState, channels: Collection[str] | None) -> Iterator[Gap]:
    query = sa.select(gap).where(is_missing(gap) if state is GapState.MISSING else gap.c.state == state)
    if channels is not None:
        query = query.where(gap.c.channel.in_(channels))
    rows = connection.execute(query.order_by(gap.c.channel, gap.c.epoch, gap.c.sequence).limit(MOST_ROWS)).all()
    refused = _refused(connection, {row.channel for row in rows}, {row.sequence for row in rows}) if rows else {}
    lost = lost_places(connection) if state is GapState.MISSING else {}
    for row in rows:
        is_lost = within(row.sequence, lost.get(Flow(row.channel, row.epoch), ()))
        why = Reason.LOST if is_lost else refused.get((row.channel, row.epoch, row.sequence))
        yield Gap(
            row.channel,
            row.epoch,
            row.sequence,
            row.sequence,
            GapState(row.state),
            row.noticed_at,
            row.closed_at,
            row.cause,
            row.who,
            why if state is GapState.MISSING else None,
        )


def _refused(
    connection: Connection, channels: Collection[str], sequences: Collection[int]
) -> dict[tuple[str, str, int], str | None]:
    """Say of places why the batch that came there last was not taken."""
    columns = (batch.c.channel, batch.c.epoch, batch.c.sequence, batch.c.reason)
    rows = connection.execute(
        sa.select(*columns)
        .where(
            batch.c.state.in_([BatchState.QUARANTINED, BatchState.REJECTED]),
            batch.c.direction == Direction.IN,
            batch.c.channel.in_(channels),
            ledger.speaks_for_its_place,
            among(connection, batch.c.sequence, sequences),
        )
        .order_by(batch.c.id)
    )
    return {(row.channel, row.epoch, row.sequence): row.reason for row in rows}


def _grouped(rows: Iterable[Gap]) -> Iterator[Gap]:
    """Join neighbours of which the same is known."""
    group: Gap | None = None
    for row in rows:
        if (
            group is not None
            and replace(row, first=group.first, last=group.last) == group
            and row.first == group.last + 1
        ):
            group = replace(group, last=row.last)
            continue
        if group is not None:
            yield group
        group = row
    if group is not None:
        yield group


def _to_ask_for(found: Iterable[Gap]) -> Iterator[tuple[tuple[str, str], tuple[Range, ...]]]:
    wanted: dict[tuple[str, str], list[int]] = {}
    for one in found:
        if one.refused is None or one.refused in COMES_BY_ITSELF:
            wanted.setdefault((one.channel, one.epoch), []).extend(range(one.first, one.last + 1))
    for flow, sequences in wanted.items():
        yield flow, ranges(sequences)
