"""The gate between broker and worker: a message is judged before Celery acts on anything in it.

Celery believes what a message says: which tasks follow it, how long it may take, whose child it is. So only a message
that is checked gets through, made anew from what was checked; any other becomes the task that writes its refusal
down. Of remote control nothing is left but what only looks.
"""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import redis
import structlog
from celery.exceptions import WorkerShutdown
from celery.worker.consumer import Consumer
from celery.worker.control import Panel

from exchange.celery import schedule, settings_or_exit, valid_seconds
from exchange.celery.calls import CALL, REFUSED, AcceptedCall, NotAccepted, check_call
from exchange.database import clock
from exchange.files import call_secret
from exchange.format.errors import Problem, printable
from exchange.format.moments import from_rfc3339
from exchange.operating import broker

LOOKS = frozenset(
    {
        *("active", "active_queues", "clock", "conf", "ping", "query_task", "registered", "report", "reserved"),
        *("revoked", "scheduled", "stats"),
        # These have the worker tell more of itself, to whoever watches the broker.
        *("enable_events", "disable_events", "heartbeat"),
    }
)
"""What may be asked of a worker through the broker."""

_MOST_ORIGIN = 60

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 8.0
"""Between two tries with a broker that refuses us: doubled from the one to the other."""
REST_SHARE = 0.5
"""Of its period has to have gone since a tick was taken until one that has expired is."""
MOST_KINDS = 1000
"""So many ticks that differ are remembered: whoever reaches the broker can name any channel."""

FORGET_SECONDS = 60.0
"""A refusal so long after the last one is said anew."""

log = structlog.get_logger("exchange")
_LOGGER = logging.getLogger("celery.worker.consumer.consumer")


class Gate(Consumer):  # type: ignore[misc]
    """Celery's consumer, which sees no message that was not judged."""

    def __init__(self, *args: Any, **options: Any) -> None:
        Panel.data.update(dict.fromkeys(set(Panel.data) - LOOKS, _refuse_control))
        self._settings = settings_or_exit()
        self._refusal, self._refused_at, self._pause = "", 0.0, FIRST_PAUSE_SECONDS
        self._rests = {entry["task"]: entry["schedule"] * REST_SHARE for entry in schedule(self._settings).values()}
        self._claims = False
        self._taken: dict[tuple[str, str], float] = {}
        super().__init__(*args, **options)

    def on_ready(self) -> None:
        """Begin, unless the broker serves another home; and say again and again that this one is served."""
        other = self._claim()
        if other is not None:
            log.critical("refused", message=str(other))
            raise WorkerShutdown(1)
        if not self._claims:
            self.timer.call_repeatedly(broker.CLAIM_SECONDS / 4, self._claim)
            self._claims = True
        super().on_ready()

    def _claim(self) -> Problem | None:
        try:
            with broker.connect(self.app.conf.exchange_secret_broker_url) as client:
                return broker.claim(client, self._settings.network, self._settings.home)
        except (redis.RedisError, OSError):
            return None  # one that is away, or lets us write no such key

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
            try:
                accepted = self._judged(message)
            except Exception as error:  # noqa: BLE001 - whatever a stranger's message does, the worker lives on
                accepted = _refusal(message.headers, f"it can't be read: {type(error).__name__}: {error}")
            _write(message, accepted)
            return handle(message)

        return judge_and_handle

    def _judged(self, message: Any) -> AcceptedCall:
        headers = message.headers if isinstance(message.headers, dict) else {}
        try:
            secret, valid = self._secret(headers), valid_seconds(self._settings)
            accepted = check_call(headers, _body(message), secret, clock.seconds(), valid)
        except NotAccepted as refusal:
            return _refusal(headers, str(refusal))
        return accepted if CALL in headers else self._in_time(accepted)

    def _in_time(self, tick: AcceptedCall) -> AcceptedCall:
        """Let a tick that has expired count all the same, if none of its kind was taken of late.

        It expires by the clocks of two machines: where this one's is ahead, or went ahead, none would ever be in time.
        """
        kind = (tick.headers["task"], str(tick.kwargs.get("channel")))
        present = time.monotonic()
        if _is_over(tick.headers.get("expires")):
            if present - self._taken.get(kind, -math.inf) < self._rests.get(kind[0], math.inf):
                return tick
            tick = replace(tick, headers={**tick.headers, "expires": None})
        if len(self._taken) >= MOST_KINDS:
            self._taken.clear()
        self._taken[kind] = present
        return tick

    def _secret(self, headers: Mapping[str, Any]) -> bytes | str:
        if CALL not in headers:
            return ""
        try:
            return call_secret.read(self._settings.home)
        except call_secret.SecretFault as fault:
            return str(fault)


def _is_over(expires: Any) -> bool:
    try:
        return from_rfc3339(expires) < clock.now()
    except ValueError:
        return False


def _refuse_control(_state: Any, **_: Any) -> dict[str, str]:
    return {"error": "through the broker a worker is only looked at; stop it with SIGTERM, set it up in its settings"}


def _body(message: Any) -> Any:
    if message.errors or message.content_type != "application/json":
        raise NotAccepted("body: expected JSON, found something else")
    return json.loads(message.body)


def _refusal(headers: Any, sentence: str) -> AcceptedCall:
    """Give the call that writes a refusal down, under the same id, so that whoever waits for it is told."""
    said = headers if isinstance(headers, dict) else {}
    number, task = said.get("id"), said.get("task")
    told = {
        "task": printable(str(task), 63),
        "number": printable(str(number), 64),
        "sentence": sentence,
        "origin": printable(str(said.get("origin")), _MOST_ORIGIN),
    }
    known = number if isinstance(number, str) and number.isprintable() and len(number) <= len(told["number"]) else ""
    return AcceptedCall(
        {"task": REFUSED, "id": known or "unknown", "expires": None, "ignore_result": False}, (), told, {}
    )


def _write(message: Any, accepted: AcceptedCall) -> None:
    """Make the message anew: what a worker child reads is this."""
    message.errors = []
    message.headers = {"lang": "py", "retries": 0, **accepted.headers, "argsrepr": "", "kwargsrepr": ""}
    message.body = json.dumps([list(accepted.args), dict(accepted.kwargs), dict(accepted.following)]).encode()
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.properties = {"priority": 0, "delivery_tag": message.delivery_tag}
