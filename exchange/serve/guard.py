"""Who may ask, and what of any request is looked at before anything answers it."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Mapping

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exchange.serve.json_api.problems import problem
from exchange.serve.json_api.table import MOST_BODY_BYTES

API = "/api/"
MOST_HEADER_BYTES = 16 * 1024
THROWN_AWAY_BYTES = 8 * 1024 * 1024
THROWN_AWAY_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""A wrong token is answered after a while, which doubles with each up to this; a right one at once."""
MOST_WAITING = 32
"""So many wrong ones wait at once: those beyond are answered, or they would keep others out."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, which no other one reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """Lets through what names this machine as it is known, and asks of monitors that they show the token.

    Without a token anybody on this machine may read health and metrics. A page in its browser whose name leads here
    would ask as that: so only requests for an address, ``localhost`` or a name that is known are answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        by_token: frozenset[str],
        hosts: frozenset[str],
        larger: Mapping[str, int] = {},
    ) -> None:
        """Take what answers, the token if there is one, the paths that need it, and the names of this machine.

        ``larger`` has paths whose bodies may have more bytes than those of others; one with a slash at its end is all
        below it.
        """
        self._app, self._by_token, self._larger = app, by_token, larger
        self._hosts = frozenset({"localhost", *(one.lower() for one in hosts)})
        self._token = token.encode() if token else None
        self._failures = self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refused = await self._refused(scope)
        if refused is not None and refused.status_code == 413:  # noqa: PLR2004
            await _throw_away(receive)
        await (refused or self._app)(scope, receive, send_guarded)

    async def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        asks_by_token = self._token is not None and scope["path"] in self._by_token  # no page in a browser has it
        if not asks_by_token and not self._is_known(headers.get("host", "")):
            return _said(scope, 421, "this is not the host that was asked for")
        if (code := self._too_large(scope, headers)) is not None:
            return _said(scope, code, "the request is too large", {"Connection": "close"})
        if self._token is None or not asks_by_token:
            return None
        if hmac.compare_digest(_shown_token(headers.get("authorization", "")), self._token):
            self._failures = 0
            return None
        await self._slow_down()
        schemes = 'Bearer realm="exchange", Basic realm="exchange", charset="UTF-8"'
        return PlainTextResponse("show the token, as Bearer or as the password\n", 401, {"WWW-Authenticate": schemes})

    async def _slow_down(self) -> None:
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10), LONGEST_PAUSE_SECONDS)
        self._failures += 1
        if self._waiting < MOST_WAITING:
            self._waiting += 1
            try:
                await anyio.sleep(pause)
            finally:
                self._waiting -= 1

    def _too_large(self, scope: Scope, headers: Headers) -> int | None:
        """Give the code for a request that says too much; None for one of a fit size.

        What is streamed without saying how long it is goes to whoever bounds that while it is read.
        """
        said = sum(len(name) + len(value) for name, value in scope["headers"])
        if said + len(scope["raw_path"]) + len(scope["query_string"]) > MOST_HEADER_BYTES:
            return 431
        length, most = headers.get("content-length", "0"), self._most(scope["path"])
        if not length.isdecimal() or int(length) > (most or MOST_BODY_BYTES):
            return 413
        return 413 if most is None and "transfer-encoding" in headers else None

    def _most(self, path: str) -> int | None:
        """Give how many bytes more than usual a body may have; None for no more."""
        return self._larger.get(path) or self._larger.get(path[: path.rfind("/") + 1])

    def _is_known(self, said: str) -> bool:
        name = said.rpartition(":")[0] if ":" in said and not said.endswith("]") else said
        name = name.strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True


async def _throw_away(receive: Receive) -> None:
    """Read some of what is too large: whoever still sends hears no answer."""
    read = 0
    with anyio.move_on_after(THROWN_AWAY_SECONDS):
        while read < THROWN_AWAY_BYTES:
            message = await receive()
            read += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return


def _said(scope: Scope, code: int, sentence: str, more: dict[str, str] | None = None) -> Response:
    """Answer programs with a problem, and others with a line."""
    if scope["path"].startswith(API):
        return problem(code, sentence, more)
    return PlainTextResponse(f"{sentence}\n", code, more)


def _shown_token(authorization: str) -> bytes:
    """Give what a request shows: a bearer token, or the password of basic authentication, whoever the user is."""
    scheme, _, said = authorization.partition(" ")
    said = said.strip()
    if scheme.lower() == "bearer":
        return said.encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(said, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
