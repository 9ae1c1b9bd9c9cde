"""Who called a task: our own processes at a tick, or somebody by hand, who signed it. All else is refused.

Whoever reaches the broker can send any message. A tick needs no signature, since it asks for nothing but what beat asks
for anyway; whatever differs from beat's ticks in any way does. The signature is a keyed digest (HMAC-SHA256) over the
task, its id, its arguments, what is to follow it, the caller and the time, with a secret below the home.

Whoever calls by hand is told what the call waits for.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from exchange.database.whoami import user, whoami
from exchange.format.errors import printable
from exchange.format.moments import in_words

CALL = "exchange_call"
"""The header that holds who called, from where and when, and the signature."""

CALLER = "exchange_caller"
"""The header that a worker itself gives a message whose signature it has checked."""

TICK_MARK = "exchange_tick"
TICK = {TICK_MARK: True}
"""What our own processes put beside a task that they call by themselves, so that it is not signed; it is not sent."""

AHEAD_SECONDS = 300
"""So far ahead of this machine's clock another one's of this side may be."""

REFUSED = "exchange.refused"
"""The task that a refused message becomes."""

_TICKS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "exchange.export": ({"spread": True},),
    "exchange.import": ({"spread": True},),
    "exchange.prune": ({},),
    "exchange.work_retries": ({},),
    "exchange.intake": ({},),
    "exchange.load_files": ({},),
    "exchange.reconcile": ({"incoming": False},),
    "exchange.answer_requests": ({},),
}
"""What beat calls, with which arguments; a channel's name may be among them where a tick gives it a task of its own."""

_SIGNED = (
    *("task", "id", "eta", "expires", "timelimit", "retries", "root_id", "parent_id", "group", "group_index"),
    *("ignore_result", "replaced_task_nesting"),
)
"""The headers that a signature covers; of others nothing is taken over."""

_OF_A_TICK = ("task", "id", "expires", "ignore_result")
_FOLLOWING = ("callbacks", "errbacks", "chain", "chord")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME = re.compile(r"exchange\.[a-z_]+")
_MOST_WORDS = 255


@dataclass(frozen=True)
class Caller:
    """Somebody who called a task by hand, and from where."""

    who: str
    origin: str

    @classmethod
    def here(cls) -> Caller:
        """Name this process's user."""
        return cls(user(), whoami())


