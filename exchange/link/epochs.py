"""Epochs: the lives of this database. A new one begins when an earlier copy of it was restored.

What was sent after the copy was made is known over there and unknown here: numbers would be given twice. In a new epoch
they begin anew, versions go on above all that were ever given, and everything is sent once more.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import EPOCH_LOCK, export_lock, join, locked
from exchange.database.network import known_epoch, open_network, remember_epoch
from exchange.database.tables import BatchState, Direction, epoch, network, position
from exchange.database.whoami import whoami
from exchange.format.as_dict import AsDict
from exchange.format.control import SNAPSHOT
from exchange.format.errors import TransientError, printable
from exchange.format.names import CONTROL, EPOCH
from exchange.link import send_requests
from exchange.site import Site
from exchange.tables import capture


@dataclass(frozen=True)
class NewEpoch(AsDict):
    """What a new epoch came to: sealed batches that were given up, and the channels that send everything anew."""

    epoch: str
    before: str | None
    discarded: int
    channels: tuple[str, ...]


@dataclass(frozen=True)
class KnownEpoch(AsDict):
    """One epoch of this network: since when, and for one that was begun by hand by whom and why.

    One that this database had forgotten is known since it was told.
    """

    epoch: str
    current: bool
    since: datetime | None
    who: str | None = None
    reason: str | None = None


def begin_epoch(site: Site, reason: str, continues: str | None = None) -> NewEpoch:
    """Begin a new epoch: exports go on in it, from the first sequence, with a snapshot of every outgoing channel.

    ``continues`` is the epoch of this network that the other side is in, where this database does not know it, as it
    was made anew. What lies in ``sealed/`` tells of epochs that an older copy forgot. Batches that were sealed and not
    published are discarded, for the snapshots hold what they say. Raises Busy, and TransientError if ``continues`` is
    no epoch or the database belongs to another network. Commits all of it in one transaction, under the lock of every
    outgoing channel and of ``control``.
    """
    if continues is not None and not EPOCH.fullmatch(continues):
        msg = (
            f"continues: expected an epoch, 12 of the digits 0 to 9 and a to f, found {printable(continues, 80)!r};"
            f" nothing was done; `exchange epoch list --received` on {site.peer} shows it"
        )
        raise TransientError(msg)
    forgotten = site.spool.sealed_epochs()
    with transient_errors(), locked(site.engine, EPOCH_LOCK) as connection:
        for name in (*(one.name for one in site.outgoing()), CONTROL):
            join(connection, export_lock(name), alone=True)
        before = known_epoch(connection, site.network)
        minted, moment = secrets.token_hex(6), now()
        _remember_first(connection)
        for name in sorted(forgotten):
            remember_epoch(connection, name, "batches of it lie in sealed/", who="")
        if continues is not None:
            remember_epoch(connection, continues, f"read out: {reason}", who=whoami())
        remember_epoch(connection, minted, reason, who=whoami(), at=moment)
        if before is None:
            open_network(connection, site.network)
        connection.execute(sa.update(network).values(epoch=minted, halted_at=None, halted_because=None))
        capture.raise_counter(connection, int(moment.timestamp() * 1_000_000))
        given_up = ledger.in_state(connection, Direction.OUT, [BatchState.SEALED])
        for entry in given_up:
            cause = f"discarded: epoch {minted} was begun before it was published"
            ledger.move(connection, entry, BatchState.DISCARDED, cause)
        channels = tuple(one.name for one in site.outgoing())
        for name in channels:
            send_requests.cancel_requests(connection, name)
            because = f"a new epoch: {printable(reason, 500)}"
            send_requests.add_request(connection, channel=name, want=SNAPSHOT, prune=True, reason=because)
    return NewEpoch(minted, before, len(given_up), channels)


def _remember_first(connection: Connection) -> None:
    """Enter the epoch that began with the database among those that were begun by hand: it is left now."""
    known = connection.execute(sa.select(network.c.epoch, network.c.created_at)).one_or_none()
    if known is not None:
        remember_epoch(connection, known.epoch, "the database was made", who="", at=known.created_at)


def list_epochs(connection: Connection) -> list[KnownEpoch]:
    """Give the epochs that this database knows of itself, the newest first. Only reads, in the caller's transaction."""
    by_hand = {row.epoch: row for row in connection.execute(sa.select(epoch))}
    known = connection.execute(sa.select(network.c.epoch, network.c.created_at)).one_or_none()
    since = connection.execute(
        sa.select(position.c.epoch, sa.func.min(position.c.adopted_at))
        .where(position.c.direction == Direction.OUT)
        .group_by(position.c.epoch)
    )
    moments: dict[str, datetime | None] = {row[0]: row[1] for row in since}
    numbers = {name: row.number for name, row in by_hand.items()}
    moments |= {name: row.at for name, row in by_hand.items()}
    if known is not None:
        moments.setdefault(known.epoch, known.created_at)
    lives = [
        KnownEpoch(
            name,
            known is not None and known.epoch == name,
            moment,
            (by_hand[name].who or None) if name in by_hand else None,
            by_hand[name].reason if name in by_hand else None,
        )
        for name, moment in moments.items()
    ]
    return sorted(lives, key=lambda one: (one.current, numbers.get(one.epoch, 0)), reverse=True)
