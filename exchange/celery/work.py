"""The tasks' work, for whichever application runs them.

Each checks its arguments, calls one workflow and returns what came of it, as JSON.

They may be called by hand (``celery -A exchange call exchange.import --kwargs '{"channel": "requests"}'``),
as often as one likes, while others run: with nothing to do they say so, and where another one works they
answer ``busy`` with who and since when. What only a person can mend fails with one sentence. Every task also takes
``reason`` and ``who``: what is called by hand is written to the audit. A call is done once: its message may come again
after a worker was killed with it, and is gone on with, but not once it came to its end, nor beside itself.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, current_app, current_task
from sqlalchemy import Engine
from structlog.contextvars import bound_contextvars

from exchange.api import Exchange, RefusedArgument
from exchange.api.acts import Act as Asked
from exchange.api.acts import Asker, NeedsSecondPerson, carried_out, left_to_the_caller
from exchange.api.batches import Released
from exchange.celery import service
from exchange.celery.arguments import (
    RefusedCall,
    by_ids,
    check_batch,
    check_channel,
    check_count,
    check_names,
    check_rate,
    check_text,
    check_truth,
    check_words,
    named,
    numbers,
    sequences_of,
    shown,
)
from exchange.celery.calls import REFUSED, TICK, caller_by_hand
from exchange.celery.service import EXPIRY_SHARE, changes
from exchange.celery.signs import WorkerSigns
from exchange.database.audit_log import (
    MAX_NAME_CHARACTERS,
    MAX_REASON_CHARACTERS,
    UNKNOWN,
    Act,
    Repeated,
    write_refusal,
)
from exchange.database.batch_fault import interrupted_by
from exchange.database.borrowed import EngineRefused
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy
from exchange.database.pauses import Pause, Paused
from exchange.database.tables import IntakeState
from exchange.dead_letters.background import BackgroundRetry
from exchange.dead_letters.bulk_retry import Pace
from exchange.dead_letters.counts import alarms
from exchange.files.batch_files import parse_label
from exchange.files.pid_lock import holding_name
from exchange.format.errors import TransientError, Verdict, printable
from exchange.format.names import CONTROL, MAX_SEQUENCE, BatchName
from exchange.format.strict_json import MAX_INTEGER
from exchange.intake.standing import DroppedFile
from exchange.operating import logs
from exchange.operating.assemble import load_request_handler
from exchange.operating.reloading import read_anew
from exchange.operating.schedule import RETRIES_SECONDS
from exchange.outgoing.leftover import Settled
from exchange.reference.answering import answer_requests as answer
from exchange.results import Imported, Retried
from exchange.settings import Settings, SettingsFaults, load_settings
from exchange.site import Site

Result = dict[str, Any]
Work = TypeVar("Work", bound=Callable[..., Result])

log = structlog.get_logger("exchange")

LENDERS: list[Callable[[], Engine]] = []
"""The last of them gives the engine whose pool the tasks share, if there is one."""

WORK: dict[str, Callable[..., Any]] = {}
"""What each task does, by its name."""


MOST_TOLD = 100
"""So many records of a selection a result tells of one by one; of all it has the counts."""

# Nothing is wrong with the program: a traceback would only hide the sentence.
_SAID = (RefusedArgument, TransientError, SettingsFaults, EngineRefused)


def stopping() -> bool:
    """Tell a running task, between two batches, whether to end; and leave word that it came so far."""
    if not LENDERS:  # of a pool of one connection this would wait for itself
        _note_done(patience_seconds=0)
    return service.stopping()


def _note_done(*, patience_seconds: float = 1.0) -> None:
    """Leave word that this worker gets something done; nothing of what a program runs without one."""
    if current_task and not (current_task.request.called_directly or current_task.request.is_eager):
        with suppress(*_SAID):
            exchange = _exchange()
            _signs(os.getpid()).note(exchange.site.engine, exchange.settings, patience_seconds)


@functools.lru_cache(maxsize=1)
def _signs(_process: int) -> WorkerSigns:
    return WorkerSigns()


class HasFields(Protocol):
    """What a workflow says of one batch or record."""

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""


def _task(name: str) -> Callable[[Work], Work]:
    """Make a task that answers ``busy`` rather than fail, and logs a sentence where one says it all."""

    def decorate(work: Work) -> Work:
        """Give the task of a function, with the parameters ``who`` and ``reason`` beside its own."""
        signature = inspect.signature(work)
        needs_reason = "reason" in signature.parameters

        @functools.wraps(work)
        def run(*args: Any, who: str | None = None, reason: str | None = None, **kwargs: Any) -> Result:
            """Check the arguments, do the work, and note it in the audit where somebody asked by hand."""
            _follow_changes()
            with bound_contextvars(task=name, **_task_id()):
                try:
                    check_words("who", who, MAX_NAME_CHARACTERS)
                    check_words("reason", reason, MAX_REASON_CHARACTERS)
                    needed = {"reason": reason} if needs_reason and reason else {}
                    arguments = named(signature, args, kwargs | needed)
                    with (
                        interrupted_by(SoftTimeLimitExceeded),
                        transient_errors(),
                        _audited(name, arguments, who, reason) as act,
                        _counted_rows(),
                    ):
                        result = work(**arguments)
                        if act is not None:
                            act.came_to(result)
                        return result
                except Busy as busy:
                    log.info("busy", message=str(busy))
                    return busy.as_dict()
                except NeedsSecondPerson as held:
                    log.info("proposed", message=str(held))
                    return held.as_dict()
                except _SAID as fault:
                    log.error("failed", message=str(fault))  # noqa: TRY400 - the sentence says it all
                    raise
                finally:
                    _note_done()

        WORK[name] = run
        return run  # type: ignore[return-value]

    return decorate


@contextmanager
def _counted_rows() -> Iterator[None]:
    """Count the rows of a task's work, for whoever asks this process how far it is."""
    with _exchange().site.progress.counted():
        yield


