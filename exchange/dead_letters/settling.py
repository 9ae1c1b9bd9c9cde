"""Dead letters brought from one state to another."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange import ledger
from exchange.database import now
from exchange.dead_letters.finding import Parked, find
from exchange.format.errors import printable
from exchange.models import DeadLetterState, dead_letter


def settle(
    connection: Connection, letter: Parked, state: DeadLetterState, cause: str, *, message: str | None = None
) -> bool:
    """Bring a parked letter to ``state``; staying parked is a retry that failed. False if somebody was faster."""
    if state not in ledger.DEAD_LETTER_TRANSITIONS.get(letter.state, frozenset()):
        msg = f"dead letter {letter.id} is {letter.state} and can't become {state}"
        raise ValueError(msg)
    retried = state is not DeadLetterState.DISCARDED
    changed = connection.execute(
        sa.update(dead_letter)
        .where(
            dead_letter.c.id == letter.id,
            dead_letter.c.state == letter.state,
            dead_letter.c.attempts == letter.attempts,
        )
        .values(
            state=state,
            updated_at=now(),
            attempts=letter.attempts + retried,
            **({"message": message} if message else {}),
        )
    )
    if changed.rowcount != 1:
        return False
    ledger.note_dead_letters(connection, [letter.id], letter.state, state, cause)
    return True


def discard(connection: Connection, letter_id: int, reason: str) -> str | None:
    """Give a parked letter up for good, with a reason; give a sentence if that can't be."""
    letter = find(connection, letter_id)
    if letter is None:
        return f"there is no dead letter {letter_id}; `exchange dead-letters list` shows those there are"
    if letter.state is not DeadLetterState.PARKED:
        return f"dead letter {letter_id} is {letter.state} already; nothing was changed"
    if not settle(connection, letter, DeadLetterState.DISCARDED, f"discarded: {printable(reason, 1000)}"):
        return f"somebody else settled dead letter {letter_id} at this moment; nothing was changed"
    return None
