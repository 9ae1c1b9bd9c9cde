"""What only a person decides of the link: channels, epochs, gaps, versions, pending changes."""

from __future__ import annotations

from exchange.celery.arguments import RefusedCall, check_count, check_text, check_truth, shown
from exchange.celery.work.frame import task
from exchange.celery.work.own_side import own_exchange
from exchange.celery.work.said import Result, log
from exchange.format.names import MAX_SEQUENCE
from exchange.format.strict_json import MAX_INTEGER
from exchange.outgoing.leftover import Settled


@task("exchange.let_in_versions")
def let_in_versions(reason: str, channel: str, version: int) -> Result:
    """Believe a version of a channel that this side receives, and what is as far ahead from now on."""
    check_text("channel", channel or 0)
    if type(version) is not int or not 0 < version <= MAX_INTEGER:
        raise RefusedCall(f"version: expected a whole number from 1 to {MAX_INTEGER}, found {shown(version)}")
    return own_exchange().versions.let_in(channel, version, reason).as_dict()


@task("exchange.pause_channel")
def pause_channel(reason: str, channel: str, direction: str | None = None) -> Result:
    """Have a channel stand still: nothing of it is sent, or nothing taken in."""
    check_text("channel", channel or 0)
    check_text("direction", direction)
    return _paused_or_resumed(own_exchange().pause(channel, reason, direction=direction).as_dict())


@task("exchange.resume_channel")
def resume_channel(reason: str, channel: str, direction: str | None = None) -> Result:
    """Let a channel go on that was paused."""
    check_text("channel", channel or 0)
    check_text("direction", direction)
    return _paused_or_resumed(own_exchange().resume(channel, reason, direction=direction).as_dict())


def _paused_or_resumed(done: Result) -> Result:
    log.info("channel", **{name: value for name, value in done.items() if value is not None})
    return done


@task("exchange.new_epoch")
def new_epoch(reason: str, continues: str | None = None) -> Result:
    """Begin a new epoch after an earlier copy was restored, or the database made anew: everything is sent anew."""
    check_text("continues", continues)
    done = own_exchange().epochs.new(reason, continues).as_dict()
    log.info("epoch", **done)
    return done | {"message": f"epoch {done['epoch']} has begun"}


@task("exchange.adopt_epoch")
def adopt_epoch(reason: str, epoch: str) -> Result:
    """Take an epoch of the other side that waits for a decision for its newest."""
    check_text("epoch", epoch or 0)
    done = own_exchange().epochs.adopt(epoch, reason).as_dict()
    log.info("epoch", **done)
    return done | {"message": f"epoch {epoch} is adopted; the next import takes its batches"}


@task("exchange.refuse_epoch")
def refuse_epoch(reason: str, epoch: str) -> Result:
    """Take an epoch of the other side that waits for a decision for one that it left."""
    check_text("epoch", epoch or 0)
    done = own_exchange().epochs.refuse(epoch, reason).as_dict()
    log.info("epoch", **done)
    return done | {"message": f"epoch {epoch} was left; the next import quarantines its batches"}


@task("exchange.accept_gap")
def accept_gap(
    reason: str, channel: str, sequence: int, through: int | None = None, no_snapshot: bool = False
) -> Result:
    """Go on without what a channel misses, one sequence or ``through`` another, and ask for a snapshot of it."""
    check_text("channel", channel or 0)
    for name, value in (("sequence", sequence), ("through", through)):
        check_count(name, value, MAX_SEQUENCE)
    check_truth("no_snapshot", no_snapshot)
    if type(sequence) is not int or (through is not None and through < sequence):
        raise RefusedCall(f"expected a sequence, and through one behind it, found {shown([sequence, through])}")
    done = own_exchange().gaps.accept(channel, sequence, reason, through=through, snapshot=not no_snapshot)
    return done.as_dict()


@task("exchange.discard_pending")
def discard_pending(reason: str, stream: str) -> Result:
    """Remove changes that wait under the name of a stream that is not sent from here."""
    check_text("stream", stream or 0)
    return _settled(own_exchange().pending.discard(stream, reason))


@task("exchange.move_pending")
def move_pending(reason: str, stream: str, to: str) -> Result:
    """Give changes that wait under the name of a stream that is not sent from here to stream ``to``."""
    for name, value in (("stream", stream), ("to", to)):
        check_text(name, value or 0)
    return _settled(own_exchange().pending.move(stream, to, reason))


def _settled(settled: Settled) -> Result:
    done = settled.as_dict()
    log.info("pending", **done)
    return done