def say_how_far(*_: Any) -> None:
    """Log how far the task at hand is; nothing where there is none. Called by a signal."""
    if not _exchange_of.cache_info().currsize:
        return
    progress = _exchange().progress
    if progress is not None and progress.is_counted:
        with suppress(RuntimeError):  # the signal came in the midst of another line
            log.info("progress", message=str(progress.pace()), **_task_id())


def _task_id() -> dict[str, str]:
    return {"task_id": str(current_task.request.id)} if current_task and current_task.request.id else {}


def make_task(app: Celery, name: str, **options: Any) -> Any:
    """Make the task of this name in an application."""
    return app.task(name=name, throws=_SAID, **options)(WORK[name])


@contextmanager
def _audited(task: str, arguments: Mapping[str, Any], who: str | None, reason: str | None) -> Iterator[Act | None]:
    """Write a call by hand to the audit and do it once; a tick is no such call, and gives None.

    Raises RefusedCall.
    """
    request = current_task.request if current_task else None
    caller = caller_by_hand(request)
    if caller is None or request is None:
        yield None
        return
    number, action = str(request.id), task.removeprefix("exchange.")
    what = {name: value for name, value in arguments.items() if name != "reason"}
    person, origin = who or caller.who, f"celery call, {caller.origin}, task {number}"
    asked, asker = Asked(action, what, person, reason), Asker(person, origin, (caller.who,))
    with holding_name(_exchange().settings.calls_lock, number) as alone:
        if not alone:
            raise _repeated(task, number, "is being done")
        act = None
        try:
            with carried_out(_site(), asked, asker, call=number) as act:
                yield act
        except Repeated:
            raise _repeated(task, number, "was done") from None
    if act.trouble:
        log.warning("audit", message=act.trouble)


def _repeated(task: str, number: str, how: str) -> RefusedCall:
    sentence = f"the call {number} {how} already, and came again; nothing was done: call it anew"
    _write_refusal(task, number, sentence, UNKNOWN)
    return RefusedCall(sentence)


def refused_call(task: str, number: str, sentence: str, origin: str) -> None:
    """Write down that a message was refused before anything of it was believed. Raises RefusedCall."""
    sentence = f"the call was refused: {sentence}; nothing was done"
    log.warning("refused", task=task, id=number, message=sentence)
    with transient_errors():
        _write_refusal(task, number, sentence, origin)
    raise RefusedCall(sentence)


