"""Discarding: dead letters given up with a reason, and taken back; those that are named, or a selection's."""

from __future__ import annotations

from collections.abc import Sequence

from exchange import dead_letters
from exchange.database import world_errors, writing
from exchange.dead_letters import selecting
from exchange.format.errors import WorldError
from exchange.models import DeadLetterState
from exchange.site import Site


def discard(
    site: Site, reason: str, *, ids: Sequence[int] = (), selection: str | None = None, skip_changed: bool = False
) -> int:
    """Give parked letters up, all of them or none; give how many.

    Raises WorldError, with nothing changed, if one of them isn't parked, or a selection changed since it was made.
    """
    with world_errors(), writing(site.engine) as connection:
        if selection is not None:
            if not skip_changed:
                selecting.check_unchanged(connection, selection)
            selecting.find_selection(connection, selection)
            ids = selecting.parked_in(connection, selection)
            selecting.mark(connection, selection, ids, DeadLetterState.DISCARDED)
        refusal = dead_letters.discard(connection, ids, reason)
        if refusal:
            raise WorldError(refusal)
    return len(ids)


def restore(site: Site, reason: str, *, ids: Sequence[int] = (), selection: str | None = None) -> int:
    """Take back letters that were discarded, all of them or none; give how many.

    Raises WorldError, with nothing changed, if one that is named isn't discarded.
    """
    with world_errors(), writing(site.engine) as connection:
        if selection is not None:
            selecting.find_selection(connection, selection)
            ids = selecting.discarded_in(connection, selection)
            selecting.mark(connection, selection, ids, None)
        refusal = dead_letters.restore(connection, ids, reason)
        if refusal:
            raise WorldError(refusal)
    return len(ids)
