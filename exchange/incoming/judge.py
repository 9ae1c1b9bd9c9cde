"""What is to become of a batch that arrived: by the ledger, its place and what a person must consent to."""

from __future__ import annotations

from sqlalchemy import Connection

from exchange.database import ledger, positions
from exchange.database.ledger import Entry
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction
from exchange.format.errors import Reason, Unsupported, Verdict
from exchange.format.placement import NEXT, Decision, decide
from exchange.incoming import consent
from exchange.incoming.manifests import Arrival, Stranger
from exchange.incoming.verdicts import unfinished, verdict_on
from exchange.link import epoch_adoption, gaps
from exchange.site import Site


def judge(site: Site, arrival: Arrival) -> Decision:
    """Say whether a batch is to be applied now."""
    with reading(site.engine) as connection:
        standing = compare_with_ledger(site, connection, arrival)
        if standing.reason is Reason.GAP:
            return unfinished(site, arrival) or standing
        if standing is not NEXT:
            return standing
        lacking = consent.missing_consent(site, connection, arrival)
    return lacking or unfinished(site, arrival) or NEXT


def judge_stranger(site: Site, stranger: Stranger) -> Decision:
    """Say what becomes of a batch that can't be acted on: one that is signed may still not take another's place."""
    if stranger.manifest is not None and isinstance(stranger.fault, Unsupported):
        with reading(site.engine) as connection:
            known = ledger.at_place(connection, Direction.IN, *stranger.place)
        if known is not None and known.digest != stranger.digest:
            return _conflict(known)
        if known is not None and known.state is BatchState.APPLIED:
            return Decision(Verdict.DUPLICATE, None, "this batch is applied already; nothing changed")
    return verdict_on(stranger.fault)


def _conflict(known: Entry) -> Decision:
    return Decision(
        Verdict.QUARANTINED,
        Reason.CONFLICT,
        f"another batch, {known.stem}, is {known.state} at this place; two batches claim one place: ask the sender why",
    )


def compare_with_ledger(site: Site, connection: Connection, arrival: Arrival) -> Decision:
    """Compare a batch with what its channel has applied and what already claims its place."""
    channel, epoch, sequence = arrival.place
    known = ledger.at_place(connection, Direction.IN, channel, epoch, sequence)
    if known is not None and known.digest != arrival.digest and known.state is not BatchState.APPLIED:
        return _conflict(known)
    at = positions.current_position(connection, Direction.IN, channel)
    standing = decide(
        arrival.manifest,
        arrival.digest,
        position=at,
        left_epochs=positions.left_epochs(connection, channel),
        known_digest=known.digest if known and known.state is BatchState.APPLIED else None,
        ordered=arrival.channel.ordered,
        look_ahead=site.limits.look_ahead,
        undecided=epoch_adoption.undecided_epoch(connection, arrival.manifest, at),
    )
    # Where an ordered channel goes on there is no place that was given up.
    if known is None and (standing is not NEXT or not arrival.channel.ordered):
        state = gaps.given_up(connection, arrival.place)
        if state is not None:
            sentence = f"this side went on without it ({state}); it comes too late and changes nothing"
            return Decision(Verdict.DUPLICATE, None, sentence)
    return standing