WORK[REFUSED] = refused_call


def _write_refusal(task: str, number: str, sentence: str, origin: str) -> None:
    action, whence = task.removeprefix("exchange."), f"the broker, {origin}"
    if not write_refusal(_site().engine, action, f"{task} {number}", origin=whence, sentence=sentence):
        log.warning("audit", message="more refusals came within an hour than are written to the audit")


@_task("exchange.export")
def export(channel: str | None = None, spread: bool = False) -> Result:
    """Export what changed, of one channel or of all: ``batches``, one for each that was published.

    With ``spread``, as beat calls it for all, channels that have something go to a task each, which ``handed``
    names, and one that somebody is at work on is left to them without a word.
    """
    check_text("channel", channel)
    check_truth("spread", spread)
    hand_over = _handing("exchange.export", spread and channel is None)
    run = _exchange().export(channel, stopping=stopping, hand_over=hand_over)
    _warn(run.untold)
    for left in run.left:
        _say_outcome(left)
    _refuse_paused(channel, run.paused, spread=spread)
    for load in run.first_loads:
        log.info("first_load", **load.as_dict())
    if spread:  # a tick that meets the one before it, still at work, is no news
        run = dataclasses.replace(run, busy=())
    _raise_if_only_busy(run.busy, run.batches)
    for busy in run.busy:
        log.info("busy", message=str(busy))
    return _told(run.batches, run.as_dict(), "nothing to export")


@_task("exchange.import")
def import_(channel: str | None = None, batch: str | None = None, spread: bool = False) -> Result:
    """Import what arrived, of one channel, one batch or all: ``batches``, one for each that was looked at.

    With ``spread``, as beat calls it for all, channels of which something came go to a task each, which
    ``handed`` names, and one that somebody is at work on is left to them without a word.
    """
    check_text("channel", channel)
    check_text("batch", batch)
    check_truth("spread", spread)
    hand_over = _handing("exchange.import", spread and channel is None and batch is None)
    run = _exchange().import_batches(channel, batch=batch, stopping=stopping, hand_over=hand_over)
    _warn(run.untold)
    _refuse_paused(channel, run.paused, spread=spread)
    done = [one for one in run.batches if not one.busy]
    if spread:
        run = dataclasses.replace(run, batches=tuple(done))
    _raise_if_only_busy(run.busy, done)
    if run.reunited:
        log.info("reunited", dead_letters=len(run.reunited))
    if run.strangers.put_aside:
        log.warning("strangers", **run.strangers.as_dict())
    for group in run.left_alone:
        log.warning("left_alone", **group.as_dict())
    return _told(run.batches, run.as_dict(), "nothing to import")


@_task("exchange.extract")
def extract(
    stream: str,
    to: str,
    where: list[str] | None = None,
    columns: list[str] | None = None,
    format: str | None = None,  # noqa: A002 - what the command calls it
    raw: bool = False,
    sensitive: bool = False,
) -> Result:
    """Write rows of a stream to a new file of the worker's machine."""
    for name, value in (("stream", stream or 0), ("to", to or 0), ("format", format)):
        check_text(name, value)
    for name, listed in (("where", where), ("columns", columns)):
        check_names(name, listed)
    for name, switch in (("raw", raw), ("sensitive", sensitive)):
        check_truth(name, switch)
    if not Path(to).is_absolute():
        raise RefusedCall(f"to: expected a file's whole path, found {shown(to)}")
    done = _exchange().extract(
        stream,
        Path(to),
        where=where or (),
        columns=columns or (),
        format=format,
        raw=raw,
        sensitive=sensitive,
        stopping=stopping,
    )
    log.info("extract", **done.without_values())
    return done.without_values() | {"message": f"{done.rows} rows of {done.stream} lie in {done.file}"}


