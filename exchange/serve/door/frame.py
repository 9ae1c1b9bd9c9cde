"""How what users and programs ask is answered: who asks, with which scope, what was said, and what came of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exchange.database.errors import transient_errors
from exchange.database.locks import Busy
from exchange.files.token_keys import TokenKeyFault
from exchange.format.as_dict import as_json
from exchange.format.errors import TransientError
from exchange.people.roles import Forbidden
from exchange.requesters.callers import Caller
from exchange.requesters.sign_in import NotRenewed, NotSignedIn, TooOften
from exchange.serve.door.door import Door
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
    """What came of it."""

    body: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request: at which door, by whom (None where anybody may ask), from where, with which headers."""

    door: Door
    caller: Caller | None
    address: str
    headers: Mapping[str, str]

    @property
    def known(self) -> Caller:
        """Give whoever asks, where only somebody who is known may."""
        assert self.caller is not None
        return self.caller


async def answer(request: Request, body: bytes, wanted: Endpoint) -> Response:
    """Answer a request whose body was read."""
    door: Door = request.app.state.door
    return await run_sync(_answered, door, request, body, wanted)


def _answered(door: Door, request: Request, body: bytes, wanted: Endpoint) -> Response:
    try:
        with transient_errors():
            asked = _asked(door, request, wanted)
            if asked is None:
                return problem(401, _UNKNOWN, {"WWW-Authenticate": 'Bearer realm="exchange"'})
            found = wanted.call(asked, **read_said(request, body, wanted))
    except Exception as error:  # noqa: BLE001 - each is told, and what nobody thought of is logged
        return door_problem(error)
    reply = found if isinstance(found, Reply) else Reply(found, wanted.status)
    return JSONResponse(as_json(reply.body), reply.status, dict(reply.headers))


def _asked(door: Door, request: Request, wanted: Endpoint) -> Asked | None:
    way = door.way(request)
    if wanted.by_anybody:
        if not way.is_private:
            raise Forbidden(_IN_CLEAR)
        return Asked(door, None, way.address, request.headers)
    caller = door.caller(request)
    if caller is not None:
        caller.refuse(wanted.scope)
    return None if caller is None else Asked(door, caller, way.address, request.headers)


def door_problem(error: Exception) -> Response:
    """Answer with what an exception says to whoever asks from outside: what fails inside is for the log."""
    if isinstance(error, NotSignedIn | NotRenewed):
        return problem(401, str(error))
    if isinstance(error, TooOften):
        return problem(429, str(error), {"Retry-After": str(error.seconds)})
    if isinstance(error, Busy):
        return _away("somebody else writes to the database; ask again")
    inside = isinstance(error.__cause__, SQLAlchemyError | OSError)
    if isinstance(error, TokenKeyFault | SettingsFaults) or (isinstance(error, TransientError) and inside):
        number = secrets.token_hex(4)
        structlog.get_logger("exchange").error("away", number=number, message=str(error))
        return _away(f"this side can't answer now, its log says why under {number}; ask again")
    return _away(str(error)) if isinstance(error, TransientError) else problem_of(error)


def _away(sentence: str) -> Response:
    return problem(503, sentence, {"Retry-After": str(AGAIN_SECONDS)})
