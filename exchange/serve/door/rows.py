"""Rows in bulk: a program sends them as JSON lines, which are spooled as they come, then loaded as a file is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import anyio
import anyio.from_thread
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from exchange.channels.intake import Intake
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import IntakeState
from exchange.format.as_dict import as_json
from exchange.format.errors import printable
from exchange.intake import posted, standing
from exchange.intake.folders import Claimed
from exchange.intake.posted import CODINGS, NotTaken, Sender, Why
from exchange.intake.standing import FileDetail
from exchange.people.api_keys import STREAMS
from exchange.requesters.callers import Caller
from exchange.serve.door.door import Door
from exchange.serve.door.frame import AGAIN_SECONDS, Asked, Reply, door_problem
from exchange.serve.json_api.looks import NotThere
from exchange.serve.json_api.problems import problem
from exchange.serve.json_api.reading import read_said
from exchange.serve.json_api.table import Endpoint, Field, Kind
from exchange.site import Site

MOST_RECEIVED = 8
"""So many bodies come at once; whoever sends another one is told to come again."""
MOST_LOADED = 2
"""So many who wait have this process load their rows at once: others wait for that, or for a worker."""
PIECE_SECONDS = 30.0
"""So long nothing may come of a body."""
MOST_WAIT = 60
LONGEST_KEY = 200
KINDS = frozenset({"", "application/jsonl", "application/x-ndjson", "application/x-jsonlines", "application/jsonlines"})
_OF_WHY = {Why.BUSY: 503, Why.LARGE: 413, Why.SLOW: 408, Why.UNREADABLE: 400, Why.KEY: 422, Why.FULL: 507}
_OVER = {IntakeState.LOADED, IntakeState.DUPLICATE}


_UNKNOWN = (
    "show an API key with the scope streams:NAME (`exchange api-keys add` makes one) as Authorization: Bearer; nothing"
    " was done"
)
_CLOSE = {"Connection": "close"}
_AGAIN = {"Retry-After": str(AGAIN_SECONDS), **_CLOSE}
_PASSING = frozenset({Why.BUSY, Why.FULL})


class Receiving:
    """The threads in which bodies are received and loaded: a slow one keeps no other request waiting."""

    @cached_property
    def received(self) -> CapacityLimiter:
        """Give the places for bodies that come. Ask for it in the server's loop."""
        return CapacityLimiter(MOST_RECEIVED)

    @cached_property
    def loaded(self) -> CapacityLimiter:
        """Give those for rows that somebody waits for, likewise."""
        return CapacityLimiter(MOST_LOADED)


async def answer(request: Request, wanted: Endpoint) -> Response:
    """Answer whoever sends rows, which are read as they come."""
    door: Door = request.app.state.door
    began = time.monotonic()
    response = await _answered(door, request, wanted)
    door.counting.answered(wanted.name, response.status_code, time.monotonic() - began)
    return response


async def _answered(door: Door, request: Request, wanted: Endpoint) -> Response:
    try:
        with transient_errors():
            caller = await run_sync(door.caller, request)
            if caller is None:
                return problem(401, _UNKNOWN, {"WWW-Authenticate": 'Bearer realm="exchange"', **_CLOSE})
            return await _receive(request, caller, read_said(request, b"", wanted))
    except Exception as error:  # noqa: BLE001 - each is told, and what nobody thought of is logged
        refused = door_problem(error)
        refused.headers["Connection"] = "close"  # what is left of the body is read by nobody
        return refused


async def _receive(request: Request, caller: Caller, said: dict[str, Any]) -> Response:
    stream, wait = str(said["stream"]), int(said.get("wait", 0))
    caller.refuse_stream(stream)
    site: Site = await run_sync(lambda: request.app.state.side.exchange.site)
    one = posted.intake_of(site, stream)
    if one is None:
        raise NotThere(
            f"no rows of {printable(stream, 80)} are taken from programs here; an Intake of it with http=True lets them"
        )
    if (refused := _refused(request)) is not None:
        return refused
    sender = Sender(caller.name, request.headers.get("idempotency-key"), _coding(request))
    receiving: Receiving = request.app.state.receiving
    if receiving.received.available_tokens < 1:
        return problem(503, "too many send rows at once; send them again; nothing was done", _AGAIN)
    try:
        number = await run_sync(_received, site, one, sender, _Body(request), limiter=receiving.received)
    except NotTaken as error:
        return problem(_OF_WHY[error.why], f"{error}; nothing was done", _AGAIN if error.why in _PASSING else _CLOSE)
    original = await run_sync(posted.original_of, site, number)
    if wait:
        await _load(receiving, site, one, original or number, wait)
    return _answer(await run_sync(_look, site, number), original)


async def _load(receiving: Receiving, site: Site, one: Intake, number: int, wait: int) -> None:
    """Load rows for as long as their sender waits; what is left then is a worker's."""
    until = time.monotonic() + wait
    with anyio.move_on_after(wait):  # a place among those who load; what has begun ends by itself
        await run_sync(lambda: posted.load(site, one, number, until - time.monotonic()), limiter=receiving.loaded)


