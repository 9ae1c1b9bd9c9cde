"""What happens, as it happens: a page of the newest, and a stream of what comes after it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from exchange.format.errors import TransientError
from exchange.operating.doctor.finding import Level
from exchange.operating.happenings import KINDS, Happening
from exchange.serve.console.frame import rendered
from exchange.serve.console.visit import Visit, look
from exchange.serve.feed import Feed, Mark
from exchange.settings import SettingsFaults

MOST_SHOWN = 200
_SOURCES = ("event", "act", "alarm")
_NUMBER = re.compile("[0-9]{1,18}")
_RETRY = "retry: 2000\n\n"
_FULL = "retry: 30000\nevent: trouble\ndata: {}\n\n"


@dataclass(frozen=True)
class Wanted:
    """What of all that happens somebody asks for."""

    channel: str = ""
    kind: str = ""
    level: str = ""

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> Wanted:
        """Read it from an address."""
        return cls(*(asked.get(name, "").strip() for name in ("channel", "kind", "level")))

    def has(self, one: Happening) -> bool:
        """Say whether something is asked for; a level means those that are worse, too."""
        levels = list(Level)
        bad = not self.level or self.level not in levels or levels.index(one.level) >= levels.index(Level(self.level))
        return bad and self.channel in ("", one.channel) and self.kind in ("", one.kind)


def live(visit: Visit) -> Response:
    """Show the newest."""
    wanted, found = Wanted.of(visit.request.query_params), visit.exchange.happenings()
    shown = [one for one in found if wanted.has(one)]
    channels = {one.channel for one in visit.exchange.channels()} | {one.channel for one in found if one.channel}
    return visit.render(
        "live.html",
        shown=shown[:MOST_SHOWN],
        looked=len(found),
        wanted=wanted,
        channels=sorted(channels),
        kinds=KINDS,
        levels=[one.value for one in Level],
        after=_written(_mark({}, found)),
    )


async def events(request: Request) -> Response:
    """Tell what happens after a mark, to whoever may see the page."""
    try:
        identity = await run_sync(request.app.state.identify, request)
    except (TransientError, SettingsFaults, SQLAlchemyError) as error:
        return PlainTextResponse(f"{error}\n", 503)
    if identity is None:
        return PlainTextResponse("sign in\n", 401)
    feed: Feed = request.app.state.side.feed
    headers = {"X-Accel-Buffering": "no"}
    if feed.is_full:
        said = _FULL.format("too many pages are told of what happens already; this one asks again, or load it anew")
        return StreamingResponse(iter([said]), media_type="text/event-stream", headers=headers)
    after = _read(request.headers.get("last-event-id") or request.query_params.get("after", ""))
    told = _told(feed, Wanted.of(request.query_params), after)
    return StreamingResponse(told, media_type="text/event-stream", headers=headers)


async def _told(feed: Feed, wanted: Wanted, after: Mark) -> AsyncIterator[str]:
    """Write a stream: a row of the table each, and what is wrong once it is and once it is over."""
    mark, trouble = dict(after), ""
    yield _RETRY
    async with aclosing(feed.listen(after)) as listening:
        async for found, said in listening:
            if said != trouble:
                yield f"event: trouble\ndata: {json.dumps(said)}\n\n"
                trouble = said
            for one in found:
                mark = _mark(mark, [one])
                if wanted.has(one):
                    row = " ".join(rendered("live_row.html", {"one": one}).split())
                    yield f"id: {_written(mark)}\ndata: {row}\n\n"
            if not found:
                yield ": nothing\n\n"


def _mark(mark: Mark, found: list[Happening]) -> dict[str, int]:
    return {name: max([mark.get(name, 0), *(one.number for one in found if one.source == name)]) for name in _SOURCES}


def _written(mark: Mark) -> str:
    return ".".join(str(mark.get(name, 0)) for name in _SOURCES)


def _read(said: str) -> Mark:
    numbers = said.split(".")
    if len(numbers) != len(_SOURCES) or not all(_NUMBER.fullmatch(one) for one in numbers):
        return {}
    return dict(zip(_SOURCES, map(int, numbers), strict=True))


ROUTES = (look("/live", live),)
