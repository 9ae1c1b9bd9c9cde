"""What is being done about what is missing: asked for by itself since when and how often, or why it is not."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import pauses
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.states import TRANSITIONS
from exchange.database.tables import Direction, RepairState, batch, repair
from exchange.format.as_dict import AsDict
from exchange.format.control import SNAPSHOT
from exchange.format.errors import Reason, printable
from exchange.format.names import CONTROL
from exchange.link.gap_report import COMES_BY_ITSELF, Gap
from exchange.link.gaps import Flow, patience
from exchange.site import Site

MOST_ASKED = 1_000
"""So often it is counted that something was asked for."""

_SENT = [one for one in TRANSITIONS[Direction.OUT] if one is not None]


@dataclass(frozen=True)
class GapAnswer(AsDict):
    """What is done about a gap, in a sentence.

    ``asked`` is how often its sender was asked for it (``MOST_ASKED``: or more), ``due_at`` since when it is, None of
    what nobody asks for. ``snapshot_asked_at`` is since when a snapshot of its channel is asked for.
    """

    message: str
    asked: int = 0
    due_at: datetime | None = None
    last_asked_at: datetime | None = None
    snapshot_asked_at: datetime | None = None


def answers(site: Site, found: Sequence[Gap]) -> tuple[GapAnswer, ...]:
    """Say of gaps of which nothing came yet what is done about each. Only reads. Raises TransientError."""
    if site.one_way:
        said = f"nothing goes back on this link: {site.peer} puts copies out by itself, or what a code names"
        return (GapAnswer(said),) * len(found)
    with transient_errors(), reading(site.engine) as connection:
        look = _Look(
            site,
            {name for way, name in pauses.paused(connection, site.off) if way is Direction.IN},
            _snapshots_asked(connection),
            {flow: patience(connection, flow, site.limits) for flow in {Flow(one.channel, one.epoch) for one in found}},
            _receipts_since(connection, min((one.noticed_at for one in found), default=now())),
        )
    return tuple(map(look.answer, found))


@dataclass(frozen=True)
class _Look:
    """What is known of all gaps: ``receipts`` are when this side last told its peer what it misses, oldest first."""

    site: Site
    paused: Collection[str]
    snapshots: Mapping[str, datetime]
    patience: Mapping[Flow, timedelta]
    receipts: Sequence[datetime]

    def answer(self, one: Gap) -> GapAnswer:
        """Say what is done about one."""
        channel, snapshot = self.site.channel(one.channel), self.snapshots.get(one.channel)
        if channel is not None and channel.declared in self.paused:
            return GapAnswer("the channel is paused, and what is missing is seen to when it goes on")
        if one.refused is not None and one.refused not in COMES_BY_ITSELF:
            return GapAnswer(_refused(self.site, one.refused), snapshot_asked_at=snapshot)
        due_at = one.noticed_at + self.patience[Flow(one.channel, one.epoch)]
        asked = len(self.receipts) - bisect_left(self.receipts, due_at)
        last = self.receipts[-1] if asked else None
        return GapAnswer(_said(self.site, asked, due_at - now()), asked, due_at, last, snapshot)


def _refused(site: Site, reason: str) -> str:
    if reason == Reason.LOST:
        return f"{site.peer} no longer has it, and sends a snapshot in its place"
    return f"it came and was not taken ({printable(reason, 40)}), which {site.peer} is told; the same is not asked for"


def _said(site: Site, asked: int, left: timedelta) -> str:
    if asked:
        more = " or more" if asked == MOST_ASKED else ""
        return f"{site.peer} was asked for it {asked} time{'s' * (asked > 1)}{more}, with each receipt"
    if left > timedelta():
        return f"it may only be late; {site.peer} is asked for it if it does not come"
    return f"{site.peer} is asked for it with the next receipt"


def _receipts_since(connection: Connection, since: datetime) -> list[datetime]:
    """Give when control batches were written, the last of them: each has a receipt that names what is missing then."""
    some = (
        sa.select(batch.c.created_at)
        .where(batch.c.state.in_(_SENT), batch.c.direction == Direction.OUT, batch.c.channel == CONTROL)
        .where(batch.c.created_at >= since)
        .order_by(batch.c.created_at.desc())
        .limit(MOST_ASKED)
    )
    return sorted(connection.scalars(some))


def _snapshots_asked(connection: Connection) -> dict[str, datetime]:
    """Say of which channels a snapshot is asked for, and since when."""
    here = (repair.c.state == RepairState.OPEN, repair.c.want == SNAPSHOT)
    rows = connection.execute(sa.select(repair.c.channel, repair.c.asked_at).where(*here).order_by(repair.c.id.desc()))
    return {row.channel: row.asked_at for row in rows}
