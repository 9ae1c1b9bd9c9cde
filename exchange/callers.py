"""Who called a task: one of our own processes, or somebody by hand. The headers of its message tell.

Our own mark what they send; whatever bears no mark was called by hand, so forgetting a mark only audits too much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exchange.database import user, whoami

TICK = {"exchange_tick": True}
"""The headers of what our own processes call by themselves."""

_HAND = "exchange_hand"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Caller:
    """Somebody who called a task by hand, and from where."""

    who: str
    origin: str


def headers_by_hand() -> dict[str, Any]:
    """Give the headers that name this process's user as the caller."""
    return {_HAND: {"who": user(), "from": whoami()}}


def caller_by_hand(request: Any) -> Caller | None:
    """Tell who called the task of this request by hand; None if that was a tick, another task, or plain Python."""
    headers = request.headers or {}
    if request.called_directly or request.parent_id or headers.keys() >= TICK.keys():
        return None
    said = headers.get(_HAND)
    if not isinstance(said, dict):
        said = {}
    origin = said.get("from") or request.origin or UNKNOWN
    return Caller(str(said.get("who") or UNKNOWN), f"celery call, {origin}, task {request.id}")
