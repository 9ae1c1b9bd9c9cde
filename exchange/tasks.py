"""The tasks: each checks its arguments, calls one workflow and returns what came of it, as JSON.

They may be called by hand (``celery -A exchange call exchange.import --kwargs '{"channel": "requests"}'``),
as often as one likes, while others run: with nothing to do they say so, and where another one works they
answer ``busy`` with who and since when. What only a person can mend fails with one sentence.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import structlog
from billiard.exceptions import SoftTimeLimitExceeded

from exchange import exporter, importer, pruning, replay, retry
from exchange.assembly import assemble, load_request_handler, with_present_keys
from exchange.celery import EXPIRY_SHARE, app, settings_or_exit, stopping
from exchange.channels import Channel, known_names
from exchange.database import Busy, whoami, world_errors
from exchange.format.errors import Verdict, WorldError, printable
from exchange.format.json import MAX_INTEGER
from exchange.outcomes import Imported
from exchange.reference.answering import answer_requests as answer
from exchange.settings import Settings, SettingsFaults
from exchange.site import Site

Result = dict[str, Any]
Work = TypeVar("Work", bound=Callable[..., Result])

log = structlog.get_logger("exchange")


class Refused(Exception):  # noqa: N818 - reads as what happened
    """The arguments of a task make no sense; the text is one sentence."""


# Nothing is wrong with the program: a traceback would only hide the sentence.
_SAID = (Refused, WorldError, SettingsFaults)


class Outcome(Protocol):
    """What a workflow says of one batch or record."""

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""


def _task(name: str) -> Callable[[Work], Work]:
    """Make a task that answers ``busy`` rather than fail, and logs a sentence where one says it all."""

    def decorate(work: Work) -> Work:
        signature = inspect.signature(work)

        @functools.wraps(work)
        def run(*args: Any, **kwargs: Any) -> Result:
            try:
                _check_arguments(signature, args, kwargs)
                with world_errors():
                    return work(*args, **kwargs)
            except Busy as busy:
                since = busy.since.isoformat() if busy.since else None
                log.info("busy", task=name, message=str(busy))
                return {"verdict": Verdict.BUSY.value, "who": busy.who, "since": since, "message": str(busy)}
            except _SAID as fault:
                log.error("failed", task=name, message=str(fault))  # noqa: TRY400 - the sentence says it all
                raise

        task: Work = app.task(name=name, throws=_SAID)(run)
        return task

    return decorate


@_task("exchange.export")
def export(channel: str | None = None, spread: bool = False) -> Result:
    """Export what changed, of one channel or of all: ``batches``, one for each that was published.

    With ``spread``, as beat calls it for all, channels that have something go to a task each, which ``handed``
    names, and one that somebody is at work on is left to them without a word.
    """
    site = _site()
    _check_channel(channel, site.outgoing(), "sent")
    _check_truth("spread", spread)
    run = exporter.run(
        site, channel=channel, stopping=stopping, hand_over=_handing("exchange.export", spread and channel is None)
    )
    # A tick that meets the one before it, still at work, is no news.
    busy = [] if spread else list(run.busy)
    for sentence in busy:
        log.info("busy", message=sentence)
    notes = {"parked": run.parked, "busy": busy, "handed": list(run.handed), "trouble": run.trouble}
    return _told(run.batches, notes, "nothing to export")


@_task("exchange.import")
def import_(channel: str | None = None, batch: str | None = None, spread: bool = False) -> Result:
    """Import what arrived, of one channel, one batch or all: ``batches``, one for each that was looked at.

    With ``spread``, as beat calls it for all, channels of which something came go to a task each, which
    ``handed`` names, and one that somebody is at work on is left to them without a word.
    """
    site = _site()
    _check_channel(channel, site.incoming(), "received")
    _check_text("batch", batch)
    _check_truth("spread", spread)
    hand_over = _handing("exchange.import", spread and channel is batch is None)
    run = importer.run(site, channel=channel, stem=batch, stopping=stopping, hand_over=hand_over)
    batches = [one for one in run.batches if not (spread and one.verdict is Verdict.BUSY)]
    notes = {"ignored": run.ignored, "unpaired": run.unpaired, "handed": list(run.handed), "trouble": run.trouble}
    return _told(batches, notes, "nothing to import")


@_task("exchange.retry_dead_letter")
def retry_dead_letter(ids: int | list[int]) -> Result:
    """Try parked records again: ``dead_letters``, one for each id."""
    wanted: list[Any] = ids if isinstance(ids, list) else [ids]
    if not wanted or any(type(one) is not int or not 0 < one <= MAX_INTEGER for one in wanted):
        raise Refused(f"ids: expected the number of a dead letter or a list of numbers, found {_shown(ids)}")
    return _told(retry.run(_site(), wanted, whoami()), {}, "nothing to retry", what="dead_letters")


@_task("exchange.replay_batch")
def replay_batch(batch: str) -> Result:
    """Apply an archived, held or quarantined batch again; one that was applied stays as it is."""
    _check_text("batch", batch or 0)
    return _told([replay.run(_site(), batch)], {}, "nothing to replay")


@_task("exchange.prune")
def prune() -> Result:
    """Remove what retention no longer keeps: counts by what it was."""
    return _counted(pruning.run(_site()).as_dict(), "nothing to prune")


@_task("exchange.answer_requests")
def answer_requests() -> Result:
    """Hand new requests of the reference application to the handler: counts by what came of them."""
    settings = settings_or_exit()
    if not settings.answers_requests:
        raise Refused(f"network {settings.network} of {settings.app} has no requests to answer")
    answers = answer(
        _site().engine,
        load_request_handler(settings),
        settings.network,
        seconds=settings.handler_seconds,
        stopping=stopping,
        interrupts=(KeyboardInterrupt, SoftTimeLimitExceeded),
    )
    return _counted(dataclasses.asdict(answers), "nothing to answer")


def _site() -> Site:
    """Give this process's own site: an engine that went through a fork would share its connections."""
    settings, site = _site_of(os.getpid())
    return with_present_keys(site, settings)


