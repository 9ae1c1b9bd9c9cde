"""What a receipt means for the batches that we sent: acknowledged, or rejected and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.tables import BatchState, Direction, batch
from exchange.format import traces
from exchange.format.control import Range, Receipt, RefusedBatch, within
from exchange.format.errors import Reason, printable
from exchange.format.names import CONTROL, BatchName
from exchange.site import Site

_GONE = frozenset({Reason.GIVEN_UP, Reason.LOST})
"""Why a batch will never be there, whatever a later receipt leaves out."""


def apply_receipt(connection: Connection, site: Site, receipt: Receipt) -> list[ledger.Settled]:
    """Bring the batches of the receipt's channel and epoch, which is ours now, to where it says that they stand.

    Once the other side has this epoch, what is left of older ones will never be acknowledged, and is discarded: the
    snapshots of the new one have it all. Gives the batches that it settles. May be repeated. Runs in the
    importer's transaction, under the lock of the channel ``control``; the rows are locked in one order.
    """
    peer, settled = site.peer, list[ledger.Settled]()
    refused = {one.sequence: one for one in receipt.refused}
    lacking = [one for one in receipt.missing if one[0] <= receipt.through]
    there: dict[BatchState, list[int]] = {BatchState.PUBLISHED: [], BatchState.REJECTED: []}
    passed: dict[BatchState, list[int]] = {BatchState.PUBLISHED: [], BatchState.REJECTED: []}
    for row in _unsettled(connection, receipt):
        state = BatchState(row.state)
        if row.reason in _GONE:
            continue
        if row.sequence in refused:
            if _reject(connection, row, f"{peer} refused it: ", refused[row.sequence]):
                reason = _reason(refused[row.sequence].reason)
                settled.append(_settled(site, receipt, row, BatchState.REJECTED, reason))
        elif within(row.sequence, receipt.given_up):
            passed[state].append(row.id)
            settled.append(_settled(site, receipt, row, BatchState.REJECTED, Reason.GIVEN_UP))
        elif _has(receipt, refused, lacking, row.sequence):
            there[state].append(row.id)
            settled.append(_settled(site, receipt, row, BatchState.ACKNOWLEDGED))
            site.tally.took("acknowledge", Direction.OUT, receipt.channel, (now() - row.created_at).total_seconds())
    for before, ids in there.items():
        change = (before, BatchState.ACKNOWLEDGED)
        ledger.move_all(connection, Direction.OUT, ids, change, f"{peer} has it: applied through {receipt.through}")
    for before, ids in passed.items():
        change = (before, BatchState.REJECTED)
        why = "it never came there" if before is BatchState.PUBLISHED else "what came in its place has what was in it"
        cause = f"{peer} goes on without it: {why}"
        ledger.move_all(connection, Direction.OUT, ids, change, cause, reason=Reason.GIVEN_UP)
    if receipt.through:
        _discard_left(connection, peer, receipt)
    return settled


def _settled(site: Site, receipt: Receipt, row: Any, state: BatchState, reason: Reason | None = None) -> ledger.Settled:
    name = str(BatchName(receipt.channel, receipt.epoch, row.sequence))
    trace = traces.trace_id(row.trace, site.network, name)
    return ledger.Settled(name, receipt.channel, receipt.epoch, row.sequence, state, trace, reason)


def acknowledge_control(connection: Connection, peer: str, epoch: str, sequence: int) -> None:
    """Note that a control batch was heard: those before it have nothing to say any more.

    Runs in the importer's transaction, under the lock of the channel ``control``.
    """
    ids = list(connection.scalars(_HEARD, {"epoch": epoch, "sequence": sequence}))
    cause = f"{peer} has heard this one or a newer one"
    ledger.move_all(connection, Direction.OUT, ids, (BatchState.PUBLISHED, BatchState.ACKNOWLEDGED), cause)


def _has(receipt: Receipt, refused: Mapping[int, RefusedBatch], lacking: Iterable[Range], sequence: int) -> bool:
    """Whether the receipt says that a batch took effect; ``lacking`` is what it misses up to ``through``."""
    return (
        sequence <= receipt.through
        and sequence not in refused
        and not within(sequence, lacking)
        and not within(sequence, receipt.given_up)
    )


def _unsettled(connection: Connection, receipt: Receipt) -> Iterable[Any]:
    """Give the published and the rejected batches of which the receipt may say something, locked in one order."""
    furthest = max(
        [receipt.through, *(one.sequence for one in receipt.refused), *(last for _, last in receipt.given_up)]
    )
    of = {"channel": receipt.channel, "epoch": receipt.epoch, "furthest": furthest}
    return connection.execute(_UNSETTLED, of)


_UNSETTLED = (
    sa.select(batch.c.id, batch.c.sequence, batch.c.state, batch.c.reason, batch.c.trace, batch.c.created_at)
    .where(
        batch.c.state.in_([BatchState.PUBLISHED, BatchState.REJECTED]),
        batch.c.direction == Direction.OUT,
        batch.c.channel == sa.bindparam("channel"),
        batch.c.epoch == sa.bindparam("epoch"),
        batch.c.sequence <= sa.bindparam("furthest"),
    )
    .order_by(batch.c.id)
    .with_for_update()
)


_HEARD = (
    sa.select(batch.c.id)
    .where(
        batch.c.state == BatchState.PUBLISHED,
        batch.c.direction == Direction.OUT,
        batch.c.channel == CONTROL,
        batch.c.epoch == sa.bindparam("epoch"),
        batch.c.sequence <= sa.bindparam("sequence"),
    )
    .order_by(batch.c.id)
    .with_for_update()
)


def _reject(connection: Connection, row: Any, opening: str, said: RefusedBatch) -> bool:
    """Write down why a batch was refused, unless that is written down already; say whether it was news."""
    reason = _reason(said.reason)
    news = bool((row.state, row.reason) != (BatchState.REJECTED, reason))
    if news:
        change = (BatchState(row.state), BatchState.REJECTED)
        cause = f"{opening}{printable(said.message, 500)}"
        ledger.move_all(connection, Direction.OUT, [row.id], change, cause, reason=reason)
    return news


def _reason(said: str) -> Reason:
    """Take the other side's reason if we know it: a later version may have others."""
    return Reason(said) if said in set(Reason) else Reason.REJECTED


def _discard_left(connection: Connection, peer: str, receipt: Receipt) -> None:
    left = connection.scalars(_LEFT, {"channel": receipt.channel, "epoch": receipt.epoch}).all()
    cause = f"{peer} has adopted epoch {receipt.epoch}: its snapshots have what is in this one"
    change = (BatchState.PUBLISHED, BatchState.DISCARDED)
    ledger.move_all(connection, Direction.OUT, left, change, cause)


_LEFT = (
    sa.select(batch.c.id)
    .where(
        batch.c.state == BatchState.PUBLISHED,
        batch.c.direction == Direction.OUT,
        batch.c.channel == sa.bindparam("channel"),
        batch.c.epoch != sa.bindparam("epoch"),
    )
    .order_by(batch.c.id)
    .with_for_update()
)