@_task("exchange.retry_dead_letter")
def retry_dead_letter(  # noqa: PLR0917 - as a call by hand names them
    ids: int | list[int] | None = None,
    selection: str | None = None,
    dry_run: bool = False,
    rate: float | None = None,
    canary: int | None = None,
    stop_after: int | None = None,
    again: bool = False,
    skip_changed: bool = False,
    background: bool = False,
) -> Result:
    """Try parked records again: those of ``ids``, or what is left of a selection, with a pace, or in the background."""
    switches = {"dry_run": dry_run, "again": again, "skip_changed": skip_changed, "background": background}
    for name, switch in switches.items():
        check_truth(name, switch)
    if by_ids(ids, selection):
        done = [one.without_values() for one in _exchange().dead_letters.retry(numbers(ids), rehearse=dry_run)]
        return _told(done, {}, "nothing to retry", what="dead_letters")
    for name, value in (("canary", canary), ("stop_after", stop_after)):
        check_count(name, value)
    check_rate("rate", rate)
    shown: list[Result] = []
    progress = _exchange().site.progress
    progress.expect("all", _exchange().dead_letters.count_left(str(selection)))

    def collect(retried: Sequence[Retried]) -> None:
        progress.add(len(retried))
        shown.extend(one.without_values().as_dict() for one in retried[: max(MOST_TOLD - len(shown), 0)])

    pace = Pace(rate, canary, stop_after)
    if background:
        begun = _exchange().dead_letters.retry_in_background(
            str(selection), pace, again=again, skip_changed=skip_changed
        )
        return begun.as_dict()
    bulk = _exchange().dead_letters.retry_selection(
        str(selection),
        pace,
        rehearse=dry_run,
        again=again,
        skip_changed=skip_changed,
        stopping=stopping,
        report=collect,
    )
    log.info("retried", **{name: value for name, value in bulk.as_dict().items() if value not in (None, "")})
    return bulk.as_dict() | {"dead_letters": shown, "message": bulk.stopped or f"{bulk.tried} tried"}


@_task("exchange.work_retries")
def work_retries() -> Result:
    """Work on the retries in the background for a while; what is left a task that follows goes on with."""
    told: dict[int, BackgroundRetry] = {}
    more = _exchange().dead_letters.work_off(stopping=stopping, report=lambda one: told.update({one.id: one}))
    for one in told.values():
        log.info("retried", **{name: value for name, value in one.as_dict().items() if value is not None})
    if more and not stopping():
        app = current_task.app if current_task else current_app
        app.send_task("exchange.work_retries", expires=RETRIES_SECONDS, headers=TICK)
    return {"retries": [one.as_dict() for one in told.values()], "more": more}


@_task("exchange.pause_retry")
def pause_retry(reason: str, retry: int) -> Result:
    """Have a retry in the background stand still."""
    return _exchange().dead_letters.pause_retry(_number(retry), reason).as_dict()


@_task("exchange.resume_retry")
def resume_retry(reason: str, retry: int) -> Result:
    """Let a retry in the background go on that was paused."""
    return _exchange().dead_letters.resume_retry(_number(retry), reason).as_dict()


@_task("exchange.cancel_retry")
def cancel_retry(reason: str, retry: int) -> Result:
    """End a retry in the background where it is."""
    return _exchange().dead_letters.cancel_retry(_number(retry), reason).as_dict()


@_task("exchange.intake")
def intake() -> Result:
    """Look at the folders that people drop files into, and claim what is ready; ``exchange.load_files`` loads it."""
    found = _exchange().files.take_in()
    for sentence in (*found.troubles, *found.left_alone):
        _warn(sentence)
    for name in found.claimed:
        log.info("claimed", file=printable(name, 200))
    for _ in range(found.waiting):
        _send_on("exchange.load_files", _exchange().settings.intake_every)
    counted = {"claimed": len(found.claimed), "arriving": found.arriving}
    said = ", ".join(f"{number} {what}" for what, number in counted.items() if number)
    return found.as_dict() | {"message": said or "nothing was dropped"}


@_task("exchange.load_files")
def load_files() -> Result:
    """Load files that were claimed, for a while; what is left a task that follows goes on with."""
    told: dict[int, DroppedFile] = {}
    more = _exchange().files.work_off(stopping=stopping, report=lambda one: told.update({one.id: one}))
    for one in told.values():
        (log.warning if one.state is IntakeState.REFUSED else log.info)(one.state, message=str(one), **_of_file(one))
    if more and not stopping():
        _send_on("exchange.load_files", _exchange().settings.intake_every)
    return {"files": [one.as_dict() for one in told.values()], "more": more}


