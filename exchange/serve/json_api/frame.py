"""How a request to the API is answered: who asks, whether they may, what was said, and what came of it, as JSON."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, Router

from exchange.database.errors import transient_errors
from exchange.format.as_dict import as_json
from exchange.format.errors import TransientError
from exchange.people.roles import Forbidden, Role, refuse, refuse_role, refuse_sensitive
from exchange.serve.console.visit import in_the_name_of
from exchange.serve.door import frame as door
from exchange.serve.door import rows
from exchange.serve.door.requests import REQUESTS
from exchange.serve.door.sign_in import SIGN_IN
from exchange.serve.identity import Identity
from exchange.serve.json_api.acts import ACTS
from exchange.serve.json_api.looks import LOOKS
from exchange.serve.json_api.openapi import document
from exchange.serve.json_api.people import PEOPLE
from exchange.serve.json_api.problems import problem, problem_of
from exchange.serve.json_api.reading import BodyRefused, body_of, body_problem, read_said
from exchange.serve.json_api.table import Endpoint
from exchange.settings import Settings, SettingsFaults

PREFIX = "/api/v1"
ENDPOINTS: tuple[Endpoint, ...] = (*LOOKS, *ACTS, *PEOPLE)


def mounted(settings: Settings) -> Mount:
    """Give the API as a part of the application."""
    known = endpoints(settings)
    by_path: dict[str, dict[str, Endpoint]] = {}
    for one in known:
        by_path.setdefault(one.path, {})[one.method] = one

    async def openapi(_request: Request) -> Response:
        return JSONResponse(document(known, PREFIX))

    routes = [Route("/openapi.json", openapi, methods=["GET"])]
    # A word that stands in a path goes before what any word fits.
    in_order = sorted(by_path, key=lambda path: [part.startswith("{") for part in path.split("/")])
    routes += [Route(path, _answering(by_path[path]), methods=_METHODS) for path in in_order]
    return Mount(PREFIX, Router(routes, default=_nothing))


def endpoints(settings: Settings) -> tuple[Endpoint, ...]:
    """Give what may be asked of a side: of requesters where requests are written."""
    return (*ENDPOINTS, *rows.ROWS, *((*SIGN_IN, *REQUESTS) if settings.asks_requests else ()))


_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def _answering(endpoints: dict[str, Endpoint]) -> Any:
    async def endpoint(request: Request) -> Response:
        wanted = endpoints.get("GET" if request.method == "HEAD" else request.method)
        if wanted is None:
            allowed = ", ".join(sorted(endpoints))
            return problem(405, f"{request.url.path}: expected {allowed}, found {request.method}", {"Allow": allowed})
        if wanted.receives_lines:
            return await rows.answer(request, wanted)
        try:
            body = await body_of(request, wanted.most_bytes)
        except BodyRefused as error:
            return body_problem(error)
        if wanted.is_of_the_door:
            return await door.answer(request, body, wanted)
        return await run_sync(_answered, request, body, wanted)

    return endpoint


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    await problem(404, f"{PREFIX}/openapi.json has all that may be asked")(scope, receive, send)


def _answered(request: Request, body: bytes, wanted: Endpoint) -> Response:
    try:
        with transient_errors():
            identity = request.app.state.identify(request)
    except (TransientError, SettingsFaults, SQLAlchemyError) as error:
        return problem(503, str(error), {"Retry-After": "10"})
    if identity is None:
        said = "show a token (`exchange tokens add` makes one) as Authorization: Bearer, or sign in"
        return problem(401, said, {"WWW-Authenticate": 'Bearer realm="exchange"'})
    try:
        with transient_errors():
            return _done(request, body, wanted, identity)
    except Exception as error:  # noqa: BLE001 - each is told, and what nobody thought of is logged
        return problem_of(error)


def _done(request: Request, body: bytes, wanted: Endpoint, identity: Identity) -> Response:
    person = identity.person
    if wanted.action is None:
        refuse_role(person, Role.VIEWER)
    else:
        refuse(person, wanted.action)
    if wanted.method != "GET":
        _refuse_foreign(request, identity)
    said = read_said(request, body, wanted)
    if said.get("reveal"):
        refuse_sensitive(person)
    exchange = in_the_name_of(request.app.state.side.exchange, person)
    found = wanted.ask(exchange, said)
    if wanted.lines:
        return StreamingResponse(_lines(found), media_type="application/jsonl")
    return JSONResponse(as_json(found))


def _lines(found: Iterator[str]) -> Iterator[str]:
    """Give the lines of an answer; what keeps the first one from being had is told before the answer begins."""
    first = list(islice(found, 1))
    return (f"{line}\n" for line in chain(first, found))


def _refuse_foreign(request: Request, identity: Identity) -> None:
    """See that no page of another origin has a browser ask it for whoever is signed in there. Raises Forbidden."""
    if identity.csrf is None:
        return
    shown = request.headers.get("x-csrf-token", "")
    if not hmac.compare_digest(shown.encode(), identity.csrf.encode()):
        raise Forbidden("a session has to show what its forms carry, as X-CSRF-Token; a program shows a token instead")
