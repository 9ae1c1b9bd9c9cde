"""What is left of batches whose rows in the ledger were folded: how many there were, and how far they reached.

A row is folded once its batch is settled and its retention is over. Of a place up to ``through`` that neither a row nor
a gap speaks of any more it is known that it was settled: what claims it again is a duplicate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.database.tables import Direction, folded, gap, is_missing


@dataclass(frozen=True)
class Folded:
    """What was folded of a flow. ``places`` are the sequences, ``batches`` the rows of those that took effect.

    ``refused`` are rows of batches that did not; ``records`` through ``parked`` count what was in ``batches``.
    """

    through: int = 0
    places: int = 0
    batches: int = 0
    refused: int = 0
    records: int = 0
    bytes: int = 0
    applied: int = 0
    duplicate: int = 0
    stale: int = 0
    parked: int = 0


NOTHING = Folded()

_NUMBERS = tuple(one.name for one in fields(Folded) if one.name != "through")


def of_flow(connection: Connection, direction: Direction, channel: str, epoch: str) -> Folded:
    """Give what was folded of one epoch of a channel. Reads in the caller's transaction."""
    flow = {"direction": direction, "channel": channel, "epoch": epoch}
    row = connection.execute(_OF_FLOW, flow).one_or_none()
    return Folded(*map(int, row)) if row else NOTHING


_OF_FLOW = sa.select(*(folded.c[one.name] for one in fields(Folded))).where(
    folded.c.direction == sa.bindparam("direction"),
    folded.c.channel == sa.bindparam("channel"),
    folded.c.epoch == sa.bindparam("epoch"),
)


def was_folded(connection: Connection, direction: Direction, place: tuple[str, str, int]) -> bool:
    """Say whether a place of which no row speaks was settled long ago. ``place`` is channel, epoch and sequence.

    Look for the row first: who folds commits both at once. Reads in the caller's transaction.
    """
    channel, epoch, sequence = place
    if sequence > of_flow(connection, direction, channel, epoch).through:
        return False
    here = (gap.c.channel == channel, gap.c.epoch == epoch, gap.c.sequence == sequence, is_missing(gap))
    return direction is Direction.OUT or not connection.scalar(sa.select(sa.exists().where(*here)))


def add(connection: Connection, direction: Direction, flow: tuple[str, str], more: Folded) -> None:
    """Add to what was folded of a flow. Runs in the transaction that removes the rows."""
    row = {"direction": direction, "channel": flow[0], "epoch": flow[1]}
    inserting = dialect_of(connection).insert(folded)
    further = sa.case((inserting.excluded.through > folded.c.through, inserting.excluded.through))
    values = {name: folded.c[name] + inserting.excluded[name] for name in _NUMBERS}
    adding = inserting.on_conflict_do_update(
        index_elements=list(row), set_={**values, "through": sa.func.coalesce(further, folded.c.through)}
    )
    connection.execute(adding, {**row, **{one.name: getattr(more, one.name) for one in fields(Folded)}})
