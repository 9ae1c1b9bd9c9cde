"""How what users and programs ask is answered: who asks, with which scope, what was said, and what came of it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exchange.database.errors import transient_errors
from exchange.database.locks import Busy
from exchange.files.token_keys import TokenKeyFault
from exchange.format.as_dict import as_json
from exchange.format.errors import RecordError, TransientError
from exchange.people.roles import Forbidden, Person
from exchange.requesters.asking import DayIsFull, KeyTaken, OverLimit, SubmitRefused
from exchange.requesters.callers import Caller, Shown, Unknown, caller_of
from exchange.requesters.directory import DirectoryUser, NoSuchUser
from exchange.requesters.sign_in import NotRenewed, NotSignedIn, TooOften
from exchange.serve.console.visit import in_the_name_of
from exchange.serve.door.door import MOST_SIGNING_IN, Door
from exchange.serve.door.waiting import Told, TooManyWait
from exchange.serve.identity import Identity
from exchange.serve.json_api.looks import NotThere
from exchange.serve.json_api.problems import problem, problem_of
from exchange.serve.json_api.reading import read_said
from exchange.serve.json_api.table import Endpoint
from exchange.settings import SettingsFaults

AGAIN_SECONDS = 5
"""After so long whoever was told that something is away asks again."""
_UNKNOWN = (
    "show an access token (POST /api/v1/sign-in gives one) or an API key (`exchange api-keys add` makes one) as"
    " Authorization: Bearer"
)
_IN_CLEAR = "passwords and tokens are taken over https alone, or on this machine itself"


@dataclass(frozen=True)
class Reply:
    """What came of it; where it ``waits_for`` requests to be answered, it is asked anew once one of them is."""

    body: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    waits_for: Collection[uuid.UUID] = ()
    wait_seconds: int = 0
    is_one: bool = False
    """Whether the body is the one request that it waits for."""


@dataclass
class Asked:
    """One request: at which door, with what shown (None where anybody may ask), from where, with which headers.

    ``person`` is somebody who looks after the side, and asks what users are asked.
    """

    door: Door
    shown: Shown | None
    address: str
    headers: Mapping[str, str]
    scope: str = ""
    person: Person | None = None
    caller: Caller | None = None
    """Whoever asks, once the database has said so."""

    @property
    def known(self) -> Caller:
        """Give whoever asks. Raises Unknown, and Forbidden for a person who is none of those, or without the scope."""
        if self.caller is None:
            if self.shown is None:
                raise Forbidden("this is for users of the directory and API keys of theirs; nothing was done")
            self.recognise(caller_of(self.door.engine, self.shown))
        assert self.caller is not None
        return self.caller

    def recognise(self, caller: Caller) -> None:
        """Take word for who asks. Raises Forbidden without the scope."""
        caller.refuse(self.scope)
        self.caller = caller
        if self.shown is not None and caller.user is not None:
            self.door.has_seen(self.shown, caller.user)
        self.door.note(caller)

    @property
    def user(self) -> DirectoryUser:
        """Say for which user of the directory it is asked. Raises Forbidden."""
        if self.known.user is None:
            raise Forbidden(f"{self.known.name} is no user's of the directory; nothing was done")
        return self.known.user

    def revealed(self, user: str) -> int:
        """Let a person see what another user asks, which the audit has. Raises Forbidden, TransientError."""
        assert self.person is not None
        return in_the_name_of(self.door.exchange, self.person).requesters.reveal(user)


async def answer(request: Request, body: bytes, wanted: Endpoint) -> Response:
    """Answer a request whose body was read; it may have to wait first."""
    door: Door = request.app.state.door
    began = time.monotonic()
    found, shown = await (_signed_in if wanted.takes_password else _run)(door, request, body, wanted)
    response = _response(found, request)
    took = time.monotonic() - began
    if isinstance(found, Reply) and found.wait_seconds and found.waits_for and _is_all_seen(request, response):
        try:
            told = await _waited(door, request, found, shown)
        except TooManyWait as error:
            response = _away(str(error))
        else:
            began = time.monotonic()
            if told is not None and told.found is not None and found.is_one:
                response = _response(replace(found, body=told.found), request)
            elif told is not None:
                response = _response((await _run(door, request, body, wanted))[0], request)
            took += time.monotonic() - began
    if response.status_code == 200 and _is_all_seen(request, response, otherwise=False):  # noqa: PLR2004
        response = Response(status_code=304, headers={"ETag": response.headers["etag"]})
    door.counting.answered(wanted.name, response.status_code, took)
    return response


def _response(found: Reply | Response, request: Request) -> Response:
    if not isinstance(found, Reply):
        return found
    response = JSONResponse(as_json(found.body), found.status, dict(found.headers))
    if request.method == "GET":
        response.headers["ETag"] = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    return response


def _is_all_seen(request: Request, response: Response, *, otherwise: bool = True) -> bool:
    """Say whether whoever asks has seen this answer, as they say; ``otherwise`` where they say nothing of it."""
    seen = request.headers.get("if-none-match")
    return otherwise if seen is None else seen == response.headers.get("etag")


async def _run(door: Door, *asked: Any) -> tuple[Reply | Response, Shown | None]:
    """Answer in one of a few threads, in the order in which they came."""
    wanted: Endpoint = asked[-1]
    limiter = door.reads if wanted.method == "GET" else door.renewals if wanted.by_anybody else door.writes
    return await run_sync(_answered, door, *asked, limiter=limiter)


async def _signed_in(door: Door, *asked: Any) -> tuple[Reply | Response, Shown | None]:
    """Look at passwords a few at a time, in the order in which they came; no other request waits behind them."""
    if door.signing_in >= MOST_SIGNING_IN:
        return _away("too many sign in at once; ask again"), None
    door.signing_in += 1
    try:
        return await run_sync(_answered, door, *asked, limiter=door.signing)
    finally:
        door.signing_in -= 1


async def _waited(door: Door, request: Request, found: Reply, shown: Shown | None) -> Told | None:
    """Wait; give what is answered by now. Whoever is gone meanwhile gives their place free."""
    gone = asyncio.create_task(_gone(request))
    try:
        return await door.waiting.for_one_of(found.waits_for, found.wait_seconds, gone, shown)
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answered(door: Door, request: Request, body: bytes, wanted: Endpoint) -> tuple[Reply | Response, Shown | None]:
    asked: Asked | None = None
    try:
        with transient_errors():
            asked = _asked(door, request, wanted)
            if not wanted.recognises and asked.shown is not None:
                _ = asked.known
            found = wanted.call(asked, **read_said(request, body, wanted))
    except Exception as error:  # noqa: BLE001 - each is told, and what nobody thought of is logged
        return door_problem(_first(asked, error)), None
    return found if isinstance(found, Reply) else Reply(found, wanted.status), asked.shown


def _first(asked: Asked | None, error: Exception) -> Exception:
    """Give what is to be told first: nobody hears what is wrong with a request before they are known."""
    if asked is None or asked.shown is None or asked.caller is not None or isinstance(error, Unknown):
        return error
    try:
        with transient_errors():
            _ = asked.known
    except Exception as other:  # noqa: BLE001 - as above
        return other
    return error


def _asked(door: Door, request: Request, wanted: Endpoint) -> Asked:
    way = door.way(request)
    if wanted.by_anybody:
        if not way.is_private:
            raise Forbidden(_IN_CLEAR)
        return Asked(door, None, way.address, request.headers)
    shown = door.shown(request)
    if shown is not None:
        return Asked(door, shown, way.address, request.headers, wanted.scope)
    identity: Identity | None = request.app.state.identify(request) if wanted.method == "GET" else None
    if identity is None:
        raise Unknown
    return Asked(door, None, way.address, request.headers, person=identity.person)


_STATUS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...] = (
    ((NotSignedIn, NotRenewed), 401),
    ((TooOften, OverLimit, DayIsFull), 429),
    ((SubmitRefused, KeyTaken), 422),
    ((NotThere, NoSuchUser), 404),
)


def door_problem(error: Exception) -> Response:
    """Answer with what an exception says to whoever asks from outside: what fails inside is for the log."""
    if isinstance(error, Unknown):
        return problem(401, _UNKNOWN, {"WWW-Authenticate": 'Bearer realm="exchange"'})
    for kinds, status in _STATUS:
        if isinstance(error, kinds):
            seconds = getattr(error, "seconds", None)
            return problem(status, str(error), seconds and {"Retry-After": str(seconds)})
    if isinstance(error, RecordError):
        return problem(422, f"{error.sentence}; nothing was submitted", pointer=error.pointer)
    if isinstance(error, Busy):
        return _away("somebody else writes to the database; ask again")
    if isinstance(error, TokenKeyFault | SettingsFaults | TransientError):
        number = secrets.token_hex(4)
        structlog.get_logger("exchange").error("away", number=number, message=str(error))
        return _away(f"this side can't answer now, its log says why under {number}; ask again")
    return problem_of(error)


def _away(sentence: str) -> Response:
    return problem(503, sentence, {"Retry-After": str(AGAIN_SECONDS)})