@dataclass(frozen=True)
class AcceptedCall:
    """A message as it is worked on: nothing is in it but what was checked."""

    headers: Mapping[str, Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    following: Mapping[str, Any]


class NotAccepted(Exception):  # noqa: N818 - reads as what it is
    """The message is refused; the text is one sentence without what happens next."""


def sign(
    headers: Mapping[str, Any], body: Sequence[Any], secret: bytes, caller: Caller, at: float
) -> dict[str, dict[str, Any]]:
    """Give the header that makes a message one that ``caller`` signed. ``body`` is what its JSON will hold."""
    call: dict[str, Any] = {"who": caller.who, "from": caller.origin, "at": int(at)}
    return {CALL: call | {"digest": _digest(headers, body, call, secret)}}


def check_call(
    headers: Mapping[str, Any], body: Any, secret: bytes | str, now: float, valid_seconds: float
) -> AcceptedCall:
    """Give a message as it may be worked on. Raises NotAccepted.

    ``secret`` is a sentence if it can't be read: then ticks alone are accepted. ``body`` is what its JSON holds.
    """
    args, kwargs, following = _parts(headers, body)
    if CALL not in headers:
        if not _is_tick(headers["task"], args, kwargs, following):
            raise NotAccepted("expected a signature, as it is no tick of beat's, found none")
        return AcceptedCall({name: headers.get(name) for name in _OF_A_TICK}, (), kwargs, {})
    if isinstance(secret, str):
        raise NotAccepted(f"its signature can't be checked: {secret}")
    caller = _checked(headers, body, secret, now, valid_seconds)
    taken = {name: headers.get(name) for name in _SIGNED} | {CALLER: {"who": caller.who, "from": caller.origin}}
    return AcceptedCall(taken, args, kwargs, following)


def caller_by_hand(request: Any) -> Caller | None:
    """Tell who called the task of this request by hand; None if that was a tick or plain Python."""
    said = getattr(request, CALLER, None)
    return None if said is None else Caller(said["who"], said["from"])


def _parts(headers: Mapping[str, Any], body: Any) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
    """Take a message apart, with nothing of it believed but its form."""
    task, number = headers.get("task"), headers.get("id")
    if not isinstance(task, str) or not _NAME.fullmatch(task) or task == REFUSED:
        raise NotAccepted("expected a task of the exchange's")
    if not isinstance(number, str) or not _ID.fullmatch(number):
        raise NotAccepted(f"id: expected at most 64 letters, digits and . _ -, found {_shown(number)}")
    match body:
        case [list(args), dict(kwargs), dict(following)] if following.keys() <= set(_FOLLOWING):
            return args, kwargs, following
    raise NotAccepted(f"body: expected arguments as a list and an object, and what follows, found {_shown(body)}")


def _is_tick(task: str, args: Sequence[Any], kwargs: Mapping[str, Any], following: Mapping[str, Any]) -> bool:
    asked = dict(kwargs)
    if asked.get("spread") is True and isinstance(asked.get("channel"), str):
        del asked["channel"]
    return not args and not any(following.values()) and _same(asked, _TICKS.get(task, ()))


def _same(asked: Mapping[str, Any], forms: Sequence[Mapping[str, Any]]) -> bool:
    # Their JSON, as 1 is True for Python and not for a task.
    return json.dumps(asked) in {json.dumps(form) for form in forms}


def _checked(headers: Mapping[str, Any], body: Any, secret: bytes, now: float, valid_seconds: float) -> Caller:
    """Give who signed. Raises NotAccepted."""
    match headers[CALL]:
        case {"who": str(who), "from": str(origin), "at": int(at), "digest": str(digest)}:
            call = {"who": who, "from": origin, "at": at}
        case unusual:
            raise NotAccepted(f"its signature: expected who, from, at and digest, found {_shown(unusual)}")
    if not hmac.compare_digest(digest.encode(), _digest(headers, body, call, secret).encode()):
        raise NotAccepted("its signature is not of this side's secret, or it was changed on its way")
    if now - at > valid_seconds:
        raise NotAccepted(f"it was signed {now - at:.0f} seconds ago, expected at most {valid_seconds:.0f}")
    if at - now > AHEAD_SECONDS:
        raise NotAccepted(f"it was signed {at - now:.0f} seconds ahead of this machine's clock; set the clocks")
    return Caller(printable(who, _MOST_WORDS), printable(origin, _MOST_WORDS))


def _digest(headers: Mapping[str, Any], body: Any, call: Mapping[str, Any], secret: bytes) -> str:
    said = [{name: headers.get(name) for name in _SIGNED}, body, {name: call[name] for name in ("who", "from", "at")}]
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def _shown(value: object) -> str:
    return printable(repr(value), 80)


ANSWER_SECONDS = 2.0
"""How long a worker may take to answer; one that is well does so in milliseconds, however much it has to do."""


def why_it_waits(app: Any) -> str | None:
    """Say what a call that is sent now will wait for; None if a worker has a process free for it."""
    active = app.control.inspect(timeout=ANSWER_SECONDS, limit=1).active()
    if not active:
        return f"no worker answered within {ANSWER_SECONDS:.0f} seconds; the call waits in the queue until one takes it"
    for worker, tasks in active.items():
        if not tasks:
            return None
        stats = app.control.inspect(destination=[worker], timeout=ANSWER_SECONDS).stats() or {}
        processes = stats.get(worker, {}).get("pool", {}).get("max-concurrency", len(tasks))
        if len(tasks) < processes:
            return None
    said = ", ".join(_at_work(worker, task) for worker, tasks in active.items() for task in tasks)
    return f"busy: {said}; the call waits in the queue behind that"


def _at_work(worker: str, task: dict[str, Any]) -> str:
    since = task.get("time_start")
    begun = f" since {in_words(datetime.fromtimestamp(since, UTC))}" if since else ""
    return f"{printable(worker, 80)} runs {printable(str(task.get('name')), 80)}{begun}"
