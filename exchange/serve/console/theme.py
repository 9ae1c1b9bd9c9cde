"""Light or dark, as somebody would rather have it than what their system says."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from exchange.serve.console.visit import local, posted

THEMES = ("light", "dark")
COOKIE = "exchange_theme"
_YEAR_SECONDS = 365 * 86_400


async def choose(request: Request) -> Response:
    """Keep it in a cookie: it needs no session, and tells nothing of anybody."""
    fields = posted(await request.body())
    answer = RedirectResponse(local(fields.get("back", ["/"])[-1]), 303)
    if fields.get("theme", [""])[-1] in THEMES:
        answer.set_cookie(COOKIE, fields["theme"][-1], max_age=_YEAR_SECONDS, httponly=True, samesite="strict")
    return answer


ROUTES = (Route("/theme", choose, methods=["POST"]),)
