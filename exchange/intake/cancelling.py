"""A person's word that a file is not loaded any further."""

from __future__ import annotations

from contextlib import suppress

from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import IntakeState
from exchange.database.whoami import person
from exchange.format.errors import TransientError
from exchange.intake import ledger, standing
from exchange.intake.standing import DroppedFile
from exchange.intake.undo import undo as take_back
from exchange.reading.read import read
from exchange.site import Site


def cancel(site: Site, number: int, reason: str, *, undo: bool = False) -> DroppedFile:
    """Give a file up: the segment at hand is undone, and no other one begun; what was loaded before it stays.

    With ``undo`` that is deleted again, too: now, or by the worker if a segment is at hand. Commits.
    Raises TransientError, with nothing changed, if it is not to be loaded any more; and Busy.
    """
    with transient_errors(), writing(site.engine) as connection:
        entry = ledger.find(connection, number)
        if entry is None or entry.state not in ledger.TO_LOAD:
            found = standing.find_file(connection, number).file
            raise TransientError(f"file {number} is {found.state}; nothing was changed")
        message = f"cancelled by {person()[:255]}: {reason}"
        if not undo:
            message += f"; {entry.rows_loaded:,} rows that were loaded of it stay" if entry.rows_loaded else ""
        state = IntakeState.CANCELLING if undo else IntakeState.CANCELLED
        ledger.move(connection, entry, state, message, next_try_at=None)
    if undo:
        with suppress(Busy, TransientError):  # the next run takes it back
            take_back(site, number, read)
    with transient_errors(), reading(site.engine) as connection:
        return standing.find_file(connection, number).file
