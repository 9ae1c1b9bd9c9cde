"""What users of the directory ask, and what they were answered: rows of the API's table."""

from __future__ import annotations

import uuid
from typing import Any

from exchange.api import RefusedArgument
from exchange.people.api_keys import READ, WRITE
from exchange.people.roles import Forbidden
from exchange.requesters import asking, looking
from exchange.requesters.asking import Limits, Wish
from exchange.requesters.callers import Asker, Caller, OfUser
from exchange.serve.door.frame import Asked, Reply
from exchange.serve.door.waiting import LONGEST_SECONDS
from exchange.serve.json_api.looks import NotThere
from exchange.serve.json_api.table import AFTER, Endpoint, Field, Kind

MOST_BYTES = 1024 * 1024
"""So many a request has at most, as JSON."""
MOST_LISTED = 200
_STREAM = "request"

_WAIT = Field("wait", "wait so many seconds at most until one is answered that is not yet", Kind.NUMBER, most=60)
_USER = Field("user", "of another user: for administrators who may see what is sensitive, and in the audit")


def _ask(
    asked: Asked, *, kind: str = "question", query: str, parameters: dict[str, Any] | None = None, **more: int
) -> Reply:
    door, key = asked.door, asked.headers.get("idempotency-key")
    try:
        key = None if key is None else asking.check_key(key)
    except ValueError as error:
        raise RefusedArgument(f"{error}; nothing was submitted") from None
    settings = door.settings
    limits = Limits(settings.requests_window_seconds, settings.requests_per_user, settings.requests_per_profile)
    wish = Wish(kind, query, parameters or {}, more.get("priority"))
    if asked.shown is None:
        raise Forbidden("requests are made by users of the directory and API keys of theirs; nothing was done")
    checker, seen = door.checker(_STREAM), door.seen(asked.shown)
    with door.writing() as engine:
        caller, answer, is_new = asking.ask(engine, checker, limits, asked.shown, seen, wish, key, asked.scope)
    asked.recognise(caller)
    headers = {"Location": f"/api/v1/requests/{answer['id']}"}
    return Reply(answer, 201, headers if is_new else headers | {"Idempotent-Replayed": "true"})


def _list(asked: Asked, *, limit: int = 50, after: str | None = None, wait: int = 0, user: str | None = None) -> Reply:
    if not 1 <= limit <= MOST_LISTED:
        raise RefusedArgument(f"limit: expected a whole number from 1 to {MOST_LISTED}, found {limit}")
    try:
        caller, page = looking.list_requests(asked.door.engine, _whose(asked, user), limit, after)
    except ValueError as error:
        raise RefusedArgument(str(error)) from None
    _recognise(asked, caller)
    return Reply({"requests": page.requests, "after": page.after}, waits_for=page.waiting, wait_seconds=wait)


def _one(asked: Asked, *, request: str, wait: int = 0, user: str | None = None) -> Reply:
    number = asking.id_of(request)
    found = None
    if number is not None:
        caller, found = looking.find_request(asked.door.engine, _whose(asked, user), number)
        _recognise(asked, caller)
    if number is None or found is None:
        raise NotThere(f"there is no request {request[:80]!r} of this user")
    waits_for: list[uuid.UUID] = [number] if found["response"] is None else []
    return Reply(found, waits_for=waits_for, wait_seconds=wait, is_one=True)


def _recognise(asked: Asked, caller: Caller) -> None:
    """Take word for which user of the directory asks, before what was found is shown. Raises Forbidden."""
    if asked.shown is not None:
        asked.recognise(caller)
        _ = asked.user


def _whose(asked: Asked, user: str | None) -> Asker:
    """Say whose requests are looked at: one's own, or those of another user for whoever may see them."""
    if asked.person is not None:
        if user is None:
            raise RefusedArgument("user: expected a name or e-mail, as you are no user of the directory, found nothing")
        return OfUser(asked.revealed(user))
    if user is not None:
        raise Forbidden("what others ask is for administrators who may see what is sensitive; leave `user` out")
    assert asked.shown is not None
    return asked.shown


REQUESTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/requests",
        "Make a request; what is answered by 201 is committed. With an Idempotency-Key the same is made once.",
        _ask,
        (
            Field("kind", "what kind of request it is (default: question)"),
            Field("query", "what is asked", needed=True),
            Field("parameters", "more of what is asked", Kind.OBJECT),
            Field("priority", "how urgent it is, up to what the profile allows, which is the default", Kind.NUMBER),
        ),
        scope=WRITE,
        recognises=True,
        status=201,
        most_bytes=MOST_BYTES,
    ),
    Endpoint(
        "GET",
        "/requests",
        f"One's own requests with their responses, newest first; waits for up to {LONGEST_SECONDS} seconds.",
        _list,
        (
            Field("limit", f"so many at most (default: 50, at most {MOST_LISTED})", Kind.NUMBER, most=MOST_LISTED),
            AFTER,
            _WAIT,
            _USER,
        ),
        scope=READ,
        recognises=True,
    ),
    Endpoint(
        "GET",
        "/requests/{request}",
        "One of them, with its response once it has come.",
        _one,
        (Field("request", "a request's id", needed=True), _WAIT, _USER),
        scope=READ,
        recognises=True,
    ),
)
