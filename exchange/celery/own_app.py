"""The exchange's own Celery application: ``celery -A exchange worker|beat|call|inspect``, from any folder.

Celery is the alarm clock and nothing more: every task derives its work anew from the database and the
folders, so that a lost, repeated or late message does no harm. Settings are read when Celery first needs
them, and nothing connects to the database before a fork.
"""

from __future__ import annotations

import atexit
import sys
import warnings

from exchange.files.ownership import WrongOwner, refuse_imports

try:
    refuse_imports()
except WrongOwner as fault:
    if "celery.bin.celery" not in sys.modules:  # a program's own affair
        raise
    print(fault, file=sys.stderr)  # noqa: T201 - the logs are not set up yet
    sys.exit(2)

from exchange.operating import garbage

if "celery.bin.celery" in sys.modules:
    garbage.collect_seldom()
    # Celery's word on running as root is ten lines long and about pickle, which we don't accept.
    warnings.filterwarnings("ignore", "You're running the worker with superuser")

import json
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, NoReturn

import click
import redis
import structlog
from celery import Celery, current_task, signals
from celery.app.amqp import AMQP
from click.core import ParameterSource
from kombu.exceptions import OperationalError
from kombu.utils.json import dumps

from exchange import tracing
from exchange.celery.calls import CALL, TICK_MARK, Caller, caller_by_hand, sign, why_it_waits
from exchange.celery.connection import SteadyConnection
from exchange.celery.service import HELD, RESULT_SECONDS, SOFT_SHARE, schedule, visibility_seconds
from exchange.celery.signs import TICK_SECONDS
from exchange.database import clock
from exchange.files import call_secret, pid_lock
from exchange.files.folder import make_private
from exchange.format.errors import printable
from exchange.operating import broker, last_runs, logs, readiness
from exchange.operating.reloading import Reloader, say_reloaded
from exchange.operating.service_manager import manager
from exchange.progress import ASKING
from exchange.settings import Settings, SettingsFaults, load_settings

ANSWER_SECONDS = 5
AGAIN_SECONDS = 0.2
"""So long after the first try a broker that does not answer is asked once more."""


def configuration(settings: Settings, broker_url: str) -> dict[str, Any]:
    """Give Celery's settings. Each protects from something that was seen to happen."""
    # Above every hard limit, in all three places, or a task that still runs is delivered again.
    visibility: dict[str, Any] = {"visibility_timeout": visibility_seconds(settings)}
    address, options = broker.for_celery(broker_url)
    ours = f"exchange-{settings.network}"
    return {
        "broker_url": address,
        # With the name that Sentinels know the Redis by. Celery's ``inspect conf`` hides what is called secret.
        "exchange_secret_broker_url": broker_url,
        "result_backend": address,
        "broker_transport_options": visibility | options,
        "result_backend_transport_options": visibility | options,
        **visibility,
        "broker_connection_retry_on_startup": True,
        # However long it takes: by default Celery ends after three quarters of an hour.
        "broker_connection_max_retries": None,
        # A broker that is read-only or full for a while is waited for, as one that is away.
        "broker_channel_error_retry": True,
        # A shared Redis: the other side's worker must neither take our tasks nor answer for us.
        "task_default_queue": ours,
        "control_exchange": ours,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_expires": RESULT_SECONDS,
        "enable_utc": True,
        "timezone": "UTC",
        # Late: a killed worker's task comes back. Never on a lost child: that loops as fast as it crashes.
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "worker_concurrency": settings.worker_concurrency,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Nothing of a message is acted on that was not judged before.
        "worker_consumer": "exchange.celery.gate:Gate",
        "task_time_limit": settings.task_seconds,
        "task_soft_time_limit": settings.task_seconds * SOFT_SHARE,
        "beat_schedule": schedule(settings),
        **_scheduler(settings, ours),
    }


def _scheduler(settings: Settings, ours: str) -> dict[str, Any]:
    if settings.redbeat:
        return {
            "beat_scheduler": "exchange.celery.redbeat:SteadyRedBeat",
            "redbeat_redis_options": {"retry_period": -1},
            "redbeat_key_prefix": f"{ours}:",
            # The lock of a killed beat is held for five of these.
            "beat_max_loop_interval": 5,
        }
    return {
        "beat_scheduler": "exchange.celery.beat:SteadyScheduler",
        "beat_schedule_filename": str(settings.run_folder / "beat.json"),
        # Beat comes back that often, whatever is due: that it ticks is how it is known to live.
        "beat_max_loop_interval": TICK_SECONDS,
    }


def settings_or_exit() -> Settings:
    """Read the settings; on a command line, faults are printed and end the program with code 2.

    Raises SettingsFaults where no command line is being run.
    """
    try:
        return load_settings()
    except SettingsFaults as faults:
        _end(faults.faults, 2, faults)


def _configure() -> dict[str, Any]:
    settings = settings_or_exit()
    url = settings.broker_url
    if url is None:
        found = broker.running(settings.broker_folder)
        if found is None:
            fault = f"no broker runs in {settings.broker_folder}; start `exchange up`, or set EXCHANGE_BROKER_URL"
            _end([fault], 1, broker.BrokerFault(fault))
        url = found.url
    try:
        make_private(settings.run_folder)
    except OSError as error:
        fault = f"{error.filename}: {error.strerror}; EXCHANGE_HOME must be a folder that we can write"
        _end([fault], 2, SettingsFaults([fault]))
    return configuration(settings, url)


