"""Batches: sent, taken in, and those that wait for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from celery import current_app, current_task

from exchange.api.batches import Released
from exchange.celery.arguments import (
    check_batch,
    check_channel,
    check_count,
    check_names,
    check_text,
    check_truth,
    sequences_of,
)
from exchange.celery.calls import TICK
from exchange.celery.service import EXPIRY_SHARE
from exchange.celery.work.frame import stopping, task
from exchange.celery.work.own_side import own_exchange
from exchange.celery.work.said import (
    Result,
    counted,
    log,
    raise_if_only_busy,
    refuse_paused,
    say_outcome,
    told,
    unless_busy,
    warn,
)
from exchange.files.batch_files import parse_label
from exchange.format.names import MAX_SEQUENCE, BatchName


@task("exchange.export")
def export(channel: str | None = None, spread: bool = False) -> Result:
    """Export what changed, of one channel or of all: ``batches``, one for each that was published.

    With ``spread``, as beat calls it for all, channels that have something go to a task each, which ``handed``
    names, and one that somebody is at work on is left to them without a word.
    """
    check_text("channel", channel)
    check_truth("spread", spread)
    hand_over = _handing("exchange.export", spread and channel is None)
    run = own_exchange().export(channel, stopping=stopping, hand_over=hand_over)
    warn(run.untold)
    for left in run.left:
        say_outcome(left)
    refuse_paused(channel, run.paused, spread=spread)
    for load in run.first_loads:
        log.info("first_load", **load.as_dict())
    if spread:  # a tick that meets the one before it, still at work, is no news
        run = dataclasses.replace(run, busy=())
    raise_if_only_busy(run.busy, run.batches)
    for busy in run.busy:
        log.info("busy", message=str(busy))
    return told(run.batches, run.as_dict(), "nothing to export")


@task("exchange.import")
def import_(channel: str | None = None, batch: str | None = None, spread: bool = False) -> Result:
    """Import what arrived, of one channel, one batch or all: ``batches``, one for each that was looked at.

    With ``spread``, as beat calls it for all, channels of which something came go to a task each, which
    ``handed`` names, and one that somebody is at work on is left to them without a word.
    """
    check_text("channel", channel)
    check_text("batch", batch)
    check_truth("spread", spread)
    hand_over = _handing("exchange.import", spread and channel is None and batch is None)
    run = own_exchange().import_batches(channel, batch=batch, stopping=stopping, hand_over=hand_over)
    warn(run.untold)
    refuse_paused(channel, run.paused, spread=spread)
    done = [one for one in run.batches if not one.busy]
    if spread:
        run = dataclasses.replace(run, batches=tuple(done))
    raise_if_only_busy(run.busy, done)
    if run.reunited:
        log.info("reunited", dead_letters=len(run.reunited))
    if run.strangers.put_aside:
        log.warning("strangers", **run.strangers.as_dict())
    for group in run.left_alone:
        log.warning("left_alone", **group.as_dict())
    return told(run.batches, run.as_dict(), "nothing to import")


@task("exchange.replay_batch")
def replay_batch(batch: str, through: int | None = None) -> Result:
    """Apply an archived, held or quarantined batch again, or a range; one that was applied stays as it is."""
    check_batch(batch, BatchName.parse)
    check_count("through", through, MAX_SEQUENCE)
    done = own_exchange().replay(batch, through, stopping=stopping)
    warn(done.untold)
    raise_if_only_busy(done.busy, [one for one in done.batches if not one.busy])
    return told(done.batches, done.as_dict(), "nothing to replay")


@task("exchange.release_batch")
def release_batch(batch: str, park: bool = False) -> Result:
    """Let in a batch that is held for its deletes, or with ``park`` one refused for its bad records."""
    check_batch(batch, BatchName.parse)
    check_truth("park", park)
    return _released(own_exchange().batches.release(batch, park=park, stopping=stopping))


def _released(done: Released) -> Result:
    outcome = unless_busy(done.outcome)
    warn(done.untold)
    return told([outcome], {}, "nothing to release")


@task("exchange.reject_batch")
def reject_batch(batch: str, reason: str) -> Result:
    """Give up a quarantined or held batch, so that its sender is told."""
    check_batch(batch, BatchName.parse)
    done = own_exchange().batches.reject(batch, reason)
    warn(done.untold)
    return {"batch": done.batch, "state": done.state.value, "message": "its files are in the archive"}


@task("exchange.release_quarantined")
def release_quarantined(batch: str) -> Result:
    """Judge a quarantined batch anew, with every check."""
    check_batch(batch, parse_label)
    return _released(own_exchange().quarantine.release(batch, stopping=stopping))


@task("exchange.discard_quarantined")
def discard_quarantined(batch: str, reason: str) -> Result:
    """Give up a quarantined batch; nobody is told."""
    check_batch(batch, parse_label)
    done = own_exchange().quarantine.discard(batch, reason)
    return done.as_dict() | {"message": "its files are in the archive"}


@task("exchange.clear_strangers")
def clear_strangers() -> Result:
    """Remove all files that nobody vouches for from quarantine."""
    return counted(own_exchange().quarantine.clear().as_dict(), "nothing to remove")


@task("exchange.free_row")
def free_row(stream: str, key: str) -> Result:
    """Let a row that an absurd version has frozen, or a deleted key, take the next record again."""
    for name, value in (("stream", stream), ("key", key)):
        check_text(name, value or None)
    return own_exchange().versions.free(stream or "", key or "", "").as_dict()


@task("exchange.resync")
def resync(channel: str, streams: list[str] | None = None, prune: bool = False) -> Result:
    """Have whole tables of a channel sent as they are now; this sends what it can: ``batches``, one for each."""
    check_text("channel", channel or "")
    check_names("streams", streams)
    check_truth("prune", prune)
    done = own_exchange().resync(channel or "", streams, prune=prune, stopping=stopping)
    return told(done.run.batches, done.as_dict(), "nothing to send")


@task("exchange.resend")
def resend(channel: str | None = None, sequences: int | list[int] | None = None, code: str | None = None) -> Result:
    """Publish batches again, the same bytes under the next name: those of a channel, or those of a request code."""
    for name, value in (("channel", channel), ("code", code)):
        check_text(name, value)
    wanted = [] if sequences is None else sequences_of(sequences)
    return told(own_exchange().batches.resend(channel, wanted, code=code), {}, "nothing to resend")


@task("exchange.reconcile")
def reconcile(channel: str | None = None, incoming: bool = True, reason: str | None = None) -> Result:
    """Have both sides compare their rows of one channel or all: ``channels``, each with what happens next.

    Without ``incoming``, as beat calls it, only those that this side sends: the other side's beat begins the others.
    """
    exchange = own_exchange()
    check_channel(channel, [*exchange.site.outgoing(), *exchange.site.incoming()], "sent or received")
    check_truth("incoming", incoming)
    asked = exchange.agreement.reconcile(channel, incoming=incoming, reason=reason)
    return told(asked, {}, "nothing to compare", what="channels")


def _handing(task: str, spread: bool) -> Callable[[str], None] | None:
    """Give the function that sends a channel to a task of its own; it is gone with the tick that sent it."""
    if not spread:
        return None
    settings = own_exchange().settings
    period = settings.export_every if task == "exchange.export" else settings.import_every

    def hand_over(channel: str) -> None:
        arguments = {"channel": channel, "spread": True}
        options = {"expires": period * EXPIRY_SHARE, "headers": TICK}
        (current_task.app if current_task else current_app).send_task(task, kwargs=arguments, **options)

    return hand_over