@functools.lru_cache(maxsize=1)
def _site_of(_process: int) -> tuple[Settings, Site]:
    settings = settings_or_exit()
    return settings, assemble(settings)


def _check_arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "none"
        raise Refused(f"arguments: expected {takes}, but {printable(str(error), 80)}") from None


def _handing(task: str, spread: bool) -> Callable[[str], None] | None:
    """Give the function that sends a channel to a task of its own; it is gone with the tick that sent it."""
    if not spread:
        return None
    settings = settings_or_exit()
    period = settings.export_every if task == "exchange.export" else settings.import_every

    def hand_over(channel: str) -> None:
        app.send_task(task, kwargs={"channel": channel, "spread": True}, expires=period * EXPIRY_SHARE)

    return hand_over


def _check_channel(channel: str | None, channels: Iterable[Channel], way: str) -> None:
    _check_text("channel", channel)
    known = known_names(channels)
    if channel is not None and channel not in known:
        names = ", ".join(known) or "none"
        raise Refused(f"channel: expected one that is {way} here ({names}), found {_shown(channel)}")


def _check_truth(name: str, value: object) -> None:
    if type(value) is not bool:
        raise Refused(f"{name}: expected true or false, found {_shown(value)}")


def _check_text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise Refused(f"{name}: expected a name or null, found {_shown(value)}")


def _told(outcomes: Iterable[Outcome], notes: dict[str, Any], nothing: str, what: str = "batches") -> Result:
    """Log each outcome as one event, but not again what waits as it did before; give them all."""
    told = []
    for outcome in outcomes:
        fields = outcome.as_dict()
        told.append(fields)
        if isinstance(outcome, Imported) and not outcome.changed:
            continue
        said = {name: value for name, value in fields.items() if value not in (None, "")}
        log.info(said.pop("verdict", None) or said.pop("state", None) or "published", **said)
    trouble = notes.get("trouble")
    if trouble:
        log.warning("trouble", message=trouble)
    done = [f"{len(told)} looked at"] if told else []
    if notes.get("handed"):
        done.append(f"handed to tasks of their own: {', '.join(notes['handed'])}")
    return {what: told, **notes, "message": trouble or "; ".join(done) or nothing}


def _counted(counts: dict[str, Any], nothing: str) -> Result:
    done = {name: count for name, count in counts.items() if count}
    if done:
        log.info("done", **done)
    return counts | {"message": ", ".join(f"{count} {name}" for name, count in done.items()) or nothing}


def _shown(value: object) -> str:
    return printable(repr(value), 80)
