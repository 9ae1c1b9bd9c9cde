"""Batches that can't be sent, or sent again, as their bytes are gone: a snapshot goes in their place."""

from __future__ import annotations

from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.ledger import Entry
from exchange.database.tables import BatchState, Direction, batch, folded, receipt
from exchange.format.control import SNAPSHOT, Range, ranges
from exchange.format.errors import Reason, RecordError
from exchange.format.names import CONTROL
from exchange.link import peer_statements, send_requests

IN_ITS_PLACE = "a snapshot of the channel goes in its place"


def lose(connection: Connection, entry: Entry, cause: str) -> None:
    """Write down that a batch can't be sent any more, and have a snapshot sent in its place. May be repeated.

    Of control batches the next one says it all. Runs in the caller's transaction, under the channel's lock.
    """
    if entry.reason == Reason.LOST:
        return
    if entry.channel == CONTROL and entry.state is BatchState.SEALED:
        ledger.move(connection, entry, BatchState.DISCARDED, cause)
        return
    gone = {"pruned_at": now(), "again_at": None}
    ledger.move(connection, entry, BatchState.REJECTED, cause, reason=Reason.LOST, **gone)
    # More requests than may be open at once: ``answers`` finds the loss in the ledger when they are done.
    with suppress(RecordError):
        send_requests.add_request(
            connection, channel=entry.channel, want=SNAPSHOT, prune=True, reason=f"{entry.stem}: {cause}"
        )


def missed_and_folded(connection: Connection, epoch: str) -> dict[str, tuple[Range, ...]]:
    """Give what the other side misses, by channel, and this side settled so long ago that it knows no more of it.

    Its database was restored from a copy older than that. Only reads, in the caller's transaction.
    """
    found: dict[str, tuple[Range, ...]] = {}
    # One question, however many channels there are: of most nothing was folded yet.
    for row in connection.execute(_RECEIPTS_OF_FOLDED, {"epoch": epoch}).all():
        through, said = row.folded, peer_statements.receipt(row.said)
        if said is None:
            continue
        missed = [(first, min(last, through)) for first, last in said.missing if first <= through]
        if row.through < through:
            missed.append((row.through + 1, through))
        if not missed:
            continue
        here = (batch.c.direction == Direction.OUT, batch.c.channel == row.channel, batch.c.epoch == epoch)
        there = set(connection.scalars(sa.select(batch.c.sequence).where(*here, batch.c.sequence <= through)))
        places = {one for first, last in missed for one in range(first, last + 1)} - there
        if places:
            found[row.channel] = ranges(sorted(places), most=len(places))
    return found


_RECEIPTS_OF_FOLDED = (
    sa.select(receipt.c.channel, receipt.c.through, receipt.c.said, folded.c.through.label("folded"))
    .join_from(receipt, folded, sa.and_(folded.c.channel == receipt.c.channel, folded.c.epoch == receipt.c.epoch))
    .where(receipt.c.epoch == sa.bindparam("epoch"), folded.c.direction == Direction.OUT, folded.c.through > 0)
)
