"""Accepting a gap: a person's word that a channel goes on without a batch that never came.

Its sender is told with the next receipt, and asked for a snapshot, which has what was in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import locked, whoami, world_errors
from exchange.database.tables import Direction, gap
from exchange.format.control import SNAPSHOT, ranges, shown
from exchange.format.errors import WorldError
from exchange.link import asked_requests, gaps
from exchange.link.gaps import MISSING, Flow
from exchange.site import Site


@dataclass(frozen=True)
class Accepted:
    """The sequences that a channel goes on without, and the name of the request for a snapshot, if one was made."""

    channel: str
    epoch: str
    sequences: tuple[int, ...]
    request: str | None
    message: str

    @property
    def shown(self) -> str:
        """The sequences as people write them."""
        return shown(ranges(self.sequences))

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {**self.__dict__, "sequences": list(self.sequences)}


def run(site: Site, channel: str, first: int, last: int, reason: str, *, snapshot: bool = True) -> Accepted:
    """Go on without what a channel misses from ``first`` through ``last``, and ask for a snapshot of it if told to.

    ``channel`` is as its files call it. On a one-way link nothing can be asked. Raises Busy, and WorldError if nothing
    is missing there.
    """
    with world_errors(), locked(site.engine, f"import {channel}") as connection:
        epoch = _epoch(connection, channel, first, last)
        if epoch is None:
            raise WorldError(_nothing_missing(connection, channel, first, last))
        accepted = gaps.accept(connection, Flow(channel, epoch), first, last, reason)
        request = None
        if snapshot and not site.one_way:
            why = f"batch {shown(ranges(accepted))} was given up: {reason}"
            request = asked_requests.request(
                connection, channel=channel, want=SNAPSHOT, prune=True, reason=why, who=whoami()[:255]
            )
    return Accepted(channel, epoch, tuple(accepted), request, _said(site, channel, request, snapshot=snapshot))


def _epoch(connection: Connection, channel: str, first: int, last: int) -> str | None:
    """Find the epoch in which something is missing there: the one adopted before one that is still to come.

    Of several to come it is the one that none of the others comes before, as far as anything applied shows.
    """
    found = connection.scalars(
        sa.select(gap.c.epoch)
        .where(MISSING, gap.c.channel == channel, gap.c.sequence.between(first, last))
        .group_by(gap.c.epoch)
        .order_by(gap.c.epoch)
    ).all()
    at = ledger.current_position(connection, Direction.IN, channel)
    if at is not None and at.epoch in found:
        return at.epoch
    return min(found, key=lambda one: bool(ledger.still_before(connection, channel, one)), default=None)


def _nothing_missing(connection: Connection, channel: str, first: int, last: int) -> str:
    what = shown([(first, last)])
    at = ledger.current_position(connection, Direction.IN, channel)
    known = at and ledger.at_place(connection, Direction.IN, channel, at.epoch, first)
    found = f"batch {known.stem} is {known.state}; " if known else ""
    return f"channel {channel} does not miss {what}; {found}nothing was done; `exchange gaps` lists what it misses"


def _said(site: Site, channel: str, request: str | None, *, snapshot: bool) -> str:
    if request is not None:
        return "its sender is told so and asked for a snapshot with the next receipt"
    if not site.one_way:
        return "its sender is told so with the next receipt; no snapshot is asked for"
    remedy = f": have `exchange resync {channel} --prune-missing` run on {site.peer}" if snapshot else ""
    return f"nothing goes back on a one-way link{remedy}"
