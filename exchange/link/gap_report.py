"""What is missing, as people see it: ranges with their age, why they were refused, a code to ask for them by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import among, now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.page_count import Count, counted
from exchange.database.tables import BatchState, Direction, GapState, batch, gap, is_missing
from exchange.format import resend_codes
from exchange.format.as_dict import AsDict
from exchange.format.control import Range, ranges, within
from exchange.format.errors import Reason
from exchange.link.gaps import Flow, lost_places
from exchange.site import Site

AT_A_TIME, MOST_ROWS = 1_000, 5_000
"""So many sequences are read at a time, and for one look at most."""

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
class Gaps(AsDict):
    """The gaps of one look; ``codes`` by channel and epoch, where nothing else can go back.

    ``after`` is where the next look goes on, None if this is the last; ``count`` is of missing sequences, not of gaps.
    """

    found: tuple[Gap, ...]
    after: str | None
    count: Count
    codes: dict[tuple[str, str], str]

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        codes = [{"channel": channel, "epoch": epoch, "code": code} for (channel, epoch), code in self.codes.items()]
        gaps = [one.as_dict() | {"code": self.codes.get((one.channel, one.epoch))} for one in self.found]
        return {"gaps": gaps, "after": self.after, "count": self.count.as_dict(), "codes": codes}


class _Place(NamedTuple):
    channel: str
    epoch: str
    sequence: int

    def __str__(self) -> str:
        """Give it as a page's end is named."""
        return f"{self.channel}-{self.epoch}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> _Place:
        """Read it. Raises ValueError."""
        channel, epoch, sequence = text.split("-")
        return cls(channel, epoch, int(sequence))


def list_gaps(site: Site, *, channel: str | None, state: GapState, limit: int, after: str | None = None) -> Gaps:
    """Give the gaps in a state, of one channel or of all, by channel and sequence, those behind ``after``.

    Only reads, in a transaction of its own. Raises TransientError, and ValueError for what is no end of a page.
    """
    channels = None if channel is None else site.names_in_files(channel)
    place = None if after is None else _Place.parse(after)
    query = _in_state(state, channels)
    with transient_errors(), reading(site.engine) as connection:
        found, last = _first(connection, state, query, place, limit)
        count = counted(connection, query)
        asked: dict[tuple[str, str], str] = {}
        if site.one_way and state is GapState.MISSING:  # a code is of all that is missing, not of a page
            every, _ = _first(connection, state, query, None, MOST_ROWS)
            asked = {flow: resend_codes.encode(*flow, ranges) for flow, ranges in _to_ask_for(every)}
    return Gaps(tuple(found), str(last) if last else None, count, asked)


_ORDER = (gap.c.channel, gap.c.epoch, gap.c.sequence)


def _in_state(state: GapState, channels: Collection[str] | None) -> sa.Select[Any]:
    query = sa.select(gap).where(is_missing(gap) if state is GapState.MISSING else gap.c.state == state)
    return (query if channels is None else query.where(gap.c.channel.in_(channels))).order_by(*_ORDER)


def _first(
    connection: Connection, state: GapState, query: sa.Select[Any], place: _Place | None, limit: int
) -> tuple[list[Gap], _Place | None]:
    """Give the first gaps behind a place, and where the last of them ends if there may be more."""
    lost = lost_places(connection) if state is GapState.MISSING else {}
    found: list[Gap] = []
    looked, number = 0, 2 * limit
    while True:
        behind = [] if place is None else [sa.tuple_(*_ORDER) > sa.tuple_(*place)]
        number = min(number * 2, AT_A_TIME)  # of ranges many lie in one gap, of others each is one
        rows = connection.execute(query.where(*behind).limit(number)).all()
        found = list(_grouped([*found, *_described(connection, state, rows, lost)]))
        looked += len(rows)
        if len(found) > limit:
            last = found[limit - 1]
            return found[:limit], _Place(last.channel, last.epoch, last.last)
        if len(rows) < number:
            return found, None
        place = _Place(rows[-1].channel, rows[-1].epoch, rows[-1].sequence)
        if looked >= MOST_ROWS:
            return found, place


def _described(
    connection: Connection, state: GapState, rows: Sequence[Any], lost: Mapping[Flow, tuple[Range, ...]]
) -> Iterator[Gap]:
    refused = {}
    if rows and state is GapState.MISSING:
        refused = _refused(connection, {row.channel for row in rows}, {row.sequence for row in rows})
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
            why,
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
        same = group is not None and replace(row, first=group.first, last=group.last) == group
        if group is not None and same and row.first == group.last + 1:
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
