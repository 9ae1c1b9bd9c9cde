"""A person's word that a file is not loaded any further."""

from __future__ import annotations

from exchange.database.errors import transient_errors
from exchange.database.locks import writing
from exchange.database.tables import IntakeState
from exchange.database.whoami import person
from exchange.format.errors import TransientError
from exchange.intake import ledger, standing
from exchange.intake.standing import DroppedFile
from exchange.site import Site


def cancel(site: Site, number: int, reason: str) -> DroppedFile:
    """Give a file up: the segment at hand is undone, and no other one begun; what was loaded before it stays.

    Commits one transaction. Raises TransientError, with nothing changed, if it is not to be loaded any more; and Busy.
    """
    with transient_errors(), writing(site.engine) as connection:
        entry = ledger.find(connection, number)
        if entry is None or entry.state not in ledger.TO_LOAD:
            found = standing.find_file(connection, number).file
            raise TransientError(f"file {number} is {found.state}; nothing was changed")
        message = f"cancelled by {person()[:255]}: {reason}"
        ledger.move(connection, entry, IntakeState.CANCELLED, message, next_try_at=None)
        return standing.find_file(connection, number).file