def _of_file(one: DroppedFile) -> dict[str, Any]:
    counts = {name: getattr(one, name) for name in ("rows_read", "rows_loaded", "rows_parked")}
    return {"file_id": one.id, "intake": one.intake, "stream": one.stream, **counts}


def _send_on(task: str, seconds: float) -> None:
    """Call a task that goes on; if no worker takes it for so long, the next tick calls it again."""
    app = current_task.app if current_task else current_app
    app.send_task(task, expires=max(seconds, RETRIES_SECONDS), headers=TICK)


@_task("exchange.cancel_file")
def cancel_file(reason: str, file: int, undo: bool = False) -> Result:
    """Give up a file that people dropped and that is not loaded yet; with ``undo`` what was loaded of it, too."""
    check_truth("undo", undo)
    return _exchange().files.cancel(_number(file, "file"), reason, undo=undo).as_dict()


def _number(number: int, name: str = "retry") -> int:
    if type(number) is not int or not 0 < number <= MAX_INTEGER:
        raise RefusedCall(f"{name}: expected a whole number from 1 to {MAX_INTEGER}, found {shown(number)}")
    return number


@_task("exchange.discard_dead_letter")
def discard_dead_letter(
    reason: str, ids: int | list[int] | None = None, selection: str | None = None, skip_changed: bool = False
) -> Result:
    """Discard parked records by ``ids`` or a selection; if one of them can't be, none is."""
    check_truth("skip_changed", skip_changed)
    wanted = numbers(ids) if by_ids(ids, selection) else []
    number = _exchange().dead_letters.discard(reason, wanted, selection=selection, skip_changed=skip_changed)
    return _counted({"discarded": number}, "none")


@_task("exchange.restore_dead_letter")
def restore_dead_letter(reason: str, ids: int | list[int] | None = None, selection: str | None = None) -> Result:
    """Park records again that were discarded, by ``ids`` or a selection; if one of them can't be, none is."""
    wanted = numbers(ids) if by_ids(ids, selection) else []
    return _counted({"restored": _exchange().dead_letters.restore(reason, wanted, selection=selection)}, "none")


@_task("exchange.replay_batch")
def replay_batch(batch: str, through: int | None = None) -> Result:
    """Apply an archived, held or quarantined batch again, or a range; one that was applied stays as it is."""
    check_batch(batch, BatchName.parse)
    check_count("through", through, MAX_SEQUENCE)
    done = _exchange().replay(batch, through, stopping=stopping)
    _warn(done.untold)
    _raise_if_only_busy(done.busy, [one for one in done.batches if not one.busy])
    return _told(done.batches, done.as_dict(), "nothing to replay")


@_task("exchange.release_batch")
def release_batch(batch: str, park: bool = False) -> Result:
    """Let in a batch that is held for its deletes, or with ``park`` one refused for its bad records."""
    check_batch(batch, BatchName.parse)
    check_truth("park", park)
    return _released(_exchange().batches.release(batch, park=park, stopping=stopping))


def _released(done: Released) -> Result:
    outcome = _unless_busy(done.outcome)
    _warn(done.untold)
    return _told([outcome], {}, "nothing to release")


@_task("exchange.reject_batch")
def reject_batch(batch: str, reason: str) -> Result:
    """Give up a quarantined or held batch, so that its sender is told."""
    check_batch(batch, BatchName.parse)
    done = _exchange().batches.reject(batch, reason)
    _warn(done.untold)
    return {"batch": done.batch, "state": done.state.value, "message": "its files are in the archive"}


@_task("exchange.release_quarantined")
def release_quarantined(batch: str) -> Result:
    """Judge a quarantined batch anew, with every check."""
    check_batch(batch, parse_label)
    return _released(_exchange().quarantine.release(batch, stopping=stopping))


@_task("exchange.discard_quarantined")
def discard_quarantined(batch: str, reason: str) -> Result:
    """Give up a quarantined batch; nobody is told."""
    check_batch(batch, parse_label)
    done = _exchange().quarantine.discard(batch, reason)
    return done.as_dict() | {"message": "its files are in the archive"}


