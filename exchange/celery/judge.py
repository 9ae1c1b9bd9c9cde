"""A message judged before Celery acts on anything in it: made anew from what was checked, or its refusal.

Celery believes what a message says: which tasks follow it, how long it may take, whose child it is.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exchange.celery.calls import CALL, REFUSED, AcceptedCall, NotAccepted, check_call
from exchange.celery.service import schedule, valid_seconds
from exchange.database import clock
from exchange.files import call_secret
from exchange.format.errors import printable
from exchange.format.moments import from_rfc3339
from exchange.settings import Settings

_MOST_ORIGIN = 60

REST_SHARE = 0.5
"""Of its period has to have gone since a tick was taken until one that has expired is."""
MOST_KINDS = 1000
"""So many ticks that differ are remembered: whoever reaches the broker can name any channel."""


class Judge:
    """Judges the messages of one worker, which knows when it took the last tick of each kind."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rests = {entry["task"]: entry["schedule"] * REST_SHARE for entry in schedule(settings).values()}
        self._taken: dict[tuple[str, str], float] = {}

    def judge(self, message: Any) -> str:
        """Make a message what was accepted of it, or the task that writes its refusal down; give that task's name."""
        try:
            accepted = self._judged(message)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's message does, the worker lives on
            accepted = refusal(message.headers, f"it can't be read: {type(error).__name__}: {error}")
        return rewrite(message, accepted)

    def _judged(self, message: Any) -> AcceptedCall:
        headers = message.headers if isinstance(message.headers, dict) else {}
        try:
            secret, valid = self._secret(headers), valid_seconds(self._settings)
            accepted = check_call(headers, _body(message), secret, clock.seconds(), valid)
        except NotAccepted as fault:
            return refusal(headers, str(fault))
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


def _body(message: Any) -> Any:
    if message.errors or message.content_type != "application/json":
        raise NotAccepted("body: expected JSON, found something else")
    return json.loads(message.body)


def refusal(headers: Any, sentence: str) -> AcceptedCall:
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


def rewrite(message: Any, accepted: AcceptedCall) -> str:
    """Make the message anew: what a worker child reads is this. Gives its task's name."""
    message.errors = []
    message.headers = {"lang": "py", "retries": 0, **accepted.headers, "argsrepr": "", "kwargsrepr": ""}
    message.body = json.dumps([list(accepted.args), dict(accepted.kwargs), dict(accepted.following)]).encode()
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.properties = {"priority": 0, "delivery_tag": message.delivery_tag}
    return str(accepted.headers["task"])
