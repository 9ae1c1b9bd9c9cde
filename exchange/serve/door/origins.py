"""Pages of other origins ask where requesters do, if they are named, and nowhere else; no cookie goes with that."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

PATHS = tuple(f"/api/v1/{one}" for one in ("requests", "sign-in", "sign-out", "refresh", "who"))
_SECONDS = 600


class OtherOrigins:
    """Answers what browsers ask before, and names the origin in answers to it."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """Take what answers, and the origins that are named."""
        self._app = app
        self._open = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match"),
            expose_headers=("ETag", "Location", "Retry-After", "Idempotent-Replayed"),
            allow_credentials=False,
            max_age=_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, by the way that its path has."""
        path = scope["path"] if scope["type"] == "http" else ""
        is_open = any(path == one or path.startswith(f"{one}/") for one in PATHS)
        await (self._open if is_open else self._app)(scope, receive, send)