def _end(sentences: list[str], code: int, error: Exception) -> NoReturn:
    if click.get_current_context(silent=True) is None:
        raise error
    for sentence in sentences:
        print(sentence, file=sys.stderr)  # noqa: T201 - the logs are not set up yet
    raise SystemExit(code)


class SigningAMQP(AMQP):
    """What makes messages: one that somebody calls by hand is signed, in its last form."""

    Connection = SteadyConnection

    def _create_task_sender(self) -> Callable[..., Any]:
        send: Callable[..., Any] = super()._create_task_sender()

        def sign_and_send(producer: Any, name: str, message: Any, headers: Any = None, **options: Any) -> Any:
            """Send a message, signed if somebody calls it by hand; beat's are marked and go as they are."""
            ours = {**(headers or {})}
            ours.pop(CALL, None)
            if ours.pop(TICK_MARK, None) is None and (caller := self.app.caller()) is not None:
                body = json.loads(dumps(message.body))  # type: ignore[no-untyped-call]
                ours |= sign({**message.headers, **ours}, body, self.app.secret(), caller, clock.seconds())
            return send(producer, name, message, headers=ours, **options)

        return sign_and_send


class _Exchange(Celery):
    """Celery, but calls are signed, and ``celery call`` says at once that the broker is away or the workers busy."""

    amqp_cls = SigningAMQP
    is_the_exchanges = True
    _reloader: Reloader | None = None
    runs: str | None = None
    """Which of Celery's services this process is: neither speaks for whoever started it."""

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """Give the worker."""
        return self.subclass_with_self("exchange.celery.programs:Worker")

    @cached_property
    def Beat(self) -> Any:  # noqa: N802 - Celery's name
        """Give beat."""
        return self.subclass_with_self("exchange.celery.programs:Beat")

    def reloader(self) -> Reloader:
        """Give what reads this worker's settings anew."""
        if self._reloader is None:
            self._reloader = Reloader(settings_or_exit(), say_reloaded, check=_check_settings)
        return self._reloader

    def caller(self) -> Caller | None:
        """Name who calls what this process sends; None if nobody does.

        Beat sends what its schedule says, which may be kept in the broker. A worker sends what is to follow a task,
        and that is whose that task was.
        """
        if self.runs == "worker":
            return caller_by_hand(current_task.request) if current_task else None
        return None if self.runs else Caller.here()

    def secret(self) -> bytes:
        """Give the secret that signs. Raises SecretFault; on a command line that is printed and ends it with code 1."""
        try:
            return call_secret.read(settings_or_exit().home)
        except call_secret.SecretFault as fault:
            _end([f"{fault}; nothing was called"], 1, fault)

    def send_task(self, *args: Any, **options: Any) -> Any:
        """Send a task; beat and programs go on trying, as they outlive a broker's absence."""
        command = click.get_current_context(silent=True)
        if command is not None and command.info_name == "call":
            try:
                with self.connection_for_write() as connection:
                    connection.ensure_connection(max_retries=1, interval_start=AGAIN_SECONDS, timeout=ANSWER_SECONDS)
            except OperationalError as error:
                if refused := broker.not_let_in(error):
                    _end([f"{refused}; nothing was called"], 1, error)
                _end([f"the broker does not answer: {printable(str(error))}; nothing was called"], 1, error)
            try:
                waits = why_it_waits(self)
                called = super().send_task(*args, **options)
            except (redis.RedisError, OperationalError) as error:
                _end([f"the broker refuses the call: {broker.refusal(error)}; nothing was called"], 1, error)
            if waits:
                print(waits, file=sys.stderr)  # noqa: T201 - a command line's own answer
            return called
        return super().send_task(*args, **options)


app = _Exchange("exchange", include=["exchange.celery.tasks"], set_as_current=False)
app.add_defaults(_configure)
# Not by a class before the URL of ``result_backend``: of such a one Celery's ``inspect conf`` shows the password.
app.loader.override_backends = {
    "redis": "exchange.celery.connection:Results",
    "rediss": "exchange.celery.connection:Results",
    "sentinel": "exchange.celery.connection:ResultsBehindSentinels",
}


@signals.setup_logging.connect
def _log_as_set(loglevel: int, logfile: str | None = None, **_: Any) -> None:
    """Log as the settings say, Celery's own lines too; what the command line says of level and file goes before."""
    settings = settings_or_exit()
    command = click.get_current_context(silent=True)
    given = command and command.get_parameter_source("loglevel") is ParameterSource.COMMANDLINE
    level = logging.getLevelName(loglevel) if given else settings.log_level
    process = command.info_name if command and command.info_name in {"worker", "beat"} else "celery"
    logs.configure(process, level, settings.log_format, file=logfile, secrets=settings.passwords)
    # What a handler or a hook prints is a line, too.
    app.log.redirect_stdouts("WARNING")


