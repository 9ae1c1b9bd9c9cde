"""The gate between broker and worker: a message is judged before Celery acts on anything in it.

Celery believes what a message says: which tasks follow it, how long it may take, whose child it is. So only a message
that is checked gets through, made anew from what was checked; any other becomes the task that writes its refusal
down. Of remote control nothing is left but what only looks.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import redis
import structlog
from celery.exceptions import WorkerShutdown
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.control import Panel

from exchange.celery.judge import Judge
from exchange.celery.own_app import settings_or_exit
from exchange.celery.service import note_change
from exchange.celery.work import hold_settings
from exchange.format.errors import Problem
from exchange.operating import broker
from exchange.operating.reloading import LOOK_SECONDS
from exchange.operating.service_manager import manager

LOOKS = frozenset(
    {
        *("active", "active_queues", "clock", "conf", "ping", "query_task", "registered", "report", "reserved"),
        *("revoked", "scheduled", "stats"),
        # These have the worker tell more of itself, to whoever watches the broker.
        *("enable_events", "disable_events", "heartbeat"),
    }
)
"""What may be asked of a worker through the broker."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 8.0
"""Between two tries with a broker that refuses us: doubled from the one to the other."""
FORGET_SECONDS = 60.0
"""A refusal so long after the last one is said anew."""

log = structlog.get_logger("exchange")
_LOGGER = logging.getLogger("celery.worker.consumer.consumer")


class PoolWatch:
    """Whether the pool answers: with late acknowledgement each task that is given to it has a process to begin it.

    A task that runs is no hanging; its time limit ends it.
    """

    def __init__(self, patience_seconds: float) -> None:
        """Take how long a task may wait, and how long it may run on beyond its limit."""
        self._patience = patience_seconds
        self._since: dict[tuple[str, bool], float] = {}

    def answers(self) -> bool:
        """Tell whether no task waits for too long to be begun, nor runs on long after its limit."""
        moment = time.monotonic()
        limits = {
            (one.id, one.time_start is not None): one.task.time_limit if one.time_start is not None else 0
            for one in state.reserved_requests
            if one.eta is None
        }
        self._since = {one: self._since.get(one, moment) for one in limits}
        return all(limit is None or moment - self._since[one] < limit + self._patience for one, limit in limits.items())


class Gate(Consumer):  # type: ignore[misc]
    """Celery's consumer, which sees no message that was not judged."""

    def __init__(self, *args: Any, **options: Any) -> None:
        Panel.data.update(dict.fromkeys(set(Panel.data) - LOOKS, _refuse_control))
        self._settings = settings_or_exit()
        self._refusal, self._refused_at, self._pause = "", 0.0, FIRST_PAUSE_SECONDS
        self._judge = Judge(self._settings)
        self._claims = False
        self._pool_watch = PoolWatch(manager().patience_seconds)
        super().__init__(*args, **options)

    def on_ready(self) -> None:
        """Begin, unless the broker serves another home; and say again and again that this one is served."""
        if not self._claims:
            self.timer.call_repeatedly(LOOK_SECONDS, self._reload_if_asked)
        if manager().patience_seconds and not self._claims:
            self.timer.call_repeatedly(manager().every_seconds, self._prove_that_it_works)
        other = self._claim()
        if other is not None:
            log.critical("refused", message=str(other))
            raise WorkerShutdown(1)
        if not self._claims:
            self.timer.call_repeatedly(broker.CLAIM_SECONDS / 4, self._claim)
            self._claims = True
        super().on_ready()

    def _reload_if_asked(self) -> None:
        """Take new settings where somebody asked for that; the pool's children do so before their next task."""
        reloader = self.app.reloader()
        if reloader.reload_if_asked():
            self._settings = reloader.settings
            self._judge = Judge(self._settings)
            note_change()
            hold_settings(self._settings)  # for children that are forked from now on

    def _prove_that_it_works(self) -> None:
        """Tell whoever started this worker that its loop turns and its pool answers, if that is so."""
        if self._pool_watch.answers():
            busy = len(state.active_requests)
            manager().works(f"{busy} at work" if busy else "ready")

    def _claim(self) -> Problem | None:
        try:
            with broker.connect(self.app.conf.exchange_secret_broker_url) as client:
                return broker.claim(client, self._settings.network, self._settings.home)
        except (redis.RedisError, OSError):
            return None  # one that is away, or lets us write no such key

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long a broker is away; end where it refuses our name or password, which are settings."""
        refused = broker.login_refused(self.app.conf.exchange_secret_broker_url)
        if refused is not None:
            log.critical("refused", message=str(refused))
            raise WorkerShutdown(1)
        ensure = conn.ensure_connection

        def wait(errback: Any = None, max_retries: Any = None, callback: Any = None, **options: Any) -> Any:
            def turn() -> None:
                manager().works("waiting for the broker")  # which is no hanging
                self._reload_if_asked()
                if callback:
                    callback()

            return ensure(errback, max_retries, callback=turn, **options)

        conn.ensure_connection = wait
        return super().ensure_connected(conn)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Rest before a broker that refuses us is asked again; one that is away Celery waits for by itself."""
        if not self._refused(exc):
            super().on_connection_error_before_connected(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The same, and let go of the connection."""
        level = _LOGGER.level
        if self._refused(exc):
            _LOGGER.setLevel(logging.ERROR)  # it was said
        try:
            with warnings.catch_warnings(action="ignore"):  # eight lines of what Celery 6 will do otherwise
                super().on_connection_error_after_connected(exc)
        finally:
            _LOGGER.setLevel(level)

    def _refused(self, error: Exception) -> bool:
        """Tell whether the broker answers and refuses us, as one that is read-only or full; say it once, and rest."""
        if not isinstance(error, redis.ResponseError):
            return False
        sentence, now = broker.refusal(error), time.monotonic()
        again = sentence == self._refusal and now < self._refused_at + FORGET_SECONDS
        if not again:
            log.warning("away", what="the broker", message=f"{sentence}; tasks go on when it takes them again")
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS) if again else FIRST_PAUSE_SECONDS
        self._refusal, self._refused_at = sentence, now + self._pause
        time.sleep(self._pause)
        return True

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """Give what is called with every message."""
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **options)

        def judge_and_handle(message: Any) -> Any:
            """Write into the message what was accepted of it, then handle it."""
            self._judge.judge(message)
            return handle(message)

        return judge_and_handle


def _refuse_control(_state: Any, **_: Any) -> dict[str, str]:
    return {"error": "through the broker a worker is only looked at; stop it with SIGTERM, set it up in its settings"}
