"""Batches that can't be sent, or sent again, as their bytes are gone: a snapshot goes in their place."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.ledger import Entry
from exchange.database.tables import BatchState
from exchange.format.control import SNAPSHOT
from exchange.format.errors import Reason, RecordError
from exchange.format.names import CONTROL
from exchange.link import send_requests

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
