"""Discarding: dead letters given up with a reason, and taken back; those that are named, or a selection's."""

from __future__ import annotations

from collections.abc import Sequence

from exchange.database.errors import transient_errors
from exchange.database.locks import writing
from exchange.database.tables import DeadLetterState
from exchange.dead_letters import selections, transitions
from exchange.format.errors import TransientError
from exchange.site import Site


def discard_letters(
    site: Site, reason: str, *, ids: Sequence[int] = (), selection: str | None = None, skip_changed: bool = False
) -> int:
    """Give parked letters up, all of them or none; give how many.

    Raises TransientError, with nothing changed, if one of them isn't parked, or a selection changed since it was made.
    """
    with transient_errors(), writing(site.engine) as connection:
        if selection is not None:
            if not skip_changed:
                selections.check_unchanged(connection, selection)
            selections.find_selection(connection, selection)
            ids = selections.parked_in(connection, selection)
            selections.mark(connection, selection, ids, DeadLetterState.DISCARDED)
        refusal = transitions.discard(connection, ids, reason)
        if refusal:
            raise TransientError(refusal)
    return len(ids)


def restore_letters(site: Site, reason: str, *, ids: Sequence[int] = (), selection: str | None = None) -> int:
    """Take back letters that were discarded, all of them or none; give how many.

    Those of a selection are left out whose row has a letter again. Raises TransientError, with nothing changed, if one
    that is named isn't discarded, or its row has another letter that is parked.
    """
    with transient_errors(), writing(site.engine) as connection:
        if selection is not None:
            selections.find_selection(connection, selection)
            ids = transitions.restorable(connection, selections.discarded_in(connection, selection))
            selections.mark(connection, selection, ids, None)
        refusal = transitions.restore(connection, ids, reason)
        if refusal:
            raise TransientError(refusal)
    return len(ids)
