"""What is to become of a batch that arrived: by its place, the ledger, its data file and what needs a person's word.

Decided before it is opened, from what is read; nothing is claimed or written here, ``verdicts`` does that. A batch that
deletes a large part of a table, by itself or together with those before it, or whose snapshot's version is far ahead of
every clock, is held for a person: nothing is wrong with its files.
"""

from __future__ import annotations

from sqlalchemy import Connection

from exchange.database import folded, ledger, positions
from exchange.database.ledger import Entry
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction
from exchange.format.errors import Ahead, BatchError, Incomplete, Problem, Reason, Unsupported, Verdict
from exchange.format.manifest import BatchKind
from exchange.format.names import data_name
from exchange.format.placement import NEXT, Decision, decide
from exchange.incoming import snapshot, superseding
from exchange.incoming.delete_limit import DeleteLimit
from exchange.incoming.manifests import Arrival, Stranger, part_of
from exchange.limits import Limits
from exchange.link import epoch_adoption, gaps
from exchange.site import Site
from exchange.tables import version_limit


def judge(site: Site, arrival: Arrival) -> Decision:
    """Say whether a batch is to be applied now.

    Only reads, in a transaction of its own; ``transaction.apply_batch`` compares anew under the channel's lock.
    """
    with reading(site.engine) as connection:
        standing = compare_with_ledger(site, connection, arrival)
        if standing.reason is Reason.GAP:
            return unfinished(site, arrival) or standing
        if standing is not NEXT:
            return standing
        held = _needs_approval(site, connection, arrival)
    # What is not all there is asked for again first: a person's word would not bring it.
    return unfinished(site, arrival) or held or NEXT


def judge_stranger(site: Site, stranger: Stranger) -> Decision:
    """Say what becomes of a batch that can't be acted on: one that is signed may still not take another's place.

    Only reads, in a transaction of its own.
    """
    if stranger.manifest is not None:
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
    """Compare a batch with what its channel has applied and what already claims its place.

    Only reads, in the caller's transaction.
    """
    channel, epoch, sequence = arrival.place
    known = ledger.at_place(connection, Direction.IN, channel, epoch, sequence)
    if known is not None and known.digest != arrival.digest and known.state is not BatchState.APPLIED:
        return _conflict(known)
    at = positions.current_position(connection, Direction.IN, channel)
    undecided = epoch_adoption.undecided_epoch(connection, arrival.manifest, at)
    standing = decide(
        arrival.manifest,
        arrival.digest,
        position=at,
        left_epochs=positions.left_epochs(connection, channel),
        known_digest=known.digest if known and known.state is BatchState.APPLIED else None,
        ordered=arrival.channel.ordered,
        look_ahead=site.limits.look_ahead,
        undecided=undecided,
    )
    early = standing.reason in {Reason.GAP, Reason.LOOK_AHEAD} and undecided is None
    if early and superseding.may_take_instead(site, connection, arrival, at):
        standing = NEXT
    # Where an ordered channel goes on there is no place that was given up.
    if known is None and (standing is not NEXT or not arrival.channel.ordered):
        state = gaps.given_up(connection, arrival.place)
        if state is not None:
            sentence = f"this side went on without it ({state}); it comes too late and changes nothing"
            return Decision(Verdict.DUPLICATE, None, sentence)
        if folded.was_folded(connection, Direction.IN, arrival.place):
            return Decision(Verdict.DUPLICATE, None, LONG_AGO)
    return standing


LONG_AGO = "its place was settled so long ago that nothing else is known of it; nothing changed"


# What needs a person's word


def _needs_approval(site: Site, connection: Connection, arrival: Arrival) -> Decision | None:
    """Say that a batch is held for a person, and why; None if it needs nobody's word, or has it."""
    if arrival.released or arrival.manifest.kind in {BatchKind.CONTROL, BatchKind.CHECKPOINT}:
        return None
    too_new = _is_ahead(site, connection, arrival)
    if too_new is not None:
        return _held_for_a_person(arrival, Reason.VERSIONS, too_new)
    too_many = _deletes_too_much(site, connection, arrival)
    return _held_for_a_person(arrival, Reason.DELETES, too_many) if too_many else None


def _held_for_a_person(arrival: Arrival, reason: Reason, why: str) -> Decision:
    """Give the verdict, with the command that lets the batch in."""
    command = f"`exchange import --release {arrival.sighting.stem}` applies it"
    return Decision(Verdict.HELD, reason, f"{why}; it is held for a person: {command}")


def _is_ahead(site: Site, connection: Connection, arrival: Arrival) -> str | None:
    part = part_of(arrival.manifest) if arrival.manifest.kind is BatchKind.SNAPSHOT else None
    if part is None:
        return None
    most = version_limit.most(site, connection, arrival.channel)
    return version_limit.fault(part.version, most, site.peer).sentence if part.version > most else None


