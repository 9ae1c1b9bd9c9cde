"""What happens on this side, newest first: changes of state of batches and letters, acts of people, and alarms.

Only the newest of each are looked at, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import BatchState, DeadLetterState, alarm, audit, batch, dead_letter, event
from exchange.format.as_dict import AsDict
from exchange.operating.doctor.finding import Level
from exchange.site import Site

MOST = 500
"""So many of the newest events, and of the newest acts, are looked at."""

KINDS = ("batch", "dead letter", "act", "alarm")

_LEVELS = {
    BatchState.QUARANTINED: Level.FAULT,
    BatchState.REJECTED: Level.FAULT,
    BatchState.HELD: Level.WARNING,
    BatchState.WAITING: Level.WARNING,
    DeadLetterState.PARKED: Level.WARNING,
}


@dataclass(frozen=True)
class Happening(AsDict):
    """One thing that happened: of which ``kind``, to what, and how bad that is.

    ``number`` grows within a kind's ``source``, though one may be seen after a greater one.
    """

    source: str
    number: int
    at: datetime
    kind: str
    level: Level
    channel: str
    subject: str
    words: str
    who: str


def read_happenings(site: Site, most: int = MOST) -> list[Happening]:
    """Give the newest of all kinds, newest first; changes nothing. Raises TransientError if the database fails."""
    with transient_errors(), reading(site.engine) as connection:
        found = [*_events(connection, most), *_acts(connection, most), *_alarms(connection)]
    return sorted(found, key=lambda one: (one.at, one.source, one.number), reverse=True)


def _events(connection: Connection, most: int) -> Iterator[Happening]:
    newest = sa.select(event).order_by(event.c.id.desc()).limit(most).subquery()
    of_batch = sa.and_(newest.c.subject == "batch", batch.c.id == newest.c.subject_id)
    of_letter = sa.and_(newest.c.subject == "dead_letter", dead_letter.c.id == newest.c.subject_id)
    channel = sa.func.coalesce(batch.c.channel, dead_letter.c.channel).label("channel")
    query = sa.select(newest, channel, batch.c.stem).select_from(
        newest.outerjoin(batch, of_batch).outerjoin(dead_letter, of_letter)
    )
    for row in connection.execute(query):
        is_batch = row.subject == "batch"
        moved = f"{row.from_state} to {row.to_state}" if row.from_state else row.to_state
        yield Happening(
            source="event",
            number=row.id,
            at=row.at,
            kind="batch" if is_batch else "dead letter",
            level=_LEVELS.get(row.to_state, Level.OK),
            channel=row.channel or "",
            subject=(row.stem or str(row.subject_id)) if is_batch else str(row.subject_id),
            words=f"{moved}: {row.cause}" if row.cause and row.cause != row.to_state else moved,
            who=row.who,
        )


def _acts(connection: Connection, most: int) -> Iterator[Happening]:
    query = sa.select(audit.c.id, audit.c.at, audit.c.action, audit.c.who, audit.c.why, audit.c.concludes)
    for row in connection.execute(query.order_by(audit.c.id.desc()).limit(most)):
        if row.concludes is None:
            words = f"{row.action}: {row.why}" if row.why else row.action
            yield Happening("act", row.id, row.at, "act", Level.OK, "", str(row.id), words, row.who)


def _alarms(connection: Connection) -> Iterator[Happening]:
    for row in connection.execute(sa.select(alarm)):
        subject = f"{row.alarm} {row.subject}".strip()
        ends = ((row.first_at, Level(row.level), row.message), (row.gone_at, Level.OK, f"it is over: {row.message}"))
        for at, level, words in ends:
            if at is not None:
                yield Happening("alarm", int(at.timestamp() * 1000), at, "alarm", level, "", subject, words, "watcher")
