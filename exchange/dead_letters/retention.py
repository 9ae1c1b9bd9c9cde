"""Settled dead letters let go of once their retention has ended; parked ones stay until somebody settles them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database import ledger
from exchange.database.locks import reading, writing
from exchange.database.tables import DeadLetterState, UtcDateTime, dead_letter, event, revision, selected, selection
from exchange.dead_letters.order import Cursor

CHUNK = 1_000
"""Letters looked at in one transaction: nobody waits long for its locks."""

_FIRST = Cursor(datetime.min.replace(tzinfo=UTC), 0)

SETTLED = frozenset({DeadLetterState.APPLIED, DeadLetterState.SUPERSEDED, DeadLetterState.DISCARDED})


def count_due(engine: Engine, state: DeadLetterState, before: datetime) -> int:
    """Count the letters that came to ``state`` before a moment."""
    due = (dead_letter.c.state == state, dead_letter.c.created_at < before, dead_letter.c.updated_at < before)
    with reading(engine) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(dead_letter).where(*due)) or 0


def retire(
    engine: Engine,
    state: DeadLetterState,
    before: datetime,
    cause: str,
    most: int,
    note: Callable[[int], None] = lambda _removed: None,
) -> int:
    """Remove letters that came to ``state`` before a moment, oldest first, at most ``most``; give how many went.

    Their revisions go with them; their events stay, one more saying ``cause``. The newest letter of all stays:
    SQLite would give its id to the next one. Commits every ``CHUNK`` letters looked at. Raises ValueError for a state
    that is not settled. ``note`` is told how many went with each commit.
    """
    if state not in SETTLED:
        msg = f"dead letters that are {state} are never removed"
        raise ValueError(msg)
    cursor: Cursor | None = _FIRST
    removed = 0
    while cursor is not None and removed < most:
        with writing(engine) as connection:
            ids, cursor = _due(connection, state, before, cursor)
            gone = _remove(connection, ids[: most - removed], state, before, cause)
        removed += gone
        note(gone)
    return removed


def remove_of_file(connection: Connection, intake: int) -> int:
    """Remove the letters of a file of people as if its rows had never been read; give how many there were.

    Whatever their state, with all that tells of them. Runs in the caller's transaction.
    """
    mine = sa.select(dead_letter.c.id).where(dead_letter.c.intake == intake)
    connection.execute(sa.delete(event).where(event.c.subject == "dead_letter", event.c.subject_id.in_(mine)))
    connection.execute(sa.delete(revision).where(revision.c.letter.in_(mine)))
    connection.execute(sa.delete(selected).where(selected.c.letter.in_(mine)))
    removing = sa.delete(dead_letter).where(dead_letter.c.intake == intake)
    return connection.execute(removing, execution_options={"preserve_rowcount": True}).rowcount


def forget_selections(engine: Engine) -> int:
    """Remove the selections none of whose letters is left, in a transaction of its own; give how many went."""
    left = (
        sa.exists()
        .where(selected.c.selection == selection.c.name, dead_letter.c.id == selected.c.letter)
        .correlate(selection)
    )
    with writing(engine) as connection:
        names = list(connection.scalars(sa.select(selection.c.name).where(~left)))
        connection.execute(sa.delete(selected).where(selected.c.selection.in_(names)))
        connection.execute(sa.delete(selection).where(selection.c.name.in_(names)))
    return len(names)


def _due(
    connection: Connection, state: DeadLetterState, before: datetime, after: Cursor
) -> tuple[list[int], Cursor | None]:
    """Give the ids that are due among the next letters of a state, and where the last one stands; None at the end.

    A letter settled before a moment was parked before it: younger ones are not looked at.
    """
    here = sa.tuple_(dead_letter.c.created_at, dead_letter.c.id)
    rows = connection.execute(
        sa.select(dead_letter.c.created_at, dead_letter.c.id, dead_letter.c.updated_at)
        .where(dead_letter.c.state == state, dead_letter.c.created_at < before)
        .where(here > sa.tuple_(sa.literal(after.created_at, UtcDateTime), sa.literal(after.id, sa.BigInteger)))
        .order_by(dead_letter.c.created_at, dead_letter.c.id)
        .limit(CHUNK)
    ).all()
    ids = [row.id for row in rows if row.updated_at < before]
    return ids, Cursor(*rows[-1][:2]) if len(rows) == CHUNK else None


def _remove(connection: Connection, ids: list[int], state: DeadLetterState, before: datetime, cause: str) -> int:
    newer = dead_letter.alias("newer")
    is_newest = ~sa.exists().where(newer.c.id > dead_letter.c.id)
    # Again, and locked: somebody may have brought one back meanwhile.
    still = (dead_letter.c.state == state, dead_letter.c.updated_at < before, ~is_newest)
    chosen = sa.select(dead_letter.c.id).where(dead_letter.c.id.in_(ids), *still).order_by(dead_letter.c.id)
    going = list(connection.scalars(chosen.with_for_update()))
    if going:
        ledger.note_dead_letters(connection, going, state, state, cause)
        connection.execute(sa.delete(revision).where(revision.c.letter.in_(going)))
        connection.execute(sa.delete(dead_letter).where(dead_letter.c.id.in_(going)))
    return len(going)
