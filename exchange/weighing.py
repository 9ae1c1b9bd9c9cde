"""What the other side says that we sent, weighed against our own ledger before it is believed.

It may know more than this database does, if an older copy of it was restored: the manifest that it shows, with our own
signature, proves that. What nothing proves is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange import ledger
from exchange.format.control import Proof
from exchange.format.errors import BatchError, RecordError
from exchange.format.manifest import Manifest, Signature, digest
from exchange.models import Direction, epoch, network, position
from exchange.site import Site


class Weight(Enum):
    """What a claim is worth: it ``AGREES`` with us, or speaks of an epoch that is ``PAST``, or of a lost future."""

    AGREES = "agrees"
    PAST = "past"
    RESTORED = "restored"


@dataclass(frozen=True)
class Claim:
    """That the other side has our batches of a channel up to ``sequence``, whose manifest has ``digest`` if it says so.

    ``pointer`` is where its record says that.
    """

    channel: str
    epoch: str
    sequence: int
    digest: str | None
    proof: Proof | None
    pointer: str


@dataclass(frozen=True)
class _Shown:
    """A manifest that we signed."""

    manifest: Manifest
    digest: str


def weigh(site: Site, connection: Connection, claim: Claim) -> tuple[Weight, str]:
    """Say what a claim is worth, and for ``RESTORED`` in a sentence why.

    Raises RecordError for what contradicts our ledger and is not proven.
    """
    shown = _shown(site, claim)
    ours = ledger.known_epoch(connection, site.network)
    sealed = _sealed(connection, claim)
    if ours is None:
        raise _absurd(claim, f"epoch {claim.epoch}, but nothing was ever sent")
    if claim.epoch != ours:
        if sealed is None and shown is None:
            raise _absurd(claim, f"epoch {claim.epoch}, which this side never had")
        if sealed is None and shown and shown.manifest.created_at > _minted_at(connection):
            return Weight.RESTORED, _restored(site, claim, shown, f"the epoch is {ours} here, begun before that")
        return Weight.PAST, ""
    beyond = f"the last one sealed here is {sealed or 0}"
    if shown and shown.manifest.sequence > (sealed or 0):
        return Weight.RESTORED, _restored(site, claim, shown, beyond)
    if claim.sequence > (sealed or 0):
        raise _absurd(claim, f"sequence {claim.sequence} of epoch {claim.epoch}, but {beyond}")
    if shown and _differs(connection, claim, shown.manifest.sequence, shown.digest):
        return Weight.RESTORED, _restored(site, claim, shown, "at its place another one was sealed here")
    if claim.digest and _differs(connection, claim, claim.sequence, claim.digest):
        raise _absurd(
            claim, f"sequence {claim.sequence} with manifest {claim.digest[:12]}, which is not the one sealed"
        )
    return Weight.AGREES, ""


def _shown(site: Site, claim: Claim) -> _Shown | None:
    """Read the manifest that is shown, if it is of this channel and epoch and signed by one of our own keys."""
    if claim.proof is None:
        return None
    line = claim.proof.manifest.encode()
    try:
        manifest = Manifest.parse(line)
        if claim.proof.signature is not None or site.require_signature:
            signed = claim.proof.signature
            site.own.check(line, Signature.parse(signed.encode()) if signed is not None else None)
    except BatchError:
        return None
    if (manifest.source, manifest.channel, manifest.epoch) != (site.network, claim.channel, claim.epoch):
        return None
    return _Shown(manifest, digest(line))


def _sealed(connection: Connection, claim: Claim) -> int | None:
    """Give the last sequence of the channel's epoch that was sealed here; None if there is none."""
    return connection.scalar(
        sa.select(position.c.sequence).where(
            position.c.direction == Direction.OUT,
            position.c.channel == claim.channel,
            position.c.epoch == claim.epoch,
        )
    )


def _minted_at(connection: Connection) -> datetime:
    """Say when the present epoch began."""
    both = network.outerjoin(epoch, epoch.c.epoch == network.c.epoch)
    row = connection.execute(sa.select(network.c.created_at, epoch.c.at).select_from(both)).one()
    begun: datetime = row.at or row.created_at
    return begun


def _differs(connection: Connection, claim: Claim, sequence: int, found: str) -> bool:
    entry = ledger.at_place(connection, Direction.OUT, claim.channel, claim.epoch, sequence)
    return entry is not None and entry.digest is not None and entry.digest != found


def _absurd(claim: Claim, what: str) -> RecordError:
    sentence = f"channel {claim.channel}: it speaks of {what}, and shows no manifest of ours that proves it"
    return RecordError("absurd", claim.pointer, f"{sentence}; it changes nothing: ask the other side why")


def _restored(site: Site, claim: Claim, shown: _Shown, but: str) -> str:
    at = f"{shown.manifest.sequence} of epoch {shown.manifest.epoch}"
    return (
        f"{site.peer} has batch {at} of channel {claim.channel}, signed by this side on"
        f" {shown.manifest.created_at:%Y-%m-%d %H:%M:%S} UTC, but {but}: this database was restored from an earlier"
        " copy; nothing is exported until `exchange epoch new --reason TEXT` begins a new epoch"
    )
