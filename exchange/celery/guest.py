"""The tasks in another application's Celery: judged there as in the exchange's own, and nothing else of it is touched.

Every application that is finalized in this process gets the tasks, as it gets those of ``shared_task``. What protects
them belongs to each of them (its strategy, its serializer, when it is acknowledged), not to the worker.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from celery import Celery, current_task, signals
from celery._state import _get_active_apps, connect_on_app_finalize
from celery.worker.strategy import default
from kombu.utils.json import dumps

from exchange.celery.calls import CALL, REFUSED, TICK_MARK, Caller, caller_by_hand, sign
from exchange.celery.judge import Judge, refusal, rewrite
from exchange.celery.service import HELD, SOFT_SHARE, visibility_seconds
from exchange.celery.signs import BeatSigns
from exchange.celery.work import WORK, make_task
from exchange.database import clock
from exchange.files import call_secret, pid_lock
from exchange.operating import logs
from exchange.settings import Settings, SettingsFaults, load_settings

log = logging.getLogger("exchange")

_IS_BEAT = "beat"
_runs: set[str] = set()
"""Which of Celery's services this process is."""
_signs: list[BeatSigns] = []
"""Where this process leaves word that it ticks, if it is this home's beat."""


def join() -> None:
    """Give the tasks to every application of this process, those that are finalized already too; may be repeated."""
    if not structlog.is_configured():  # else our events follow the application's own way
        logs.join()
    connect_on_app_finalize(_register)
    for app in _get_active_apps():
        if app.finalized:
            _register(app)


@signals.worker_init.connect
@signals.worker_process_init.connect
@signals.beat_init.connect
def _speak_as_set(**_: Any) -> None:
    """Have our own logger keep to a level and a form that are set; handlers and all other loggers are the host's."""
    with suppress(SettingsFaults):
        settings = load_settings()
        if "log_level" in settings.model_fields_set:
            log.setLevel(settings.log_level)
        form = settings.log_format if "log_format" in settings.model_fields_set else None
        logs.speak(form, secrets=settings.passwords)


def _register(app: Celery) -> None:
    if getattr(app, "is_the_exchanges", False):  # it has a gate before all of them
        return
    for name in WORK:
        make_task(
            app,
            name,
            lazy=False,
            Strategy="exchange.celery.guest:judged",
            serializer="json",
            # A killed worker's task comes back; never on a lost child: that loops as fast as it crashes.
            acks_late=True,
            reject_on_worker_lost=False,
        )


def judged(task: Any, app: Celery, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Give what Celery calls with each message for one of our tasks: it is judged before anything in it counts."""
    handle, refuse = (default(one, app, consumer, **options) for one in (task, app.tasks[REFUSED]))
    try:
        settings = load_settings()
        judge = Judge(settings).judge
        _settle(task, app, settings)
    except SettingsFaults as faults:
        sentence = f"the settings are faulty: {'; '.join(faults.faults)}"
        log.error("the exchange's tasks can't run here: %s", sentence)  # noqa: TRY400 - the sentence says it all

        def judge(message: Any) -> str:
            """Refuse it: nothing can be checked."""
            return rewrite(message, refusal(message.headers, sentence))

    def handler(message: Any, _body: Any, *args: Any, **kwargs: Any) -> Any:
        """Hand on what was accepted of a message, or have its refusal written down."""
        accepted = judge(message)
        return (handle if accepted == task.name != REFUSED else refuse)(message, None, *args, **kwargs)

    return handler


def _settle(task: Any, app: Celery, settings: Settings) -> None:
    """Bound a task as ours are bound, where the application bounds none; say what would let one run twice."""
    if task.time_limit is None:
        task.time_limit, task.soft_time_limit = settings.task_seconds, settings.task_seconds * SOFT_SHARE
    if not HELD:
        HELD.append(pid_lock.hold_with_others(settings.worker_lock))
        if "json" not in {str(one).rpartition("/")[2] for one in app.conf.accept_content}:
            log.error("accept_content: expected json among what the worker takes; the exchange's tasks fail without it")
        given = (app.conf.broker_transport_options or {}).get("visibility_timeout", 3600)
        if given < visibility_seconds(settings):
            log.warning(
                "broker_transport_options: a visibility_timeout of %s seconds gives a task to a second worker while the"
                " first one may still run; %s would not",
                given,
                visibility_seconds(settings),
            )


class _OtherBeat(Exception):  # noqa: N818 - an answer
    """Another process is this home's beat."""


@signals.beat_init.connect
@signals.beat_embedded_init.connect
def _is_beat(sender: Any = None, **_: Any) -> None:
    """Be seen as this home's beat, if this one calls our tasks and there is no other."""
    _runs.add(_IS_BEAT)
    entries = getattr(getattr(sender, "app", None), "conf", {}).get("beat_schedule") or {}
    if any(entry.get("task") in WORK for entry in entries.values()):
        with suppress(SettingsFaults, OSError, _OtherBeat):
            HELD.append(pid_lock.hold(load_settings().beat_lock, _leave))
            _signs.append(BeatSigns(guest=True))


def _leave(who: str) -> None:
    raise _OtherBeat(who)


@signals.before_task_publish.connect
def _sign(sender: str | None = None, headers: dict[str, Any] | None = None, body: Any = None, **_: Any) -> None:
    """Sign what a program calls by hand, in its last form. Raises SecretFault: then nothing was called."""
    if sender in WORK and _IS_BEAT in _runs:
        for signs in _signs:
            signs.note()
    if sender not in WORK or headers is None or CALL in headers or headers.pop(TICK_MARK, None):
        return
    caller = _caller()
    if caller is None:
        return
    said = json.loads(dumps(body))  # type: ignore[no-untyped-call]
    headers |= sign(headers, said, call_secret.read(load_settings().home), caller, clock.seconds())


def _caller() -> Caller | None:
    """Name who calls; None for beat, whose schedule may be kept in the broker: it calls ticks and nothing else."""
    if _IS_BEAT in _runs:
        return None
    if current_task and current_task.name in WORK:
        return caller_by_hand(current_task.request)
    return Caller.here()
