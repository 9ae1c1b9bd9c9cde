"""The tasks: each checks its arguments, calls one workflow and returns what came of it, as JSON.

They may be called by hand (``celery -A exchange call exchange.import --kwargs '{"channel": "requests"}'``),
as often as one likes, while others run: with nothing to do they say so, and where another one works they
answer ``busy`` with who and since when. What only a person can mend fails with one sentence. Every task also takes
``reason`` and ``who``: what is called by hand is written to the audit.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import structlog
from billiard.exceptions import SoftTimeLimitExceeded

from exchange import exporter, importer, pruning, replay, retry
from exchange.assembly import assemble, load_request_handler, with_present_keys
from exchange.audit import MAX_NAME_CHARACTERS, MAX_REASON_CHARACTERS, Act, audited
from exchange.callers import caller_by_hand
from exchange.celery import app, settings_or_exit, stopping
from exchange.database import Busy, acting_for, world_errors
from exchange.format.errors import WorldError, printable
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
        needs_reason = "reason" in signature.parameters

        @functools.wraps(work)
        def run(*args: Any, who: str | None = None, reason: str | None = None, **kwargs: Any) -> Result:
            try:
                _check_words("who", who, MAX_NAME_CHARACTERS)
                _check_words("reason", reason, MAX_REASON_CHARACTERS)
                needed = {"reason": reason} if needs_reason and reason else {}
                arguments = _check_arguments(signature, args, kwargs | needed)
                with world_errors(), _audited(task, arguments, who, reason) as act:
                    result = work(**arguments)
                    if act is not None:
                        act.came_to(result)
                    return result
            except Busy as busy:
                log.info("busy", task=name, message=str(busy))
                return busy.as_dict()
            except _SAID as fault:
                log.error("failed", task=name, message=str(fault))  # noqa: TRY400 - the sentence says it all
                raise

        task: Work = app.task(name=name, throws=_SAID)(run)
        return task

    return decorate


@contextmanager
def _audited(task: Any, arguments: Mapping[str, Any], who: str | None, reason: str | None) -> Iterator[Act | None]:
    """Write a call by hand to the audit; a tick is none, and gives None."""
    caller = caller_by_hand(task.request)
    if caller is None:
        yield None
        return
    what = {name: value for name, value in arguments.items() if name != "reason"}
    action = task.name.removeprefix("exchange.")
    person = who or caller.who
    with (
        acting_for(person),
        audited(_site().engine, action, what, who=person, origin=caller.origin, why=reason) as act,
    ):
        yield act
    if act.trouble:
        log.warning("audit", message=act.trouble)


@_task("exchange.export")
def export(channel: str | None = None) -> Result:
    """Export what changed, of one channel or of all: ``batches``, one for each that was published."""
    site = _site()
    _check_channel(channel, {one.name for one in site.outgoing()}, "sent")
    run = exporter.run(site, channel=channel, stopping=stopping)
    _raise_if_only_busy(run.busy, run.batches)
    for busy in run.busy:
        log.info("busy", message=str(busy))
    notes = {"parked": run.parked, "busy": [one.as_dict() for one in run.busy], "trouble": run.trouble}
    return _told(run.batches, notes, "nothing to export")


@_task("exchange.import")
def import_(channel: str | None = None, batch: str | None = None) -> Result:
    """Import what arrived, of one channel, one batch or all: ``batches``, one for each that was looked at."""
    site = _site()
    _check_channel(channel, {one.name for one in site.incoming()}, "received")
    _check_text("batch", batch)
    run = importer.run(site, channel=channel, stem=batch, stopping=stopping)
    _raise_if_only_busy(run.busy, [one for one in run.batches if not one.busy])
    if run.reunited:
        log.info("reunited", dead_letters=len(run.reunited))
    notes = {name: value for name, value in run.as_dict().items() if name != "batches"}
    return _told(run.batches, notes, "nothing to import")


@_task("exchange.retry_dead_letter")
def retry_dead_letter(ids: int | list[int]) -> Result:
    """Try parked records again: ``dead_letters``, one for each id."""
    wanted: list[Any] = ids if isinstance(ids, list) else [ids]
    if not wanted or any(type(one) is not int or not 0 < one <= MAX_INTEGER for one in wanted):
        raise Refused(f"ids: expected the number of a dead letter or a list of numbers, found {_shown(ids)}")
    return _told(retry.run(_site(), wanted), {}, "nothing to retry", what="dead_letters")


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


def _check_arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give the arguments by their names."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "none"
        raise Refused(f"arguments: expected {takes}, but {printable(str(error), 80)}") from None


def _check_words(name: str, value: object, most: int) -> None:
    if value is None or (isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= most):
        return
    raise Refused(f"{name}: expected 1 to {most} printable characters, found {_shown(value)}; nothing was done")


def _check_channel(channel: str | None, known: set[str], way: str) -> None:
    _check_text("channel", channel)
    if channel is not None and channel not in known:
        names = ", ".join(sorted(known)) or "none"
        raise Refused(f"channel: expected one that is {way} here ({names}), found {_shown(channel)}")


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
    return {what: told, **notes, "message": trouble or (f"{len(told)} looked at" if told else nothing)}


def _raise_if_only_busy(busy: Sequence[Busy], done: Sequence[object]) -> None:
    """Answer that somebody else is at work, where that is all there is to say. Raises Busy."""
    if busy and not done:
        raise busy[0]


def _counted(counts: dict[str, Any], nothing: str) -> Result:
    done = {name: count for name, count in counts.items() if count}
    if done:
        log.info("done", **done)
    return counts | {"message": ", ".join(f"{count} {name}" for name, count in done.items()) or nothing}


def _shown(value: object) -> str:
    return printable(repr(value), 80)