@signals.beat_init.connect
@signals.beat_embedded_init.connect
def _is_beat(**_: Any) -> None:
    """Tick alone: a second beat of this home would call everything twice, and waits until the first one ends."""
    app.runs = "beat"
    if refused := broker.login_refused(app.conf.exchange_secret_broker_url):
        _end([str(refused)], 2, SettingsFaults([str(refused)]))
    manager()
    if not HELD:
        HELD.append(pid_lock.hold(settings_or_exit().beat_lock, _say_waiting))
    _begin("beat")
    atexit.register(_leave_word, "beat", os.getpid())
    structlog.get_logger("exchange").info("ticking")


def _begin(process: str) -> None:
    """Leave word that this process lives, and say how the one before it ended, if that was not in order."""
    with suppress(OSError):
        for sentence in last_runs.begin(settings_or_exit(), process):
            structlog.get_logger("exchange").warning("restarted", message=sentence)
    atexit.register(manager().stops)


def _leave_word(process: str, pid: int) -> None:
    """Leave word that this process was told to stop, as it ends: not by a fault, nor as a child."""
    if os.getpid() == pid and not hasattr(sys, "last_type"):
        with suppress(OSError, SettingsFaults):
            last_runs.note_stopped(load_settings(), process)


def _say_waiting(who: str) -> None:
    message = f"{printable(who) or 'another process'} is beat here; this one goes on after it"
    structlog.get_logger("exchange").warning("waiting", message=message)


def _check_settings(settings: Settings) -> None:
    """See that channels, keys and schemas are there for new settings. Raises SettingsFaults."""
    from exchange.operating.assemble import assemble  # noqa: PLC0415 - `celery call` starts sooner without it

    assemble(settings).engine.dispose()


@signals.worker_init.connect
def _is_worker(**_: Any) -> None:
    app.runs = "worker"
    signal.signal(ASKED_OF_A_TASK, signal.SIG_IGN)  # as it is in a process of it that does not answer yet
    manager()  # before a pool is forked
    from exchange.celery.work import hold_settings  # noqa: PLC0415 - `celery call` starts sooner without it

    hold_settings(settings_or_exit())


@signals.worker_init.connect
def _check_site(**_: Any) -> None:
    """Refuse to start with faulty channels, keys or handler or without tables: every task could only fail."""
    # `celery call` starts a second sooner without these.
    from exchange.operating.assemble import load_request_handler  # noqa: PLC0415
    from exchange.operating.prepare import is_database_behind  # noqa: PLC0415

    settings = settings_or_exit()
    try:
        needed = is_database_behind(settings)
        if settings.answers_requests:
            load_request_handler(settings)
    except SettingsFaults as faults:
        _end(faults.faults, 2, faults)
    HELD.append(pid_lock.hold_with_others(settings.worker_lock))
    _begin("worker")
    if needed:
        fault = "the database has not the tables of this version; run `exchange migrate` first"
        _end([fault], 1, SettingsFaults([fault]))


@signals.worker_ready.connect
def _tell_ready(**_: Any) -> None:
    readiness.report_ready("ready")


@signals.worker_ready.connect
def _say_what_stands(**_: Any) -> None:
    global _says  # noqa: PLW0603 - a worker is ready again after each connection
    if not _says:
        from exchange.celery import standing_lines  # noqa: PLC0415 - `celery call` starts sooner without it

        standing_lines.begin(lambda: app.reloader().settings)
    _says = True


_says = False


@signals.worker_process_init.connect
def _begin_spans(**_: Any) -> None:
    tracing.begin(process="exchange-worker")


@signals.worker_process_shutdown.connect
def _end_spans(**_: Any) -> None:
    tracing.end()


@signals.worker_shutting_down.connect
def _tell_stopping(**_: Any) -> None:
    manager().stops()
    _leave_word("worker", os.getpid())


@signals.worker_ready.connect
def _say_worries(**_: Any) -> None:
    for worry in broker.durability_problems(app.conf.exchange_secret_broker_url):
        structlog.get_logger("exchange").warning(str(worry))


ASKED_OF_A_TASK = signal.SIGUSR2
"""What a worker asks its processes by: their SIGUSR1 ends a task that takes too long, and is Celery's."""


@signals.worker_process_init.connect
def _answer_how_far(**_: Any) -> None:
    """Have a process that does tasks log how far it is, whenever the worker asks."""
    from exchange.celery.work import say_how_far  # noqa: PLC0415 - a worker has it already

    signal.signal(ASKED_OF_A_TASK, say_how_far)


@signals.worker_ready.connect
def _ask_how_far(sender: Any, **_: Any) -> None:
    """Pass such a signal on to the processes that do the tasks, or answer it where this one does them."""
    from exchange.celery.work import say_how_far  # noqa: PLC0415 - a worker has it already

    def ask(*_: Any) -> None:
        """Ask each of them."""
        say_how_far()
        for process in getattr(getattr(sender.pool, "_pool", None), "_pool", []):
            with suppress(OSError, TypeError):
                os.kill(process.pid, ASKED_OF_A_TASK)

    for asking in ASKING:
        signal.signal(asking, ask)
