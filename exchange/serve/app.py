"""The application: how this side is, over HTTP, for monitors and browsers.

It needs neither worker, beat nor broker, and outlives the database: what hangs is told, not waited for.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from html import escape

from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from exchange.operating.doctor.finding import Finding
from exchange.operating.readiness import report_ready
from exchange.operating.service_manager import manager
from exchange.serve.guard import Guard
from exchange.settings import Settings, SettingsFaults
from exchange.watching.health import Health, Looker, make_watching_site
from exchange.watching.metrics import Scraper
from exchange.watching.watcher import Watcher

METRICS_SECONDS = 8.0
"""So long a scrape may take: Prometheus waits for ten."""
STOP_SECONDS = 5.0

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Side:
    """The side that is served, as long as the process lives: its connections, and who watches it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.looker = Looker(settings)
        self.scraper = Scraper(settings, self.looker, partial(make_watching_site, settings))
        self._stopping = threading.Event()
        self._watch: threading.Thread | None = None

    def watch(self) -> None:
        """Begin to tell people of alarms, in a thread."""
        watcher = Watcher(self.settings, lambda: self.looker.read().parts)
        self._watch = threading.Thread(target=watcher.run, args=(self._stopping,), name="watch", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Let go of all of it."""
        self._stopping.set()
        if self._watch is not None:
            self._watch.join(STOP_SECONDS)
        self.looker.close()
        self.scraper.close()


def make_app(settings: Settings, *, token: str | None = None) -> Starlette:
    """Make the application of a side; whoever asks for more than a sign of life shows the ``token``, if there is one.

    While it runs it watches the side, and tells those of EXCHANGE_NOTIFY.
    """
    side = _Side(settings)

    @asynccontextmanager
    async def living(_app: Starlette) -> AsyncIterator[None]:
        side.watch()
        report_ready()
        yield
        manager().stops()
        await run_sync(side.close)

    app = Starlette(
        routes=[
            Route("/", _front),
            Route("/health/live", _live),
            Route("/health/ready", _ready),
            Route("/metrics", _metrics),
        ],
        lifespan=living,
    )
    app.state.side = side
    app.add_middleware(Guard, token=token, open_paths=frozenset({"/health/live"}), host=settings.serve_host)
    return app


async def _front(_request: Request) -> Response:
    return Response(status_code=303, headers={"Location": "/health/ready"})


async def _live(_request: Request) -> Response:
    return PlainTextResponse("alive\n")


async def _ready(request: Request) -> Response:
    """Answer 200 if nothing needs a person, else 503, as JSON, or as text or a page for whoever asks for that."""
    side: _Side = request.app.state.side
    found = await run_sync(side.looker.read)
    status = 200 if found.is_ready else 503
    match _wanted(request.headers.get("accept", "")):
        case "html":
            return HTMLResponse(_page(found), status)
        case "text":
            return PlainTextResponse(_text(found), status)
    return JSONResponse(found.as_dict(), status)


async def _metrics(request: Request) -> Response:
    side: _Side = request.app.state.side
    try:
        content = await run_sync(side.scraper.render, METRICS_SECONDS)
    except SettingsFaults as faults:
        return PlainTextResponse(f"{faults}\n", 503)
    return Response(content, media_type=_METRICS_TYPE)


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


_STYLE = """
body{font:16px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}
li{list-style:none;margin:.6rem 0;padding-left:.8rem;border-left:.35rem solid #2a7}
li.warning{border-color:#c80}li.fault{border-color:#c22}ul{padding:0}code{user-select:all}
small{color:#666}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}small{color:#999}}
"""


def _page(found: Health) -> str:
    said = f"{found.network}: {found.level}"
    rows = "\n".join(_row(one) for one in found.worst_first())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(said)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(said)}</h1><ul>{rows}</ul><p><small>{found.at:%Y-%m-%d %H:%M:%S} UTC</small></html>\n"
    )


def _row(one: Finding) -> str:
    more = f"<br>{escape(one.remedy)}" if one.remedy else ""
    more += f"<br><code>{escape(one.command)}</code>" if one.command else ""
    more += f"<br><small>since {one.since:%Y-%m-%d %H:%M:%S} UTC</small>" if one.since else ""
    return f'<li class="{one.level}"><b>{one.level}</b> {escape(one.check)}: {escape(one.message)}{more}</li>'
