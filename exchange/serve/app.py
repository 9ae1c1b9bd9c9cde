"""The application: how this side is, over HTTP, for monitors and browsers.

It needs neither worker, beat nor broker, and outlives the database: what hangs is told, not waited for.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import structlog
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from exchange.operating.readiness import report_ready
from exchange.operating.service_manager import manager
from exchange.serve.console import live
from exchange.serve.console.frame import STATIC, rendered
from exchange.serve.console.routes import PAGES
from exchange.serve.door.counting import Counting
from exchange.serve.door.door import Door
from exchange.serve.door.origins import OtherOrigins
from exchange.serve.door.requests import MOST_BYTES
from exchange.serve.door.rows import Receiving
from exchange.serve.guard import Guard
from exchange.serve.identity import Identify, Recogniser
from exchange.serve.json_api.frame import mounted
from exchange.serve.side import Side
from exchange.settings import Settings, SettingsFaults
from exchange.watching.health import Health

METRICS_SECONDS = 8.0
"""So long a scrape may take: Prometheus waits for ten."""

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BY_TOKEN = frozenset({"/health/ready", "/metrics"})
"""What monitors ask for, who have no session: with the token, where there is one."""


def make_app(settings: Settings, *, token: str | None = None, identify: Identify | None = None) -> Starlette:
    """Make the application of a side; monitors beyond this machine show the ``token``, and people sign in.

    While it runs it watches the side, and tells those of EXCHANGE_NOTIFY. ``identify`` says who a request comes from.
    """
    side = Side(settings)

    @asynccontextmanager
    async def living(_app: Starlette) -> AsyncIterator[None]:
        side.watch()
        counting: Counting = app.state.door.counting
        written = asyncio.create_task(counting.keep_written())
        report_ready()
        yield
        manager().stops()
        written.cancel()
        await counting.settle()
        await run_sync(side.close)

    app = Starlette(
        routes=[
            Route("/health/live", _live),
            Route("/health/ready", _ready),
            Route("/metrics", _metrics),
            Mount("/static", StaticFiles(directory=STATIC)),
            mounted(settings),
            *PAGES,
            Route("/live/events", live.events),
        ],
        exception_handlers={Exception: _failed},
        lifespan=living,
    )
    app.state.side = side
    app.state.recogniser = Recogniser(settings, lambda: side.exchange.engine)
    app.state.identify = identify or app.state.recogniser
    app.state.door = Door(settings, app.state.recogniser, side.exchange)
    app.state.receiving = Receiving()
    app.state.pages = frozenset(one.path for one in PAGES if "GET" in (one.methods or ()))
    named = {settings.serve_host, urlsplit(settings.serve_url or "").hostname or ""}
    if settings.origins and settings.asks_requests:
        app.add_middleware(OtherOrigins, origins=settings.origins)
    larger = {"/api/v1/streams/": settings.intake_http_bytes}
    larger |= {"/api/v1/requests": MOST_BYTES} if settings.asks_requests else {}
    app.add_middleware(Guard, token=token, by_token=_BY_TOKEN, hosts=frozenset(named - {""}), larger=larger)
    return app


async def _failed(request: Request, error: Exception) -> Response:
    """Say that a fault of ours kept something from being answered, and under which number the log has it."""
    number = secrets.token_hex(4)
    structlog.get_logger("exchange").error("failed", path=request.url.path, number=number, error=type(error).__name__)
    said = f"a fault of the exchange itself kept this from being answered; its log has it under {number}"
    return HTMLResponse(rendered("away.html", {"message": said}), 500)


async def _live(_request: Request) -> Response:
    return PlainTextResponse("alive\n")


async def _ready(request: Request) -> Response:
    """Answer 200 if nothing needs a person, else 503, as JSON, or as text or a page for whoever asks for that."""
    side: Side = request.app.state.side
    found = await run_sync(side.looker.read)
    status = 200 if found.is_ready else 503
    match _wanted(request.headers.get("accept", "")):
        case "html":
            return HTMLResponse(rendered("ready.html", {"found": found}), status)
        case "text":
            return PlainTextResponse(_text(found), status)
    return JSONResponse(found.as_dict(), status)


async def _metrics(request: Request) -> Response:
    side: Side = request.app.state.side
    counting: Counting = request.app.state.door.counting
    try:
        await counting.settle()
        content = await run_sync(side.scraper.render, METRICS_SECONDS)
    except SettingsFaults as faults:
        return PlainTextResponse(f"{faults}\n", 503)
    return Response(content + counting.render(), media_type=_METRICS_TYPE)


def _wanted(accept: str) -> str:
    """Say what a caller would rather have; JSON unless it says so."""
    for one in accept.split(","):
        kind = one.partition(";")[0].strip().lower()
        if kind in {"text/html", "text/plain", "application/json"}:
            return kind.rpartition("/")[2].replace("plain", "text")
    return "json"


def _text(found: Health) -> str:
    lines = [f"{found.network}: {found.level}"]
    for one in found.worst_first():
        lines.append(f"{one.level:8} {one.check}: {one.message}")
        lines += [f"{'':8} {said}" for said in (one.remedy, f"$ {one.command}" if one.command else "") if said]
    return "\n".join(lines) + "\n"