@_task("exchange.clear_strangers")
def clear_strangers() -> Result:
    """Remove all files that nobody vouches for from quarantine."""
    return _counted(_exchange().quarantine.clear().as_dict(), "nothing to remove")


@_task("exchange.let_in_versions")
def let_in_versions(reason: str, channel: str, version: int) -> Result:
    """Believe a version of a channel that this side receives, and what is as far ahead from now on."""
    check_text("channel", channel or 0)
    if type(version) is not int or not 0 < version <= MAX_INTEGER:
        raise RefusedCall(f"version: expected a whole number from 1 to {MAX_INTEGER}, found {shown(version)}")
    return _exchange().versions.let_in(channel, version, reason).as_dict()


@_task("exchange.free_row")
def free_row(stream: str, key: str) -> Result:
    """Let a row that an absurd version has frozen, or a deleted key, take the next record again."""
    for name, value in (("stream", stream), ("key", key)):
        check_text(name, value or None)
    return _exchange().versions.free(stream or "", key or "", "").as_dict()


@_task("exchange.pause_channel")
def pause_channel(reason: str, channel: str, direction: str | None = None) -> Result:
    """Have a channel stand still: nothing of it is sent, or nothing taken in."""
    check_text("channel", channel or 0)
    check_text("direction", direction)
    return _paused_or_resumed(_exchange().pause(channel, reason, direction=direction).as_dict())


@_task("exchange.resume_channel")
def resume_channel(reason: str, channel: str, direction: str | None = None) -> Result:
    """Let a channel go on that was paused."""
    check_text("channel", channel or 0)
    check_text("direction", direction)
    return _paused_or_resumed(_exchange().resume(channel, reason, direction=direction).as_dict())


def _paused_or_resumed(done: Result) -> Result:
    log.info("channel", **{name: value for name, value in done.items() if value is not None})
    return done


@_task("exchange.resync")
def resync(channel: str, streams: list[str] | None = None, prune: bool = False) -> Result:
    """Have whole tables of a channel sent as they are now; this sends what it can: ``batches``, one for each."""
    check_text("channel", channel or "")
    check_names("streams", streams)
    check_truth("prune", prune)
    done = _exchange().resync(channel or "", streams, prune=prune, stopping=stopping)
    return _told(done.run.batches, done.as_dict(), "nothing to send")


@_task("exchange.new_epoch")
def new_epoch(reason: str, continues: str | None = None) -> Result:
    """Begin a new epoch after an earlier copy was restored, or the database made anew: everything is sent anew."""
    check_text("continues", continues)
    done = _exchange().epochs.new(reason, continues).as_dict()
    log.info("epoch", **done)
    return done | {"message": f"epoch {done['epoch']} has begun"}


@_task("exchange.adopt_epoch")
def adopt_epoch(reason: str, epoch: str) -> Result:
    """Take an epoch of the other side that waits for a decision for its newest."""
    check_text("epoch", epoch or 0)
    done = _exchange().epochs.adopt(epoch, reason).as_dict()
    log.info("epoch", **done)
    return done | {"message": f"epoch {epoch} is adopted; the next import takes its batches"}


@_task("exchange.refuse_epoch")
def refuse_epoch(reason: str, epoch: str) -> Result:
    """Take an epoch of the other side that waits for a decision for one that it left."""
    check_text("epoch", epoch or 0)
    done = _exchange().epochs.refuse(epoch, reason).as_dict()
    log.info("epoch", **done)
    return done | {"message": f"epoch {epoch} was left; the next import quarantines its batches"}


@_task("exchange.accept_gap")
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
    done = _exchange().gaps.accept(channel, sequence, reason, through=through, snapshot=not no_snapshot)
    return done.as_dict()


@_task("exchange.resend")
def resend(channel: str | None = None, sequences: int | list[int] | None = None, code: str | None = None) -> Result:
    """Publish batches again, the same bytes under the next name: those of a channel, or those of a request code."""
    for name, value in (("channel", channel), ("code", code)):
        check_text(name, value)
    wanted = [] if sequences is None else sequences_of(sequences)
    return _told(_exchange().batches.resend(channel, wanted, code=code), {}, "nothing to resend")