def _refused(request: Request) -> Response | None:
    """Refuse what is no JSON lines, before any of it is read."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    key = request.headers.get("idempotency-key", "-")
    if kind not in KINDS:
        found = printable(repr(kind), 80)
        return problem(415, f"Content-Type: expected application/jsonl, found {found}; nothing was done", _CLOSE)
    if _coding(request) not in CODINGS:
        found = printable(repr(_coding(request)), 80)
        return problem(415, f"Content-Encoding: expected {', '.join(CODINGS)}, found {found}; nothing was done", _CLOSE)
    if not 0 < len(key) <= LONGEST_KEY:
        said = f"Idempotency-Key: expected 1 to {LONGEST_KEY} characters, found {len(key)}; nothing was done"
        return problem(400, said, _CLOSE)
    return None


def _coding(request: Request) -> str:
    return request.headers.get("content-encoding", "identity").strip().lower()


class _Body:
    """A request's body, for a thread that is not the server's loop."""

    def __init__(self, request: Request) -> None:
        self._stream = request.stream()

    def pieces(self, seconds: float) -> Iterator[bytes]:
        """Give what comes, as it comes, for so many seconds. Raises NotTaken."""
        until = time.monotonic() + seconds
        while True:
            try:
                piece = anyio.from_thread.run(self._next, min(PIECE_SECONDS, max(until - time.monotonic(), 0.0)))
            except TimeoutError:
                raise NotTaken(Why.SLOW, "the rows come too slowly") from None
            except ClientDisconnect:
                raise NotTaken(Why.SLOW, "the connection ended in the middle of the rows") from None
            if piece is None:
                return
            yield piece

    async def _next(self, seconds: float) -> bytes | None:
        with anyio.fail_after(seconds):
            return await anext(self._stream, None)


def _received(site: Site, one: Intake, sender: Sender, body: _Body) -> int:
    claimed: Claimed = posted.receive(site, one, sender, body.pieces(site.limits.intake_http_seconds))
    return posted.take_in(site, claimed)


def _look(site: Site, number: int) -> FileDetail:
    with transient_errors(), reading(site.engine) as connection:
        return standing.find_file(connection, number)


def _answer(found: FileDetail, original: int | None) -> Response:
    """Say what became of rows: 200 once they are loaded, 422 if they are refused, 202 while they are not dealt with."""
    file, said = found.file, shown(found) | ({} if original is None else {"duplicate_of": original})
    if file.state in _OVER:
        return JSONResponse(said, 200)
    if file.is_over:
        more = {name: value for name, value in said.items() if name not in {"message", "title", "status"}}
        return problem(422, f"the rows are {file.state}: {file.message}", None, **more)
    return JSONResponse(said, 202, {"Location": f"/api/v1/intakes/{file.id}"})


def shown(found: FileDetail) -> dict[str, Any]:
    """Give what whoever sends rows is to know of them: nothing of where they lie here."""
    file = found.file
    said = {
        "id": file.id,
        "stream": file.stream,
        "state": file.state,
        "message": file.message or None,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "rows_read": file.rows_read,
        "rows_loaded": file.rows_loaded,
        "rows_parked": file.rows_parked,
        "bad_rows": [{"error": one.error, "rows": one.letters} for one in found.causes],
        "created_at": file.created_at,
        "updated_at": file.updated_at,
        "next_try_at": file.next_try_at,
    }
    answer: dict[str, Any] = as_json(said)
    return answer


def _progress(asked: Asked, *, intake: int) -> Reply:
    with transient_errors(), reading(asked.door.engine) as connection:
        if not standing.some_files(connection, [intake]):
            raise NotThere(f"there are no rows {intake}; they were never sent here, or are pruned")
        found = standing.find_file(connection, intake)
    asked.known.refuse_stream(found.file.stream)
    return Reply(shown(found))


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("rows are received while they come")


ROWS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/streams/{stream}",
        "Send rows of a stream as JSON lines: an object a line by the names of its columns; packed by gzip or zstd,"
        " too. The same rows again are a duplicate, and Idempotency-Key names rows that are to be no others.",
        _never,
        (
            Field("stream", "a stream that takes rows from programs", needed=True),
            Field("wait", "wait up to so many seconds until they are loaded", Kind.NUMBER, most=MOST_WAIT),
        ),
        scope=f"{STREAMS}{{stream}}",
        status=202,
        receives_lines=True,
    ),
    Endpoint(
        "GET",
        "/intakes/{intake}",
        "How far rows that were sent are: how many are loaded and how many are bad, or why they were refused.",
        _progress,
        (Field("intake", "their number, as the answer to them has it", Kind.NUMBER, needed=True),),
        scope=STREAMS,
    ),
)
