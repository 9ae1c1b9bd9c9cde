"""What the ledger can prove by itself: no place left out, none applied twice, positions, counts and letters that agree.

Only reads, in short transactions of its own. Each sees one moment: what it finds is so, whoever works meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import folded, tables
from exchange.database.locks import reading
from exchange.database.tables import (
    BatchState,
    Direction,
    batch,
    dead_letter,
    dead_letter_count,
    event,
    gap,
    position,
)
from exchange.format.names import CONTROL
from exchange.operating.check.wrong import AT_ONE_GO, Found, Kind, Pace, Wrong
from exchange.site import Site

ROWS_AT_ONCE = 500
"""So many rows are looked at in one transaction."""

_RESTORE = "rows of the ledger were changed or removed: restore the database, then `exchange epoch new`"

HOLE_OUT = Kind("ledger", "sequences were sealed of which no row speaks", _RESTORE, "exchange epoch new")
HOLE_IN = Kind(
    "ledger",
    "places were passed over that were neither applied nor given up",
    "rows may be missing there: have everything of the channel sent again",
    "exchange reconcile",
)
AHEAD = Kind("ledger", "batches are beyond their channel's position", _RESTORE, "exchange batches")
OTHER_DIGEST = Kind(
    "ledger", "positions do not have the digest of the batch that they are at", _RESTORE, "exchange batches"
)
TWICE = Kind(
    "ledger",
    "batches were applied more than once",
    "compare the rows with their source's, which sends again what differs",
    "exchange reconcile",
)
COUNTS = Kind("ledger", "channels count other records than their batches do", _RESTORE, "exchange status")
OTHER_STATE = Kind(
    "ledger", "batches or letters are in another state than their last event says", _RESTORE, "exchange batches"
)
LETTERS = Kind(
    "letters",
    "causes have another number of dead letters than is counted",
    "`exchange dead-letters` may show wrong numbers; the letters themselves are all there",
    "exchange dead-letters",
)


def check_ledger(site: Site, pace: Pace = AT_ONE_GO) -> Found:
    """Look for what the ledger says of itself that can't be."""
    for look in (_flows, _twice, _counts, _letters):
        with reading(site.engine, one_moment=True) as connection:
            found = [Wrong(kind, site.network, name) for kind, name in look(connection)]
        yield from found
        pace.rest()
    for subject, table in (("batch", batch), ("dead_letter", dead_letter)):
        yield from _states(site, subject, table, pace)


_Said = list[tuple[Kind, str]]


def _flows(connection: Connection) -> _Said:
    """See that each flow's rows lead up to its position, without a hole."""
    found: _Said = []
    for at in connection.execute(sa.select(position).order_by(position.c.channel, position.c.epoch)):
        out = at.direction == Direction.OUT
        here = (batch.c.direction == at.direction, batch.c.channel == at.channel, batch.c.epoch == at.epoch)
        counting = here if out else (*here, batch.c.state == BatchState.APPLIED)
        flow = f"{at.channel}-{at.epoch}"
        furthest = connection.scalar(sa.select(sa.func.max(batch.c.sequence)).where(*counting)) or 0
        if furthest > at.sequence:
            found.append((AHEAD, f"{flow}-{furthest:010d}"))
        if at.digest is not None:
            there = sa.select(batch.c.digest).where(*counting, batch.c.sequence == at.sequence)
            if at.digest not in set(connection.scalars(there)):
                if out and not at.current:
                    continue  # an older copy was restored: of what it forgot the other side told (``remember_sealed``)
                found.append((OTHER_DIGEST, f"{flow}-{at.sequence:010d}"))
        if at.channel == CONTROL and not out:
            continue  # of those the newest says it all
        told = sa.select(batch.c.sequence).where(*counting, batch.c.sequence <= at.sequence)
        # An incoming place that was passed over has its gap; one of an epoch that was only heard of is at 0.
        passed = sa.select(gap.c.sequence).where(
            gap.c.channel == at.channel, gap.c.epoch == at.epoch, gap.c.sequence <= at.sequence, sa.literal(not out)
        )
        places = told.union(passed).subquery()
        have = connection.scalar(sa.select(sa.func.count()).select_from(places)) or 0
        have += folded.of_flow(connection, Direction(at.direction), at.channel, at.epoch).places
        if have != at.sequence:
            found.append((HOLE_OUT if out else HOLE_IN, f"{flow}: {at.sequence - have} of {at.sequence}"))
    return found


