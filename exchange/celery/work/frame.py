"""Around each task: its arguments checked, its call by hand in the audit, and a sentence where that says all."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, current_task
from structlog.contextvars import bound_contextvars

from exchange.api import RefusedArgument
from exchange.api.acts import Act as Asked
from exchange.api.acts import Asker, NeedsSecondPerson, carried_out
from exchange.celery import service
from exchange.celery.arguments import RefusedCall, check_words, named
from exchange.celery.calls import REFUSED, caller_by_hand
from exchange.celery.signs import WorkerSigns
from exchange.celery.work.own_side import LENDERS, follow_changes, is_open, own_exchange, own_site
from exchange.celery.work.said import Result, log
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
from exchange.files.pid_lock import holding_name
from exchange.format.errors import TransientError
from exchange.settings import SettingsFaults

Work = TypeVar("Work", bound=Callable[..., Result])


WORK: dict[str, Callable[..., Any]] = {}
"""What each task does, by its name."""


# Nothing is wrong with the program: a traceback would only hide the sentence.
SAID = (RefusedArgument, TransientError, SettingsFaults, EngineRefused)


def stopping() -> bool:
    """Tell a running task, between two batches, whether to end; and leave word that it came so far."""
    if not LENDERS:  # of a pool of one connection this would wait for itself
        _note_done(patience_seconds=0)
    return service.stopping()


def _note_done(*, patience_seconds: float = 1.0) -> None:
    """Leave word that this worker gets something done; nothing of what a program runs without one."""
    if current_task and not (current_task.request.called_directly or current_task.request.is_eager):
        with suppress(*SAID):
            exchange = own_exchange()
            _signs(os.getpid()).note(exchange.site.engine, exchange.settings, patience_seconds)


@functools.lru_cache(maxsize=1)
def _signs(_process: int) -> WorkerSigns:
    return WorkerSigns()


def task(name: str) -> Callable[[Work], Work]:
    """Make a task that answers ``busy`` rather than fail, and logs a sentence where one says it all."""

    def decorate(work: Work) -> Work:
        """Give the task of a function, with the parameters ``who`` and ``reason`` beside its own."""
        signature = inspect.signature(work)
        needs_reason = "reason" in signature.parameters

        @functools.wraps(work)
        def run(*args: Any, who: str | None = None, reason: str | None = None, **kwargs: Any) -> Result:
            """Check the arguments, do the work, and note it in the audit where somebody asked by hand."""
            follow_changes()
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
                except SAID as fault:
                    log.error("failed", message=str(fault))
                    raise
                finally:
                    _note_done()

        WORK[name] = run
        return run  # type: ignore[return-value]

    return decorate


@contextmanager
def _counted_rows() -> Iterator[None]:
    """Count the rows of a task's work, for whoever asks this process how far it is."""
    with own_exchange().site.progress.counted():
        yield


def say_how_far(*_: Any) -> None:
    """Log how far the task at hand is; nothing where there is none. Called by a signal."""
    if not is_open():
        return
    progress = own_exchange().progress
    if progress is not None and progress.is_counted:
        with suppress(RuntimeError):  # the signal came in the midst of another line
            log.info("progress", message=str(progress.pace()), **_task_id())


def _task_id() -> dict[str, str]:
    return {"task_id": str(current_task.request.id)} if current_task and current_task.request.id else {}


def make_task(app: Celery, name: str, **options: Any) -> Any:
    """Make the task of this name in an application."""
    return app.task(name=name, throws=SAID, **options)(WORK[name])


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
    with holding_name(own_exchange().settings.calls_lock, number) as alone:
        if not alone:
            raise _repeated(task, number, "is being done")
        act = None
        try:
            with carried_out(own_site(), asked, asker, call=number) as act:
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
    if not write_refusal(own_site().engine, action, f"{task} {number}", origin=whence, sentence=sentence):
        log.warning("audit", message="more refusals came within an hour than are written to the audit")