@_task("exchange.discard_pending")
def discard_pending(reason: str, stream: str) -> Result:
    """Remove changes that wait under the name of a stream that is not sent from here."""
    check_text("stream", stream or 0)
    return _settled(_exchange().pending.discard(stream, reason))


@_task("exchange.move_pending")
def move_pending(reason: str, stream: str, to: str) -> Result:
    """Give changes that wait under the name of a stream that is not sent from here to stream ``to``."""
    for name, value in (("stream", stream), ("to", to)):
        check_text(name, value or 0)
    return _settled(_exchange().pending.move(stream, to, reason))


def _settled(settled: Settled) -> Result:
    done = settled.as_dict()
    log.info("pending", **done)
    return done


@_task("exchange.silence_alarm")
def silence_alarm(reason: str, alarm: str, length: str, subject: str | None = None) -> Result:
    """Have nobody told of an alarm for a length of time such as 2h; of one subject, or of all."""
    check_text("subject", subject)
    return _exchange().silence_alarm(str(alarm), str(length), reason, subject=subject).as_dict()


@_task("exchange.unsilence_alarm")
def unsilence_alarm(alarm: str, subject: str | None = None) -> Result:
    """Have people told of an alarm again."""
    check_text("subject", subject)
    _exchange().unsilence_alarm(str(alarm), subject=subject)
    return {"message": f"people are told of {alarm} again"}


@_task("exchange.test_alarms")
def test_alarms() -> Result:
    """Send a trial message to everybody who is told: ``targets``, what each answered."""
    answers = _exchange().test_alarms()
    reached = sum(one.taken for one in answers)
    return {
        "targets": [one.as_dict() for one in answers],
        "message": f"{reached} of {len(answers)} were reached",
    }


@_task("exchange.prune")
def prune() -> Result:
    """Remove what retention no longer keeps: counts by what it was."""
    for alarm in alarms(_site()):
        log.warning("alarm", message=str(alarm))
    return _counted(_exchange().prune().as_dict(), "nothing to prune")


@_task("exchange.backup")
def backup() -> Result:
    """Make a backup in the folder of the settings, and let go of old ones there."""
    done = _exchange().backup().as_dict()
    log.info("backup", **done)
    return done | {"message": f"a backup of {done['rows']} rows lies in {done['folder']}"}


@_task("exchange.reconcile")
def reconcile(channel: str | None = None, incoming: bool = True, reason: str | None = None) -> Result:
    """Have both sides compare their rows of one channel or all: ``channels``, each with what happens next.

    Without ``incoming``, as beat calls it, only those that this side sends: the other side's beat begins the others.
    """
    exchange = _exchange()
    check_channel(channel, [*exchange.site.outgoing(), *exchange.site.incoming()], "sent or received")
    check_truth("incoming", incoming)
    asked = exchange.agreement.reconcile(channel, incoming=incoming, reason=reason)
    return _told(asked, {}, "nothing to compare", what="channels")


@_task("exchange.answer_requests")
def answer_requests() -> Result:
    """Hand new requests of the reference application to the handler: counts by what came of them."""
    settings = _exchange().settings
    if not settings.answers_requests:
        raise RefusedCall(f"network {settings.network} of {settings.app} has no requests to answer")
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
    return _exchange().site


def _exchange() -> Exchange:
    """Give this process's own side: who asks for what is written down by the task."""
    return _exchange_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _exchange_of(_process: int) -> Exchange:
    lent = LENDERS[-1]() if LENDERS else None
    return Exchange(_present_settings(), engine=lent, acting=left_to_the_caller, ready=True)


class _Held:
    """The settings of this process, and at which of its worker's changes of them they were read."""

    settings: Settings | None = None
    number = 0


def hold_settings(settings: Settings) -> None:
    """Have this process, and those that it forks, work by these settings until they are read anew."""
    _Held.settings, _Held.number = settings, changes()


def forget_settings() -> None:
    """Have this process read its settings, and open its side, anew when they are needed next."""
    _close()
    _Held.settings = None


def _close() -> None:
    if _exchange_of.cache_info().currsize:
        _exchange().close()
    _exchange_of.cache_clear()