def _twice(connection: Connection) -> _Said:
    place = (batch.c.channel, batch.c.epoch, batch.c.sequence)
    applied = (batch.c.direction == Direction.IN, batch.c.state == BatchState.APPLIED)
    places = sa.select(sa.func.min(batch.c.stem)).where(*applied).group_by(*place).having(sa.func.count() > 1)
    again = (
        sa.select(event.c.subject_id)
        .where(event.c.subject == "batch", event.c.to_state == BatchState.APPLIED)
        .where(event.c.from_state.is_distinct_from(BatchState.APPLIED))  # that its bytes were erased changes no state
        .group_by(event.c.subject_id)
        .having(sa.func.count() > 1)
    )
    stems = sa.select(batch.c.stem).where(batch.c.id.in_(again))
    names = [*connection.scalars(places.limit(ROWS_AT_ONCE)), *connection.scalars(stems.limit(ROWS_AT_ONCE))]
    return [(TWICE, name) for name in dict.fromkeys(names)]


_COUNTED = ("applied", "duplicate", "stale", "parked")


def _counts(connection: Connection) -> _Said:
    """See that what each incoming flow counts is the sum over its batches."""
    sums = [sa.func.sum(batch.c[name]) for name in _COUNTED]
    applied = (batch.c.direction == Direction.IN, batch.c.state == BatchState.APPLIED)
    query = sa.select(batch.c.channel, batch.c.epoch, *sums).where(*applied).group_by(batch.c.channel, batch.c.epoch)
    summed = {(channel, epoch): [*map(int, numbers)] for channel, epoch, *numbers in connection.execute(query)}
    old = sa.select(*(tables.folded.c[name] for name in ("channel", "epoch", *_COUNTED)))
    for channel, epoch, *numbers in connection.execute(old.where(tables.folded.c.direction == Direction.IN)):
        known = summed.get((channel, epoch), [0] * len(_COUNTED))
        summed[channel, epoch] = [one + int(more) for one, more in zip(known, numbers, strict=True)]
    counted = sa.select(position.c.channel, position.c.epoch, *(position.c[name] for name in _COUNTED))
    return [
        (COUNTS, f"{channel}-{epoch}")
        for channel, epoch, *numbers in connection.execute(counted.where(position.c.direction == Direction.IN))
        if numbers != summed.get((channel, epoch), [0] * len(_COUNTED))
    ]


def _letters(connection: Connection) -> _Said:
    """See that the counts by cause and state are those of the letters."""
    kind = ("fingerprint", "state")
    told = sa.select(*(dead_letter_count.c[one] for one in kind), sa.func.sum(dead_letter_count.c.letters))
    there = sa.select(*(dead_letter.c[one] for one in kind), sa.func.count())
    counted = _numbers(connection, told.group_by(*(dead_letter_count.c[one] for one in kind)))
    letters = _numbers(connection, there.group_by(*(dead_letter.c[one] for one in kind)))
    differ = sorted(one for one in counted | letters if counted[one] != letters[one])
    return [
        (LETTERS, f"{cause} {state}: {counted[cause, state]} for {letters[cause, state]}") for cause, state in differ
    ]


def _numbers(connection: Connection, query: sa.Select[Any]) -> Counter[tuple[str, str]]:
    """Give the third column of a query by the two before it."""
    return Counter({(row[0], row[1]): int(row[2]) for row in connection.execute(query)})


def _states(site: Site, subject: str, table: sa.Table, pace: Pace) -> Found:
    """See that each row is in the state to which its last event brought it, some rows at a time."""
    name = {"batch": "stem", "dead_letter": "id"}[subject]
    after = 0
    while True:
        with reading(site.engine, one_moment=True) as connection:
            some = sa.select(table.c.id, table.c[name].label("name"), table.c.state).where(table.c.id > after)
            rows = connection.execute(some.order_by(table.c.id).limit(ROWS_AT_ONCE)).all()
            said = _last_events(connection, subject, (rows[0].id, rows[-1].id)) if rows else {}
        for row in rows:
            if said.get(row.id) != row.state:
                yield Wrong(OTHER_STATE, site.network, f"{subject.replace('_', ' ')} {row.name}: {row.state}")
        if len(rows) < ROWS_AT_ONCE:
            return
        after = rows[-1].id
        pace.rest()


def _last_events(connection: Connection, subject: str, ids: tuple[int, int]) -> Mapping[int, str]:
    mine = (event.c.subject == subject, event.c.subject_id.between(*ids))
    last = sa.select(sa.func.max(event.c.id)).where(*mine).group_by(event.c.subject_id)
    rows = connection.execute(sa.select(event.c.subject_id, event.c.to_state).where(event.c.id.in_(last)))
    return {row.subject_id: row.to_state for row in rows}
