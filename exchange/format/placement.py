"""Where a batch stands in its channel: FORMAT.md, "Verdicts", decided from values alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from exchange.format.errors import Reason, Verdict
from exchange.format.manifest import BatchKind, Manifest


@dataclass(frozen=True)
class Position:
    """How far a receiver has come in a channel: the last batch it applied. Sequence 0 is before the first.

    Behind a place that was given up there is no ``digest`` to follow.
    """

    epoch: str
    sequence: int
    digest: str | None


@dataclass(frozen=True)
class Decision:
    """What to do with a batch: apply it (no verdict), or the verdict, its reason and a sentence."""

    verdict: Verdict | None
    reason: Reason | None = None
    sentence: str = ""


NEXT = Decision(None)


def decide(
    manifest: Manifest,
    digest: str,
    *,
    position: Position | None,
    left_epochs: Collection[str],
    known_digest: str | None,
    ordered: bool,
    look_ahead: int,
    undecided: Decision | None = None,
) -> Decision:
    """Say where a verified manifest stands.

    ``position`` is of the epoch adopted last (None: nothing applied yet); ``left_epochs`` those adopted before
    it; ``known_digest`` that of the batch already applied at this very place, if any. Of control batches the newest
    counts: none waits for another, and an older one says nothing any more. ``undecided`` is what becomes of a batch
    of an epoch that nothing proves to come after the present one; None if something does.
    """
    if known_digest == digest:
        return Decision(Verdict.DUPLICATE, None, "this batch is applied already; nothing changed")
    if known_digest is not None:
        return Decision(
            Verdict.QUARANTINED,
            Reason.CONFLICT,
            f"another batch is already applied at this place (manifest {known_digest[:12]}, this one"
            f" {digest[:12]}); two batches claim one place: ask the sender why",
        )
    if manifest.kind is BatchKind.CONTROL:
        return _newest(manifest, position, left_epochs, look_ahead, undecided)
    if manifest.epoch in left_epochs:
        return Decision(
            Verdict.QUARANTINED,
            Reason.STALE_EPOCH,
            f"epoch {manifest.epoch} was left for a newer one; an old batch changes nothing",
        )
    if position is None or position.epoch != manifest.epoch:
        position = Position(manifest.epoch, 0, None)
    expected = position.sequence + 1
    if manifest.sequence > position.sequence + look_ahead:
        return Decision(
            Verdict.WAITING,
            Reason.LOOK_AHEAD,
            f"sequence {manifest.sequence} is more than {look_ahead} beyond {expected}, the next expected;"
            " it is left where it lies and nothing is recorded",
        )
    return undecided or _follow(manifest, position, ordered=ordered)


def _follow(manifest: Manifest, position: Position, *, ordered: bool) -> Decision:
    """Say whether a batch is the next one behind a position of its epoch."""
    expected = position.sequence + 1
    if ordered and manifest.sequence > expected:
        return Decision(
            Verdict.WAITING,
            Reason.GAP,
            f"sequence {manifest.sequence} came before {expected}, the next expected; it waits for what is missing",
        )
    if ordered and manifest.sequence < expected:
        return Decision(
            Verdict.QUARANTINED,
            Reason.CONFLICT,
            f"sequence {manifest.sequence} is behind {expected}, the next expected, and the ledger has no batch"
            " at its place; it changes nothing",
        )
    given_up = position.digest is None and position.sequence > 0
    if manifest.sequence == expected and manifest.previous != position.digest and not given_up:
        return Decision(
            Verdict.QUARANTINED,
            Reason.FORK,
            f"it follows manifest {(manifest.previous or 'none')[:12]}, but the batch applied before it was"
            f" {(position.digest or 'none')[:12]}; the sender's history has forked: ask the sender why",
        )
    return NEXT


def _newest(
    manifest: Manifest,
    position: Position | None,
    left_epochs: Collection[str],
    look_ahead: int,
    undecided: Decision | None,
) -> Decision:
    reached = position.sequence if position is not None and position.epoch == manifest.epoch else 0
    if manifest.epoch in left_epochs or manifest.sequence <= reached:
        return Decision(Verdict.DUPLICATE, None, "a newer control batch has said it all; nothing changed")
    if manifest.sequence > reached + look_ahead * CONTROL_LOOK_AHEAD:
        return Decision(
            Verdict.QUARANTINED,
            Reason.LOOK_AHEAD,
            f"control sequence {manifest.sequence} is absurdly far beyond {reached}, the newest heard; to believe it"
            " would silence all that come before it; it changes nothing: ask the sender why",
        )
    return undecided or NEXT


CONTROL_LOOK_AHEAD = 100
"""So many times further may the sequence of a control batch leap: those between may all be lost."""
