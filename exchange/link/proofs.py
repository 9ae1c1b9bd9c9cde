"""What the other side says that we sent, checked against our own ledger before it is believed.

It may know more than this database does, if an older copy of it was restored: the manifest that it shows, with our own
signature, proves that. What nothing proves is refused. Which epoch came after which our own manifests say, and never
a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger, network
from exchange.database.tables import Direction, epoch, position
from exchange.format.control import Proof
from exchange.format.errors import BatchError, RecordError
from exchange.format.lineage import left_by
from exchange.format.manifest import Manifest, Signature, digest
from exchange.format.moments import in_words
from exchange.site import Site


class ClaimVerdict(Enum):
    """How a claim stands: it ``AGREES`` with us, or speaks of an epoch that is ``PAST``, or of a lost future.

    ``FORGOTTEN`` is one that is past, and that this database does not know.
    """

    AGREES = "agrees"
    PAST = "past"
    FORGOTTEN = "forgotten"
    RESTORED = "restored"


@dataclass(frozen=True)
class PeerClaim:
    """That the other side has our batches of a channel up to ``sequence``, whose manifest has ``digest`` if it says so.

    ``pointer`` is where its record says that.
    """

    channel: str
    epoch: str
    sequence: int
    digest: str | None
    proof: Proof | None
    pointer: str


class Shown(NamedTuple):
    """A manifest that we signed, and its digest."""

    manifest: Manifest
    digest: str


class CheckedClaim(NamedTuple):
    """How a claim stands, for ``RESTORED`` in a sentence why, and the manifest of ours that came with it."""

    verdict: ClaimVerdict
    why: str = ""
    shown: Shown | None = None


def check_claim(site: Site, connection: Connection, claim: PeerClaim) -> CheckedClaim:
    """Say how a claim stands beside our ledger. Raises RecordError for what contradicts it and is not proven.

    Only reads, in the caller's transaction.
    """
    shown = _shown(site, claim)
    ours = network.known_epoch(connection, site.network)
    sealed = _sealed(connection, claim)
    if ours is None:
        raise _absurd(claim, f"epoch {claim.epoch}, but nothing was ever sent")
    if claim.epoch != ours:
        if sealed is None and shown is None:
            raise _absurd(claim, f"epoch {claim.epoch}, which this side never had")
        if sealed is None and shown:
            return _check_unknown_epoch(site, connection, shown, ours)
        return CheckedClaim(ClaimVerdict.PAST, shown=shown)
    beyond = f"the last one sealed here is {sealed or 0}"
    if shown and shown.manifest.sequence > (sealed or 0):
        return CheckedClaim(ClaimVerdict.RESTORED, _restored(site, shown, beyond), shown)
    if claim.sequence > (sealed or 0):
        raise _absurd(claim, f"sequence {claim.sequence} of epoch {claim.epoch}, but {beyond}")
    if shown and _differs(connection, claim, shown.manifest.sequence, shown.digest):
        return CheckedClaim(
            ClaimVerdict.RESTORED, _restored(site, shown, "at its place another one was sealed here"), shown
        )
    if claim.digest and _differs(connection, claim, claim.sequence, claim.digest):
        raise _absurd(
            claim, f"sequence {claim.sequence} with manifest {claim.digest[:12]}, which is not the one sealed"
        )
    return CheckedClaim(ClaimVerdict.AGREES, shown=shown)


def _check_unknown_epoch(site: Site, connection: Connection, shown: Shown, ours: str) -> CheckedClaim:
    """Check a batch that we signed in an epoch of which this database knows nothing but perhaps its name.

    It was begun after the present one if it says that it left that; else before, by a database of which an older copy
    was restored since. One that knows no epoch but its own was made anew, and has to be told what it goes on with.
    """
    if ours in left_by(shown.manifest):
        because = _restored(site, shown, f"the epoch is {ours} here, begun before that")
        return CheckedClaim(ClaimVerdict.RESTORED, because, shown)
    if site.outgoing() and not _has_earlier_epochs(connection, ours):
        return CheckedClaim(ClaimVerdict.RESTORED, _made_anew(site, shown, ours), shown)
    return CheckedClaim(ClaimVerdict.FORGOTTEN, shown=shown)


def check_proof(site: Site, connection: Connection, proof: Proof) -> CheckedClaim | None:
    """Check a manifest that the other side holds and can't place; None if it is not of ours, or no news.

    Only reads, in the caller's transaction.
    """
    try:
        manifest = Manifest.parse(proof.manifest.encode())
    except BatchError:
        return None
    claim = PeerClaim(manifest.channel, manifest.epoch, manifest.sequence, None, proof, "/data/undecided")
    shown, ours = _shown(site, claim), network.known_epoch(connection, site.network)
    if shown is None or ours is None or ours == manifest.epoch or _sealed(connection, claim) is not None:
        return None
    return _check_unknown_epoch(site, connection, shown, ours)


def _has_earlier_epochs(connection: Connection, ours: str) -> bool:
    """Whether this database knows of an epoch before its own."""
    sealed = sa.exists().where(position.c.direction == Direction.OUT, position.c.epoch != ours)
    begun = sa.exists().where(epoch.c.epoch != ours)
    return bool(connection.scalar(sa.select(sa.or_(sealed, begun))))


def _shown(site: Site, claim: PeerClaim) -> Shown | None:
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
    return Shown(manifest, digest(line))


def _sealed(connection: Connection, claim: PeerClaim) -> int | None:
    """Give the last sequence of the channel's epoch that was sealed here; None if there is none."""
    return connection.scalar(_SEALED, {"channel": claim.channel, "epoch": claim.epoch})


_SEALED = sa.select(position.c.sequence).where(
    position.c.direction == Direction.OUT,
    position.c.channel == sa.bindparam("channel"),
    position.c.epoch == sa.bindparam("epoch"),
)


def _differs(connection: Connection, claim: PeerClaim, sequence: int, found: str) -> bool:
    entry = ledger.at_place(connection, Direction.OUT, claim.channel, claim.epoch, sequence)
    return entry is not None and entry.digest is not None and entry.digest != found


def _absurd(claim: PeerClaim, what: str) -> RecordError:
    sentence = f"channel {claim.channel}: it speaks of {what}, and shows no manifest of ours that proves it"
    return RecordError("absurd", claim.pointer, f"{sentence}; it changes nothing: ask the other side why")


def _restored(site: Site, shown: Shown, but: str) -> str:
    return (
        f"{_has(site, shown)}, but {but}: this database was restored from an earlier"
        " copy; nothing is exported until `exchange epoch new --reason TEXT` begins a new epoch"
    )


def _made_anew(site: Site, shown: Shown, ours: str) -> str:
    return (
        f"{_has(site, shown)}, but this database knows of no epoch but {ours}, its own: it was made anew; nothing is"
        f" exported until `exchange epoch new --continues {shown.manifest.epoch} --reason TEXT` begins a new epoch"
    )


def _has(site: Site, shown: Shown) -> str:
    """Say what the other side has."""
    manifest = shown.manifest
    return (
        f"{site.peer} has batch {manifest.sequence} of epoch {manifest.epoch} of channel {manifest.channel}, signed by"
        f" this side on {in_words(manifest.created_at)}"
    )