def _deletes_too_much(site: Site, connection: Connection, arrival: Arrival) -> str | None:
    if arrival.manifest.kind is BatchKind.SNAPSHOT and (
        sentence := snapshot.removes_too_much(site, connection, arrival)
    ):
        return sentence
    for name, counts in arrival.manifest.records.items():
        if counts.delete and name in {stream.name for stream in arrival.channel.streams}:
            brake = DeleteLimit(site, connection, arrival.channel, arrival.channel.stream(name))
            if sentence := brake.refusal(counts.delete, f"it deletes {counts.delete}", upserts=counts.upsert):
                return sentence
    return None


# What is bad in itself, or not all there


def incomplete_verdict(limits: Limits, verdict: Decision, waited: float) -> Decision:
    """Give the verdict on what has been incomplete for so many seconds: that it is, or that this took too long."""
    if waited < limits.grace_seconds:
        return verdict
    sentence = f"{verdict.sentence}; it stayed so for {waited:.0f} seconds: have it sent again"
    return Decision(Verdict.QUARANTINED, Reason.INCOMPLETE, sentence)


def unfinished(site: Site, arrival: Arrival) -> Decision | None:
    """Give the verdict on a batch whose data file is not there, or not all of it; None if it may be.

    Looks at the file's size alone.
    """
    manifest, sighting = arrival.manifest, arrival.sighting
    there = site.spool.data_arrived(sighting, manifest.encoding)
    if there is None:
        other = site.spool.other_data(sighting, manifest.encoding)
        if other is not None:
            expected = data_name(sighting.name, manifest.encoding)
            fault = f"its data file came as {other}, expected {expected}: it was unpacked or renamed on its way"
            return verdict_on(Incomplete(fault))
        return verdict_on(Incomplete(f"its data file is not there yet, expected {manifest.bytes} bytes"))
    size, forbidden = there
    if forbidden is not None:
        # It is whole, for all we know: a person mends this where it lies, however long that takes.
        return Decision(Verdict.WAITING, Reason.INCOMPLETE, f"its data file {forbidden}")
    if size >= manifest.bytes:
        return None
    return verdict_on(Incomplete(f"its data file is {size} bytes long so far, expected {manifest.bytes} bytes"))


def verdict_on(fault: BatchError) -> Decision:
    """Give the verdict on a batch that is bad in itself, with the sentence that ends in what to do."""
    match fault:
        case Incomplete():
            return Decision(Verdict.INCOMPLETE, Reason.INCOMPLETE, f"{fault}; it waits for the carrier")
        case Ahead():
            return Decision(Verdict.HELD, Reason.VERSIONS, fault.sentence)
        case Unsupported():
            return Decision(Verdict.HELD, Reason.UNSUPPORTED, f"{fault}; it is held until this side knows it")
        case _:
            return Decision(
                Verdict.QUARANTINED,
                fault.reason,
                f"{fault}{_CHANGED_NOTHING}{_NEXT_STEPS[fault.reason]}",
            )


_CHANGED_NOTHING = "; it is quarantined and changed nothing: "
_HELD = "; it is held"

_NEXT_STEPS = {
    Reason.UNTRUSTED: "if its sender is yours, trust the key (`exchange keys trust`) and `exchange replay` the batch",
    Reason.CORRUPT: "have it carried or sent again",
    Reason.LIMITS: "its sender is told, and sends a snapshot in smaller parts; or raise the setting and"
    " `exchange replay` it",
    Reason.MALFORMED: "its sender is told, and sends a snapshot in its place",
    Reason.MISDIRECTED: "ask the carrier",
    Reason.REJECTED: "`exchange batches show` lists every bad record; then `exchange batches release` it with those"
    " parked, or `exchange batches reject` it back to its sender",
}
"""What a person does about a batch that is bad in itself."""


def in_two(sentence: str) -> Problem:
    """Give a verdict's sentence as why it is so, and what comes next."""
    why, found, then = sentence.partition(_CHANGED_NOTHING)
    if found:
        return Problem(why, then)
    why, found, then = sentence.partition(_HELD)
    return Problem(why, f"it is held{then}") if found else Problem.stored(sentence)


_FAULT = {
    Reason.UNTRUSTED: "whoever brought it, unless its key is only not trusted yet",
    Reason.CORRUPT: "the carrier, or who else can write into the folder",
    Reason.INCOMPLETE: "the carrier",
    Reason.MISDIRECTED: "the carrier",
    Reason.LIMITS: "its sender, or a setting of this side",
    Reason.MALFORMED: "its sender",
    Reason.UNSUPPORTED: "this side, until it is upgraded",
    Reason.CONFLICT: "its sender, which used one place twice",
    Reason.FORK: "its sender, whose database was restored",
    Reason.STALE_EPOCH: "its sender, or a copy that was carried late",
    Reason.REJECTED: "its sender, or a rule of this side's tables",
    Reason.TABLE: "this side's tables",
    Reason.CRASHED: "what is in it, or this side",
}


def whose_fault(reason: str | None) -> str | None:
    """Say where to look first for the cause of a batch that was refused; None if nobody is to blame."""
    return _FAULT.get(Reason(reason)) if reason in set(Reason) else None