def _present_settings() -> Settings:
    if _Held.settings is None:
        hold_settings(load_settings())
    assert _Held.settings is not None
    return _Held.settings


def _follow_changes() -> None:
    """Read the settings anew if the worker has done so since: what it took is taken, unless it is faulty by now."""
    if _Held.settings is None or _Held.number == changes():
        return
    _Held.number = changes()
    with suppress(SettingsFaults):
        _Held.settings, _ = read_anew(_Held.settings)
        logs.change(_Held.settings.log_level, _Held.settings.log_format, secrets=_Held.settings.passwords)
        _close()


def _warn(trouble: str | None) -> None:
    """Log what troubles a run: each sentence once an hour, however many runs end with it."""
    if not trouble:
        return
    moment = time.monotonic()
    for sentence in [one for one, at in _warned.items() if moment - at >= WARNED_SECONDS]:
        del _warned[sentence]
    (log.debug if trouble in _warned else log.warning)("trouble", message=trouble)
    _warned.setdefault(trouble, moment)


WARNED_SECONDS = 3600.0
_warned: dict[str, float] = {}


def _handing(task: str, spread: bool) -> Callable[[str], None] | None:
    """Give the function that sends a channel to a task of its own; it is gone with the tick that sent it."""
    if not spread:
        return None
    settings = _exchange().settings
    period = settings.export_every if task == "exchange.export" else settings.import_every

    def hand_over(channel: str) -> None:
        arguments = {"channel": channel, "spread": True}
        options = {"expires": period * EXPIRY_SHARE, "headers": TICK}
        (current_task.app if current_task else current_app).send_task(task, kwargs=arguments, **options)

    return hand_over


def _told(outcomes: Iterable[HasFields], notes: dict[str, Any], nothing: str, what: str = "batches") -> Result:
    """Log each outcome as one event, but not again what waits as it did before; give them all."""
    told = []
    for outcome in outcomes:
        fields = outcome.as_dict()
        told.append(fields)
        _say_outcome(outcome)
    trouble = notes.get("trouble")
    _warn(trouble)
    for sentence in notes.get("cautions", ()):
        log.warning("caution", message=sentence)
    for sentence in notes.get("faults", ()):
        log.error("fault", message=sentence)
        trouble = trouble or sentence
    done = [f"{len(told)} looked at"] if told else []
    if notes.get("handed"):
        done.append(f"handed to tasks of their own: {', '.join(notes['handed'])}")
    return {**notes, what: told, "message": trouble or "; ".join(done) or nothing}


def _say_outcome(outcome: HasFields) -> None:
    """Log what became of one batch or record, by its place and its trace; a control batch is worth what it settles."""
    fields = outcome.as_dict()
    routine = False
    if isinstance(outcome, Imported):
        if not outcome.changed:
            return
        for one in outcome.settled:
            _say_outcome(one)
        fields["trace"] = outcome.trace
        with suppress(ValueError):
            name = BatchName.parse(outcome.batch)
            fields |= {"epoch": name.epoch, "sequence": name.sequence}
        routine = outcome.channel == CONTROL and outcome.verdict in {Verdict.APPLIED, Verdict.DUPLICATE}
    said = {name: value for name, value in fields.items() if value not in (None, "")}
    event = said.pop("verdict", None) or said.pop("state", None) or "published"
    (log.debug if routine else log.info)(str(event), **said)


def _unless_busy(outcome: Imported) -> Imported:
    if outcome.busy:
        raise outcome.busy
    return outcome


def _raise_if_only_busy(busy: Sequence[Busy], done: Sequence[object]) -> None:
    """Answer that somebody else is at work, where that is all there is to say. Raises Busy."""
    if busy and not done:
        raise busy[0]


def _refuse_paused(channel: str | None, paused: Sequence[Pause], *, spread: bool) -> None:
    """Answer who paused it where somebody asks for just this channel; to a tick that is no news. Raises Paused."""
    if channel is not None and paused and not spread:
        raise Paused(paused[0])


def _counted(counts: dict[str, Any], nothing: str) -> Result:
    done = {name: count for name, count in counts.items() if count}
    if done:
        log.info("done", **done)
    return counts | {"message": ", ".join(f"{count} {name}" for name, count in done.items()) or nothing}
