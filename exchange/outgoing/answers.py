"""Answers to what the other side refused, and to what was lost: a snapshot of the channel, which contains it.

What is owed is read off the ledger, so that no refusal and no loss is forgotten: a batch that the other side refused
for its records, or that can't be sent any more, is answered by a snapshot of the whole channel, for that contains it.
What waits for a person over there is not answered, nor is a snapshot that a person rejected; and refusals are answered
a few times a day at most.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import clock, network
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import BatchState, Direction, ResyncState, batch, resync
from exchange.format.control import SNAPSHOT, shown
from exchange.format.errors import Problem, Reason, RecordError
from exchange.format.names import CONTROL
from exchange.link import send_requests
from exchange.link.send_requests import is_whole_snapshot
from exchange.outgoing.lost import missed_and_folded
from exchange.site import Site

MOST_ANSWERS = 3
"""So many refusals of a channel are answered in ``DAY``."""

DAY = timedelta(days=1)

WHO = "refusal"
"""Who asks for a snapshot that answers a refusal, as its request says."""

FOR_RECORDS = (Reason.REJECTED, Reason.CRASHED, Reason.LIMITS, Reason.MALFORMED)
"""Why batches are refused of which a snapshot may have what is good, in parts that are small enough and made anew."""


@dataclass(frozen=True)
class Refused:
    """The batches of a channel that the other side refused for one reason; the first one by its name.

    ``coming`` says that a snapshot which contains all of them was asked for or sent.
    """

    channel: str
    batches: int
    first: str
    reason: str
    since: datetime
    coming: bool


def refused_batches(site: Site, connection: Connection) -> list[Refused]:
    """Give, by channel, what of the present epoch was refused and is not passed over.

    Only reads, in the caller's transaction.
    """
    epoch = network.known_epoch(connection, site.network)
    which = (batch.c.channel, batch.c.reason)
    rows = connection.execute(
        sa.select(
            *which,
            sa.func.count().label("batches"),
            sa.func.min(batch.c.stem).label("first"),
            sa.func.min(batch.c.updated_at, type_=batch.c.updated_at.type).label("since"),
            sa.func.min(sa.case((_is_contained, 1), else_=0)).label("coming"),
        )
        .where(*_REFUSED, batch.c.reason.is_distinct_from(Reason.LOST))
        .group_by(*which)
        .order_by(*which),
        {"epoch": epoch or ""},
    )
    return [Refused(row.channel, row.batches, row.first, row.reason, row.since, bool(row.coming)) for row in rows]


_REFUSED = (
    batch.c.state == BatchState.REJECTED,
    batch.c.direction == Direction.OUT,
    batch.c.channel != CONTROL,
    batch.c.epoch == sa.bindparam("epoch"),
    batch.c.reason.is_distinct_from(Reason.GIVEN_UP),
)


_begun = sa.or_(
    sa.and_(resync.c.epoch == batch.c.epoch, resync.c.contains_through >= batch.c.sequence),
    sa.and_(resync.c.epoch.is_(None), resync.c.created_at >= batch.c.updated_at),  # by an earlier version
)
_is_contained = sa.exists().where(
    resync.c.channel == batch.c.channel,
    is_whole_snapshot,
    resync.c.prune == 1,
    sa.or_(
        resync.c.state == ResyncState.ASKED,
        sa.and_(resync.c.state.in_([ResyncState.RUNNING, ResyncState.DONE]), _begun),
    ),
)
"""Whether a snapshot of the whole channel was asked for, or begun, that contains a batch."""

_is_answered = sa.or_(
    batch.c.reason.in_([Reason.LOST, *FOR_RECORDS]),
    sa.and_(batch.c.reason == Reason.BY_HAND, ~batch.c.manifest.contains('"kind":"snapshot"')),
)
"""Whether a refused batch is one that a snapshot is sent for."""

_OWED = (
    sa.select(batch.c.channel, batch.c.stem, batch.c.reason)
    .where(*_REFUSED, _is_answered, ~_is_contained)
    .order_by(batch.c.channel, batch.c.id)
)


def ask_for_answers(site: Site) -> None:
    """Have a snapshot sent of each channel that owes one. May be repeated.

    A channel that has too many requests open already is left to a later run. Raises TransientError. Commits all of them
    in one transaction.
    """
    with transient_errors(), reading(site.engine) as connection:
        owed = _owed(site, connection)
    if owed:
        with transient_errors(), suppress(Busy), writing(site.engine) as connection:
            for name, (who, reason) in owed.items():
                with suppress(RecordError):  # as many as may be open at once: it is found again when they are done
                    send_requests.add_request(
                        connection, channel=name, want=SNAPSHOT, prune=True, reason=reason, who=who
                    )


def _owed(site: Site, connection: Connection) -> dict[str, tuple[str | None, str]]:
    """Give the channels that owe a snapshot, who asks for it and why."""
    epoch = network.known_epoch(connection, site.network)
    rows = connection.execute(_OWED, {"epoch": epoch or ""}).all()
    channels = {one.name: one for one in site.outgoing()} if rows else {}
    owed: dict[str, tuple[str | None, str]] = {}
    for row in rows:
        channel = channels.get(row.channel)
        if channel is None:
            continue
        if row.reason == Reason.LOST:
            owed[row.channel] = (None, f"{row.stem} can't be sent any more")
        elif channel.on_refused == "snapshot" and not _is_used_up(connection, row.channel):
            owed.setdefault(row.channel, (WHO, f"{site.peer} refused {row.stem} ({row.reason})"))
    declared = {one.name for one in site.outgoing()}
    for name, places in missed_and_folded(connection, epoch or "").items():
        if name in declared and not _is_sent_anew(connection, name, epoch or "", places[-1][1]):
            owed[name] = (None, f"{site.peer} misses {shown(places)}, settled so long ago that it is no longer kept")
    return owed


def _is_sent_anew(connection: Connection, channel: str, epoch: str, sequence: int) -> bool:
    """Say whether a snapshot of the whole channel was asked for, or begun, that contains a place."""
    begun = (resync.c.state.in_([ResyncState.RUNNING, ResyncState.DONE]), resync.c.epoch == epoch)
    contains = sa.or_(resync.c.state == ResyncState.ASKED, sa.and_(*begun, resync.c.contains_through >= sequence))
    whole = (resync.c.channel == channel, is_whole_snapshot, resync.c.prune == 1)
    return bool(connection.scalar(sa.select(sa.exists().where(*whole, contains))))


def _is_used_up(connection: Connection, channel: str) -> bool:
    """Say whether as many refusals of a channel were answered lately as may be."""
    newest = (
        sa.select(resync.c.created_at)
        .where(resync.c.channel == channel, resync.c.who == WHO, resync.c.want == SNAPSHOT)
        .order_by(resync.c.id.desc())
        .limit(MOST_ANSWERS)
    )
    moments = list(connection.scalars(newest))
    return len(moments) == MOST_ANSWERS and clock.since(moments[-1]) < DAY


def refusals(site: Site, connection: Connection, moment: datetime) -> list[tuple[bool, Problem]]:
    """Say which channels the other side refused batches of, and what comes next; each with whether it needs a person.

    Of a channel that is declared no more nothing is to be done here. Only reads, in the caller's transaction.
    """
    channels = {one.name: one for one in site.outgoing()}
    return [
        _told(site, connection, channels.get(one.channel), one, moment)
        for one in refused_batches(site, connection)
        if site.channel(one.channel) is not None
    ]


_SMALLER = (
    "raise EXCHANGE_MAX_RECORDS or EXCHANGE_MAX_CONTENT_BYTES there, or lower EXCHANGE_BATCH_RECORDS or"
    " EXCHANGE_BATCH_BYTES here"
)


def _told(
    site: Site, connection: Connection, channel: Channel | None, one: Refused, moment: datetime
) -> tuple[bool, Problem]:
    some = f"batch {one.first}" if one.batches == 1 else f"{one.batches} batches, the first {one.first}"
    said = f"channel {one.channel} stands still: {site.peer} refused {some} ({one.reason})"
    answered = one.reason in {*FOR_RECORDS, Reason.BY_HAND} and channel is not None
    command = f"exchange resync {channel.declared if channel else one.channel} --prune-missing"
    if one.coming and moment - one.since < DAY:
        return False, Problem(said, "a snapshot that contains it is on its way", "exchange resync", one.since)
    if not answered:
        remedy = f"it waits for a person: see `exchange batches` on {site.peer}"
        return True, Problem(said, remedy, "exchange batches --state rejected", one.since)
    if channel is not None and channel.on_refused == "snapshot" and not one.coming:
        if not _is_used_up(connection, one.channel) and one.reason in FOR_RECORDS:
            return False, Problem(said, "the next export sends a snapshot in its place", "exchange export", one.since)
        mend = _SMALLER if one.reason == Reason.LIMITS else "mend the rows"
        remedy = (
            f"{MOST_ANSWERS} snapshots a day are sent in place of what is refused, or a person there rejected the"
            f" snapshot: see why there, {mend}, then `{command}`"
        )
        return True, Problem(said, remedy, command, one.since)
    return True, Problem(said, f"see why there, mend the rows, then `{command}`", command, one.since)
