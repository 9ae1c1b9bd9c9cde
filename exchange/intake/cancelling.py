"""A person's word that a file is not loaded any further."""

from __future__ import annotations

import sqlalchemy as sa

from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import writing
from exchange.database.tables import IntakeState, intake
from exchange.database.whoami import person
from exchange.format.errors import TransientError
from exchange.intake import standing
from exchange.intake.standing import OPEN, DroppedFile
from exchange.site import Site


def cancel(site: Site, number: int, reason: str) -> DroppedFile:
    """Give a file up: the segment at hand is undone, and no other one begun; what was loaded before it stays.

    Commits one transaction. Raises TransientError, with nothing changed, if it is not to be loaded any more; and Busy.
    """
    with transient_errors(), writing(site.engine) as connection:
        ending = sa.update(intake).where(intake.c.id == number, intake.c.state.in_(OPEN))
        message = f"cancelled by {person()[:255]}: {reason}"
        values = {"state": IntakeState.CANCELLED, "message": message, "updated_at": now(), "next_try_at": None}
        done = connection.execute(ending.values(values)).rowcount
        found = standing.find_file(connection, number).file
    if not done:
        raise TransientError(f"file {number} is {found.state}; nothing was changed")
    return found
