"""The states of batches and of dead letters, and which may follow which."""

from __future__ import annotations

from collections.abc import Mapping

from exchange.database.tables import BatchState, DeadLetterState, Direction

TRANSITIONS: Mapping[Direction, Mapping[BatchState | None, frozenset[BatchState]]] = {
    Direction.OUT: {
        None: frozenset({BatchState.SEALED}),
        # Rejected: its files are gone, so that it is lost.
        BatchState.SEALED: frozenset({BatchState.PUBLISHED, BatchState.REJECTED, BatchState.DISCARDED}),
        BatchState.PUBLISHED: frozenset(
            {BatchState.PUBLISHED, BatchState.ACKNOWLEDGED, BatchState.REJECTED, BatchState.DISCARDED}
        ),
        # Sent again, or lost: asked for again, and no longer kept.
        BatchState.ACKNOWLEDGED: frozenset({BatchState.PUBLISHED, BatchState.REJECTED}),
        BatchState.REJECTED: frozenset({BatchState.PUBLISHED, BatchState.REJECTED, BatchState.ACKNOWLEDGED}),
    },
    Direction.IN: {
        None: frozenset({BatchState.WAITING, BatchState.HELD, BatchState.APPLIED, BatchState.QUARANTINED}),
        BatchState.WAITING: frozenset(
            {
                BatchState.WAITING,
                BatchState.HELD,
                BatchState.APPLIED,
                BatchState.QUARANTINED,
                BatchState.DISCARDED,
            }
        ),
        BatchState.HELD: frozenset(
            {
                BatchState.WAITING,
                BatchState.HELD,
                BatchState.APPLIED,
                BatchState.QUARANTINED,
                BatchState.REJECTED,
                BatchState.DISCARDED,
            }
        ),
        BatchState.QUARANTINED: frozenset({BatchState.REJECTED, BatchState.DISCARDED}),
    },
}
"""From which state a batch may come to which. A waiting or held one may come to be so for another reason; a
quarantined one stays what it is until a person gives it up: brought back, it is judged anew and gets a row of its
own. What was acknowledged is published again for a receiver that was restored, what was rejected may be let in there
after all, and what is left of an epoch that was left is discarded; so is what waited, and comes to say nothing new."""


WORRYING = (BatchState.WAITING, BatchState.HELD, BatchState.QUARANTINED)
"""Where a control batch is somebody's worry: else newer ones say it all."""


DEAD_LETTER_TRANSITIONS: Mapping[DeadLetterState, frozenset[DeadLetterState]] = {
    DeadLetterState.PARKED: frozenset(
        {
            DeadLetterState.PARKED,
            DeadLetterState.APPLIED,
            DeadLetterState.DISCARDED,
            DeadLetterState.SUPERSEDED,
        }
    ),
    DeadLetterState.DISCARDED: frozenset({DeadLetterState.PARKED}),
}
"""The same for dead letters: a parked one moves, and one that was given up may be taken back. Staying parked is a
retry that failed, or an edit."""
